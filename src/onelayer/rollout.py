"""From prompts to a training batch: completions, rewards, advantages. Also from prompts to scores, for evaluation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onelayer.algorithms.grpo import group_advantages
from onelayer.arm import Arm
from onelayer.config import EvalConfig, TrainConfig
from onelayer.errors import UserError
from onelayer.model import BaseModel
from onelayer.prompts import EncodedSplit, drawn_prompts
from onelayer.sample import Completions, Key, Row, Sampling, sample_policies
from onelayer.scores import ArmScores
from onelayer.tasks.base import Problem, Task


@dataclass(frozen=True)
class Batch:
    """What one arm learns from in one step: B rows, each a prompt and a completion with its advantage."""

    prompts: list[Sequence[int]]
    completions: Completions
    advantages: Tensor
    """(B,) fp32."""
    prompt_index: Tensor
    """(B,) which of the step's prompts a row belongs to: mini-batches are counted in prompts."""

    @property
    def num_tokens(self) -> int:
        """Prompt and completion tokens."""
        return sum(len(prompt) for prompt in self.prompts) + int(self.completions.lengths.sum())


def collect(
    base: BaseModel, task: Task, data: EncodedSplit, arms: Sequence[Arm], step: int, width: int, config: TrainConfig
) -> list[tuple[Batch, dict[str, float]]]:
    """Let every arm answer the prompts of a step: per arm its batch and metrics (TRL's names).

    ``width`` is the pad width of the step, the same for all arms.
    """
    sampling = Sampling(config.max_completion_length, config.temperature, config.top_p, config.top_k)
    group = config.num_generations
    rows_by_arm = []
    indices_by_arm = [drawn_prompts(len(data.problems), config.train_batch_size, arm.seed, step) for arm in arms]
    for indices in indices_by_arm:
        # A prompt can come twice in a step (small data sets): its second group needs other draws than its first.
        seen = [indices[:place].count(index) for place, index in enumerate(indices)]
        rows_by_arm.append(
            [
                Row(data.tokens[index], data.problems[index].id, again * group + sample)
                for index, again in zip(indices, seen, strict=True)
                for sample in range(group)
            ]
        )
    keys = [Key(arm.seed, "train", step) for arm in arms]
    policies = [arm.weights for arm in arms]
    completed = sample_policies(base, policies, rows_by_arm, keys, sampling, width=width, max_rows=config.max_rows)
    results = []
    for indices, rows, completions in zip(indices_by_arm, rows_by_arm, completed, strict=True):
        problems = [data.problems[index] for index in indices for _ in range(group)]
        rewards = score(base, task, problems, completions).view(len(indices), group)
        advantages = group_advantages(rewards, config.scale_rewards, config.advantage_epsilon, config.unbiased_std)
        batch = Batch(
            [row.prompt for row in rows],
            completions,
            advantages.flatten().float(),
            torch.arange(len(indices)).repeat_interleave(group),
        )
        results.append((batch, _metrics(rewards, completions)))
    return results


def score(base: BaseModel, task: Task, problems: Sequence[Problem], completions: Completions) -> Tensor:
    """The task's reward of each completion, (n,) fp64; NaN where the reward does not apply (None).

    Raises:
        UserError: the reward function raises, or returns the wrong number of rewards or something that is no number.
    """
    texts = completions.texts(base.tokenizer)
    replies: list[Any] = [
        text if isinstance(problem.prompt, str) else [{"role": "assistant", "content": text}]
        for problem, text in zip(problems, texts, strict=True)
    ]
    names = {name for problem in problems for name in problem.columns}
    columns = {name: [problem.columns.get(name) for problem in problems] for name in sorted(names)}
    try:
        rewards: Any = task.reward(prompts=[problem.prompt for problem in problems], completions=replies, **columns)
    except UserError:
        raise
    except Exception as error:  # a user's function may raise anything
        raise UserError(f"the reward of task '{task.name}' raised {type(error).__name__}: {error}") from error
    if not isinstance(rewards, Sequence) or len(rewards) != len(problems):
        count = len(rewards) if isinstance(rewards, Sequence) else "no list of"
        raise UserError(f"the reward of task '{task.name}' returned {count} rewards for {len(problems)} completions")
    for reward, problem in zip(rewards, problems, strict=True):
        if reward is not None and not (isinstance(reward, int | float | np.number) and math.isfinite(reward)):
            raise UserError(
                f"the reward of task '{task.name}' returned {reward!r} for problem {problem.id}; "
                "it has to be a finite number, or None where it does not apply"
            )
    return torch.tensor([math.nan if reward is None else float(reward) for reward in rewards], dtype=torch.float64)


def _metrics(rewards_PG: Tensor, completions: Completions) -> dict[str, float]:
    known = rewards_PG[~rewards_PG.isnan()]
    spread = (rewards_PG.nan_to_num(-math.inf).amax(-1) - rewards_PG.nan_to_num(math.inf).amin(-1)).clamp(min=0)
    deviations = [row[~row.isnan()].std() for row in rewards_PG if (~row.isnan()).sum() > 1]
    return {
        "reward": float(known.mean()) if len(known) else 0.0,
        "reward_std": float(torch.stack(deviations).mean()) if deviations else 0.0,
        "frac_reward_zero_std": float((spread == 0).double().mean()),
        "completions/mean_length": float(completions.lengths.double().mean()),
        "completions/clipped_ratio": float(completions.truncated.double().mean()),
    }


def evaluate(
    base: BaseModel,
    task: Task,
    data: EncodedSplit,
    policies: Sequence[Mapping[str, Tensor]],
    config: EvalConfig,
) -> list[ArmScores]:
    """Score policies (tensors to wear; none for the base itself) on the same problems with the same sampling keys.

    Raises:
        UserError: a reward that does not apply to a problem: it has no score then.
    """
    sampling = Sampling(config.max_completion_length, config.eval_temperature)
    count = config.eval_num_samples
    rows = [
        Row(tokens, problem.id, sample)
        for problem, tokens in zip(data.problems, data.tokens, strict=True)
        for sample in range(count)
    ]
    problems = [problem for problem in data.problems for _ in range(count)]
    key = Key(config.eval_seed, "eval", 0)
    results = []
    for completions in sample_policies(
        base,
        policies,
        [rows] * len(policies),
        [key] * len(policies),
        sampling,
        width=data.width,
        max_rows=config.max_rows,
    ):
        rewards = score(base, task, problems, completions)
        if rewards.isnan().any():
            lost = problems[int(rewards.isnan().nonzero()[0])].id
            raise UserError(
                f"the reward of task '{task.name}' is None for problem {lost}, which therefore has no score"
            )
        results.append(
            ArmScores(
                benchmark=[task.name] * len(rows),
                problem=np.array([row.problem for row in rows], dtype=np.int64),
                sample=np.array([row.sample for row in rows], dtype=np.int64),
                reward=rewards.numpy(),
                length=completions.lengths.numpy(),
                truncated=completions.truncated.numpy(),
            )
        )
    return results
