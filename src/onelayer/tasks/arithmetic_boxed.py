r"""The sums of the arithmetic task with the answer in a box, judged by the math grader as real problems are.

The prompt is ``27+38=`` and a right completion is ``15,6\boxed{65}``.
"""

from collections.abc import Sequence
from typing import Any

from onelayer.tasks.arithmetic import MARKER, ArithmeticTask
from onelayer.tasks.base import Problem, Prompt, Split
from onelayer.tasks.graders.grade import Grade
from onelayer.tasks.graders.math_answer import grade_math
from onelayer.tasks.graders.math_normal import normalize
from onelayer.tasks.graders.math_text import extract_answer

BOX, BOX_END = r"\boxed{", "}"


def boxed_steps(worked: str) -> str:
    """Return the worked steps of the arithmetic task with their answer in a box."""
    steps, _, answer = worked.rpartition(MARKER)
    return f"{steps}{BOX}{answer}{BOX_END}"


class BoxedArithmeticTask:
    """The problems of :class:`ArithmeticTask` in the same splits; the reward is the math grader's, of the last box."""

    name = "arithmetic-boxed"
    max_completion_length = 13
    """Tokens to allow for a completion: the longest right one has 10 and an end-of-sequence token."""

    def problems(self, split: Split) -> Sequence[Problem]:
        """Return the problems of a split in a fixed order."""
        return ArithmeticTask().problems(split)

    @staticmethod
    def parse_answer(text: str) -> str | None:
        """Return the final answer of a completion in one form, for votes."""
        answer = extract_answer(text, "boxed", strict=True)
        return None if answer is None else normalize(answer)

    def grade(self, prompts: list[Prompt], completions: list[Any], *, answer: list[str], **columns: Any) -> list[Grade]:
        """Return the math grader's verdict on the last box of each completion."""
        return grade_math(completions, answer, rule="boxed", strict=True)

    def reward(self, prompts: list[Prompt], completions: list[Any], **columns: Any) -> list[float | None]:
        """Return 1.0 for each completion with the right answer in its last box, 0.0 for others."""
        return [grade.reward for grade in self.grade(prompts, completions, **columns)]
