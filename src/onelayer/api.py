"""The commands as functions: ``scan``, ``train`` and ``evaluate``. Options are those of the commands, with underscores."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from onelayer.arms.delta_files import DELTA
from onelayer.commands.flags import build_config, default_output
from onelayer.commands.scan import scan as run_scan
from onelayer.commands.scan import train as run_train
from onelayer.config.base import Config
from onelayer.config.configs import BenchmarkConfig, ScanConfig, TrainConfig
from onelayer.errors import UserError
from onelayer.evaluation.evaluate_model import evaluate_model
from onelayer.evaluation.results import Results
from onelayer.judging.profile import Profile
from onelayer.storage.arm_names import BASE
from onelayer.storage.arm_record import records_of
from onelayer.storage.screen import Screen

C = TypeVar("C", bound=Config)


@dataclass(frozen=True)
class TrainedArm:
    """A finished arm and where its files are."""

    name: str
    folder: Path
    """Holds ``delta.safetensors``, ``scores.parquet``, ``metrics.jsonl`` and ``arm.json``."""
    score: float
    """On the test problems."""
    base_score: float
    record: Mapping[str, Any]
    """The contents of ``arm.json``."""

    @property
    def delta(self) -> Path:
        """The delta's file, for `onelayer.load_delta`."""
        return self.folder / DELTA


def scan(
    config: ScanConfig | None = None,
    *,
    output: Path | str | None = None,
    preset: str | None = None,
    quiet: bool = True,
    **options: Any,
) -> Profile:
    """Profile a model, as ``onelayer scan`` does: the full arm, every chosen layer alone, C(k) of all.

    Without arguments: the bundled model and task.

    Args:
        config: the whole configuration, in the place of preset and options.
        output: new folder for the results; by default one under ``runs/``.
        preset: bundled settings to start from.
        quiet: whether nothing is printed.
        options: the fields of :class:`~onelayer.config.configs.ScanConfig`, e.g. ``model="...", layers="every:4"``.

    Raises:
        UserError: something in the options, the model, the data or the reward is wrong.
        RunStopped: training cannot go on.
    """
    config = _config(ScanConfig, config, preset, options, "arithmetic")
    folder = _folder(output or config.output, "scan")
    run_scan(config.model_copy(update={"output": str(folder)}), folder, Screen(quiet=quiet))
    return Profile.load(folder)


def train(
    config: TrainConfig | None = None,
    *,
    output: Path | str | None = None,
    preset: str | None = None,
    quiet: bool = True,
    **options: Any,
) -> TrainedArm:
    """Train what one plan says, as ``onelayer train`` does: ``train(task="arithmetic", layers="mid:2", steps=40)``.

    Arguments and errors are those of :func:`scan`, with the fields of :class:`~onelayer.config.configs.TrainConfig`.
    """
    config = _config(TrainConfig, config, preset, options, "arithmetic")
    folder = _folder(output or config.output, "train")
    run_train(config.model_copy(update={"output": str(folder)}), folder, Screen(quiet=quiet))
    records = records_of(folder)
    name, record = next((name, record) for name, record in records.items() if record.plan == config.layers)
    score, base_score = record.score, records[BASE].score
    assert score is not None and base_score is not None
    return TrainedArm(name, folder / "arms" / name, score, base_score, record.model_dump(exclude_unset=True))


def evaluate(
    config: BenchmarkConfig | None = None,
    *,
    output: Path | str | None = None,
    quiet: bool = True,
    **options: Any,
) -> Results:
    """Score a model or a delta on benchmarks, as ``onelayer eval`` does: ``evaluate(delta=arm.delta, benchmarks="gsm8k")``.

    Args:
        config: the whole configuration, in the place of options.
        output: new folder for the results; by default one under ``runs/``.
        quiet: whether nothing is printed.
        options: the fields of :class:`~onelayer.config.configs.BenchmarkConfig`.

    Raises:
        UserError: the model, the delta, a benchmark or its data is wrong, or ``scan`` is given.
        RunStopped: a grader failed on completions.
    """
    config = _config(BenchmarkConfig, config, None, options, None)
    if config.scan:
        raise UserError(
            "evaluate scores one model or delta; for all arms of a scan there is `onelayer eval --scan DIR`"
        )
    return evaluate_model(config, _folder(output or config.output, "eval"), Screen(quiet=quiet))


def _config(
    kind: type[C], config: C | None, preset: str | None, options: Mapping[str, Any], default_task: str | None
) -> C:
    if config is not None:
        if options or preset:
            raise TypeError("give either a configuration or options")
        return config
    given = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    return build_config(kind, given, None, preset, default_task)


def _folder(output: Path | str | None, command: str) -> Path:
    return Path(output) if output else default_output(command)
