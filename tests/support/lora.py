"""A run of LoRA arms."""

from collections.abc import Sequence
from typing import Any

from onelayer.arms.arm import Arm
from onelayer.arms.spec import create_arm, spec_of
from onelayer.config.configs import TrainConfig
from onelayer.models.base import BaseModel
from onelayer.runs.inputs import load_splits
from onelayer.training.loop import Training, run_steps
from tests.conftest import DigitTask


def settings(**changes: Any) -> TrainConfig:
    fixed = {"model": "x", "task": "arithmetic", "steps": 4, "train_batch_size": 2, "num_generations": 4}
    fixed |= {"max_completion_length": 5, "learning_rate": 3e-3, "micro_batch_size": 8, "beta": 0.04}
    return TrainConfig(**{**fixed, **changes})


def run(base: BaseModel, plans: Sequence[str], config: TrainConfig, pause: int = 0) -> list[Arm]:
    """Train the plans in lockstep; ``pause`` puts arms away after so many steps and continues with restored ones."""
    data = load_splits(base, DigitTask(), config)
    training = Training(base, DigitTask(), data["train"], data["selection"], config, (0,))
    arms = [create_arm(base, spec_of(base, plan, 0), config) for plan in plans]
    if pause:
        short = config.model_copy(update={"steps": pause})
        training.config = short
        list(run_steps(training, arms, start=0))
        training.config = config
        again = [create_arm(base, spec_of(base, plan, 0), config) for plan in plans]
        for arm, fresh in zip(arms, again, strict=True):
            fresh.load_state({key: value.clone() for key, value in arm.state().items()}, arm.counters())
        arms = again
    list(run_steps(training, arms, start=pause))
    return arms
