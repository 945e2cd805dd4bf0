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
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onelayer.cache import new_cache, select_rows
from onelayer.logprobs import position_ids
from onelayer.model import BaseModel
from onelayer.pack import Packed, packable, packed
from onelayer.rowwise import MIN_ROWS, filled, row_wise
from onelayer.trunk import Recorder, Trunk, recording

COMPACT = 7 / 8
"""Finished rows leave the batch when no more than this share of it is needed: leaving copies all keys and values."""
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
    trunk: Trunk | None = None
    """Input of the layer that was asked for, of all rows."""

    @property
    def mask(self) -> Tensor:
        """(n, T) bool: which positions are tokens."""
        return torch.arange(self.ids.shape[1])[None] < self.lengths[:, None]

    def rows(self) -> list[list[int]]:
        """The tokens of each row."""
        return [ids[:length].tolist() for ids, length in zip(self.ids, self.lengths, strict=True)]

    def texts(self, tokenizer: object) -> list[str]:
        """The rows as text, without special tokens."""
        return tokenizer.batch_decode(self.rows(), skip_special_tokens=True)  # type: ignore[attr-defined, no-any-return]


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
    recorder: Recorder | None = None,
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
        recorder: is told whose tokens a pass holds, whenever that changes.
    """
    count, length, device = len(rows), sampling.max_completion_length, base.device
    total = max(count, min_rows)
    # The bookkeeping is on the CPU: which of the rows each place of the batch holds, and whether that one still runs.
    slots = torch.arange(total).clamp(max=count - 1)
    live = torch.arange(total) < count
    owner = torch.tensor(owners or [0] * count)
    uniform = torch.from_numpy(drawn).to("cpu" if device.type == "mps" else device)  # Apple GPUs have no doubles
    stops = torch.tensor(base.stop_token_ids)
    tokens = torch.zeros(count, length, dtype=torch.int64)
    lengths = torch.full((count,), length)
    truncated = torch.ones(count, dtype=torch.bool)

    # A prompt that a policy completes several times goes through the model once.
    first: dict[tuple[int, tuple[int, ...]], int] = {}
    source = torch.tensor(
        [first.setdefault((own, tuple(row.prompt)), len(first)) for own, row in zip(owner.tolist(), rows, strict=True)]
    )
    ids, mask = (filled(t, min_rows).to(device) for t in left_pad([prompt for _, prompt in first], width))
    if blocks:
        blocks.resize(torch.bincount(torch.tensor([own for own, _ in first])).tolist(), len(ids))
    if recorder:
        recorder.place(torch.arange(count), owner, source, column=0)
    position = position_ids(mask)
    cache = new_cache(base, width + length)
    output = base.decoder(
        input_ids=ids, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True
    )
    hidden, position = output.last_hidden_state[:, -1], position[:, -1:]
    if len(first) < count or len(ids) != total:
        copies = source[slots].to(device)
        select_rows(cache, copies)
        hidden, mask, position = hidden[copies], mask[copies], position[copies]
    if blocks:
        blocks.resize(torch.bincount(owner).tolist(), total)
    changed = True
    for step in range(length):
        chosen = _chosen(base, hidden, uniform[slots.to(uniform.device), step], sampling)
        drawn_tokens = chosen.cpu()
        tokens[slots[live], step] = drawn_tokens[live]
        ended = live & torch.isin(drawn_tokens, stops)
        if any(row.stop for row in rows):
            ended |= live & _stopped_by_text(base, rows, slots, tokens[:, : step + 1])
        if ended.any():
            finished = slots[ended]
            lengths[finished], truncated[finished] = step + 1, False
            live &= ~ended
            changed = True
        remaining = int(live.sum())
        if remaining == 0 or step + 1 == length:
            break
        if max(remaining, min_rows) <= COMPACT * len(live):
            # Live rows first, then finished ones to fill up; the order among the live rows stays.
            keep = torch.argsort((~live).to(torch.int8), stable=True)[: max(remaining, min_rows)]
            slots, live, keep = slots[keep], live[keep], keep.to(device)
            select_rows(cache, keep)
            chosen, position, mask = (t[keep] for t in (chosen, position, mask))
            if blocks:
                blocks.resize(torch.bincount(owner[slots[live]]).tolist(), len(keep))
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        position = position + 1
        if recorder and changed:
            recorder.place(slots[live], owner[slots[live]], live.nonzero()[:, 0], column=width + step)
        elif recorder:
            recorder.column = width + step
        changed = False
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


def _chosen(base: BaseModel, hidden: Tensor, uniform: Tensor, sampling: Sampling) -> Tensor:
    """The next token of each row, (rows,) on the model's device; few rows have their logits in doubles at one time."""
    logits = base.head(hidden).float().to(uniform.device)
    at_once = max(1, PICKED_BYTES // (8 * logits.shape[-1]))
    picked = [
        pick(part, numbers, sampling)
        for part, numbers in zip(torch.split(logits, at_once), torch.split(uniform, at_once), strict=True)
    ]
    return torch.cat(picked).to(base.device)


def _stopped_by_text(base: BaseModel, rows: Sequence[Row], slots: Tensor, tokens: Tensor) -> Tensor:
    """Which batch rows have just written one of their stop texts: (batch,) bool; ``slots`` are their indices in rows."""
    # A token that helps to write a stop text holds at least one byte of it; one more stands for a stripped space.
    reach = 1 + max(len(text.encode()) for row in rows for text in row.stop)
    tails = base.tokenizer.batch_decode(tokens[slots, -reach:], skip_special_tokens=True)
    found = [any(text in tail for text in rows[slot].stop) for slot, tail in zip(slots.tolist(), tails, strict=True)]
    return torch.tensor(found)


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
    trunk_layers: Sequence[int | None] | None = None,
) -> list[Completions]:
    """Complete the rows of every policy (the tensors it wears; none for the base itself), ``max_rows`` at a time.

    All policies share their batches, but for those that cannot. The result of a row does not depend on its company.
    ``trunk_layers`` are layers whose input is kept, per policy, or None.
    """
    layers = trunk_layers or [None] * len(policies)
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
                kept = [layers[policy] for policy in batch]
                completed = _generate(base, worn, list(rows.values()), drawn, sampling, width, kept)
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
    trunk_layers: Sequence[int | None],
) -> list[Completions]:
    """Complete the rows of some policies in one batch: per policy its completions."""
    # Where no row of a batch is padded, transformers leaves out the mask, and attention takes another path with other
    # last bits. Every row gets padding, so that its company does not show.
    width += 1
    sizes = [len(own) for own in rows]
    recorder = Recorder(base, trunk_layers, sizes, width, sampling.max_completion_length)
    together = list(itertools.chain.from_iterable(rows))
    owners = [owner for owner, size in enumerate(sizes) for _ in range(size)]
    everything = np.concatenate(drawn)
    options: dict[str, Any] = {"width": width, "owners": owners, "recorder": recorder}
    with recording(base, recorder.receivers):
        if len(policies) == 1:
            with base.wearing(policies[0]):
                done = generate(base, together, everything, sampling, **options)
        else:
            with packed(base, policies, sizes) as blocks:
                done = generate(base, together, everything, sampling, **options, blocks=blocks)
    results = []
    for policy, (ids, lengths, cut) in enumerate(
        zip(*(torch.split(tensor, sizes) for tensor in (done.ids, done.lengths, done.truncated)), strict=True)
    ):
        # Alone, a policy's completions are as wide as its own longest.
        longest = int(lengths.max())
        results.append(Completions(ids[:, :longest], lengths, cut, recorder.trunk(policy, longest)))
    return results


def concatenate(pieces: Sequence[Completions]) -> Completions:
    """The rows of several batches as one."""
    longest = max(piece.ids.shape[1] for piece in pieces)
    ids = [torch.nn.functional.pad(piece.ids, (0, longest - piece.ids.shape[1])) for piece in pieces]
    trunks = [piece.trunk.padded(longest) for piece in pieces if piece.trunk is not None]
    return Completions(
        torch.cat(ids),
        torch.cat([piece.lengths for piece in pieces]),
        torch.cat([piece.truncated for piece in pieces]),
        Trunk(torch.cat([trunk.hidden for trunk in trunks]), trunks[0].width) if trunks else None,
    )
