"""What one arm learns from in one step."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from onelayer.config.algorithm import AlgorithmConfig
from onelayer.training.algorithms.grpo import group_advantages, leave_one_out_advantages
from onelayer.training.sample import Completions


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


def advantages_of(rewards_PG: Tensor, config: AlgorithmConfig) -> Tensor:
    """The algorithm's advantage of each completion, or each whole episode, within its group: (P, G) -> (P, G)."""
    if config.algorithm == "rloo":
        return leave_one_out_advantages(rewards_PG)
    return group_advantages(rewards_PG, config.scale_rewards, config.advantage_epsilon, config.unbiased_std)
