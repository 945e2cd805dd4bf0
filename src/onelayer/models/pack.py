"""Many arms in one forward pass.

All rollouts of a scan run through the one base model as one batch, in which the rows of a policy lie side by side: a
block. A module that no policy wears tensors in is computed once for all rows. In the others each owner's block is
computed with the owner's tensors and all other rows with the base's. Nothing else of the model is touched, so it works
with any attention and any cache, and a block may shrink from one pass to the next.

On a CPU with fp32 weights a policy gets the same bits as alone, because no operation lets a row's bits depend on the
number of rows (see ``rowwise``).
"""

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from onelayer.models.base import BaseModel
from onelayer.models.rowwise import MIN_ROWS, Forward, filled, is_product, replaced_forward

SHORT_BLOCK = 64
"""Vectors of a block that are computed with the base's tensors too and then overwritten, rather than cut out of them."""

Table = dict[str, nn.Parameter | None]
"""What ``nn.Module`` keeps its parameters in."""


class Span(NamedTuple):
    """Rows of a batch that a module computes in one go."""

    start: int
    stop: int
    owner: int | None
    """Policy whose tensors they see; None for the base's."""


class RowCut(NamedTuple):
    """How a module's rows are cut."""

    spans: list[Span]
    """All rows, in order."""
    overwritten: list[Span]
    """Short blocks inside the base's spans, computed again with their owners' tensors."""


def spans_of(sizes: Sequence[int], owners: Collection[int]) -> list[Span]:
    """The rows of all policies (``sizes``, in order) as runs with the same tensors; ``owners`` wear some of their own."""
    spans: list[Span] = []
    start = 0
    for policy, size in enumerate(sizes):
        owner = policy if policy in owners else None
        if size and owner is None and spans and spans[-1].owner is None:
            spans[-1] = spans[-1]._replace(stop=start + size)
        elif size:
            spans.append(Span(start, start + size, owner))
        start += size
    return spans


def row_cut(spans: Sequence[Span], short: int) -> RowCut:
    """Let the base's spans run through blocks of at most ``short`` rows that lie between them.

    One product fewer and a little computed in vain: faster for short blocks, slower for long ones.
    """
    merged: list[Span] = []
    overwritten: list[Span] = []
    for place, span in enumerate(spans):
        inside = 0 < place < len(spans) - 1 and span.stop - span.start <= short
        if span.owner is not None and inside and merged[-1].owner is None:
            overwritten.append(span)
            merged[-1] = merged[-1]._replace(stop=span.stop)
        elif span.owner is None and merged and merged[-1].owner is None:
            merged[-1] = merged[-1]._replace(stop=span.stop)
        else:
            merged.append(span)
    return RowCut(merged, overwritten)


class Packed:
    """The blocks of a batch: rows of policy 0 first, then those of policy 1, ...; the base's own at the end."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.resize(sizes, sum(sizes))

    def resize(self, sizes: Sequence[int], total: int) -> None:
        """Say how many rows each policy has from now on, of ``total``; rows after the last block see the base."""
        self.sizes = [*sizes, total - sum(sizes)]
        self.total = total
        self._cuts: dict[tuple[frozenset[int], int], RowCut] = {}
        self._places: dict[frozenset[int], Tensor] = {}

    def cut(self, owners: frozenset[int], vectors: int) -> RowCut:
        """How a module with these owners cuts its rows, of ``vectors`` vectors each."""
        if (owners, vectors) not in self._cuts:
            self._cuts[owners, vectors] = row_cut(spans_of(self.sizes, owners), SHORT_BLOCK // vectors)
        return self._cuts[owners, vectors]

    def places(self, owners: frozenset[int], device: torch.device) -> Tensor:
        """For each row the place of its policy among the owners, in ascending order from 1; 0 for all other rows."""
        if owners not in self._places:
            numbers = {owner: place for place, owner in enumerate(sorted(owners), start=1)}
            places = torch.tensor([numbers.get(policy, 0) for policy in range(len(self.sizes))])
            self._places[owners] = places.repeat_interleave(torch.tensor(self.sizes)).to(device)
        return self._places[owners]


def packable(base: BaseModel, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a policy can share a batch: modules that hold its tensors compute each row from one argument alone."""
    return all(_is_row_wise(module) for module, _, _ in base.places(tensors))


def _is_row_wise(module: nn.Module) -> bool:
    kind = type(module)
    norm = isinstance(module, nn.LayerNorm) or "RMSNorm" in kind.__name__
    one_argument = len(inspect.signature(kind.forward).parameters) == 2
    return one_argument and (norm or is_product(module) or isinstance(module, nn.Embedding))


