"""One arm's updates from one batch: old and reference log-probabilities, mini-batches, micro-batches, AdamW.

Everything here depends on the arm and its batch alone, never on the other arms of its set.
"""

from collections import defaultdict

import torch
from torch import Tensor

from onelayer.algorithms.grpo import clipped_loss, k3_kl, token_weights
from onelayer.arm import Arm
from onelayer.batch import Batch
from onelayer.config import TrainConfig
from onelayer.errors import RunStopped
from onelayer.logprobs import completion_logprobs
from onelayer.model import BaseModel
from onelayer.sample import left_pad


def updates_per_step(config: TrainConfig) -> int:
    """Optimizer updates of one step: 512 prompts in mini-batches of 128 make 4, times ``num_iterations``."""
    mini = config.mini_batch_size or config.train_batch_size
    return -(-config.train_batch_size // mini) * config.num_iterations


def update(base: BaseModel, arm: Arm, batch: Batch, config: TrainConfig) -> dict[str, float]:
    """Train ``arm`` on ``batch``: returns the step's metrics (TRL's names), means over tokens and updates.

    Raises:
        RunStopped: a loss or gradient that is not finite.
    """
    # How a mini-batch is cut is part of what is computed, since it orders the sum of the gradients.
    # A mini-batch whose episodes all failed has no rows and makes no update.
    micros = [list(torch.split(rows, config.micro_batch_size)) for rows in _mini_batches(batch, config) if len(rows)]
    # The base's own tensors are the reference policy, so no second model is needed.
    reference = _frozen_logps(base, batch, micros, config) if config.beta > 0 else None
    totals: dict[str, float] = defaultdict(float)
    old = None
    if updates_per_step(config) > 1:  # else the policy still is the one that sampled, and every ratio is 1
        with torch.no_grad(), arm.worn_by(base):
            old = _frozen_logps(base, batch, micros, config)
    for _ in range(config.num_iterations):
        for mini in micros:
            for name, value in _update_once(base, arm, batch, mini, old, reference, config).items():
                totals[name] += value
    return {name: value / (len(micros) * config.num_iterations) for name, value in totals.items()}


def _mini_batches(batch: Batch, config: TrainConfig) -> list[Tensor]:
    """Rows of each mini-batch, prompts in the order in which they were drawn."""
    mini = config.mini_batch_size or config.train_batch_size
    return [
        torch.nonzero(batch.prompt_index // mini == number)[:, 0]
        for number in range(-(-config.train_batch_size // mini))
    ]


def _logps(base: BaseModel, batch: Batch, rows: Tensor, config: TrainConfig) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies of some rows, (rows, T) with T the batch's length."""
    completions = batch.completions
    prompts = [batch.prompts[row] for row in rows.tolist()]
    ids, mask = left_pad(prompts, max(len(prompt) for prompt in prompts))
    longest = int(completions.lengths[rows].max())
    tensors = [ids, mask, completions.ids[rows, :longest], completions.mask[rows, :longest].long()]
    logps, entropy = completion_logprobs(
        base,
        *(tensor.to(base.device) for tensor in tensors),
        temperature=config.temperature,
        chunk_tokens=config.logprob_chunk,
    )
    margin = (0, completions.ids.shape[1] - longest)
    return torch.nn.functional.pad(logps, margin), torch.nn.functional.pad(entropy, margin)


@torch.no_grad()
def _frozen_logps(base: BaseModel, batch: Batch, micros: list[list[Tensor]], config: TrainConfig) -> Tensor:
    """Log-probabilities of the whole batch under what ``base`` now wears, with the cuts of the updates: (B, T)."""
    logps = torch.zeros(batch.completions.ids.shape, dtype=torch.float32, device=base.device)
    for mini in micros:
        for rows in mini:
            logps[rows] = _logps(base, batch, rows, config)[0]
    return logps


def _update_once(
    base: BaseModel,
    arm: Arm,
    batch: Batch,
    mini: list[Tensor],
    old: Tensor | None,
    reference: Tensor | None,
    config: TrainConfig,
) -> dict[str, float]:
    rows_of_mini = torch.cat(mini)
    mask = batch.completions.mask[rows_of_mini].to(base.device)
    weights = token_weights(mask, config.loss_type, config.max_completion_length)
    num_tokens = mask.sum()
    loss_sum = torch.zeros((), device=base.device)
    sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=base.device))
    start = 0
    for rows in mini:
        own = slice(start, start + len(rows))
        start += len(rows)
        with arm.worn_by(base):
            logps, entropy = _logps(base, batch, rows, config)
        policy = clipped_loss(
            logps,
            logps.detach() if old is None else old[rows],
            batch.advantages[rows].to(base.device),
            epsilon=config.epsilon,
            epsilon_high=config.epsilon_high,
            sequence_mask_BT=mask[own] if config.importance_sampling_level == "sequence" else None,
        )
        token_loss = policy.loss
        if reference is not None:
            kl = k3_kl(logps, reference[rows])
            token_loss = token_loss + config.beta * kl
            sums["kl"] += (kl.detach() * mask[own]).sum()
        loss = (token_loss * weights[own]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        arm.collect_gradients()
        loss_sum += loss.detach()
        sums["entropy"] += entropy.sum()
        sums["clip_ratio/low_mean"] += (policy.clipped_low & mask[own]).sum()
        sums["clip_ratio/high_mean"] += (policy.clipped_high & mask[own]).sum()
        sums["clip_ratio/region_mean"] += ((policy.clipped_low | policy.clipped_high) & mask[own]).sum()
    if not torch.isfinite(loss_sum):
        raise RunStopped(f"arm {arm.name}: the loss of update {arm.updates} is not finite; lower learning_rate")
    means = {name: float(value / num_tokens) for name, value in sums.items()}
    return {"loss": float(loss_sum), **means, **arm.update()}
