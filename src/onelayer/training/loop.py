"""The loop: prompts -> rollouts -> rewards -> advantages -> updates, for a set of arms in lockstep.

A step is a function of (manifest, step, deltas, optimizers) and gives (deltas, optimizers, records). A single training
run is a set of one. What an arm becomes does not depend on who else is in its set.
"""

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from onelayer.arms.arm import Arm, FrozenCheck
from onelayer.config.configs import TrainConfig
from onelayer.errors import RunStopped
from onelayer.models.base import BaseModel
from onelayer.tasks.base import Task
from onelayer.training.guards import watch
from onelayer.training.out_of_memory import noticing
from onelayer.training.prompts import EncodedSplit, drawn_prompts
from onelayer.training.rollout import collect, evaluate
from onelayer.training.update import update

Record = dict[str, Any]


@dataclass
class Training:
    """What a set of arms is trained with: the same for all of them and for every step."""

    base: BaseModel
    task: Task
    train: EncodedSplit
    selection: EncodedSplit
    config: TrainConfig
    seeds: tuple[int, ...]
    """All training seeds of the scan: the pad width of a step covers their prompts, whichever arms run together."""
    rungs: tuple[int, ...] = ()
    """Steps after which all arms are scored on the selection problems, besides those of ``eval_steps``."""
    frozen: FrozenCheck = field(init=False)

    def __post_init__(self) -> None:
        self.frozen = FrozenCheck(self.base)

    def with_config(self, config: TrainConfig) -> "Training":
        """The same with other cuts of its batches."""
        other = copy.copy(self)
        other.config = config
        return other

    def width(self, step: int) -> int:
        """Pad width of a step's prompts, in tokens: pinned, because it changes the last bits of what is computed."""
        batch = self.config.train_batch_size
        return max(
            len(self.train.tokens[index])
            for seed in self.seeds
            for index in drawn_prompts(len(self.train.problems), batch, seed, step)
        )


def train_step(training: Training, arms: Sequence[Arm], step: int) -> list[Record]:
    """Advance every arm that is not stopped by one step: one record of metrics per arm, in order.

    Raises:
        GuardTripped: tensors that do not move as they should, or a reward that fails.
        OutOfMemory: a batch had too many rows; the arms may be anywhere between two steps.
    """
    config = training.config
    active = [arm for arm in arms if arm.stopped is None]
    started = time.perf_counter()
    with noticing("max_rows"):
        batches = collect(training.base, training.task, training.train, active, step, training.width(step), config)
    shared = (time.perf_counter() - started) / len(active)
    records = []
    for arm, (batch, metrics) in zip(active, batches, strict=True):
        started = time.perf_counter()
        first = arm.updates == 0
        with noticing("micro_batch_size"):
            learned = update(training.base, arm, batch, config)
        if first:
            arm.check_moved(training.base)
            training.frozen()
        arm.num_tokens += batch.num_tokens
        record: Record = {"step": step, **metrics, **learned, "num_tokens": arm.num_tokens}
        record["seconds"] = shared + time.perf_counter() - started
        record["reward_share"] = record.get("reward_seconds", 0.0) / record["seconds"]
        watch(arm, record, config)
        records.append(record)
    if step + 1 in training.rungs or (config.eval_steps and (step + 1) % config.eval_steps == 0):
        policies = [arm.weights for arm in active]
        with noticing("max_rows"):
            scores = evaluate(training.base, training.task, training.selection, policies, config)
        for record, evaluated in zip(records, scores, strict=True):
            record["eval/score"] = evaluated.scores.score
    return records


def run_steps(
    training: Training, arms: Sequence[Arm], *, start: int, stop: int | None = None
) -> Iterator[tuple[int, list[tuple[Arm, Record]]]]:
    """Advance a set of arms from step ``start`` to ``stop`` (the last step by default): each step as it is done.

    Who takes the steps writes logs, checkpoints and progress.

    Raises:
        RunStopped: every arm has stopped because there was nothing to learn from.
    """
    for step in range(start, training.config.steps if stop is None else stop):
        active = [arm for arm in arms if arm.stopped is None]
        if not active:
            raise RunStopped(f"training stopped at step {step}: {arms[0].stopped}")
        yield step, list(zip(active, train_step(training, arms, step), strict=True))
