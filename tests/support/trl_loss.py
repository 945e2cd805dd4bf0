"""TRL's loss, as the independent implementation that ours is compared with."""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from onelayer.config.update import StepConfig


def trl_loss(
    logps: Tensor,
    old: Tensor,
    advantages: Tensor,
    mask: Tensor,
    config: StepConfig,
    reference: Tensor | None = None,
) -> Tensor:
    """TRL's own ``GRPOTrainer._compute_loss`` on given log-probabilities, with the algorithm's options."""
    trl = pytest.importorskip("trl.trainer.grpo_trainer")
    trainer = object.__new__(trl.GRPOTrainer)
    trainer.__dict__.update(
        _get_per_token_logps_and_entropies=lambda *a, **k: (logps, torch.zeros_like(logps), None),
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(gather=lambda x: x, reduce=lambda x, reduction: x, num_processes=1, device="cpu"),
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        beta=config.beta,
        epsilon_low=config.epsilon,
        epsilon_high=config.epsilon if config.epsilon_high is None else config.epsilon_high,
        loss_type=config.loss_type,
        importance_sampling_level=config.importance_sampling_level,
        max_completion_length=config.max_completion_length,
        current_gradient_accumulation_steps=1,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)},
    )
    prompt = torch.ones(len(logps), 2, dtype=torch.long)
    inputs = {
        "prompt_ids": prompt,
        "prompt_mask": prompt,
        "completion_ids": torch.ones_like(mask),
        "completion_mask": mask,
        "advantages": advantages,
        "old_per_token_logps": old,
        "ref_per_token_logps": reference,
        "num_items_in_batch": mask.sum(),
    }
    loss: Tensor = trainer._compute_loss(trainer.model, inputs)
    return loss
