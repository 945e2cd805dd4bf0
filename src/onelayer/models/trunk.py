"""The trunk: the layers below the lowest one that an arm trains.

They are the base's own whatever the arm, so their output for given tokens never changes: it is the same for the policy,
the old policy, the reference and every epoch, and it was computed once already, when the tokens were drawn. Here it is
recorded on the way (`recording`), or computed in a pass of its own (`below`), and put in the place of the lower layers
(`starting_at`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from onelayer.models.base import BaseModel
from onelayer.models.rowwise import replaced_forward

LayerForward = Callable[..., Any]


class Start(NamedTuple):
    """Where a pass starts, and from what."""

    layer: int
    hidden_BLH: Tensor
    """Input of that layer for B rows of L tokens."""


@dataclass(frozen=True)
class Trunk:
    """Input of an arm's lowest trained layer, kept from decoding."""

    hidden: Tensor
    """(n, width + T - 1, H): prompts padded on the left to ``width``, then completions but for their last token, after
    which nothing is predicted."""
    width: int

    def columns(self, prompt: int, completion: int) -> Tensor:
        """The tokens of prompts of at most ``prompt`` tokens and of completions of at most ``completion``."""
        return self.hidden[:, self.width - prompt : self.width + completion - 1]

    def padded(self, completion: int) -> "Trunk":
        """With room for completions of so many tokens."""
        missing = self.width + completion - 1 - self.hidden.shape[1]
        return Trunk(torch.nn.functional.pad(self.hidden, (0, 0, 0, missing)), self.width) if missing else self


def kept_layer(base: BaseModel, layer: int, rows: int, tokens: int, limit: int) -> int | None:
    """The layer whose input is kept while sampling so many rows of so many tokens: None where nothing lies below, or
    where it would take over ``limit`` bytes."""
    size = rows * tokens * base.hidden_size * base.dtype.itemsize
    return layer if layer and size <= limit else None


def lowest_layer(base: BaseModel, names: Iterable[str]) -> int:
    """Index of the lowest decoder layer whose output depends on these tensors: the size of the trunk in layers.

    0 for the embedding. The last layer for what only follows the layers, which so is computed in vain.
    """
    parts = [base.parts[name] for name in names]
    if any(part.module == "embed" for part in parts):
        return 0
    return min((part.layer for part in parts if part.layer is not None), default=base.num_layers - 1)


def trunk_layer(base: BaseModel, names: Iterable[str]) -> int:
    """The layer at which passes of an arm that trains these tensors can start; 0 means from the beginning.

    That is its lowest layer, unless the model's layers get more from below than one tensor of hidden states.
    """
    layer = lowest_layer(base, names)
    return layer if layer and _starts_above(base, layer) else 0


@torch.no_grad()
def _starts_above(base: BaseModel, layer: int) -> bool:
    ids = torch.arange(4, device=base.device).remainder(base.head.out_features)[None]
    mask, position = torch.ones_like(ids), torch.arange(4, device=base.device)[None]
    options = {"attention_mask": mask, "position_ids": position, "use_cache": False}
    whole = base.decoder(input_ids=ids, **options).last_hidden_state
    try:
        with starting_at(base, below(base, layer, ids, mask, position)):
            # Other tokens: what the embedding makes of them must not matter.
            above = base.decoder(input_ids=torch.zeros_like(ids), **options).last_hidden_state
    except (RuntimeError, TypeError, KeyError, IndexError, AttributeError):
        return False
    return torch.equal(whole, above)


@contextmanager
def recording(base: BaseModel, receivers: Mapping[int, Callable[[Tensor], None]]) -> Iterator[None]:
    """Show the input of some layers, (rows, tokens, H), in every pass to whom it concerns."""

    def showing(layer: int, forward: LayerForward) -> LayerForward:
        def shown(*args: Any, **kwargs: Any) -> Any:
            receivers[layer](_hidden_of(args, kwargs))
            return forward(*args, **kwargs)

        return shown

    with ExitStack() as stack:
        for layer in receivers:
            module = base.layers[layer]
            stack.enter_context(replaced_forward(module, showing(layer, module.forward)))
        yield


