"""A run's folder: the manifest, the arms' files, and the checkpoint of the set of arms that is training.

``manifest.json`` is written before the first step and pins everything that changes a floating-point result. A run that
continues has to match it. A set of arms commits all its deltas, optimizers, counters and log offsets by one rename.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from onelayer.arm import Arm
from onelayer.config import TrainConfig
from onelayer.errors import UserError
from onelayer.files import atomic_path, write_json, write_text
from onelayer.loop import Record
from onelayer.model import BaseModel
from onelayer.specs import ArmSpec
from onelayer.tracking import append_records

NO_EFFECT_ON_ARMS = (
    *("output", "resume", "report_to", "stop_at", "save_steps", "arms_per_set", "env_workers", "require_sandbox"),
    *("engine", "engine_options", "num_processes", "mix_engines"),
    *("layers", "strategies", "strategy_k", "pairs", "leave_one_out", "lr_check", "sublayers", "baselines", "also"),
)
"""Options that say where, when and which arms, but change no result of an arm: a run may continue with others."""


@dataclass
class RunFolder:
    """The folder of a scan or of a single training run, which has the same files."""

    path: Path
    manifest: dict[str, Any]

    @classmethod
    def create(cls, path: Path, manifest: Mapping[str, Any], config: TrainConfig) -> "RunFolder":
        """Make a new folder.

        Raises:
            UserError: the folder already holds a run or other files, or cannot be made.
        """
        if (path / "manifest.json").exists():
            raise UserError(f"output '{path}' already holds a run; add --resume to continue it, or give another folder")
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(f"output '{path}' already exists and is not an empty folder; give another one")
        try:
            (path / "arms").mkdir(parents=True)
        except OSError as error:
            raise UserError(f"output '{path}' cannot be made: {error.strerror}") from error
        folder = cls(path, {**manifest, "arms": {}, "sets": []})
        folder._write_config(config)
        write_json(path / "manifest.json", folder.manifest)
        return folder

    @classmethod
    def resume(cls, path: Path, manifest: Mapping[str, Any], config: TrainConfig) -> "RunFolder":
        """Open the folder of a run to continue it.

        Raises:
            UserError: no run there, or one with another manifest, with the first differences.
        """
        try:
            found = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise UserError(f"output '{path}' holds no run that could be resumed: {error}") from error
        was, now = _flat({key: found.get(key) for key in manifest}), _flat(manifest)
        differing = sorted(key for key in was.keys() | now.keys() if was.get(key) != now.get(key))
        if differing:
            shown = "; ".join(f"{key} was {was.get(key)!r}, now {now.get(key)!r}" for key in differing[:3])
            raise UserError(f"output '{path}' cannot be resumed, {len(differing)} settings differ: {shown}")
        folder = cls(path, found)
        folder._write_config(config)
        return folder

    def add_sets(self, sets: Sequence[Sequence[str]], specs: Sequence[ArmSpec]) -> None:
        """Pin in the manifest which arms advance side by side, before their first step."""
        if not sets:
            return
        plans = {spec.name: f"{spec.plan} (seed {spec.seed})" for spec in specs}
        self.manifest["arms"] |= {name: plans[name] for names in sets for name in names}
        self.manifest["sets"] += [list(names) for names in sets]
        write_json(self.path / "manifest.json", self.manifest)

    def _write_config(self, config: TrainConfig) -> None:
        settings = {k: v for k, v in config.model_dump().items() if k not in ("resume", "stop_at")}
        write_text(self.path / "config.yaml", yaml.safe_dump(settings, sort_keys=False))

    def arm(self, name: str) -> Path:
        """The folder of an arm, made when it is missing."""
        folder = self.path / "arms" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def finished(self, name: str) -> bool:
        """Whether an arm is done: its ``arm.json`` is written last."""
        return (self.path / "arms" / name / "arm.json").is_file()

    def read_arm(self, name: str) -> dict[str, Any]:
        """The ``arm.json`` of a finished arm."""
        record: dict[str, Any] = json.loads((self.arm(name) / "arm.json").read_text(encoding="utf-8"))
        return record

    def copy_arm(self, name: str, new_name: str) -> None:
        """Copy an arm's files under another name, all but the ``arm.json`` that would make it done."""
        for path in self.arm(name).iterdir():
            if path.name != "arm.json":
                shutil.copyfile(path, self.arm(new_name) / path.name)

    def write_arm(self, name: str, record: Mapping[str, Any], base: BaseModel) -> None:
        """Write an arm's ``arm.json``: the last of its files, so that the arm is done."""
        identity = {"base_model": base.name, "revision": base.revision, "base_hash": base.hash}
        write_json(self.arm(name) / "arm.json", {**record, "name": name, **identity})

    def read_records(self, name: str) -> list[Record]:
        """The metrics that an arm has logged so far."""
        return [json.loads(line) for line in self._log(name).read_text(encoding="utf-8").splitlines()]

    def write_record(self, arm: Arm, record: Record) -> None:
        """Append a step's metrics to the arm's ``metrics.jsonl``."""
        append_records(self.arm(arm.name) / "metrics.jsonl", [record])

    def save_checkpoint(self, number: int, arms: Sequence[Arm], next_step: int) -> None:
        """Commit the state of the arms of set ``number``, all or nothing."""
        tensors = {f"{arm.name}/{key}": tensor.cpu() for arm in arms for key, tensor in arm.state().items()}
        state = {
            "next_step": next_step,
            "arms": {arm.name: arm.counters() for arm in arms},
            "log_bytes": {arm.name: self._log(arm.name).stat().st_size for arm in arms},
        }
        with atomic_path(self._checkpoint(number)) as temporary:
            save_file(tensors, temporary, metadata={"state": json.dumps(state)})

    def load_checkpoint(self, number: int, arms: Sequence[Arm]) -> int:
        """Put a set of arms into its last committed state, cut its logs to it, and return the step to go on with.

        Raises:
            UserError: the checkpoint is damaged.
        """
        path = self._checkpoint(number)
        if not path.exists():
            for arm in arms:
                self._log(arm.name).unlink(missing_ok=True)
            return 0
        try:
            with safe_open(path, framework="pt") as file:
                state = json.loads(file.metadata()["state"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise UserError(f"checkpoint '{path}' is damaged: {error}; delete it to train its arms anew") from error
        for arm in arms:
            prefix = f"{arm.name}/"
            own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            arm.load_state(own, state["arms"][arm.name])
            with self._log(arm.name).open("rb+") as log:
                log.truncate(state["log_bytes"][arm.name])
        return int(state["next_step"])

    def drop_checkpoint(self, number: int) -> None:
        """Remove the checkpoint of a finished set."""
        self._checkpoint(number).unlink(missing_ok=True)
        if self._state.is_dir() and not any(self._state.iterdir()):
            self._state.rmdir()

    def discard(self) -> None:
        """Remove the folder of a run that never got to its first step."""
        shutil.rmtree(self.path)

    @property
    def _state(self) -> Path:
        return self.path / "state"

    def _checkpoint(self, number: int) -> Path:
        self._state.mkdir(exist_ok=True)
        return self._state / f"set-{number:03d}.safetensors"

    def _log(self, name: str) -> Path:
        return self.arm(name) / "metrics.jsonl"


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            flat |= _flat(item, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = item
    return flat
