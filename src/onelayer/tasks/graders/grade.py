"""What a grader returns: a reward and its reason, so that a grader's own failure never looks like a wrong answer."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Reason = Literal[
    "correct",  # reward 1
    "wrong",  # the answer differs, or a test failed: reward 0
    "no_answer",  # nothing to grade was found in the completion: reward 0
    "error",  # the program raised or does not compile: reward 0
    "exited",  # the program ended before its tests did: reward 0
    "timeout",  # the deadline of this answer or program passed: reward 0, counted apart from "wrong"
    "crash",  # the process that worked on it died or broke its limits: reward 0, counted apart from "wrong"
    "invalid_test",  # the tests themselves are broken: no reward (None)
    "not_graded",  # the batch's deadline passed first, or the worker could not be started: no reward (None)
]
REASONS: tuple[Reason, ...] = get_args(Reason)
UNGRADED: frozenset[Reason] = frozenset({"invalid_test", "not_graded"})
FAILURES: tuple[Reason, ...] = ("timeout", "crash", "invalid_test", "not_graded")
"""Reasons that say nothing of the answer: there was no verdict, because of a limit or of a fault beside the answer."""


@dataclass(frozen=True)
class Grade:
    """The verdict on one completion.

    ``reward`` is 1.0, 0.0, or None where there is no verdict; ``reason`` is None where a plain reward function judged.
    ``extracted`` is what was graded: the answer found, or the program. ``seconds`` is wall time in the worker (0.0 when
    none was needed). ``detail`` is one line for people.
    """

    reward: float | None
    reason: Reason | None
    extracted: str | None = None
    seconds: float = 0.0
    detail: str = ""


def grade_of(reason: Reason, extracted: str | None = None, seconds: float = 0.0, detail: str = "") -> Grade:
    """A grade with the reward that belongs to ``reason``."""
    reward = None if reason in UNGRADED else float(reason == "correct")
    return Grade(reward, reason, extracted, seconds, detail)


def count_reasons(grades: Iterable[Grade]) -> dict[Reason, int]:
    """How often each reason occurs, in the order of :data:`REASONS`, reasons that do not occur left out."""
    counts = Counter(grade.reason for grade in grades)
    return {reason: counts[reason] for reason in REASONS if counts[reason]}


def failure_sentence(counts: Mapping[str, int], total: int) -> str | None:
    """How many of ``total`` completions a grader could not judge, for people; None where it judged them all.

    Args:
        counts: how often each reason occurred; reasons that are no failures do not matter.
        total: completions.
    """
    failed = {reason: counts[reason] for reason in FAILURES if counts.get(reason)}
    if not failed:
        return None
    rewards = {True: "no reward", False: "reward 0"}
    shown = ", ".join(f"{count} {reason} ({rewards[reason in UNGRADED]})" for reason, count in failed.items())
    return f"the grader came to no verdict on {sum(failed.values()):,} of {total:,} completions: {shown}"
