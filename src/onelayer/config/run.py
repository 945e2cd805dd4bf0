"""A run: how long, what is kept of it, and when it stops."""

from pydantic import Field

from onelayer.config.base import Config


class RunConfig(Config):
    """How long a run trains, what it keeps, and what it tells."""

    layers: str = Field("all", description="layer plan: all, 14, 9-13, mid:5, 14.attn, all,9-13*2 (see onelayer plan)")
    output: str | None = Field(None, description="folder for the results; by default a new one under runs/")
    seed: int = Field(0, ge=0, description="training seed: order of prompts and sampling")
    resume: bool = Field(False, description="continue the run in --output")
    steps: int = Field(100, ge=1, description="training steps (one batch of prompts each)")
    eval_steps: int = Field(0, ge=0, description="score the selection problems every so many steps; 0 never")
    save_steps: int = Field(50, ge=1, description="write a checkpoint every so many steps")
    save_total_limit: int = Field(
        2, ge=1, description="checkpoints that are kept of a set of arms: the newest, and those before it"
    )
    grace_seconds: float = Field(
        20.0, ge=0, description="seconds that a step may still take after Ctrl-C or SIGTERM; 0 stops at once"
    )
    report_to: str = Field("none", description="also log to tensorboard, wandb, trackio (comma-separated)")
    stop_at: int = Field(0, ge=0, description="pause the run after this step; --resume goes on; 0 runs to the end")


class GuardConfig(Config):
    """When an arm that learns nothing, or breaks, is warned of or stopped."""

    stop_after: int = Field(20, ge=1, description="stop an arm when a guard has tripped for so many steps in a row")
    max_skipped_steps: int = Field(
        3, ge=1, description="guard: stop an arm after so many steps in a row with an update that was not finite"
    )
    max_kl: float = Field(
        10.0, ge=0, description="guard: most nats a token from the base (with beta > 0); 0 is no limit"
    )
    min_entropy: float = Field(1e-4, ge=0, description="guard: least nats a token; 0 is no limit")
    max_zero_std: float = Field(
        1.0, gt=0, description="guard: share of prompts whose completions all got one reward; over 1 is no limit"
    )
    max_clipped_ratio: float = Field(
        0.95, ge=0, le=1, description="guard: share of completions that were cut off; 1 is no limit"
    )
    max_reward_share: float = Field(
        0.5, ge=0, le=1, description="guard: warn when the reward takes a larger share of the time; 1 is no limit"
    )
