"""Deltas in any script: ``load_delta(model, path)`` puts one into a transformers model for good, ``wearing`` for a while.

A delta is a safetensors file with the trained tensors in fp32 under their original names, and one entry of metadata that
says which base they belong to; see docs/deltas.md.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from onelayer.arms.delta_files import delta_file, other_base, read_delta_header, read_tensors
from onelayer.models.base import is_base
from onelayer.models.finite import check_finite

M = TypeVar("M", bound=nn.Module)


def load_delta(model: M, path: Path | str) -> M:
    """Put a delta into a model, in the model's own type and on its device; returns the model.

    Args:
        model: the delta's base as transformers loads it, in any floating-point type.
        path: ``delta.safetensors``, or the folder that holds it.

    Raises:
        UserError: no such delta, or the model is not its base.
    """
    _put(model, read_delta(model, path))
    return model


def read_delta(model: nn.Module, path: Path | str) -> dict[str, Tensor]:
    """The tensors of a delta in the type and on the device of the model's own, for :func:`wearing`.

    Raises:
        UserError: no such delta, the model is not its base, or the delta is not exactly what its plan trains.
    """
    file = delta_file(path)
    header = read_delta_header(file)
    if not is_base(model, header["base_hash"]):
        narrow = any(tensor.dtype != torch.float32 for tensor in model.parameters())
        hint = "; or it was rounded when it was loaded: then load it with dtype=torch.float32" if narrow else ""
        raise other_base(path, header, f"this model{hint}")
    own = dict(model.named_parameters())
    tensors = read_tensors(file, header, model)
    delta = {name: tensor.to(own[name].device, own[name].dtype) for name, tensor in tensors.items()}
    check_finite(delta, f"delta '{path}'")
    return delta


@contextmanager
def wearing(model: nn.Module, delta: Mapping[str, Tensor]) -> Iterator[None]:
    """Let a model be the base with a delta for as long as the block runs: many deltas can share one base.

    The model keeps its parameters and only changes their values, so tied weights, compiled and wrapped models stay
    what they are. Not for several threads at once.
    """
    parameters = dict(model.named_parameters())
    own = {name: parameters[name].detach().clone() for name in delta}
    try:
        _put(model, delta)
        yield
    finally:
        _put(model, own)


@torch.no_grad()
def _put(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for name, tensor in tensors.items():
        parameters[name].copy_(tensor)
