"""From prompts to a training batch: completions, rewards, advantages. Also from prompts to scores, for evaluation."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from onelayer.arms.arm import Arm
from onelayer.config.sampling import EvalConfig
from onelayer.config.update import StepConfig
from onelayer.models.base import BaseModel
from onelayer.models.trunk import kept_layer
from onelayer.tasks.base import Rollout, Task
from onelayer.training.answers import AtOnce
from onelayer.training.batch import Batch, to_batch
from onelayer.training.draws import Key
from onelayer.training.episodes import InTurns
from onelayer.training.prompts import EncodedSplit, drawn_prompts, drawn_samples
from onelayer.training.way import Draw, Evaluated, Way

WAYS: Mapping[Rollout, Way[Any]] = {"at_once": AtOnce(), "in_turns": InTurns()}


def way_of(task: Task) -> Way[Any]:
    """How a task is rolled out: as it says, or at once."""
    return WAYS[getattr(task, "rollout", "at_once")]


def collect(
    base: BaseModel, task: Task, data: EncodedSplit, arms: Sequence[Arm], step: int, width: int, config: StepConfig
) -> list[tuple[Batch, dict[str, float]]]:
    """Let every arm do the prompts of a step: per arm its batch and metrics (TRL's names).

    ``width`` is the pad width of the step, the same for all arms.

    Raises:
        RunStopped: an arm has nothing to learn from.
    """
    way = way_of(task)
    rows = config.train_batch_size * config.num_generations * way.rows_of_episode(task)
    tokens = way.prompt_tokens(task, width) + config.max_completion_length
    draws = [
        Draw(
            arm.weights,
            drawn_samples(
                drawn_prompts(len(data.problems), config.train_batch_size, arm.seed, step), config.num_generations
            ),
            Key(arm.seed, "train", step),
            kept_layer(base, arm.trunk_layer, rows, tokens, config.trunk_bytes),
        )
        for arm in arms
    ]
    parts = way.roll(base, task, data, draws, width, config)
    return [
        to_batch(way.rollouts(task, part, config, f"arm {arm.name}, step {step}"), config)
        for arm, part in zip(arms, parts, strict=True)
    ]


def evaluate(
    base: BaseModel, task: Task, data: EncodedSplit, policies: Sequence[Mapping[str, Tensor]], config: EvalConfig
) -> list[Evaluated]:
    """Score policies (tensors to wear; none for the base itself) on the same problems with the same sampling keys.

    Raises:
        UserError: a reward that does not apply to a problem: it has no score then.
        RunStopped: completions that could not be judged and have no reward.
    """
    return way_of(task).evaluate(base, task, data, policies, config)