@contextmanager
def starting_at(base: BaseModel, start: Start) -> Iterator[None]:
    """Let a pass of the model begin at a layer: what the embedding gives is not looked at."""

    def begin(*args: Any, **kwargs: Any) -> Any:
        if args:
            return own(start.hidden_BLH, *args[1:], **kwargs)
        return own(**{**kwargs, "hidden_states": start.hidden_BLH})

    own = base.layers[start.layer].forward
    with ExitStack() as stack:
        for layer in base.layers[: start.layer]:
            stack.enter_context(replaced_forward(layer, _passing))
        stack.enter_context(replaced_forward(base.layers[start.layer], begin))
        yield


@contextmanager
def recomputing(base: BaseModel, lowest: int) -> Iterator[None]:
    """Gradient checkpointing from a layer up: only the layers' inputs are kept, the rest is computed again going down.

    Below the lowest trained layer there is no graph, and nothing to spare. The block has to hold the backward pass too.
    """

    def again(forward: LayerForward) -> LayerForward:
        def kept_short(*args: Any, **kwargs: Any) -> Any:
            # Without dropout no random state has to be restored.
            return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

        return kept_short

    with ExitStack() as stack:
        for layer in base.layers[lowest:]:
            stack.enter_context(replaced_forward(layer, again(layer.forward)))
        yield


@torch.no_grad()
def below(base: BaseModel, layer: int, ids_BL: Tensor, mask_BL: Tensor, position_BL: Tensor) -> Start:
    """Input of a layer for B rows of L tokens under the base's own tensors, in a pass through the layers below."""
    seen: list[Tensor] = []

    def reached(*args: Any, **kwargs: Any) -> Any:
        seen.append(_hidden_of(args, kwargs))
        return _passing(*args, **kwargs)

    with ExitStack() as stack:
        stack.enter_context(replaced_forward(base.layers[layer], reached))
        for above in base.layers[layer + 1 :]:
            stack.enter_context(replaced_forward(above, _passing))
        base.decoder(input_ids=ids_BL, attention_mask=mask_BL, position_ids=position_BL, use_cache=False)
    return Start(layer, seen[0])


def _hidden_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    hidden: Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden


def _passing(*args: Any, **kwargs: Any) -> Any:
    """A layer that does nothing."""
    return _hidden_of(args, kwargs)


class Recorder:
    """Collects the trunks of the policies of one generation while it runs.

    Args:
        base: the model.
        layers: per policy the layer whose input to keep; None for policies that keep nothing.
        sizes: rows of each policy, which lie side by side.
        width: tokens that prompts are padded to.
        length: completions have at most so many tokens.
    """

    def __init__(
        self, base: BaseModel, layers: Sequence[int | None], sizes: Sequence[int], width: int, length: int
    ) -> None:
        self._width = width
        self.column = 0
        """Column of the trunk at which the tokens of the coming pass begin."""
        self._by_layer: dict[int, list[int]] = {}
        for policy, layer in enumerate(layers):
            if layer:
                self._by_layer.setdefault(layer, []).append(policy)
        shape = (width + length - 1, base.hidden_size)
        self._kept = {
            policy: torch.zeros(sizes[policy], *shape, dtype=base.dtype, device=base.device)
            for policies in self._by_layer.values()
            for policy in policies
        }
        self._first_row = [sum(sizes[:policy]) for policy in range(len(sizes))]
        self._places: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def receivers(self) -> dict[int, Callable[[Tensor], None]]:
        """For `recording`."""
        return {layer: lambda hidden, layer=layer: self._receive(layer, hidden) for layer in self._by_layer}  # type: ignore[misc]

    def place(self, rows: Tensor, owners: Tensor, sources: Tensor, column: int) -> None:
        """Say whose tokens the next pass holds, and which column they begin at.

        Args:
            rows: (m,) rows of the generation that get something, in any order.
            owners: (m,) their policies.
            sources: (m,) for each of them the row of the batch that holds it.
            column: first column of the pass's tokens, 0 for the prompts.
        """
        self.column = column
        self._places = {}
        for policy in self._kept:
            own = owners == policy
            device = self._kept[policy].device
            self._places[policy] = (rows[own] - self._first_row[policy]).to(device), sources[own].to(device)

    def _receive(self, layer: int, hidden: Tensor) -> None:
        for policy in self._by_layer[layer]:
            rows, sources = self._places[policy]
            columns = slice(self.column, self.column + hidden.shape[1])
            self._kept[policy][rows, columns] = hidden[sources]

    def trunk(self, policy: int, longest: int) -> Trunk | None:
        """What was kept of a policy whose longest completion has so many tokens."""
        if policy not in self._kept:
            return None
        return Trunk(self._kept[policy][:, : self._width + longest - 1], self._width)
