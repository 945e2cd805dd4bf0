"""How completions are written, while training and when policies are scored."""

from pydantic import Field

from onelayer.config.base import Config


class CompletionConfig(Config):
    """How long completions may get, and how many are written at a time."""

    max_completion_length: int = Field(1024, ge=1, description="tokens after which a completion is cut")
    max_rows: int = Field(512, ge=8, description="most rows in one forward pass of sampling")


class SamplingConfig(CompletionConfig):
    """How completions are drawn while training."""

    temperature: float = Field(1.0, gt=0, description="sampling temperature while training")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus sampling while training")
    top_k: int = Field(0, ge=0, description="keep the k likeliest tokens while training; 0 keeps all")


class RewardConfig(Config):
    """How patient a run is with its reward."""

    reward_timeout: float = Field(
        3600.0, ge=0, description="seconds after which a reward that has not returned ends the run; 0 waits for ever"
    )
    reward_retries: int = Field(
        2, ge=0, description="tries after the first when a reward fails as networks and files do (OSError)"
    )


class EvalConfig(CompletionConfig, RewardConfig):
    """How a policy is scored."""

    eval_num_samples: int | None = Field(
        None, ge=1, description="samples a problem when scoring (avg@k); by default what a benchmark says, else 1"
    )
    eval_temperature: float | None = Field(
        None, ge=0, description="temperature when scoring, 0 is greedy; by default what a benchmark says, else 0"
    )
    eval_seed: int = Field(0, ge=0, description="seed of the sampling keys when scoring, the same for all arms")
