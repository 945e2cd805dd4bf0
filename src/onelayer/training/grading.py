"""From completions to verdicts: a reward and, where the task has a grader, the reason for it."""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from onelayer.errors import RunStopped, UserError
from onelayer.models.base import BaseModel
from onelayer.tasks.base import Problem, Task
from onelayer.tasks.blame import in_one_line, shortened
from onelayer.tasks.graders.grade import FAILURES, Grade
from onelayer.tasks.reward_call import Told, as_reward, ask
from onelayer.training.completions import Completions, before_stop
from onelayer.training.reward_deadline import Patience


def cut_texts(base: BaseModel, problems: Sequence[Problem], completions: Completions) -> list[str]:
    """The completions as text, up to where their problems say that they stop."""
    texts = completions.texts(base.tokenizer)
    return [before_stop(text, problem.stop) for problem, text in zip(problems, texts, strict=True)]


def grade_texts(
    task: Task,
    problems: Sequence[Problem],
    texts: Sequence[str],
    patience: Patience | None = None,
    *,
    ids: Sequence[Sequence[int]] | None = None,
    told: Told | None = None,
) -> list[Grade]:
    """The task's verdict on each completion: of its grader, or of its reward, which gives no reasons.

    Args:
        task: the task.
        problems: the problem of each completion.
        texts: the completions.
        patience: the limits of the call.
        ids: their tokens, for rewards that take ``completion_ids``.
        told: what a reward is told of the run, and what it tells.

    Raises:
        UserError: the reward function raises, or returns the wrong number of rewards or something that is no number.
        GuardTripped: it does not return in time.
    """
    replies: list[Any] = [
        text if isinstance(problem.prompt, str) else [{"role": "assistant", "content": text}]
        for problem, text in zip(problems, texts, strict=True)
    ]
    names = {name for problem in problems for name in problem.columns}
    columns: dict[str, Any] = {name: [problem.columns.get(name) for problem in problems] for name in sorted(names)}
    columns |= {"prompts": [problem.prompt for problem in problems], "completions": replies}
    judge = getattr(task, "grade", None)

    def verdicts_of() -> list[Any] | None:
        if judge is not None:
            return list(judge(**columns))
        asked = told or Told()
        asked.numbers.clear()  # what a call has told that is tried again
        given = asked.keywords() | ({} if ids is None else {"completion_ids": [list(row) for row in ids]})
        # Copies: a reward may change what it gets, and the problems come again.
        return ask(task.reward, copy.deepcopy(columns), given)

    try:
        verdicts = (patience or Patience()).call(task.name, verdicts_of)
    except (UserError, RunStopped):
        raise
    except (Exception, SystemExit) as error:  # a user's function may raise anything
        raise UserError(f"the reward of task '{task.name}' raised {in_one_line(error)}") from error
    if verdicts is None or len(verdicts) != len(problems):
        count = "no list of" if verdicts is None else len(verdicts)
        raise UserError(f"the reward of task '{task.name}' returned {count} rewards for {len(problems)} completions")
    return [_grade(task, problem, verdict) for problem, verdict in zip(problems, verdicts, strict=True)]


def _grade(task: Task, problem: Problem, verdict: Any) -> Grade:
    """A verdict with a reward that is a number of Python's, or None."""
    grade = verdict if isinstance(verdict, Grade) else Grade(verdict, None)
    try:
        return replace(grade, reward=as_reward(grade.reward))
    except ValueError as error:
        raise UserError(
            f"the reward of task '{task.name}' returned {shortened(grade.reward)!r} for problem {problem.id}: {error}; it "
            "has to be a finite number, or None where it does not apply"
        ) from error


def grade_all(
    task: Task,
    problems: Sequence[Problem],
    texts: Sequence[str],
    patience: Patience | None = None,
    *,
    ids: Sequence[Sequence[int]] | None = None,
    told: Told | None = None,
) -> list[Grade]:
    """The task's verdicts where every completion needs one, as in evaluation.

    What a grader's deadline for a whole batch left out is graded again, as long as that grades any of it.

    Raises:
        UserError: as :func:`grade_texts`, or a reward that is None.
        RunStopped: a grader that gives no reward.
    """
    grades = grade_texts(task, problems, texts, patience, ids=ids, told=told)
    while left := [i for i, grade in enumerate(grades) if grade.reason == "not_graded"]:
        again = grade_texts(task, [problems[i] for i in left], [texts[i] for i in left], patience)
        for i, grade in zip(left, again, strict=True):
            grades[i] = grade
        if all(grade.reason == "not_graded" for grade in again):
            break
    lost = [(problem.id, grade) for problem, grade in zip(problems, grades, strict=True) if grade.reward is None]
    if lost:
        first, grade = lost[0]
        if grade.reason is None:
            raise UserError(
                f"the reward of task '{task.name}' is None for problem {first}, which therefore has no score"
            )
        raise RunStopped(
            f"task '{task.name}': {len(lost)} of {len(grades)} completions could not be graded; the first, of problem "
            f"{first}: {grade.reason}, {grade.detail or 'no more is known'}"
        )
    return grades


def rewards_of(grades: Sequence[Grade]) -> Tensor:
    """The rewards, (n,) fp64; NaN where there is none."""
    rewards = [math.nan if grade.reward is None else float(grade.reward) for grade in grades]
    return torch.tensor(rewards, dtype=torch.float64)


def failure_shares(grades: Sequence[Grade]) -> dict[str, float]:
    """Metrics of a grader: the share of completions without a verdict, by reason; none where nothing gave reasons."""
    reasons = [grade.reason for grade in grades if grade.reason is not None]
    return {f"grader/{reason}": reasons.count(reason) / len(grades) for reason in FAILURES} if reasons else {}
