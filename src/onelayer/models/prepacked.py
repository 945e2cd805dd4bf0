"""Products with weights that never change: stored once more, in the order in which the processor's kernel reads them.

The base is frozen, so its large weights are worth it. On a CPU products become faster (``benchmarks/products.py``), and
from two rows on a row's bits no longer depend on the number of rows or threads. Where a module wears other weights than
the base's, or its own train, its product is computed as ever.

The kernels are oneDNN's, in all builds of torch for x86 and in most for ARM; elsewhere nothing changes.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

SMALLEST = 2**17
"""Elements of a weight from which on it pays: the call itself takes some 10 µs more."""
MOST_BYTES = 2**30
"""The weights of a larger model are not stored twice."""


class Prepacked:
    """The forward pass of a linear module whose weight at this moment is the base's: ``(..., in) -> (..., out)``."""

    def __init__(self, module: nn.Linear) -> None:
        self._module = module
        self._own = module.weight
        self._packed: Tensor | None = None
        self._version = -1

    @property
    def applies(self) -> bool:
        """Whether the module wears the base's own weight now, and that is not trained."""
        return self._module._parameters["weight"] is self._own and not self._own.requires_grad

    def __call__(self, x: Tensor) -> Tensor:
        """The product."""
        if not self.applies:
            return functional.linear(x, self._module.weight, self._module.bias)
        if self._packed is None or self._version != self._own._version:  # written to, as a merge does
            # The hint is a number of rows. With that of one row a kernel for vectors would be prepared.
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self._own.detach(), 64)
            self._version = self._own._version
        bias = self._module.bias
        if torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad)):
            result: Tensor = _Product.apply(x, self._own, self._packed, bias)  # type: ignore[no-untyped-call]
            return result
        return _product(x, self._packed, bias)


def _product(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return result


class _Product(torch.autograd.Function):
    """x W^T + b with a gradient for x and b alone: dL/dx = dL/dy W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _product(x, packed, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        (gradient,) = gradients
        for_x = gradient @ weight if ctx.needs_input_grad[0] else None
        for_bias = gradient.flatten(0, -2).sum(0) if ctx.needs_input_grad[3] else None
        return for_x, None, None, for_bias


def prepack(module: nn.Module) -> None:
    """Let the large linear modules of a frozen model on a CPU compute with prepacked weights, made at their first use."""
    for linear in prepackable(module):
        if linear.weight.device.type == "cpu" and hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
            linear.forward = Prepacked(linear)  # type: ignore[assignment]


def prepackable(module: nn.Module) -> list[nn.Linear]:
    """The linear modules whose weights a CPU would store twice: none of a model that is too large for that."""
    linears = [
        child
        for child in module.modules()
        if type(child) is nn.Linear and child.weight.numel() >= SMALLEST and child.weight.dtype == torch.float32
    ]
    return linears if sum(linear.weight.nbytes for linear in linears) <= MOST_BYTES else []
