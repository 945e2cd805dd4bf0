"""One arm's updates from one batch: old and reference log-probabilities, mini-batches, micro-batches, AdamW.

Everything here depends on the arm and its batch alone, never on the other arms of its set.
"""

import itertools
from collections import defaultdict
from contextlib import nullcontext

import torch
from torch import Tensor

from onelayer.arms.arm import Arm
from onelayer.config.update import StepConfig
from onelayer.models.base import BaseModel
from onelayer.models.logprobs import Tokens, completion_logprobs, left_pad, position_ids
from onelayer.models.trunk import Start, below, recomputing
from onelayer.training.algorithms.grpo import clipped_loss, k3_kl, token_weights
from onelayer.training.batch import Batch


def update(base: BaseModel, arm: Arm, batch: Batch, config: StepConfig) -> dict[str, float]:
    """Train ``arm`` on ``batch``: returns the step's metrics (TRL's names), means over tokens and updates.

    An update whose loss or gradient is not finite is skipped and counted, and is in no mean.
    """
    # How a mini-batch is cut is part of what is computed, since it orders the sum of the gradients.
    # A mini-batch whose episodes all failed has no rows and makes no update.
    micros = [_micro_batches(batch, rows, config) for rows in _mini_batches(batch, config) if len(rows)]
    # If there is one update, the policy still is the one that sampled, and every ratio is 1.
    old_BT, reference_BT = _frozen_logps(base, arm, batch, micros, config, old=config.updates_per_step > 1)
    totals: dict[str, float] = defaultdict(float)
    skipped = arm.skipped
    for _ in range(config.num_iterations):
        for mini in micros:
            for name, value in _update_once(base, arm, batch, mini, old_BT, reference_BT, config).items():
                totals[name] += value
    skipped = arm.skipped - skipped
    made = len(micros) * config.num_iterations - skipped
    return {**{name: value / made for name, value in totals.items()}, "skipped_updates": skipped}


