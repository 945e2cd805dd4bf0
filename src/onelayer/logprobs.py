"""Log-probabilities of completions, in chunks of tokens.

With a vocabulary of 152K the logits of 8 x 3072 tokens take 15 GB in fp32. They are never built whole: the hidden states
are computed once, and the head is applied to a chunk of tokens at a time, in the forward pass and again in the backward.
"""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from onelayer.model import BaseModel


def completion_logprobs(
    base: BaseModel,
    prompt_ids_BP: Tensor,
    prompt_mask_BP: Tensor,
    completion_ids_BT: Tensor,
    completion_mask_BT: Tensor,
    *,
    temperature: float = 1.0,
    chunk_tokens: int = 1024,
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy of every completion token under what ``base`` currently wears.

    Prompts are padded on the left, completions on the right. Both results are fp32 of shape (B, T), 0 where the mask is;
    log-probabilities are those of logits / temperature and carry gradients, entropies (in nats) do not.
    """
    ids = torch.cat([prompt_ids_BP, completion_ids_BT], dim=1)
    mask = torch.cat([prompt_mask_BP, completion_mask_BT], dim=1)
    hidden = base.decoder(
        input_ids=ids, attention_mask=mask, position_ids=position_ids(mask), use_cache=False
    ).last_hidden_state
    # The state before a token predicts it.
    hidden_BTH = hidden[:, prompt_ids_BP.shape[1] - 1 : -1]
    chosen = completion_mask_BT.bool()
    logps_N, entropy_N = head_logprobs(
        hidden_BTH[chosen], base.head.weight, base.head.bias, completion_ids_BT[chosen], temperature, chunk_tokens
    )
    zeros = torch.zeros(chosen.shape, dtype=torch.float32, device=hidden.device)
    return zeros.masked_scatter(chosen, logps_N), zeros.masked_scatter(chosen, entropy_N)


def position_ids(mask_BL: Tensor) -> Tensor:
    """Position of each token, counted from the first that is not padding."""
    return (mask_BL.long().cumsum(-1) - 1).clamp(min=0)


def head_logprobs(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    temperature: float,
    chunk_tokens: int,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities (with gradient) and entropies (without) of N tokens: ((N,), (N,)), fp32.

    At most ``chunk_tokens`` x V logits exist at any time; the backward pass computes them a second time.
    """
    results = [
        checkpoint(_chunk, hidden, weight_VH, bias_V, targets, temperature, use_reentrant=False)
        for hidden, targets in zip(
            torch.split(hidden_NH, chunk_tokens), torch.split(targets_N, chunk_tokens), strict=True
        )
    ]
    return torch.cat([logps for logps, _ in results]), torch.cat([entropy for _, entropy in results])


def _chunk(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    logits = torch.nn.functional.linear(hidden, weight, bias).float() / temperature
    all_logps = logits.log_softmax(-1)
    with torch.no_grad():
        entropy = -(all_logps.exp() * all_logps).sum(-1)
    return all_logps.gather(-1, targets[:, None])[:, 0], entropy
