"""Small runs on the task of digits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from onelayer.arms.spec import spec_of, with_seeds
from onelayer.config.configs import ScanConfig
from onelayer.errors import Paused
from onelayer.models.base import BaseModel
from onelayer.runs.inputs import load_splits
from onelayer.runs.open_run import open_run
from onelayer.training.loop import Training
from tests.conftest import DigitTask

Settings = dict[str, Any]


TINY: Settings = {
    "model": "x",
    "task": "arithmetic",
    "steps": 4,
    "train_batch_size": 4,
    "num_generations": 4,
    "max_completion_length": 6,
    "learning_rate": 3e-3,
    "micro_batch_size": 8,
    "save_steps": 2,
    "max_rows": 24,
}


def config_of(**changes: Any) -> ScanConfig:
    return ScanConfig(**{**TINY, **changes})


def training_of(base: BaseModel, config: ScanConfig, seeds: Sequence[int] = (0,)) -> Training:
    data = load_splits(base, DigitTask(), config)
    return Training(base, DigitTask(), data["train"], data["selection"], config, tuple(seeds))


def run_in(
    folder: Path,
    base: BaseModel,
    plans: Sequence[str],
    *,
    task: Any = None,
    seeds: Sequence[int] = (0,),
    **changes: Any,
) -> Path:
    """The plans as one run; a paused run is not an error."""
    config = config_of(**changes)
    task = task or DigitTask()
    specs = with_seeds([spec_of(base, plan, 0) for plan in plans], seeds)
    data = load_splits(base, task, config)
    try:
        with open_run(base, task, data, config, seeds, folder, Console(quiet=True)) as run:
            run.train(specs)
    except Paused:
        assert config.stop_at
    return folder


def delta_bytes(folder: Path, arm: str) -> bytes:
    return (folder / "arms" / arm / "delta.safetensors").read_bytes()
