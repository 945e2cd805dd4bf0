"""Which models are taken: what a model must be like for its log-probabilities and completions to be right.

No list of families: :func:`check_structure` looks at how a model is built, which a plan can do without weights, and the
others try the loaded model itself. What is refused is said in one sentence.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from onelayer.errors import UserError
from onelayer.models.base import BaseModel
from onelayer.models.kv_cache import new_cache, select_rows, unknown_layers
from onelayer.models.logprobs import left_pad, position_ids
from onelayer.models.rowwise import replaced_forward

PROMPTS = (9, 3)
"""Tokens of two prompts that begin alike: more and fewer than the usual short convolutions look back."""
STEPS = 3
"""Tokens decoded after them."""
CLOSE = {torch.float64: 1e-2, torch.float32: 1e-2}
"""Most that hidden states may differ between decoding and a whole pass, relative to their size. Rounding alone makes 1e-5
in float32; states of a wrong row make more than .1."""
CLOSE_HALF = 0.2
"""The same for bfloat16 and float16, for the median token: there rounding may send a token to another expert."""

LARGE_LOGIT = 1000.0
"""Size of the logits that a cap has to leave as they are."""


def check_structure(base: BaseModel) -> None:
    """What can be seen without weights, on the meta device too.

    Raises:
        UserError: decoding cannot work, or a layer is not a thing of its own.
    """
    kind = type(base.decoder).__name__
    takes = inspect.signature(base.decoder.forward).parameters
    missing = [name for name in ("input_ids", "attention_mask", "past_key_values", "use_cache") if name not in takes]
    dynamic = getattr(type(base.module), "_supports_default_dynamic_cache", None)
    if missing or (dynamic is not None and not dynamic()):
        why = f"{kind} takes no {missing[0]}" if missing else f"{kind} has a cache of its own"
        raise UserError(f"model '{base.name}' cannot be decoded with a cache of keys and values: {why}")
    if "position_ids" not in takes and any("position" in name for name, _ in base.decoder.named_modules()):
        raise UserError(
            f"model '{base.name}' counts positions by itself ({kind} takes no position_ids), so padding would move them"
        )
    try:
        unknown = unknown_layers(new_cache(base, 1))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"model '{base.name}' has no cache that transformers could make: {error!r}") from error
    if unknown:
        raise UserError(f"model '{base.name}' keeps states of a kind that rows cannot be taken from: {unknown[0]}")
    if shared := _shared_between_layers(base):
        raise UserError(
            f"model '{base.name}' shares tensors between its layers ({shared[0]} is {shared[1]} too), so they cannot be "
            "trained one by one"
        )


def _shared_between_layers(base: BaseModel) -> tuple[str, str] | None:
    """A tensor of a layer that is used under a second name too."""
    first: dict[int, str] = {}
    for name, tensor in base.module.named_parameters(remove_duplicate=False):
        known = first.setdefault(id(tensor), name)
        if known != name and base.parts[known].layer is not None:
            return known, name
    return None


@torch.no_grad()
def check_head(base: BaseModel) -> None:
    """Log-probabilities are computed from the head in chunks: refuse models that do more to their logits than the head.

    Raises:
        UserError: such a model, or one whose logits are not finite.
    """
    ids = _tokens(base, 4)[None]
    with _trying(base):
        hidden = base.decoder(input_ids=ids, use_cache=False).last_hidden_state
        plain = base.head(hidden).float()
    if not plain.isfinite().all():
        raise UserError(
            f"model '{base.name}' gives logits that are not finite, though its weights are: {_first_not_finite(base, ids)}"
        )
    # A cap hardly shows on small logits, so the head's output is made large.
    factor = LARGE_LOGIT / plain.abs().max().clamp(min=1e-6)
    own = base.head.forward
    with _trying(base), replaced_forward(base.head, lambda x: own(x) * factor.to(x.dtype)):
        logits = base.module(input_ids=ids, use_cache=False).logits.float()
        plain = base.head(hidden).float()
    if logits.shape != plain.shape or not torch.allclose(logits, plain, rtol=0, atol=1e-3 * LARGE_LOGIT):
        raise UserError(f"model '{base.name}' scales or caps its logits after the head, which is not supported")


def _first_not_finite(base: BaseModel, ids: Tensor) -> str:
    """Where numbers stop being finite in a pass, for people."""
    found: list[str] = []

    def look(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if isinstance(first, Tensor) and first.is_floating_point() and not first.isfinite().all():
                found.append(name)

        return hook

    # Innermost modules end first, so the first to tell is the place.
    hooks = [module.register_forward_hook(look(name)) for name, module in base.module.named_modules() if name]
    try:
        base.module(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    type_name = str(base.dtype).removeprefix("torch.")
    return f"first in {found[0]}; in {type_name} its values may be too large" if found else "only the logits"


@torch.no_grad()
def check_decoding(base: BaseModel) -> None:
    """Try what sampling does: padded prompts, rows copied and reordered, token after token; against one whole pass.

    Raises:
        UserError: the hidden states differ, so completions would not be the model's.
    """
    check_structure(base)
    longest = max(PROMPTS)
    sequence = _tokens(base, longest + STEPS)
    width = longest + 1
    prompts, mask = (t.to(base.device) for t in left_pad([sequence[:length].tolist() for length in PROMPTS], width))
    # Both are kept, the shorter twice, in another order: what finished rows and copies of prompts do.
    rows = torch.tensor([1, 0, 1], device=base.device)
    lengths = torch.tensor(PROMPTS, device=base.device)[rows]
    apart = []
    with _trying(base):
        whole = base.decoder(input_ids=sequence[None], use_cache=False).last_hidden_state[0]
        cache = new_cache(base, width + STEPS)
        position = position_ids(mask)
        state = base.decoder(
            input_ids=prompts, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True
        ).last_hidden_state[rows, -1]
        select_rows(cache, rows)
        mask, position = mask[rows], position[rows, -1:]
        apart.append(_distance(state, whole[lengths - 1]))
        for step in range(STEPS):
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            position = position + 1
            state = base.decoder(
                input_ids=sequence[lengths + step][:, None],
                attention_mask=mask,
                position_ids=position,
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state[:, -1]
            apart.append(_distance(state, whole[lengths + step]))
    distance = torch.cat(apart)
    worst = float(distance.max() if base.dtype in CLOSE else distance.median())
    if not worst <= CLOSE.get(base.dtype, CLOSE_HALF):
        raise UserError(
            f"model '{base.name}' gives other hidden states token by token than in one pass (apart by {worst:.2g} of their "
            f"size), so completions would not be the model's: {type(base.decoder).__name__} with "
            f"{', '.join(sorted({type(layer).__name__ for layer in cache.layers}))}"
        )


def _distance(states: Tensor, others: Tensor) -> Tensor:
    """How far each row of hidden states is from another, relative to that one's size."""
    size: Tensor = others.float().norm(dim=-1).clamp(min=1e-6)
    away: Tensor = (states.float() - others.float()).norm(dim=-1)
    return away / size


def _tokens(base: BaseModel, count: int) -> Tensor:
    """Tokens of the model's vocabulary, ``(count,)``, small ones: large ids may stand for images."""
    return torch.arange(count, device=base.device).mul(7).add(3).remainder(min(base.head.out_features, 97))


class _trying:
    """A model that cannot take what every decoder-only model takes is refused in a sentence."""

    def __init__(self, base: BaseModel) -> None:
        self._base = base

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, torch.OutOfMemoryError) or not isinstance(error, Exception):
            return
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"model '{self._base.name}' cannot be run as a decoder-only language model: {type(self._base.decoder).__name__} "
            f"said: {reason}"
        ) from error
