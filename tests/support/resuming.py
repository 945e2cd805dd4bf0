"""Runs that are stopped and go on, and what they leave."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from onelayer.arms.spec import spec_of
from onelayer.errors import Paused
from onelayer.models.base import BaseModel
from onelayer.runs.inputs import load_splits
from onelayer.runs.open_run import open_run
from onelayer.training.update import update
from tests.conftest import DigitTask
from tests.support.runs import config_of

PLANS = ("all", "1")


FILES = ("delta.safetensors", "scores.parquet")


TIMES = ("seconds", "reward_seconds", "reward_share", "guard/slow_reward")


def go(folder: Path, base: BaseModel, task: Any = None, **changes: Any) -> str:
    """Train a full arm and a layer, saved after every step; what was printed."""
    config = config_of(**{"steps": 4, "save_steps": 1, **changes})
    console = Console(record=True, width=400, quiet=False, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    data = load_splits(base, task or DigitTask(), config)
    try:
        with open_run(base, task or DigitTask(), data, config, [0], folder, console) as run:
            run.train([spec_of(base, plan, 0) for plan in PLANS])
    except Paused:
        assert config.stop_at
    return console.export_text()


def results(folder: Path) -> dict[str, Any]:
    """All that has to be the same: deltas, scores, metrics but for the time they took."""
    found: dict[str, Any] = {}
    for arm in sorted((folder / "arms").iterdir()):
        for file in FILES:
            if (arm / file).exists():
                found[f"{arm.name}/{file}"] = (arm / file).read_bytes()
        if (arm / "metrics.jsonl").exists():
            rows = [json.loads(line) for line in (arm / "metrics.jsonl").read_text().splitlines()]
            found[f"{arm.name}/metrics"] = [{k: v for k, v in row.items() if k not in TIMES} for row in rows]
    return found


class Tight:
    """Updates in which more than ``rows`` rows at once do not fit, from a step on."""

    def __init__(self, rows: int, first: int) -> None:
        self.rows, self.first = rows, first

    def __call__(self, base: BaseModel, arm: Any, batch: Any, config: Any) -> Any:
        learned = update(base, arm, batch, config)  # the failing update has changed the arm
        if arm.updates > self.first and config.micro_batch_size > self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return learned
