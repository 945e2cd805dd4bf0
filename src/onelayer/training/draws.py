"""Keyed draws: which token comes next.

The draw for a token depends on (seed, purpose, step, problem, sample, turn, position) and on nothing else: not on the
order of calls, on the batch, or on who else is in it. One uniform number per row and position goes through the inverse
of the cumulative distribution, so all arms that see the same prompt also share their random numbers.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onelayer.config.sampling import SamplingConfig

PICKED_BYTES = 2**22
"""Most bytes of one distribution of the rows whose next tokens are drawn together, so that it stays in the cache."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. ``temperature`` 0 is greedy."""

    max_completion_length: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps the whole vocabulary."""

    @classmethod
    def of(cls, config: SamplingConfig) -> "Sampling":
        """As a configuration says for training."""
        return cls(config.max_completion_length, config.temperature, config.top_p, config.top_k)


class Row(NamedTuple):
    """One completion to generate: the prompt's tokens, and what keys its draws."""

    prompt: Sequence[int]
    problem: int
    sample: int
    turn: int = 0
    stop: tuple[str, ...] = ()
    """Text that ends the completion as a stop token does; what completes it is the last token."""


class Key(NamedTuple):
    """What keys the draws of a whole batch."""

    seed: int
    purpose: str
    step: int


def uniforms(key: Key, rows: Sequence[Row], length: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) for n rows and ``length`` positions: (n, length), one Philox stream per row."""
    digest = hashlib.blake2b(f"{key.seed}|{key.purpose}|{key.step}".encode(), digest_size=16).digest()
    philox_key = np.frombuffer(digest, dtype=np.uint64)
    drawn = np.empty((len(rows), length), dtype=np.float64)
    for i, row in enumerate(rows):
        stream = np.random.Philox(key=philox_key, counter=[0, row.turn, row.sample, row.problem])
        drawn[i] = (stream.random_raw(length) >> np.uint64(11)) * 2.0**-53
    return drawn


def pick(logits_NV: Tensor, uniform_N: Tensor, sampling: Sampling) -> Tensor:
    """Next token of each row, (N,): the inverse of the filtered, renormalised cumulative distribution at ``uniform_N``.

    In double precision and vocabulary order. ``top_k`` is applied first, then ``top_p`` to what it leaves (as in
    transformers); ties go to the smaller token id. The result always has mass, however the sums are rounded.
    """
    if sampling.temperature == 0:
        return logits_NV.argmax(-1)
    scaled = logits_NV.double()
    if sampling.temperature != 1:
        scaled = scaled / sampling.temperature
    mass = scaled.softmax(-1)
    if sampling.top_k > 0 or sampling.top_p < 1:
        ordered, ids = torch.sort(mass, dim=-1, descending=True, stable=True)
        if sampling.top_k > 0:
            ordered[:, sampling.top_k :] = 0
        before = ordered.cumsum(-1) - ordered
        ordered[before >= sampling.top_p * ordered.sum(-1, keepdim=True)] = 0
        mass = torch.zeros_like(mass).scatter_(-1, ids, ordered)
    cumulative = mass.cumsum(-1)
    target = uniform_N.double()[:, None] * cumulative[:, -1:]
    chosen = torch.searchsorted(cumulative, target, right=True)
    # Where rounding lifts the target to the whole sum, the last token that has mass is meant; without a sum, the last.
    last = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous()).clamp(max=mass.shape[-1] - 1)
    return torch.minimum(chosen, last)[:, 0]


def pick_few(logits_NV: Tensor, uniform_N: Tensor, sampling: Sampling) -> Tensor:
    """As :func:`pick`, with the distributions of few rows in doubles at one time."""
    at_once = max(1, PICKED_BYTES // (8 * logits_NV.shape[-1]))
    picked = [
        pick(part, numbers, sampling)
        for part, numbers in zip(torch.split(logits_NV, at_once), torch.split(uniform_N, at_once), strict=True)
    ]
    return torch.cat(picked)
