"""A step's metrics of an arm that TRL trains, under the built-in engine's names and with their meaning."""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from transformers import TrainerCallback

from onelayer.arms.arm import OptimizerSettings
from onelayer.config.configs import TrainConfig
from onelayer.engines.trl.completions import Written, show_completions
from onelayer.models.base import BaseModel
from onelayer.training.guards import watch
from onelayer.training.loop import Record


@dataclass
class Watched:
    """What is counted of an arm while it trains."""

    name: str
    guards: dict[str, int] = field(default_factory=dict)
    warned: list[str] = field(default_factory=list)
    stopped: str | None = None
    num_tokens: int = 0


class WatchedTrainer(Protocol):
    """What :class:`Records` reads of a trainer."""

    base: BaseModel
    config: TrainConfig
    settings: OptimizerSettings
    watched: Watched
    updates_per_step: int
    gradient_norms: list[float]

    def as_policy(self) -> AbstractContextManager[None]:
        """The module as one that writes."""

    def written(self) -> Written:
        """What the step wrote."""


class Records(TrainerCallback):  # type: ignore[misc]
    """A step's metrics under the built-in engine's names, and the end of an arm that has nothing to learn from."""

    def __init__(
        self,
        trainer: WatchedTrainer,
        on_record: Callable[[Record], None],
        score: Callable[[BaseModel], float] | None,
        on_completions: Callable[[int, Written], None] | None,
    ) -> None:
        self._trainer, self._on_record, self._score = trainer, on_record, score
        self._on_completions = on_completions
        self._started = time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """After the last update of a step."""
        if not logs or "grad_norm" not in logs:
            return  # the summary at the end
        trainer = self._trainer
        config, step = trainer.config, state.global_step // trainer.updates_per_step - 1
        record: Record = {"step": step}
        record |= {name: float(value) for name, value in logs.items() if _is_metric(name, value)}
        # TRL logs the last update's.
        record["grad_norm"] = sum(trainer.gradient_norms) / len(trainer.gradient_norms)
        trainer.gradient_norms.clear()
        record["learning_rate"] = trainer.settings.rate_at(state.global_step - 1)
        record["num_tokens"] = trainer.watched.num_tokens
        record["seconds"] = time.perf_counter() - self._started
        watch(trainer.watched, record, config)
        if trainer.watched.stopped:
            control.should_training_stop = True
        if self._score and config.eval_steps and (step + 1) % config.eval_steps == 0:
            with trainer.as_policy():
                record["eval/score"] = self._score(trainer.base)
        self._on_record(record)
        if self._on_completions:
            written = trainer.written()
            show_completions(step, written, args.num_completions_to_print)
            self._on_completions(step, written)
        self._started = time.perf_counter()


MEANS = ("kl", "entropy", "clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean")
"""TRL's metrics that are means over tokens and that the built-in engine has as well."""


def _is_metric(name: str, value: Any) -> bool:
    ours = (
        name == "loss"
        or name in MEANS
        or name.startswith(("reward", "frac_reward", "completions/", "episode/", "grader/", "sampling/"))
    )
    return ours and isinstance(value, int | float)
