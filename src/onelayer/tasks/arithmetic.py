"""Sums of two two-digit numbers, worked out in steps: a task small enough to learn on a CPU in a minute.

The prompt is ``27+38=`` and a right completion is ``15,6#65``: the sum of the units (7 + 8), the sum of the tens with
the carry (2 + 3 + 1), then, after the marker ``#``, the answer. Only the answer is rewarded.
"""

import hashlib
from collections.abc import Sequence
from itertools import combinations_with_replacement
from typing import Any

from onelayer.tasks.base import Problem, Prompt, Split

MARKER = "#"
OPERANDS = [number for number in range(11, 100) if number % 10]
"""The two-digit numbers that do not end in 0: without those, more than half of the sums carry."""
SPLIT_SIZES: dict[Split, int] = {"test": 400, "selection": 160}
"""Problems in the two held-out splits; all others (2,761) are for training."""


def prompt_text(a: int, b: int) -> str:
    """Return the prompt for ``a + b``."""
    return f"{a}+{b}="


def worked_steps(a: int, b: int, *, carry: bool = True) -> str:
    """Return the completion for ``a + b``: units, tens and the answer; without ``carry`` the carry is lost."""
    units = a % 10 + b % 10
    tens = a // 10 + b // 10 + (units // 10 if carry else 0)
    return f"{units},{tens}{MARKER}{10 * tens + units % 10}"


def final_answer(completion: str) -> str | None:
    """Return what follows the last marker, without surrounding white space; None where there is no marker."""
    _, marker, answer = completion.rpartition(MARKER)
    return answer.strip() if marker else None


def _pairs() -> list[tuple[int, int]]:
    """Return every sum once, either ``a + b`` or ``b + a``, in a fixed random order.

    The order comes from SHA-256 and not from a random number generator, so that no release of Python changes a split.
    """
    digests = {
        (a, b): hashlib.sha256(f"arithmetic split 0: {a}+{b}".encode()).digest()
        for a, b in combinations_with_replacement(OPERANDS, 2)
    }
    ordered = sorted(digests, key=lambda pair: digests[pair])
    return [(b, a) if digests[a, b][-1] % 2 else (a, b) for a, b in ordered]


class ArithmeticTask:
    """All 3,321 sums of two-digit numbers that do not end in 0, each in one order only: no split holds both a+b and b+a.

    The reward is 1.0 when the text after the last ``#``, stripped of white space, is the sum in plain decimal digits
    (no sign, no leading zero), else 0.0. The steps before the marker are not judged.
    """

    name = "arithmetic"
    max_completion_length = 12
    """Tokens to allow for a completion: the longest right one has 9 characters and an end-of-sequence token."""

    def problems(self, split: Split) -> Sequence[Problem]:
        """Return the problems of a split in a fixed order; a problem's id is ``100 * a + b``."""
        pairs = _pairs()
        test, selection = SPLIT_SIZES["test"], SPLIT_SIZES["selection"]
        start, stop = {
            "test": (0, test),
            "selection": (test, test + selection),
            "train": (test + selection, len(pairs)),
        }[split]
        return [Problem(100 * a + b, prompt_text(a, b), {"answer": str(a + b)}) for a, b in pairs[start:stop]]

    @staticmethod
    def parse_answer(text: str) -> str | None:
        """Return the final answer of a completion, for votes."""
        return final_answer(text)

    def reward(
        self, prompts: list[Prompt], completions: list[Any], *, answer: list[str], **columns: Any
    ) -> list[float | None]:
        """Return 1.0 for each completion whose final answer is right, else 0.0."""
        return [float(final_answer(text) == right) for text, right in zip(completions, answer, strict=True)]
