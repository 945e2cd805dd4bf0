"""Which arms advance side by side: as many as the memory of their place holds."""

import itertools
from collections.abc import Sequence

import psutil
import torch

from onelayer.arms.spec import ArmSpec
from onelayer.models.base import BaseModel

BYTES_PER_TRAINED = 18
"""A trained parameter with a bfloat16 base: fp32 master 4, bfloat16 copy 2, Adam 8, fp32 gradient 4."""


def free_memory(base: BaseModel) -> int:
    """Bytes that are free where the model is."""
    if base.device.type == "cuda":
        return int(torch.cuda.mem_get_info(base.device)[0])
    return psutil.virtual_memory().available


def plan_sets(
    base: BaseModel, specs: Sequence[ArmSpec], arms_per_set: int, free: int, at_once: int = 1
) -> list[list[str]]:
    """Names of the arms that advance side by side.

    Args:
        base: the model.
        specs: all arms, in their order.
        arms_per_set: how many; 0 is as many as fit into half of the free memory.
        free: bytes that are free where a set trains.
        at_once: sets that train at the same time, each in a place of its own: unless ``arms_per_set`` says otherwise,
            there are at least so many sets, of sizes that differ by one at most.
    """
    shares = 1 if arms_per_set else min(at_once, len(specs)) or 1
    bounds = [round(len(specs) * share / shares) for share in range(shares + 1)]
    sets: list[list[str]] = []
    for first, end in itertools.pairwise(bounds):
        own: list[list[str]] = []
        used = 0
        for spec in specs[first:end]:
            size = BYTES_PER_TRAINED * sum(base.tensor(name).numel() for name in spec.rates)
            full = bool(own) and (len(own[-1]) >= arms_per_set if arms_per_set else used + size > free / 2)
            if not own or full:
                own.append([])
                used = 0
            own[-1].append(spec.name)
            used += size
        sets += own
    return sets
