"""Generation: keyed draws, finished rows leave the batch.

The draw for a token depends on (seed, purpose, step, problem, sample, turn, position) and on nothing else: not on the
order of calls, on the batch, or on who else is in it. One uniform number per row and position goes through the inverse
of the cumulative distribution, so all arms that see the same prompt also share their random numbers.
"""

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onelayer.logprobs import position_ids
from onelayer.model import BaseModel
from onelayer.pack import Packed, packable, packed
from onelayer.rowwise import MIN_ROWS, filled, row_wise


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. ``temperature`` 0 is greedy."""

    max_completion_length: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps the whole vocabulary."""


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


@dataclass(frozen=True)
class Completions:
    """Generated tokens of n rows, on the CPU."""

    ids: Tensor
    """(n, T) int64, padded on the right with 0; the stop token is part of a completion."""
    lengths: Tensor
    """(n,) int64, number of tokens."""
    truncated: Tensor
    """(n,) bool: cut at ``max_completion_length`` without a stop token or stop text."""

    @property
    def mask(self) -> Tensor:
        """(n, T) bool: which positions are tokens."""
        return torch.arange(self.ids.shape[1])[None] < self.lengths[:, None]

    def texts(self, tokenizer: object) -> list[str]:
        """The rows as text, without special tokens."""
        rows = [ids[:length].tolist() for ids, length in zip(self.ids, self.lengths, strict=True)]
        return tokenizer.batch_decode(rows, skip_special_tokens=True)  # type: ignore[attr-defined, no-any-return]


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
    mass = (logits_NV.double() / sampling.temperature).softmax(-1)
    if sampling.top_k > 0 or sampling.top_p < 1:
        ordered, ids = torch.sort(mass, dim=-1, descending=True, stable=True)
        if sampling.top_k > 0:
            ordered[:, sampling.top_k :] = 0
        before = ordered.cumsum(-1) - ordered
        ordered[before >= sampling.top_p * ordered.sum(-1, keepdim=True)] = 0
        mass = torch.zeros_like(mass).scatter_(-1, ids, ordered)
    cumulative = mass.cumsum(-1)
    target = uniform_N.double()[:, None] * cumulative[:, -1:]
    chosen = (cumulative <= target).sum(-1)
    last = mass.shape[-1] - 1 - (mass > 0).flip(-1).long().argmax(-1)
    return torch.minimum(chosen, last)


def left_pad(prompts: Sequence[Sequence[int]], width: int) -> tuple[Tensor, Tensor]:
    """Token ids and mask of prompts, padded on the left to ``width``: two (n, width) int64 tensors."""
    ids = torch.zeros(len(prompts), width, dtype=torch.int64)
    mask = torch.zeros(len(prompts), width, dtype=torch.int64)
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt) :] = torch.tensor(prompt, dtype=torch.int64)
        mask[i, width - len(prompt) :] = 1
    return ids, mask


@torch.no_grad()
def generate(
    base: BaseModel,
    rows: Sequence[Row],
    drawn: NDArray[np.float64],
    sampling: Sampling,
    *,
    width: int,
    min_rows: int = MIN_ROWS,
    owners: Sequence[int] | None = None,
    blocks: Packed | None = None,
) -> Completions:
    """Complete n prompts under what ``base`` currently wears, in one batch.

    Args:
        base: the model.
        rows: the prompts.
        drawn: (n, max_completion_length) uniform numbers.
        sampling: how to draw.
        width: prompts are padded on the left to this many tokens. It is part of what is computed (the last bits of a
            sum depend on it), so a run pins it.
        min_rows: fewest rows of a forward pass; copies whose output is thrown away fill it up.
        owners: (n,) policy of each row, in ascending order, where the base is ``packed``.
        blocks: is told how many rows each policy has, whenever that changes.
    """
    count, length, device = len(rows), sampling.max_completion_length, base.device
    total = max(count, min_rows)
    slots = torch.arange(total, device=device).clamp(max=count - 1)
    live = torch.arange(total, device=device) < count
    owner = torch.tensor(owners or [0] * count)
    uniform = torch.from_numpy(drawn)
    stops = torch.tensor(base.stop_token_ids, device=device)
    tokens = torch.zeros(count, length, dtype=torch.int64)
    lengths = torch.full((count,), length)
    truncated = torch.ones(count, dtype=torch.bool)

    # A prompt that a policy completes several times goes through the model once.
    first: dict[tuple[int, tuple[int, ...]], int] = {}
    source = [
        first.setdefault((own, tuple(row.prompt)), len(first)) for own, row in zip(owner.tolist(), rows, strict=True)
    ]
    ids, mask = (filled(t, min_rows).to(device) for t in left_pad([prompt for _, prompt in first], width))
    if blocks:
        blocks.resize(torch.bincount(torch.tensor([own for own, _ in first])).tolist(), len(ids))
    position = position_ids(mask)
    output = base.decoder(input_ids=ids, attention_mask=mask, position_ids=position, use_cache=True)
    cache, hidden, position = output.past_key_values, output.last_hidden_state[:, -1], position[:, -1:]
    if len(first) < count or len(ids) != total:
        copies = torch.tensor(source, device=device)[slots]
        cache.batch_select_indices(copies)
        hidden, mask, position = hidden[copies], mask[copies], position[copies]
    if blocks:
        blocks.resize(torch.bincount(owner).tolist(), total)
    for step in range(length):
        logits = base.head(hidden).float().cpu()
        chosen = pick(logits, uniform[slots.cpu(), step], sampling).to(device)
        tokens[slots[live].cpu(), step] = chosen[live].cpu()
        ended = live & torch.isin(chosen, stops)
        if any(row.stop for row in rows):
            ended |= live & _stopped_by_text(base, rows, slots, tokens[:, : step + 1])
        finished = slots[ended].cpu()
        lengths[finished], truncated[finished] = step + 1, False
        live = live & ~ended
        remaining = int(live.sum())
        if remaining == 0 or step + 1 == length:
            break
        if max(remaining, min_rows) < len(live):
            # Live rows first, then finished ones to fill up; the order among the live rows stays.
            keep = torch.argsort((~live).to(torch.int8), stable=True)[: max(remaining, min_rows)]
            cache.batch_select_indices(keep)
            chosen, position, mask, slots, live = (t[keep] for t in (chosen, position, mask, slots, live))
            if blocks:
                blocks.resize(torch.bincount(owner[slots[live].cpu()]).tolist(), len(keep))
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        position = position + 1
        output = base.decoder(
            input_ids=chosen[:, None],
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
        )
        hidden = output.last_hidden_state[:, -1]
    longest = int(lengths.max())
    return Completions(tokens[:, :longest], lengths, truncated)


