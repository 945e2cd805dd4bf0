"""What one arm learns from in one step: from rollouts to rows with advantages."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from onelayer.config.algorithm import AlgorithmConfig
from onelayer.training.algorithms.gigpo import gigpo_advantages
from onelayer.training.algorithms.grpo import group_advantages, leave_one_out_advantages
from onelayer.training.completions import Completions

NEGLIGIBLE = 1e-6
"""Advantages below this are rounding: a group of nothing else has nothing to teach."""


@dataclass(frozen=True)
class Rollouts:
    """What one policy did with the prompts of a step: E episodes, groups of G side by side, in R rows.

    A row is one call of the model. A problem that is answered at once is an episode of one row.
    """

    prompts: list[Sequence[int]]
    """R prompts, as tokens."""
    completions: Completions
    """R rows."""
    episode_R: Tensor
    """int64: the episode of each row, in ascending order."""
    rewards_R: Tensor
    """fp64: what each row earned; NaN where nothing could be judged."""
    returns_E: Tensor
    """fp64: what each episode earned in all, less penalties; NaN where nothing could be judged."""
    observations: Sequence[str] = ()
    """R texts, what the policy saw before it wrote; none where episodes have one row."""
    invalid_R: Tensor | None = None
    """bool: the environment does not know the action; None where there is no environment."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What is known of this kind of rollouts alone."""

    def paid(self) -> list[float | None]:
        """What the whole episode of each row earned; None where nothing could be judged."""
        return [None if math.isnan(value) else value for value in self.returns_E[self.episode_R].tolist()]


@dataclass(frozen=True)
class Batch:
    """B rows, each a prompt and a completion with its advantage."""

    prompts: list[Sequence[int]]
    completions: Completions
    advantages: Tensor
    """(B,) fp32."""
    prompt_index: Tensor
    """(B,) which of the step's prompts (start states) a row belongs to: mini-batches are counted in prompts."""

    @property
    def num_tokens(self) -> int:
        """Prompt and completion tokens."""
        return sum(len(prompt) for prompt in self.prompts) + int(self.completions.lengths.sum())


def to_batch(rollouts: Rollouts, config: AlgorithmConfig) -> tuple[Batch, dict[str, float]]:
    """What is learned from rollouts, and their metrics (TRL's names where there is one; rewards are the returns)."""
    groups_R = rollouts.episode_R // config.num_generations
    returns_PG = rollouts.returns_E.view(-1, config.num_generations)
    advantages_R = _advantages(rollouts, returns_PG, groups_R, config)
    batch = Batch(rollouts.prompts, rollouts.completions, advantages_R.float(), groups_R)
    known = returns_PG[~returns_PG.isnan()]
    deviations = [group[~group.isnan()].std() for group in returns_PG if (~group.isnan()).sum() > 1]
    largest_P = torch.zeros(len(returns_PG)).scatter_reduce(0, groups_R, batch.advantages.abs(), "amax")
    metrics = {
        "reward": float(known.mean()) if len(known) else 0.0,
        "reward_std": float(torch.stack(deviations).mean()) if deviations else 0.0,
        "frac_reward_zero_std": float((largest_P < NEGLIGIBLE).double().mean()),
        "completions/mean_length": float(batch.completions.lengths.double().mean()),
        "completions/clipped_ratio": float(batch.completions.truncated.double().mean()),
    }
    return batch, {**metrics, **rollouts.metrics}


def _advantages(rollouts: Rollouts, returns_PG: Tensor, groups_R: Tensor, config: AlgorithmConfig) -> Tensor:
    """(R,) fp64: the algorithm's advantage of each row."""
    if config.algorithm != "gigpo":
        return advantages_of(returns_PG, config).flatten()[rollouts.episode_R]
    assert rollouts.invalid_R is not None
    return gigpo_advantages(
        rollouts.rewards_R,
        groups_R,
        rollouts.episode_R,
        rollouts.observations,
        penalties_R=config.invalid_action_penalty_coef * rollouts.invalid_R.float(),
        gamma=config.gamma,
        step_advantage_w=config.step_advantage_w,
        mode=config.gigpo_mode,
        epsilon=config.advantage_epsilon,
        similarity_threshold=config.similarity_thresh,
        episode_statistics=config.episode_statistics,
        group_of_one=config.group_of_one,
        penalty_placement=config.penalty_placement,
    ).advantages


def advantages_of(returns_PG: Tensor, config: AlgorithmConfig) -> Tensor:
    """The algorithm's advantage of each episode within its group: (P, G) -> (P, G)."""
    if config.algorithm == "rloo":
        return leave_one_out_advantages(returns_PG)
    return group_advantages(returns_PG, config.scale_rewards, config.advantage_epsilon, config.unbiased_std)