def _mini_batches(batch: Batch, config: StepConfig) -> list[Tensor]:
    """Rows of each mini-batch, prompts in the order in which they were drawn."""
    mini = config.mini_batch_size or config.train_batch_size
    return [
        torch.nonzero(batch.prompt_index // mini == number)[:, 0]
        for number in range(-(-config.train_batch_size // mini))
    ]


def _micro_batches(batch: Batch, rows: Tensor, config: StepConfig) -> list[Tensor]:
    """Cut the rows of a mini-batch: rows of similar length go together, at most ``micro_batch_size`` of them, and
    padded no more than ``micro_batch_tokens`` tokens (but at least one row)."""
    prompts = [len(batch.prompts[row]) for row in rows.tolist()]
    completions = batch.completions.lengths[rows].tolist()
    order = sorted(range(len(rows)), key=lambda place: (completions[place], prompts[place], place))
    micros: list[list[int]] = []
    widest = 0
    for place in order:
        # Sorted by completions, so the longest of them is the last one's.
        wider = max(widest, prompts[place])
        size = len(micros[-1]) + 1 if micros else 0
        if (
            size
            and size <= config.micro_batch_size
            and size * (wider + completions[place]) <= config.micro_batch_tokens
        ):
            micros[-1].append(place)
            widest = wider
        else:
            micros.append([place])
            widest = prompts[place]
    return [rows[torch.tensor(places)] for places in micros]


def _tokens(base: BaseModel, batch: Batch, rows: Tensor) -> Tokens:
    """Some rows of a batch, padded as little as they allow."""
    completions = batch.completions
    prompts = [batch.prompts[row] for row in rows.tolist()]
    ids_BL, mask_BL = left_pad(prompts, max(len(prompt) for prompt in prompts))
    longest = int(completions.lengths[rows].max())
    tensors = [ids_BL, mask_BL, completions.ids[rows, :longest], completions.mask[rows, :longest].long()]
    return Tokens(*(tensor.to(base.device) for tensor in tensors))


def _start(base: BaseModel, arm: Arm, batch: Batch, rows: Tensor, tokens: Tokens) -> Start | None:
    """Where passes of these rows begin: above the layers that the arm leaves alone.

    What comes from below was kept when the tokens were drawn, or is computed.
    """
    if not arm.trunk_layer:
        return None
    kept = batch.completions.trunk
    if kept is None:
        return below(base, arm.trunk_layer, tokens.inputs, tokens.input_mask, position_ids(tokens.input_mask))
    columns = kept.columns(tokens.prompt_ids.shape[1], tokens.completion_ids.shape[1])
    return Start(arm.trunk_layer, columns[rows.to(columns.device)])


def _logps(base: BaseModel, batch: Batch, tokens: Tokens, start: Start | None, config: StepConfig) -> list[Tensor]:
    """Log-probabilities and entropies of some rows under what ``base`` wears, both (rows, T), T the batch's length."""
    margin = (0, batch.completions.ids.shape[1] - tokens.completion_ids.shape[1])
    results = completion_logprobs(
        base, tokens, start, temperature=config.temperature, chunk_tokens=config.logprob_chunk
    )
    return [torch.nn.functional.pad(result, margin) for result in results]


@torch.no_grad()
def _frozen_logps(
    base: BaseModel, arm: Arm, batch: Batch, micros: list[list[Tensor]], config: StepConfig, *, old: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Log-probabilities under the policy as it is now, if asked for, and under the reference, if beta needs them.

    Both are (B, T). The base's own tensors are the reference policy, so no second model is needed.
    """
    shape = batch.completions.ids.shape
    now_BT = torch.zeros(shape, device=base.device) if old else None
    reference_BT = torch.zeros(shape, device=base.device) if config.beta > 0 else None
    if now_BT is None and reference_BT is None:
        return None, None
    for rows in itertools.chain.from_iterable(micros):
        tokens = _tokens(base, batch, rows)
        start = _start(base, arm, batch, rows, tokens)
        if now_BT is not None:
            with arm.worn_by(base):
                now_BT[rows] = _logps(base, batch, tokens, start, config)[0]
        if reference_BT is not None:
            reference_BT[rows] = _logps(base, batch, tokens, start, config)[0]
    return now_BT, reference_BT


def _update_once(
    base: BaseModel,
    arm: Arm,
    batch: Batch,
    mini: list[Tensor],
    old_BT: Tensor | None,
    reference_BT: Tensor | None,
    config: StepConfig,
) -> dict[str, float]:
    rows_of_mini = torch.cat(mini)
    mask_BT = batch.completions.mask[rows_of_mini].to(base.device)
    weights_BT = token_weights(mask_BT, config.loss_type, config.max_completion_length)
    num_tokens = mask_BT.sum()
    loss_sum = torch.zeros((), device=base.device)
    sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=base.device))
    start = 0
    for rows in mini:
        own = slice(start, start + len(rows))
        start += len(rows)
        tokens = _tokens(base, batch, rows)
        beginning = _start(base, arm, batch, rows, tokens)
        again = recomputing(base, arm.trunk_layer) if config.gradient_checkpointing else nullcontext()
        # Around the backward pass too: what is computed again there has to see the arm's tensors.
        with arm.worn_by(base), again:
            logps_BT, entropy_BT = _logps(base, batch, tokens, beginning, config)
            policy = clipped_loss(
                logps_BT,
                logps_BT.detach() if old_BT is None else old_BT[rows],
                batch.advantages[rows].to(base.device),
                epsilon=config.epsilon,
                epsilon_high=config.epsilon_high,
                sequence_mask_BT=mask_BT[own] if config.importance_sampling_level == "sequence" else None,
            )
            token_loss_BT = policy.loss
            if reference_BT is not None:
                kl_BT = k3_kl(logps_BT, reference_BT[rows])
                token_loss_BT = token_loss_BT + config.beta * kl_BT
                sums["kl"] += (kl_BT.detach() * mask_BT[own]).sum()
            loss = (token_loss_BT * weights_BT[own]).sum()
            loss.backward()  # type: ignore[no-untyped-call]
        arm.collect_gradients()
        loss_sum += loss.detach()
        sums["entropy"] += entropy_BT.sum()
        sums["clip_ratio/low_mean"] += (policy.clipped_low & mask_BT[own]).sum()
        sums["clip_ratio/high_mean"] += (policy.clipped_high & mask_BT[own]).sum()
        sums["clip_ratio/region_mean"] += ((policy.clipped_low | policy.clipped_high) & mask_BT[own]).sum()
    if not torch.isfinite(loss_sum):
        arm.skip_update()
        return {}
    means = {name: float(value / num_tokens) for name, value in sums.items()}
    moved = arm.update()
    return {"loss": float(loss_sum), **means, **moved} if moved else {}