def _stopped_by_text(base: BaseModel, rows: Sequence[Row], slots: Tensor, tokens: Tensor) -> Tensor:
    """Which batch rows have just written one of their stop texts: (batch,) bool; ``slots`` are their indices in rows."""
    # A token that helps to write a stop text holds at least one byte of it; one more stands for a stripped space.
    reach = 1 + max(len(text.encode()) for row in rows for text in row.stop)
    tails = base.tokenizer.batch_decode(tokens[slots.cpu(), -reach:], skip_special_tokens=True)
    found = [any(text in tail for text in rows[slot].stop) for slot, tail in zip(slots.tolist(), tails, strict=True)]
    return torch.tensor(found, device=slots.device)


def before_stop(text: str, stop: Sequence[str]) -> str:
    """The part of a completion before the first of its stop texts."""
    return text[: min((place for s in stop if (place := text.find(s)) >= 0), default=len(text))]


def sample_policies(
    base: BaseModel,
    policies: Sequence[Mapping[str, Tensor]],
    rows_by_policy: Sequence[Sequence[Row]],
    keys: Sequence[Key],
    sampling: Sampling,
    *,
    width: int,
    max_rows: int,
) -> list[Completions]:
    """Complete the rows of every policy (the tensors it wears; none for the base itself), ``max_rows`` at a time.

    All policies share their batches, but for those that cannot. The result of a row does not depend on its company.
    """
    pieces: dict[int, list[Completions]] = defaultdict(list)
    alone = {policy for policy, tensors in enumerate(policies) if not packable(base, tensors)}
    # The rows of policies with many tensors at the edge of the batch, where they are cut off most easily.
    order = sorted(range(len(policies)), key=lambda policy: (policy in alone, -len(policies[policy])))
    groups = [[policy for policy in order if policy not in alone], *([policy] for policy in order if policy in alone)]
    with row_wise(base):
        for group in groups:
            places = [(policy, row) for policy in group for row in range(len(rows_by_policy[policy]))]
            for start in range(0, len(places), max_rows):
                batch = _runs(places[start : start + max_rows])
                rows = {policy: [rows_by_policy[policy][row] for row in own] for policy, own in batch.items()}
                drawn = [uniforms(keys[policy], own, sampling.max_completion_length) for policy, own in rows.items()]
                worn = [policies[policy] for policy in batch]
                completed = _generate(base, worn, list(rows.values()), drawn, sampling, width)
                for policy, completions in zip(batch, completed, strict=True):
                    pieces[policy].append(completions)
    return [concatenate(pieces[policy]) for policy in range(len(policies))]


def _runs(places: Sequence[tuple[int, int]]) -> dict[int, list[int]]:
    return {policy: [row for _, row in run] for policy, run in itertools.groupby(places, key=lambda place: place[0])}


def _generate(
    base: BaseModel,
    policies: Sequence[Mapping[str, Tensor]],
    rows: Sequence[Sequence[Row]],
    drawn: Sequence[NDArray[np.float64]],
    sampling: Sampling,
    width: int,
) -> list[Completions]:
    """Complete the rows of some policies in one batch: per policy its completions."""
    if len(policies) == 1:
        with base.wearing(policies[0]):
            return [generate(base, rows[0], drawn[0], sampling, width=width)]
    sizes = [len(own) for own in rows]
    together = list(itertools.chain.from_iterable(rows))
    owners = [owner for owner, size in enumerate(sizes) for _ in range(size)]
    with packed(base, policies, sizes) as blocks:
        done = generate(base, together, np.concatenate(drawn), sampling, width=width, owners=owners, blocks=blocks)
    parts = (torch.split(tensor, sizes) for tensor in (done.ids, done.lengths, done.truncated))
    # Alone, a policy's completions are as wide as its own longest.
    return [Completions(ids[:, : int(lengths.max())], lengths, cut) for ids, lengths, cut in zip(*parts, strict=True)]


def concatenate(pieces: Sequence[Completions]) -> Completions:
    """The rows of several batches as one."""
    longest = max(piece.ids.shape[1] for piece in pieces)
    ids = [torch.nn.functional.pad(piece.ids, (0, longest - piece.ids.shape[1])) for piece in pieces]
    return Completions(
        torch.cat(ids), torch.cat([piece.lengths for piece in pieces]), torch.cat([piece.truncated for piece in pieces])
    )
