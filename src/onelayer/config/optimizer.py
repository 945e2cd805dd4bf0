"""AdamW and its schedule."""

from typing import Literal

from pydantic import Field

from onelayer.config.base import Config


class OptimizerConfig(Config):
    """AdamW and its schedule."""

    learning_rate: float = Field(1e-6, gt=0, description="AdamW's rate, before a plan's multipliers")
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = Field("constant", description="shape after warm-up")
    warmup_steps: int = Field(0, ge=0, description="updates of linear warm-up")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decay, on all trained tensors")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's first beta")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="AdamW's second beta")
    adam_epsilon: float = Field(1e-8, gt=0, description="AdamW's epsilon")
    max_grad_norm: float = Field(1.0, ge=0, description="gradients are clipped to this norm; 0 does not clip")
