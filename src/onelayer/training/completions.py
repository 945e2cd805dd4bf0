"""What was written: completions as tokens and as text."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from onelayer.models.trunk import Trunk


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


def before_stop(text: str, stop: Sequence[str]) -> str:
    """The part of a completion before the first of its stop texts."""
    return text[: min((place for s in stop if (place := text.find(s)) >= 0), default=len(text))]
