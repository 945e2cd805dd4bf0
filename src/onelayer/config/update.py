"""How a step's completions are cut up for the updates, and what a whole step takes."""

from typing import Self

from pydantic import Field, model_validator

from onelayer.config.algorithm import AlgorithmConfig
from onelayer.config.base import Config
from onelayer.config.sampling import RewardConfig, SamplingConfig


class BatchConfig(Config):
    """How many prompts a step has, and how its rows are cut for the updates."""

    train_batch_size: int = Field(128, ge=1, description="prompts a step (verl's train_batch_size)")
    mini_batch_size: int = Field(
        0, ge=0, description="prompts an update (verl's ppo_mini_batch_size); 0 is all of a step"
    )
    num_iterations: int = Field(1, ge=1, description="passes over a step's completions (mu in GRPO)")
    micro_batch_size: int = Field(16, ge=1, description="rows of one backward pass; gradients are summed in fp32")
    micro_batch_tokens: int = Field(
        16384, ge=1, description="padded tokens of one backward pass; rows of similar length go together"
    )
    gradient_checkpointing: bool = Field(
        False, description="keep only the inputs of the layers above the lowest trained one, and compute the rest again"
    )
    trunk_memory: int = Field(
        256,
        ge=0,
        description="MB of hidden states that an arm may keep from sampling for its update; else computed anew",
    )
    logprob_chunk: int = Field(
        1024, ge=1, description="most tokens whose logits exist at one time; 128 MiB of them at most"
    )

    @property
    def trunk_bytes(self) -> int:
        """``trunk_memory`` in bytes."""
        return self.trunk_memory * 10**6

    @property
    def updates_per_step(self) -> int:
        """Optimizer updates of one step: 512 prompts in mini-batches of 128 make 4, times ``num_iterations``."""
        mini = self.mini_batch_size or self.train_batch_size
        return -(-self.train_batch_size // mini) * self.num_iterations

    @model_validator(mode="after")
    def _mini_batches_fit(self) -> Self:
        if self.mini_batch_size > self.train_batch_size:
            raise ValueError("mini_batch_size is larger than train_batch_size; both are counted in prompts")
        return self


class StepConfig(SamplingConfig, AlgorithmConfig, BatchConfig, RewardConfig):
    """What rollouts, rewards and updates of a step take: no model, no data, no files."""