@contextmanager
def packed(base: BaseModel, policies: Sequence[Mapping[str, Tensor]], sizes: Sequence[int]) -> Iterator[Packed]:
    """Let ``base`` compute batches in which ``sizes[i]`` rows, side by side, belong to ``policies[i]``.

    For passes without gradients. What is yielded is told when sizes change.

    Args:
        base: the model.
        policies: tensors that each policy wears, all of them ``packable``.
        sizes: number of rows of each policy.
    """
    tables: dict[nn.Module, dict[int, Table]] = {}
    for policy, tensors in enumerate(policies):
        for module, leaf, tensor in base.places(tensors):
            table = tables.setdefault(module, {}).setdefault(policy, dict(module._parameters))
            table[leaf] = tensor  # type: ignore[assignment]
    blocks = Packed(sizes)
    with ExitStack() as stack:
        for module, owned in tables.items():
            by_row = _multiplies_by_row(module) and all(table.keys() == {"weight"} for table in owned.values())
            forward = (_by_row if by_row else _by_block)(module, owned, blocks)
            stack.enter_context(replaced_forward(module, forward))
        yield blocks


def _multiplies_by_row(module: nn.Module) -> bool:
    """The norms of transformers multiply by their weight in a step of its own, which may be another for each row."""
    return "RMSNorm" in type(module).__name__ and type(module).__module__.startswith("transformers.models.")


@contextmanager
def _with_parameters(module: nn.Module, table: Table) -> Iterator[None]:
    # Past nn.Module.__setattr__, whose checks cost more than a small product.
    own = module._parameters
    module.__dict__["_parameters"] = table
    try:
        yield
    finally:
        module.__dict__["_parameters"] = own


def _by_row(module: nn.Module, tables: Mapping[int, Table], blocks: Packed) -> Forward:
    """The forward pass of a norm: one pass for all rows, each multiplied by its owner's weight."""
    plain: Forward = module.forward
    by_block = _by_block(module, tables, blocks)
    owners = frozenset(tables)
    weights = [module._parameters["weight"], *(tables[owner]["weight"] for owner in sorted(owners))]
    stacked = torch.stack([weight.detach() for weight in weights if weight is not None])
    seen: tuple[Tensor, Tensor] | None = None

    def forward(x: Tensor) -> Tensor:
        nonlocal seen
        if x.shape[0] != blocks.total:
            return by_block(x)
        places = blocks.places(owners, x.device)
        if seen is None or seen[0] is not places:  # rows have left since the last pass
            seen = places, stacked[places]
        with _with_parameters(module, {"weight": seen[1].view(x.shape[0], *[1] * (x.ndim - 2), -1)}):  # type: ignore[dict-item]
            return plain(x)

    return forward


def _by_block(module: nn.Module, tables: Mapping[int, Table], blocks: Packed) -> Forward:
    """The forward pass of a module in which some policies wear tensors."""
    plain: Forward = module.forward
    owners = frozenset(tables)
    product = is_product(module)
    # Called thousands of times a second: a plain product goes past the module.
    bare = type(module) is nn.Linear and "forward" not in module.__dict__
    everyone: dict[int | None, Mapping[str, Any]] = {None: module._parameters}
    everyone.update(tables.items())

    def compute(x: Tensor, owner: int | None) -> Tensor:
        # Sizes by shape: len() of a tensor is a function of Python's and takes as long as a small addition.
        rows = x.shape[0]
        if product and x.numel() < MIN_ROWS * x.shape[-1]:
            x = filled(x, MIN_ROWS)
        if bare:
            y = functional.linear(x, everyone[owner]["weight"], everyone[owner].get("bias"))
        elif owner is None:
            y = plain(x)
        else:
            with _with_parameters(module, tables[owner]):
                y = plain(x)
        return y if x.shape[0] == rows else y[:rows]

    def forward(x: Tensor) -> Tensor:
        each, rest = divmod(x.shape[0], blocks.total)
        if rest:
            raise RuntimeError(f"{type(module).__name__}: {x.shape[0]} rows do not belong to a batch of {blocks.total}")
        cut = blocks.cut(owners, max(1, x.numel() // x.shape[-1] // blocks.total))
        results = [compute(x[start * each : stop * each], owner) for start, stop, owner in cut.spans]
        result = results[0] if len(results) == 1 else torch.cat(results)
        for start, stop, owner in cut.overwritten:
            result[start * each : stop * each] = compute(x[start * each : stop * each], owner)
        return result

    return forward
