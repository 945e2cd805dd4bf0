"""Small Python functions from an example: a code task that a tiny model can learn, graded by running the programs.

A prompt is the beginning of a program and a right completion finishes it::

    # behknqt -> ehk
    def f(x): return x[1:4]

The functions take a slice of a text, some turn it round and some add the first character again: 45 in all. A program is
run on texts that no prompt shows, and is right if it returns what is asked for every one of them.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

from onelayer.tasks.base import Problem, Prompt, Split
from onelayer.tasks.graders.code_sandbox import grade_code
from onelayer.tasks.graders.grade import Grade, Reason

HEADER = "def f(x): return "
REVERSED, REPEATED = "[::-1]", "+x[0]"
SUFFIXES = ("", REVERSED, REPEATED)
SPLIT_SIZES: dict[Split, int] = {"test": 400, "selection": 160, "train": 4000}
HIDDEN_INPUTS = ("sandbox", "examples", "pythonic", "transform")
"""What programs are run on: longer than any stop, and nothing that an example shows."""
LETTERS = ("abc", "def", "ghi", "jkl", "mno", "pqr", "stu")
"""An example has one of the first three letters, then one of the next three, ... All differ: one example is enough."""
_OPEN_PERCENT = 45
_FINAL: frozenset[Reason] = frozenset({"correct", "wrong", "no_answer", "error", "exited"})
"""Reasons that lie in the program alone, and would be the same if it were run again."""


@dataclass(frozen=True)
class SliceFunction:
    """``x[start:stop]`` followed by a suffix; without a stop the slice goes on to the end of the text."""

    start: int
    stop: int | None
    suffix: str

    def __call__(self, text: str) -> str:
        """The value for ``text``."""
        part = text[self.start : self.stop]
        return part[::-1] if self.suffix == REVERSED else part + (text[0] if self.suffix == REPEATED else "")

    @property
    def source(self) -> str:
        """The value as a Python expression in ``x``."""
        return f"x[{self.start or ''}:{'' if self.stop is None else self.stop}]{self.suffix}"

    @property
    def tests(self) -> str:
        """Calls and what they have to return, as JSON text for the code grader."""
        outputs = [self(text) for text in HIDDEN_INPUTS]
        return json.dumps({"fn_name": "f", "inputs": [[text] for text in HIDDEN_INPUTS], "outputs": outputs})


OPEN = tuple(SliceFunction(start, None, suffix) for start, suffix in product(range(5), SUFFIXES))
CLOSED = tuple(
    SliceFunction(start, stop, suffix)
    for start, stop, suffix in product(range(4), range(2, 6), SUFFIXES)
    if stop - start >= 2
)


def prompt_text(function: SliceFunction, example: str) -> str:
    """Return the prompt that shows what a function makes of an example."""
    return f"# {example} -> {function(example)}\n{HEADER}"


@cache
def examples_and_functions() -> tuple[tuple[str, SliceFunction], ...]:
    """The example and the function of every problem: those of the test split, of selection, of training.

    They are drawn by SHA-256 and not by a random number generator, so that no release of Python changes a split.
    """
    drawn = dict.fromkeys(map(_drawn, range(2 * sum(SPLIT_SIZES.values()))))
    return tuple(drawn)[: sum(SPLIT_SIZES.values())]


def _drawn(number: int) -> tuple[str, SliceFunction]:
    functions = OPEN if _hash(f"{number} kind") % 100 < _OPEN_PERCENT else CLOSED
    example = "".join(few[_hash(f"{number} letter {few}") % len(few)] for few in LETTERS)
    return example, functions[_hash(f"{number} function") % len(functions)]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(f"code {text}".encode()).digest()[:8], "big")


class CodeTask:
    """4,560 problems: an example of one of 45 functions; 45 % of the slices go on to the end of the text.

    The reward is 1.0 when the finished program returns the right text for every hidden input, else 0.0. Equal programs
    with equal tests are run once in the life of the task: the samples of a group, and the arms of a scan, share them.
    """

    name = "code"
    max_completion_length = 10
    """Tokens to allow for a completion: the longest right one has 7 and an end-of-sequence token."""

    runs_programs = True

    def __init__(self) -> None:
        self._grades: dict[tuple[str, str], Grade] = {}

    @staticmethod
    def problems(split: Split) -> Sequence[Problem]:
        """Return the problems of a split in a fixed order; ids count on from test over selection to train."""
        start = 0
        for name, size in SPLIT_SIZES.items():
            if name == split:
                break
            start += size
        drawn = examples_and_functions()[start : start + SPLIT_SIZES[split]]
        return [
            Problem(number, prompt_text(function, example), {"tests": function.tests})
            for number, (example, function) in enumerate(drawn, start)
        ]

    def grade(self, prompts: list[Prompt], completions: list[Any], *, tests: list[str], **columns: Any) -> list[Grade]:
        """Return the code grader's verdict on each program that a completion makes."""
        pairs = [(HEADER + text, expected) for text, expected in zip(completions, tests, strict=True)]
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._grades]
        grades = grade_code([program for program, _ in new], [expected for _, expected in new])
        found = dict(zip(new, grades, strict=True))
        self._grades |= {pair: grade for pair, grade in found.items() if grade.reason in _FINAL}
        return [self._grades[pair] if pair in self._grades else found[pair] for pair in pairs]

    def reward(self, prompts: list[Prompt], completions: list[Any], **columns: Any) -> list[float | None]:
        """Return 1.0 for each completion that makes a right program, 0.0 for others, None where the sandbox failed."""
        return [grade.reward for grade in self.grade(prompts, completions, **columns)]
