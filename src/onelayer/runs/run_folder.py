"""A run's folder: the manifest, the arms' files, and the checkpoints of the sets of arms that are training.

``manifest.json`` is written before the first step and pins everything that changes a floating-point result. A run that
continues has to match it. It and every ``arm.json`` carry checksums, so that a damaged file is noticed, never used.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from onelayer.arms.delta_files import DELTA
from onelayer.arms.spec import ArmSpec
from onelayer.config.configs import TrainConfig
from onelayer.config.sources import read_yaml
from onelayer.errors import UserError
from onelayer.models.base import BaseModel
from onelayer.runs.checkpoints import Checkpoints
from onelayer.runs.manifest import check_same
from onelayer.runs.tracking import append_records
from onelayer.storage.arm_names import BASE
from onelayer.storage.arm_record import ARM, ArmRecord
from onelayer.storage.doors import require_file, require_inside
from onelayer.storage.files import (
    atomic_path,
    checksum,
    in_use,
    make_folder,
    remove_leftovers,
    write_text,
    writing,
)
from onelayer.storage.lines import numbered_lines, read_text
from onelayer.storage.lock import LOCK_FILE
from onelayer.storage.manifest import MANIFEST, Manifest
from onelayer.training.loop import Record
from onelayer.training.out_of_memory import Place, with_cuts

KEPT_BY_CHECKSUM = (DELTA, "scores.parquet")


def read_settings(folder: Path) -> dict[str, Any]:
    """The options that a scan ran with, from its ``config.yaml``.

    Raises:
        UserError: the file is missing or damaged, or does not say what a profile has to.
    """
    path = folder / "config.yaml"
    settings = read_yaml(path)
    data = "dataset" if settings.get("task") is None else "task"
    for key in ("model", "algorithm", data):
        if not isinstance(settings.get(key), str):
            raise UserError(f"{path} does not say the {key} of the scan; restore it")
    if not isinstance(settings.setdefault("search", "none"), str):
        raise UserError(f"{path} has a 'search' that is no word; restore it")
    return settings


@dataclass
class RunFolder:
    """The folder of a scan or of a single training run, which has the same files."""

    path: Path
    manifest: Manifest
    notes: list[str] = field(default_factory=list)
    """What was found out of order and put right, in sentences."""

    @classmethod
    def prepare(cls, path: Path) -> None:
        """Make the folder of a new run, so that it can be locked.

        Raises:
            UserError: the folder already holds a run or other files, or cannot be made.
        """
        if (path / MANIFEST).exists():
            raise UserError(f"output '{path}' already holds a run; add --resume to continue it, or give another folder")
        if path.exists() and not cls._empty(path):
            raise in_use(path)
        make_folder(path)

    @staticmethod
    def _empty(path: Path) -> bool:
        """Whether a folder holds nothing, or only what a run leaves that was killed before its manifest was there."""
        if not path.is_dir():
            return False
        found = {entry.name for entry in path.iterdir() if not entry.name.endswith(".tmp")}
        begun = LOCK_FILE in found and found <= {LOCK_FILE, "arms", "config.yaml"}
        return not found or (begun and not ((path / "arms").is_dir() and any((path / "arms").iterdir())))

    @classmethod
    def create(cls, path: Path, manifest: Manifest, config: TrainConfig) -> "RunFolder":
        """Write the first files of a run into a folder that is prepared and locked.

        Raises:
            WriteFailed: the disk refused it.
        """
        make_folder(path / "arms")
        remove_leftovers(path)
        folder = cls(path, manifest.changed(arms={}, sets=[], cuts=[]))
        folder._write_config(config)
        folder.manifest.write(path)
        return folder

    @classmethod
    def resume(cls, path: Path, manifest: Manifest, config: TrainConfig) -> "RunFolder":
        """Open the folder of a run, locked, to continue it; begin the run if it was killed before it began.

        Raises:
            UserError: no run there, one with another manifest, with the differences, or one with damaged files.
        """
        if not (path / MANIFEST).exists() and cls._empty(path):
            return cls.create(path, manifest, config)
        if not (path / MANIFEST).exists():
            raise UserError(f"output '{path}' holds no run that could be resumed: it has no {MANIFEST}")
        found, damage = Manifest.read_or_before(path)
        notes = ([damage] if damage else []) + check_same(path, found, manifest)
        folder = cls(path, found, notes)
        remove_leftovers(path)
        if damage:
            found.write(path)
        for name in folder.manifest.arms:
            folder._check_arm(name)
        folder._check_arm(BASE)
        for number, names in enumerate(folder.manifest.sets):
            # Now, not after the hours in which the sets before it train.
            require_inside(folder._states(number), path)
            if all(folder.finished(name) for name in names):
                folder.checkpoints(number, config.save_total_limit).drop()
        folder._write_config(config)
        return folder

    def _pin(self, manifest: Manifest) -> None:
        self.manifest = manifest
        manifest.write(self.path)

    def add_sets(self, sets: Sequence[Sequence[str]], specs: Sequence[ArmSpec]) -> None:
        """Pin in the manifest which arms advance side by side, before their first step."""
        if not sets:
            return
        plans = {spec.name: f"{spec.plan} (seed {spec.seed})" for spec in specs}
        self._pin(self.manifest.with_sets(sets, plans))

    def pin_cut(self, place: Place, step: int, cut: Mapping[str, int]) -> None:
        """Pin that from a step of a set on (or for scoring the base) a batch has fewer rows than was configured."""
        self._pin(self.manifest.changed(cuts=[*self.manifest.cuts, {"set": place, "step": step, **cut}]))

    def cuts(self, place: Place, config: TrainConfig, step: int) -> TrainConfig:
        """The configuration as it is for a step of a set: with the rows that memory allowed."""
        return with_cuts(self.manifest.cuts, place, config, step)

    def _write_config(self, config: TrainConfig) -> None:
        settings = {k: v for k, v in config.model_dump().items() if k not in ("resume", "stop_at")}
        write_text(self.path / "config.yaml", yaml.safe_dump(settings, sort_keys=False))

    def arm(self, name: str) -> Path:
        """The folder of an arm, made when it is missing.

        Raises:
            UserError: it would be outside of the run's folder, or cannot be made.
        """
        folder = self.path / "arms" / name
        if Path(name).name != name:
            raise UserError(f"'{folder}' leads out of the run's folder '{self.path}'")
        require_inside(folder, self.path)
        return make_folder(folder)

    def finished(self, name: str) -> bool:
        """Whether an arm is done: its ``arm.json`` is written last."""
        return (self.path / "arms" / name / ARM).is_file()

    def read_arm(self, name: str) -> ArmRecord:
        """The ``arm.json`` of a finished arm.

        Raises:
            UserError: it is damaged.
        """
        return ArmRecord.read(self.arm(name) / ARM)

    def copy_arm(self, name: str, new_name: str) -> None:
        """Copy an arm's files under another name, all but the ``arm.json`` that would make it done."""
        for path in self.arm(name).iterdir():
            if path.name != ARM:
                require_file(path)
                with atomic_path(self.arm(new_name) / path.name) as temporary:
                    shutil.copyfile(path, temporary)

    def write_arm(self, name: str, record: ArmRecord, base: BaseModel) -> None:
        """Write an arm's ``arm.json``: the last of its files, so that the arm is done. It has the others' checksums."""
        identity = {"base_model": base.name, "revision": base.revision, "base_hash": base.hash}
        folder = self.arm(name)
        sums = {file: checksum(folder / file) for file in KEPT_BY_CHECKSUM if (folder / file).exists()}
        record.changed(name=name, **identity, sha256=sums).write(folder / ARM)

    def _check_arm(self, name: str) -> None:
        """Compare the files of a finished arm with their checksums.

        Raises:
            UserError: a file is damaged or missing.
        """
        if not self.finished(name):
            return
        folder = self.arm(name)
        for file, expected in self.read_arm(name).sha256.items():
            if not (folder / file).is_file() or checksum(folder / file) != expected:
                raise UserError(
                    f"'{folder / file}' is not what was written there (its checksum differs from the one in arm.json); "
                    f"remove '{folder}' to train the arm again"
                )

    def read_records(self, name: str) -> list[Record]:
        """The metrics that an arm has logged so far."""
        return [json.loads(line) for _, line in numbered_lines(read_text(self._log(name)))]

    def write_record(self, name: str, record: Record) -> None:
        """Append a step's metrics to the ``metrics.jsonl`` of an arm."""
        with writing(self._log(name)):
            append_records(self._log(name), [record])

    def checkpoints(self, number: int, keep: int) -> Checkpoints:
        """The states of set ``number`` while it trains, of which ``keep`` are kept."""
        return Checkpoints(self._states(number), self._log, keep)

    def discard(self) -> None:
        """Remove the folder of a run that never got to its first step."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _states(self, number: int) -> Path:
        return self.path / "state" / f"set-{number:03d}"

    def _log(self, name: str) -> Path:
        return self.arm(name) / "metrics.jsonl"
