r"""The math grader: is the final answer of a completion mathematically equal to the reference?

``math_text.py`` finds the answer, ``math_normal.py`` gives it its usual form,
``math_compare.py`` settles what text and exact numbers settle; math-verify does the mathematics in
killable processes. Its own timeouts are signals, which fail outside the main thread, so the
deadlines are kept here, from outside the process that computes.

What counts as equal, and what is dropped, is stated in docs/graders.md: the same exact number, expression, set, interval
or matrix, the same words. What is not checked: whether the answer is simplified as asked (``2 \cdot 3`` is 6).
"""

from collections.abc import Sequence
from dataclasses import replace

from onelayer.errors import UserError
from onelayer.tasks.graders.grade import Grade, Reason, grade_of
from onelayer.tasks.graders.math_compare import compare_plainly
from onelayer.tasks.graders.math_normal import normalize
from onelayer.tasks.graders.math_pool import MathPool, shared_pool
from onelayer.tasks.graders.math_text import Rule, extract_answer, reference_answer

_REASONS: dict[str, tuple[Reason, str]] = {
    "correct": ("correct", ""),
    "wrong": ("wrong", ""),
    "unreadable": ("wrong", "the answer is not an expression that math-verify can read"),
    "unreadable reference": ("wrong", "the reference is not an expression that math-verify can read; compared as text"),
    "timeout": ("timeout", "the comparison did not end within the deadline"),
    "crash": ("crash", "the comparison failed inside the mathematics"),
}


def grade_math(
    completions: Sequence[str],
    answers: Sequence[str],
    *,
    rule: Rule = "auto",
    strict: bool = False,
    deadline: float = 2.0,
    batch_deadline: float | None = None,
    pool: MathPool | None = None,
) -> list[Grade]:
    """Grade completions against reference answers.

    Args:
        completions: whole completions; the answer is looked for by ``rule`` (see :func:`extract_answer`).
        answers: reference answers, or reference solutions that end in one (``#### 5``, ``\\boxed{5}``).
        rule: where the answer stands.
        strict: whether only that place counts.
        deadline: seconds for one answer; past it the grade is ``timeout``, reward 0.
        batch_deadline: seconds for the whole call, by default 60 plus a hundredth per completion; what it leaves no
            time for is ``not_graded``, reward None. Short answers come first, so hostile ones cannot starve them.
        pool: the worker processes; by default one pool that all calls share.

    Raises:
        UserError: the two lists differ in length, or the rule is unknown.
    """
    if len(completions) != len(answers):
        raise UserError(f"There are {len(completions)} completions but {len(answers)} answers; give one answer each.")
    found = [extract_answer(text, rule, strict=strict) for text in completions]
    # A group's completions share their reference, and many give the same answer.
    references = {answer: normalize(reference_answer(answer)) for answer in dict.fromkeys(answers)}
    normal = {text: normalize(text) for text in dict.fromkeys(found) if text is not None}
    pairs = [
        (references[answer], normal[text]) if text is not None else None
        for text, answer in zip(found, answers, strict=True)
    ]
    grades: dict[tuple[str, str], Grade] = {}
    open_pairs: list[tuple[str, str]] = []
    for pair in dict.fromkeys(pair for pair in pairs if pair is not None):
        plain = compare_plainly(*pair)
        if plain is None:
            open_pairs.append(pair)
        else:
            grades[pair] = grade_of("correct" if plain else "wrong")
    if open_pairs:
        open_pairs.sort(key=lambda pair: len(pair[1]))
        seconds = 60.0 + len(completions) / 100 if batch_deadline is None else batch_deadline
        verdicts = (pool or shared_pool()).compare(open_pairs, deadline, seconds)
        for pair, verdict in zip(open_pairs, verdicts, strict=True):
            if verdict is None:
                grades[pair] = grade_of("not_graded", detail="the deadline of the batch passed first")
            else:
                reason, detail = _REASONS[verdict.verdict]
                grades[pair] = grade_of(reason, seconds=verdict.seconds, detail=detail)
    return [
        grade_of("no_answer") if pair is None else replace(grades[pair], extracted=text)
        for pair, text in zip(pairs, found, strict=True)
    ]
