"""One batch of completions: prompts go in, tokens are drawn, finished rows leave."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onelayer.models.base import BaseModel
from onelayer.models.kv_cache import new_cache, select_rows
from onelayer.models.logprobs import left_pad, position_ids
from onelayer.models.pack import Packed
from onelayer.models.rowwise import MIN_ROWS, filled
from onelayer.models.trunk import Recorder
from onelayer.training.completions import Completions
from onelayer.training.draws import Row, Sampling, pick_few

COMPACT = 7 / 8
"""Finished rows leave the batch when no more than this share of it is needed: leaving copies all keys and values."""


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
    batch = _Batch(base, rows, owners or [0] * len(rows), sampling, min_rows, blocks, recorder)
    batch.read_prompts(width)
    device = base.device.type
    uniform_NT = torch.from_numpy(drawn).to("cpu" if device == "mps" else base.device)  # Apple GPUs have no doubles
    for step in range(sampling.max_completion_length):
        batch.draw(uniform_NT, step)
        if not batch.live.any() or step + 1 == sampling.max_completion_length:
            break
        batch.let_finished_rows_leave()
        batch.read_drawn(width + step)
    longest = int(batch.lengths.max())
    return Completions(batch.tokens_NT[:, :longest], batch.lengths, batch.truncated)


class _Batch:
    """The rows of a generation: N of the caller, in B places of the batch that the model computes."""

    def __init__(
        self,
        base: BaseModel,
        rows: Sequence[Row],
        owners: Sequence[int],
        sampling: Sampling,
        min_rows: int,
        blocks: Packed | None,
        recorder: Recorder | None,
    ) -> None:
        self._base, self._rows, self._sampling, self._min_rows = base, rows, sampling, min_rows
        self._blocks, self._recorder = blocks, recorder
        count, length = len(rows), sampling.max_completion_length
        total = max(count, min_rows)
        # The bookkeeping is on the CPU.
        self._slots_B = torch.arange(total).clamp(max=count - 1)
        """The row that each place holds."""
        self.live = torch.arange(total) < count
        """(B,) whether that row still runs."""
        self._owner_N = torch.tensor(owners)
        self._changed = True
        self._stop_tokens = torch.tensor(base.stop_token_ids)
        self._stops_at_texts = any(row.stop for row in rows)
        self.tokens_NT = torch.zeros(count, length, dtype=torch.int64)
        self.lengths = torch.full((count,), length)
        self.truncated = torch.ones(count, dtype=torch.bool)

    def read_prompts(self, width: int) -> None:
        """The prompts go through the model, padded to ``width``: one that a policy completes several times, once."""
        base, owner, count, total = self._base, self._owner_N, len(self._rows), len(self._slots_B)
        first: dict[tuple[int, tuple[int, ...]], int] = {}
        source_N = torch.tensor(
            [
                first.setdefault((own, tuple(row.prompt)), len(first))
                for own, row in zip(owner.tolist(), self._rows, strict=True)
            ]
        )
        ids, mask = (
            filled(t, self._min_rows).to(base.device) for t in left_pad([prompt for _, prompt in first], width)
        )
        if self._blocks:
            self._blocks.resize(torch.bincount(torch.tensor([own for own, _ in first])).tolist(), len(ids))
        if self._recorder:
            self._recorder.place(torch.arange(count), owner, source_N, column=0)
        position = position_ids(mask)
        self._cache = new_cache(base, width + self._sampling.max_completion_length)
        hidden = self._forward(ids, mask, position)
        position = position[:, -1:]
        if len(first) < count or len(ids) != total:
            copies = source_N[self._slots_B].to(base.device)
            select_rows(self._cache, copies)
            hidden, mask, position = hidden[copies], mask[copies], position[copies]
        if self._blocks:
            self._blocks.resize(torch.bincount(owner).tolist(), total)
        self._hidden_BH, self._mask_BL, self._position_B1 = hidden, mask, position

    def draw(self, uniform_NT: Tensor, step: int) -> None:
        """Draw the next token of each row, and note which rows end with it."""
        logits = self._base.head(self._hidden_BH).float().to(uniform_NT.device)
        uniform = uniform_NT[self._slots_B.to(uniform_NT.device), step]
        self._chosen_B = pick_few(logits, uniform, self._sampling).to(self._base.device)
        chosen = self._chosen_B.cpu()
        self.tokens_NT[self._slots_B[self.live], step] = chosen[self.live]
        ended = self.live & torch.isin(chosen, self._stop_tokens)
        if self._stops_at_texts:
            ended |= self.live & self._stopped_by_text(self.tokens_NT[:, : step + 1])
        if ended.any():
            finished = self._slots_B[ended]
            self.lengths[finished], self.truncated[finished] = step + 1, False
            self.live &= ~ended
            self._changed = True

    def let_finished_rows_leave(self) -> None:
        """Give up the places of rows that have ended, once there are enough of them."""
        least = max(int(self.live.sum()), self._min_rows)
        if least > COMPACT * len(self.live):
            return
        # Live rows first, then finished ones to fill up; the order among the live rows stays.
        keep = torch.argsort((~self.live).to(torch.int8), stable=True)[:least]
        self._slots_B, self.live = self._slots_B[keep], self.live[keep]
        kept = keep.to(self._base.device)
        select_rows(self._cache, kept)
        self._chosen_B, self._position_B1, self._mask_BL = (
            t[kept] for t in (self._chosen_B, self._position_B1, self._mask_BL)
        )
        if self._blocks:
            owners = self._owner_N[self._slots_B[self.live]]
            self._blocks.resize(torch.bincount(owners).tolist(), len(keep))

    def read_drawn(self, column: int) -> None:
        """The tokens that were drawn last go through the model; they are column ``column`` of the batch."""
        self._mask_BL = torch.cat([self._mask_BL, self._mask_BL.new_ones(len(self._mask_BL), 1)], dim=1)
        self._position_B1 = self._position_B1 + 1
        if self._recorder and self._changed:
            rows = self._slots_B[self.live]
            self._recorder.place(rows, self._owner_N[rows], self.live.nonzero()[:, 0], column=column)
        elif self._recorder:
            self._recorder.column = column
        self._changed = False
        self._hidden_BH = self._forward(self._chosen_B[:, None], self._mask_BL, self._position_B1)

    def _forward(self, ids: Tensor, mask: Tensor, position: Tensor) -> Tensor:
        """One pass: the hidden state of each row's last token."""
        output = self._base.decoder(
            input_ids=ids, attention_mask=mask, position_ids=position, past_key_values=self._cache, use_cache=True
        )
        hidden: Tensor = output.last_hidden_state[:, -1]
        return hidden

    def _stopped_by_text(self, tokens_NT: Tensor) -> Tensor:
        """Which rows have just written one of their stop texts: (B,) bool."""
        # A token that helps to write a stop text holds at least one byte of it; one more stands for a stripped space.
        reach = 1 + max(len(text.encode()) for row in self._rows for text in row.stop)
        tails = self._base.tokenizer.batch_decode(tokens_NT[self._slots_B, -reach:], skip_special_tokens=True)
        slots = self._slots_B.tolist()
        return torch.tensor(
            [any(text in tail for text in self._rows[slot].stop) for slot, tail in zip(slots, tails, strict=True)]
        )
