"""Log-probabilities of completions, in chunks of tokens.

With a vocabulary of 152K the logits of 8 x 3072 tokens take 15 GB in fp32. They are never built whole: the hidden states
are computed once, and the head is applied to a chunk of tokens at a time.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from onelayer.models.base import BaseModel
from onelayer.models.trunk import Start, starting_at

LOGITS_BYTES = 2**27
"""Most bytes of fp32 logits at one time, so that memory does not grow with the vocabulary: 220 tokens of 152K logits."""


class Tokens(NamedTuple):
    """B prompts, padded on the left to P tokens, with their completions, padded on the right to T."""

    prompt_ids: Tensor
    """(B, P) int64."""
    prompt_mask: Tensor
    """(B, P), 1 where there is a token."""
    completion_ids: Tensor
    """(B, T) int64."""
    completion_mask: Tensor
    """(B, T), 1 where there is a token."""

    @property
    def inputs(self) -> Tensor:
        """(B, P + T - 1): what goes through the model. Nothing is predicted after the last token."""
        return torch.cat([self.prompt_ids, self.completion_ids], dim=1)[:, :-1]

    @property
    def input_mask(self) -> Tensor:
        """(B, P + T - 1): the mask that belongs to ``inputs``."""
        return torch.cat([self.prompt_mask, self.completion_mask], dim=1)[:, :-1]


def completion_logprobs(
    base: BaseModel,
    tokens: Tokens,
    start: Start | None = None,
    *,
    temperature: float = 1.0,
    chunk_tokens: int = 1024,
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy of every completion token under what ``base`` currently wears.

    With ``start`` the pass begins at its layer. Both results are fp32 of shape (B, T), 0 where the mask is;
    log-probabilities are those of logits / temperature and carry gradients, entropies (in nats) do not.
    """
    with starting_at(base, start) if start else nullcontext():
        hidden = base.decoder(
            input_ids=tokens.inputs,
            attention_mask=tokens.input_mask,
            position_ids=position_ids(tokens.input_mask),
            use_cache=False,
        ).last_hidden_state
    # The state before a token predicts it.
    hidden_BTH = hidden[:, tokens.prompt_ids.shape[1] - 1 :]
    chosen = tokens.completion_mask.bool()
    logps_N, entropy_N = head_logprobs(
        hidden_BTH[chosen], base.head, tokens.completion_ids[chosen], temperature, chunk_tokens
    )
    zeros = torch.zeros(chosen.shape, dtype=torch.float32, device=hidden.device)
    return zeros.masked_scatter(chosen, logps_N), zeros.masked_scatter(chosen, entropy_N)


def left_pad(prompts: Sequence[Sequence[int]], width: int) -> tuple[Tensor, Tensor]:
    """Token ids and mask of prompts, padded on the left to ``width``: two (n, width) int64 tensors."""
    ids = torch.zeros(len(prompts), width, dtype=torch.int64)
    mask = torch.zeros(len(prompts), width, dtype=torch.int64)
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt) :] = torch.tensor(prompt, dtype=torch.int64)
        mask[i, width - len(prompt) :] = 1
    return ids, mask


def position_ids(mask_BL: Tensor) -> Tensor:
    """Position of each token, counted from the first that is not padding."""
    return (mask_BL.long().cumsum(-1) - 1).clamp(min=0)


def tokens_at_once(chunk_tokens: int, vocabulary: int) -> int:
    """How many tokens have their logits at one time: ``chunk_tokens``, or fewer for a large vocabulary."""
    return max(1, min(chunk_tokens, LOGITS_BYTES // (4 * vocabulary)))


def head_logprobs(
    hidden_NH: Tensor,
    head: nn.Linear,
    targets_N: Tensor,
    temperature: float,
    chunk_tokens: int,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities (with gradient) and entropies (without) of N tokens: ((N,), (N,)), fp32.

    At most `tokens_at_once` x V logits exist at any time, forward and backward.
    """
    weight_VH, bias_V = head.weight, head.bias
    chunk_tokens = tokens_at_once(chunk_tokens, len(weight_VH))
    trained = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (weight_VH, bias_V))
    results = []
    for hidden, targets in zip(torch.split(hidden_NH, chunk_tokens), torch.split(targets_N, chunk_tokens), strict=True):
        if trained:
            # The head's own gradient needs the logits again, so they are computed again in the backward pass.
            arguments = (hidden, weight_VH, bias_V, targets, temperature)
            results.append(checkpoint(_chunk, *arguments, use_reentrant=False))
        else:
            results.append(_FrozenHead.apply(hidden, head, targets, temperature))  # type: ignore[no-untyped-call]
    return torch.cat([logps for logps, _ in results]), torch.cat([entropy for _, entropy in results])


def _chunk(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    logits = torch.nn.functional.linear(hidden, weight, bias).float()
    if temperature != 1:
        logits = logits / temperature
    all_logps = logits.log_softmax(-1)
    with torch.no_grad():
        entropy = -(all_logps.exp() * all_logps).sum(-1)
    return all_logps.gather(-1, targets[:, None])[:, 0], entropy


class _FrozenHead(torch.autograd.Function):
    """Log-probabilities and entropies under a head that does not train.

    A token's log-probability is a scalar, so its gradient with respect to the hidden state h, with weights w_v,
    probabilities p_v and temperature T,

        d logp(y) / dh = (w_y - sum_v p_v w_v) / T,

    is one vector of H numbers, whatever is made of logp later. It is computed while the logits are at hand: they are
    neither kept nor computed a second time.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: nn.Linear, targets: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        weight = head.weight
        logits = head(hidden).float()
        if temperature != 1:
            logits.div_(temperature)
        all_logps = logits.log_softmax(-1)
        del logits  # what follows makes two more of their size
        logps = all_logps.gather(-1, targets[:, None])[:, 0]
        probabilities = all_logps.exp()
        entropy = -(all_logps.mul_(probabilities)).sum(-1)
        if ctx.needs_input_grad[0]:
            mean = probabilities.to(weight.dtype) @ weight
            ctx.save_for_backward(((weight[targets].float() - mean.float()) / temperature).to(hidden.dtype))
        ctx.mark_non_differentiable(entropy)
        return logps, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (slope_NH,) = ctx.saved_tensors
        return gradients[0][:, None].to(slope_NH.dtype) * slope_NH, None, None, None
