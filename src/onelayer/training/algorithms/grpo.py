"""GRPO (Shao et al. 2024, arXiv 2402.03300) as pure functions on tensors.

Shapes: P prompts, G completions of each (a group), B = P * G rows, T completion tokens. Losses are minimised.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


def group_advantages(
    rewards_PG: Tensor, scale_rewards: str = "group", epsilon: float = 1e-4, unbiased: bool = True
) -> Tensor:
    """Advantage of each completion within its group: (P, G) -> (P, G).

    A = (r - mean of the group) / (std + epsilon). ``scale_rewards`` says whose standard deviation: ``group`` (GRPO),
    ``batch`` (all P * G rewards; arXiv 2508.08221) or ``none`` (no division; Dr. GRPO, arXiv 2503.20783).
    TRL and verl both use the unbiased standard deviation; epsilon is 1e-4 in TRL and 1e-6 in verl.

    A NaN reward does not apply: it counts in no mean or deviation, and its advantage is 0. A group (or batch) with fewer
    than two rewards that apply has no deviation and gets advantages of 0.
    """
    known = ~rewards_PG.isnan()
    rewards = rewards_PG.nan_to_num(0.0)
    count = known.sum(-1, keepdim=True)
    mean = rewards.sum(-1, keepdim=True) / count.clamp(min=1)
    centred = torch.where(known, rewards - mean, 0.0)
    if scale_rewards == "none":
        return torch.where(count > 1, centred, 0.0)
    if scale_rewards == "group":
        spread, number = centred.square().sum(-1, keepdim=True), count
    elif scale_rewards == "batch":
        number = known.sum()
        overall = rewards.sum() / number.clamp(min=1)
        spread = torch.where(known, rewards - overall, 0.0).square().sum()
    else:
        raise ValueError(f"scale_rewards is 'group', 'batch' or 'none', not '{scale_rewards}'")
    std = (spread / (number - int(unbiased)).clamp(min=1)).sqrt()
    return torch.where((count > 1) & (number > 1), centred / (std + epsilon), 0.0)


def leave_one_out_advantages(rewards_PG: Tensor) -> Tensor:
    """RLOO (arXiv 2402.14740): each reward minus the mean of the others in its group, (P, G) -> (P, G).

    A NaN reward does not apply: it counts in no mean, and its advantage is 0, as is that of a reward without others.
    """
    known = ~rewards_PG.isnan()
    rewards = rewards_PG.nan_to_num(0.0)
    others = known.sum(-1, keepdim=True) - 1
    baseline = (rewards.sum(-1, keepdim=True) - rewards) / others.clamp(min=1)
    return torch.where(known & (others > 0), rewards - baseline, 0.0)


def k3_kl(logps: Tensor, reference_logps: Tensor) -> Tensor:
    """Per-token estimate of KL(policy || reference), never negative: exp(q - p) - (q - p) - 1.

    Schulman's k3 (http://joschu.net/blog/kl-approx.html), the one GRPO uses. Any shape, elementwise.
    """
    difference = reference_logps - logps
    return difference.exp() - difference - 1


def token_weights(mask_BT: Tensor, loss_type: str, max_completion_length: int) -> Tensor:
    """Weight of every token in the loss, (B, T): the loss is the sum of weight x token loss over a mini-batch.

    - ``grpo``: mean over a completion's tokens, then over completions (the GRPO paper; TRL's ``grpo``; verl's
      ``seq-mean-token-mean``).
    - ``dapo``: mean over all tokens of the mini-batch (DAPO, arXiv 2503.14476; verl's default ``token-mean``).
    - ``dr_grpo``: sum divided by B x max_completion_length (Dr. GRPO; TRL's ``dr_grpo``).
    """
    mask = mask_BT.to(torch.float32)
    if loss_type == "grpo":
        return mask / mask.sum(-1, keepdim=True).clamp(min=1) / mask.shape[0]
    if loss_type == "dapo":
        return mask / mask.sum().clamp(min=1)
    if loss_type == "dr_grpo":
        return mask / (mask.shape[0] * max_completion_length)
    raise ValueError(f"loss_type is 'grpo', 'dapo' or 'dr_grpo', not '{loss_type}'")


@dataclass(frozen=True)
class PolicyLoss:
    """Per-token loss (B, T) and where the objective was clipped, per token."""

    loss: Tensor
    clipped_low: Tensor
    """Ratio under 1 - epsilon with a negative advantage: no gradient."""
    clipped_high: Tensor
    """Ratio over 1 + epsilon_high with a positive advantage: no gradient."""


def clipped_loss(
    logps_BT: Tensor,
    old_logps_BT: Tensor,
    advantages_B: Tensor,
    *,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    sequence_mask_BT: Tensor | None = None,
) -> PolicyLoss:
    """-min(rho A, clip(rho, 1 - epsilon, 1 + epsilon_high) A) of every token, rho = exp(logp - old logp).

    ``epsilon_high`` None means ``epsilon``; DAPO's clip-higher sets it apart. With ``sequence_mask_BT`` (which positions
    are tokens) every token of a completion has the completion's ratio, the geometric mean of its tokens' (GSPO,
    arXiv 2507.18071, equation 7; TRL's ``importance_sampling_level="sequence"``).
    """
    high = epsilon if epsilon_high is None else epsilon_high
    advantages = advantages_B[:, None]
    log_ratio = logps_BT - old_logps_BT
    if sequence_mask_BT is not None:
        mask = sequence_mask_BT.to(log_ratio.dtype)
        mean = (log_ratio * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
        log_ratio = mean.expand_as(log_ratio)
    ratio = log_ratio.exp()
    loss = -torch.min(ratio * advantages, ratio.clamp(1 - epsilon, 1 + high) * advantages)
    return PolicyLoss(loss, (ratio < 1 - epsilon) & (advantages < 0), (ratio > 1 + high) & (advantages > 0))
