"""Where metrics go: always to ``metrics.jsonl``, and on request to TensorBoard, Weights & Biases or trackio."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from onelayer.errors import UserError, did_you_mean
from onelayer.storage.doors import append_text, require_inside


class Tracker(Protocol):
    """Shows metrics of arms, each arm as a run of its own."""

    def log(self, arm: str, record: Mapping[str, Any]) -> None:
        """Take the metrics of one step."""

    def close(self) -> None:
        """Write what is still held back."""


class TensorBoard:
    """One event folder per arm, under ``tensorboard/`` in the run's folder."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError("--report-to tensorboard needs: pip install 'onelayer[tensorboard]'") from error
        self._new: Any = SummaryWriter
        self._folder = folder / "tensorboard"
        self._writers: dict[str, Any] = {}

    def log(self, arm: str, record: Mapping[str, Any]) -> None:
        """Take the metrics of one step."""
        if arm not in self._writers:
            require_inside(self._folder / arm)
            self._writers[arm] = self._new(str(self._folder / arm))
        writer = self._writers[arm]
        for name, value in numbers(record).items():
            writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """Write what is still held back."""
        for writer in self._writers.values():
            writer.close()


class RunTracker:
    """Weights & Biases or trackio, which share an interface: one run per arm in one group."""

    def __init__(self, name: str, folder: Path, config: Mapping[str, Any]) -> None:
        import importlib

        try:
            self._module = importlib.import_module(name)
        except ImportError as error:
            raise UserError(f"--report-to {name} needs: pip install 'onelayer[{name}]'") from error
        self._group, self._config = folder.name, dict(config)
        self._held: dict[str, list[dict[str, Any]]] = {}

    def log(self, arm: str, record: Mapping[str, Any]) -> None:
        """Take the metrics of one step; both libraries know one current run only, so they are sent at the end."""
        self._held.setdefault(arm, []).append(dict(numbers(record)) | {"step": record["step"]})

    def close(self) -> None:
        """Send every arm's metrics as one run."""
        for arm, records in self._held.items():
            run = self._module.init(project="onelayer", group=self._group, name=arm, config=self._config)
            for record in records:
                values = {name: value for name, value in record.items() if name != "step"}
                run.log(values, step=record["step"])
            run.finish()
        self._held.clear()


TRACKERS = ("tensorboard", "wandb", "trackio")


def open_trackers(report_to: str, folder: Path, config: Mapping[str, Any]) -> list[Tracker]:
    """The trackers of ``--report-to``.

    Raises:
        UserError: an unknown name, or one whose package is not installed.
    """
    names = [name.strip() for name in report_to.split(",") if name.strip() not in ("", "none")]
    for name in names:
        if name not in TRACKERS:
            raise UserError(f"--report-to {name}: no such tracker{did_you_mean(name, list(TRACKERS))}")
    return [TensorBoard(folder, config) if n == "tensorboard" else RunTracker(n, folder, config) for n in names]


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The numeric metrics of a record, without the step itself."""
    return {k: float(v) for k, v in record.items() if isinstance(v, int | float) and k != "step"}


def append_records(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Append to a ``metrics.jsonl``, one JSON object a line."""
    append_text(path, "".join(json.dumps(record, allow_nan=False) + "\n" for record in records))
