"""The states of a set of arms that trains, step by step: all of it commits by one rename, and a torn one is noticed.

``state/set-NNN/`` holds for each kept step a folder ``step-NNNNNN/`` with one safetensors file per arm, and beside it
``step-NNNNNN.json``, the commit: the arms' counters, how long their logs were, and a checksum of everything. What has no
commit does not exist. The newest commit of which every byte is as it was written is the state of the set.
"""

import contextlib
import errno
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from onelayer.errors import UserError
from onelayer.runs.events import ArmState
from onelayer.storage.doors import cut, remove, require_inside
from onelayer.storage.files import checksum, flush, read_sealed, why, write_sealed, writing


class Torn(Exception):
    """A commit that is not what was written, and why."""


@dataclass(frozen=True)
class SetState:
    """The newest whole state of a set."""

    next_step: int
    """The step to go on with; 0 where there is no state yet."""
    seconds: float
    """Trained so far."""
    arms: Mapping[str, ArmState]
    """Empty where there is no state yet."""
    notes: Sequence[str]
    """A sentence for each newer state that was damaged, which is removed."""


@dataclass(frozen=True)
class Checkpoints:
    """The kept states of one set of arms.

    Args:
        folder: where they are.
        log: where an arm's ``metrics.jsonl`` is.
        keep: how many to keep: the newest, and those before it in case it gets damaged.
    """

    folder: Path
    log: Callable[[str], Path]
    keep: int

    def save(self, arms: Sequence[ArmState], next_step: int, seconds: float) -> None:
        """Commit the state of the arms, all or nothing, and drop the states that are too old.

        Args:
            arms: the set.
            next_step: the step that a continued run begins with.
            seconds: what training them has taken so far.

        Raises:
            WriteFailed: the disk refused it; the states before are as they were.
        """
        target = self.folder / f"step-{next_step:06d}"
        try:
            with writing(target):
                self._remove(next_step)
                target.mkdir(parents=True)
                entries = {arm.name: self._save_arm(arm, target) for arm in arms}
                flush(target)
            write_sealed(self._commit(next_step), {"next_step": next_step, "seconds": seconds, "arms": entries})
        except BaseException:
            if not self._commit(next_step).exists():
                remove(target)
            raise
        for step in self._steps()[self.keep :]:
            self._remove(step)

    def load(self, names: Sequence[str]) -> SetState:
        """The newest whole state of some arms, whose logs are cut to it.

        Raises:
            UserError: there are states, and all of them are damaged.
        """
        notes: list[str] = []
        steps = self._steps()
        for step in steps:
            try:
                state = self._whole(step, names)
            except Torn as reason:
                notes.append(f"the checkpoint of step {step} is damaged ({reason}); the one before it is used")
                continue
            found = {}
            for name in names:
                entry = state["arms"][name]
                found[name] = ArmState(name, load_file(self._file(step, name)), entry["counters"])
                with writing(self.log(name)):
                    cut(self.log(name), entry["log"]["bytes"])
            self._remove_all_but(steps[len(notes) :])
            return SetState(step, float(state["seconds"]), found, notes)
        if steps:
            raise UserError(
                f"no checkpoint in '{self.folder}' is whole: {notes[0].partition(';')[0]}; remove that folder to train "
                f"its arms ({', '.join(names)}) from the start"
            )
        for name in names:
            remove(self.log(name))
        self._remove_all_but([])
        return SetState(0, 0.0, {}, notes)

    def drop(self) -> None:
        """Remove all states, those of a set that is done."""
        for step in self._steps():
            self._remove(step)
        remove(self.folder)
        with contextlib.suppress(OSError):  # other sets still train
            self.folder.parent.rmdir()

    def _save_arm(self, arm: ArmState, target: Path) -> dict[str, Any]:
        file, log = target / f"{arm.name}.safetensors", self.log(arm.name)
        save_file({key: tensor.cpu() for key, tensor in arm.tensors.items()}, file)
        flush(file)
        flush(log)
        size = log.stat().st_size
        return {
            "counters": arm.counters,
            "state": {"bytes": file.stat().st_size, "sha256": checksum(file)},
            "log": {"bytes": size, "sha256": checksum(log, size)},
        }

    def _whole(self, step: int, names: Sequence[str]) -> Mapping[str, Any]:
        """The commit of a step, compared byte by byte with its files.

        Raises:
            Torn: something is not as it was written.
            UserError: a file cannot be read, which says nothing about what it holds.
        """
        try:
            state = read_sealed(self._commit(step))
            for name in names:
                entry = state["arms"][name]
                if checksum(self._file(step, name)) != entry["state"]["sha256"]:
                    raise Torn(f"the state of {name} has another checksum")
                if checksum(self.log(name), entry["log"]["bytes"]) != entry["log"]["sha256"]:
                    raise Torn(f"the metrics of {name} have another checksum")
        except KeyError as missing:
            raise Torn(f"it lacks {missing}") from missing
        except ValueError as error:
            raise Torn(" ".join(str(error).split())) from error
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EIO):
                raise Torn(f"{error.filename}: {error.strerror}") from error
            raise UserError(f"'{error.filename}' cannot be read: {why(error)}") from error
        return state

    def _steps(self) -> list[int]:
        """The committed steps, the newest first.

        Raises:
            UserError: the folder, or one above it, is a link out of the run's folder.
        """
        require_inside(self.folder)
        found = (re.fullmatch(r"step-(\d+)\.json", path.name) for path in self.folder.glob("step-*.json"))
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def _remove(self, step: int) -> None:
        """Take a state back: first its commit, so that what follows may stop anywhere."""
        remove(self._commit(step))
        remove(self.folder / f"step-{step:06d}")

    def _remove_all_but(self, steps: Sequence[int]) -> None:
        """Remove damaged states, and those that a killed process never committed."""
        if not self.folder.is_dir():
            return
        for step in self._steps():
            if step not in steps:
                self._remove(step)
        kept = {f"step-{step:06d}" for step in steps}
        for path in self.folder.iterdir():
            if path.is_dir() and path.name not in kept:
                remove(path)

    def _commit(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}.json"

    def _file(self, step: int, name: str) -> Path:
        return self.folder / f"step-{step:06d}" / f"{name}.safetensors"
