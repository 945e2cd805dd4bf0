"""A row's bits must not depend on how many rows go through the model with it.

Arms share batches, and finished rows leave them, so the number of rows changes all the time. On a CPU three kinds of
operations would show it (measured with torch 2.13, MKL, AVX-512; everything else, attention, norms, softmax and sums of a
row among it, gives a row the same bits in any company, where MKL is told to: `onelayer/__init__.py`):

- Products of few rows use other kernels: `MIN_ROWS` is the least number.
- Products with large weights are summed in another order from some number of rows on, when several threads share them or
  when the weights are stored input first (GPT-2's ``Conv1D``): they are cut into pieces of exactly `PIECE_ROWS` rows.
  Those with the base's own prepacked weights (``prepacked.py``) do not show their rows.
- Activations round the last few elements of what each thread gets in another way than whole vectors: they see whole
  vectors only.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from onelayer.models.base import BaseModel
from onelayer.models.prepacked import Prepacked

MIN_ROWS = 16
"""Fewest rows of a matrix product. From here on fp32 products give each row the same bits whatever the number of rows;
below, the libraries switch to other kernels (at 2, 3, 9 or 16 rows, depending on the weights)."""
PIECE_ROWS = 32
"""Rows of each product with large weights, where the number of rows could show."""
LARGE_WEIGHT = 2**18
"""Elements of a weight from which on products are cut; smaller ones showed no seams, 0.7M did."""
VECTOR = 64
"""Elements that any CPU takes in one go in any of the number formats; a multiple of it leaves no remainder."""
THREAD_GRAIN = 32768
"""Elements of an elementwise operation that torch leaves to a single thread."""

Forward = Callable[[Tensor], Tensor]


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Let a module compute something else for a while; its hooks stay."""
    own = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


@contextmanager
def row_wise(base: BaseModel) -> Iterator[None]:
    """Make every row of a forward pass independent of the number of rows, on a CPU; elsewhere nothing changes."""
    with ExitStack() as stack:
        if base.device.type == "cpu":
            for module in base.module.modules():
                if is_activation(module):
                    stack.enter_context(replaced_forward(module, _on_whole_vectors(module.forward)))
                elif shows_its_rows(module, torch.get_num_threads()):
                    stack.enter_context(replaced_forward(module, _in_pieces(module)))
        yield


def is_activation(module: nn.Module) -> bool:
    """An elementwise function without parameters, of torch or transformers."""
    return type(module).__module__ in ("torch.nn.modules.activation", "transformers.activations") and not any(
        True for _ in module.parameters()
    )


def is_product(module: nn.Module) -> bool:
    """A matrix product of rows: ``nn.Linear``, or GPT-2's ``Conv1D``, whose weights are stored input first."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def shows_its_rows(module: nn.Module, threads: int) -> bool:
    """Whether the number of rows could show in a product of at least `MIN_ROWS` rows."""
    if not is_product(module) or (isinstance(module, nn.Linear) and threads == 1):
        return False
    return module.get_parameter("weight").numel() > LARGE_WEIGHT


def filled(x: Tensor, rows: int) -> Tensor:
    """At least that many rows: copies of the last one follow, whose results are thrown away."""
    return x if len(x) >= rows else torch.cat([x, x[-1:].expand(rows - len(x), *x.shape[1:])])


def _in_pieces(module: nn.Module) -> Forward:
    forward: Forward = module.forward

    def pieces(x: Tensor) -> Tensor:
        if isinstance(forward, Prepacked) and forward.applies:
            return forward(x)
        rows = x.reshape(-1, x.shape[-1])
        results = [forward(filled(piece, PIECE_ROWS)) for piece in torch.split(rows, PIECE_ROWS)]
        return torch.cat(results)[: len(rows)].view(*x.shape[:-1], -1)

    return pieces


def _on_whole_vectors(forward: Forward) -> Forward:
    def vectors(x: Tensor) -> Tensor:
        count = x.numel()
        short = -count % VECTOR
        if not short and x.is_contiguous() and (count <= THREAD_GRAIN or torch.get_num_threads() == 1):
            return forward(x)
        flat = functional.pad(x.reshape(-1), (0, short))
        return torch.cat([forward(piece) for piece in torch.split(flat, THREAD_GRAIN)])[:count].view(x.shape)

    return vectors
