"""Completions of many policies in shared batches: finished rows leave, and no row's result depends on its company."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from onelayer.models.base import BaseModel
from onelayer.models.pack import packable, packed
from onelayer.models.rowwise import row_wise
from onelayer.models.trunk import Recorder, recording
from onelayer.training.completions import Completions, concatenate
from onelayer.training.draws import Key, Row, Sampling, uniforms
from onelayer.training.generate import generate


class Request(NamedTuple):
    """What one policy is to complete."""

    policy: Mapping[str, Tensor]
    """The tensors that it wears; none for the base itself."""
    rows: Sequence[Row]
    key: Key
    """Keys the draws."""
    trunk_layer: int | None = None
    """A layer whose input is kept."""


Complete = Callable[..., list[Completions]]
"""Completes requests, with the arguments of :func:`complete`."""


def complete(
    base: BaseModel, requests: Sequence[Request], sampling: Sampling, *, width: int, max_rows: int
) -> list[Completions]:
    """The completions of every request, ``max_rows`` rows at a time; prompts are padded to ``width`` tokens.

    All policies share their batches, but for those that cannot. The result of a row does not depend on its company.
    """
    pieces: dict[int, list[Completions]] = defaultdict(list)
    alone = {number for number, request in enumerate(requests) if not packable(base, request.policy)}
    # The rows of policies with many tensors at the edge of the batch, where they are cut off most easily.
    order = sorted(range(len(requests)), key=lambda number: (number in alone, -len(requests[number].policy)))
    groups = [[number for number in order if number not in alone], *([number] for number in order if number in alone)]
    with row_wise(base):
        for group in groups:
            places = [(number, row) for number in group for row in range(len(requests[number].rows))]
            for start in range(0, len(places), max_rows):
                batch = _runs(places[start : start + max_rows])
                parts = [
                    requests[number]._replace(rows=[requests[number].rows[row] for row in rows])
                    for number, rows in batch.items()
                ]
                for number, completions in zip(batch, _complete_batch(base, parts, sampling, width), strict=True):
                    pieces[number].append(completions)
    return [concatenate(pieces[number]) for number in range(len(requests))]


def _runs(places: Sequence[tuple[int, int]]) -> dict[int, list[int]]:
    return {number: [row for _, row in run] for number, run in itertools.groupby(places, key=lambda place: place[0])}


def _complete_batch(base: BaseModel, requests: Sequence[Request], sampling: Sampling, width: int) -> list[Completions]:
    """Complete the rows of some requests in one batch."""
    # Where no row of a batch is padded, transformers leaves out the mask, and attention takes another path with other
    # last bits. Every row gets padding, so that its company does not show.
    width += 1
    length = sampling.max_completion_length
    sizes = [len(request.rows) for request in requests]
    recorder = Recorder(base, [request.trunk_layer for request in requests], sizes, width, length)
    rows = [row for request in requests for row in request.rows]
    drawn = np.concatenate([uniforms(request.key, request.rows, length) for request in requests])
    owners = [owner for owner, size in enumerate(sizes) for _ in range(size)]
    options: dict[str, Any] = {"width": width, "owners": owners, "recorder": recorder}
    policies = [request.policy for request in requests]
    with recording(base, recorder.receivers):
        if len(policies) == 1:
            with base.wearing(policies[0]):
                done = generate(base, rows, drawn, sampling, **options)
        else:
            with packed(base, policies, sizes) as blocks:
                done = generate(base, rows, drawn, sampling, **options, blocks=blocks)
    results = []
    for number, (ids, lengths, cut) in enumerate(
        zip(*(torch.split(tensor, sizes) for tensor in (done.ids, done.lengths, done.truncated)), strict=True)
    ):
        # Alone, a policy's completions are as wide as its own longest.
        longest = int(lengths.max())
        results.append(Completions(ids[:, :longest], lengths, cut, recorder.trunk(number, longest)))
    return results
