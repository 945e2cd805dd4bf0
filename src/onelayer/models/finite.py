"""Weights that are numbers."""

from collections.abc import Mapping

import torch
from torch import Tensor

from onelayer.errors import UserError


def check_finite(tensors: Mapping[str, Tensor], owner: str) -> None:
    """No tensor has a NaN or an infinity in it.

    Raises:
        UserError: one has; it says which.
    """
    for name, tensor in tensors.items():
        # One pass that makes nothing: any of them makes the sum so. A sum may also overflow, so they are looked for.
        if not tensor.detach().sum(dtype=torch.float32).isfinite():
            bad = tensor.detach()[~tensor.detach().isfinite()]
            if len(bad):
                what = "NaN" if bad.isnan().any() else "infinite"
                raise UserError(f"{owner} is damaged: {len(bad):,} of {tensor.numel():,} elements of {name} are {what}")
