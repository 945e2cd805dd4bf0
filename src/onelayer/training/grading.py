"""From completions to verdicts: a reward and, where the task has a grader, the reason for it."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onelayer.errors import RunStopped, UserError
from onelayer.models.base import BaseModel
from onelayer.tasks.base import Problem, Task
from onelayer.tasks.graders.grade import FAILURES, Grade
from onelayer.training.completions import Completions, before_stop
from onelayer.training.reward_deadline import Patience


def cut_texts(base: BaseModel, problems: Sequence[Problem], completions: Completions) -> list[str]:
    """The completions as text, up to where their problems say that they stop."""
    texts = completions.texts(base.tokenizer)
    return [before_stop(text, problem.stop) for problem, text in zip(problems, texts, strict=True)]


def grade_texts(
    task: Task, problems: Sequence[Problem], texts: Sequence[str], patience: Patience | None = None
) -> list[Grade]:
    """The task's verdict on each completion: of its grader, or of its reward, which gives no reasons.

    Raises:
        UserError: the reward function raises, or returns the wrong number of rewards or something that is no number.
        GuardTripped: it does not return in time.
    """
    replies: list[Any] = [
        text if isinstance(problem.prompt, str) else [{"role": "assistant", "content": text}]
        for problem, text in zip(problems, texts, strict=True)
    ]
    names = {name for problem in problems for name in problem.columns}
    columns = {name: [problem.columns.get(name) for problem in problems] for name in sorted(names)}
    judge = getattr(task, "grade", None) or task.reward
    try:
        verdicts: Any = (patience or Patience()).call(
            task.name, lambda: judge(prompts=[problem.prompt for problem in problems], completions=replies, **columns)
        )
    except (UserError, RunStopped):
        raise
    except Exception as error:  # a user's function may raise anything
        raise UserError(f"the reward of task '{task.name}' raised {type(error).__name__}: {error}") from error
    if not isinstance(verdicts, Sequence) or len(verdicts) != len(problems):
        count = len(verdicts) if isinstance(verdicts, Sequence) else "no list of"
        raise UserError(f"the reward of task '{task.name}' returned {count} rewards for {len(problems)} completions")
    grades = [each if isinstance(each, Grade) else Grade(each, None) for each in verdicts]
    for grade, problem in zip(grades, problems, strict=True):
        reward = grade.reward
        if reward is not None and not (isinstance(reward, int | float | np.number) and math.isfinite(reward)):
            raise UserError(
                f"the reward of task '{task.name}' returned {reward!r} for problem {problem.id}; "
                "it has to be a finite number, or None where it does not apply"
            )
    return grades


def grade_all(
    task: Task, problems: Sequence[Problem], texts: Sequence[str], patience: Patience | None = None
) -> list[Grade]:
    """The task's verdicts where every completion needs one, as in evaluation.

    What a grader's deadline for a whole batch left out is graded again, as long as that grades any of it.

    Raises:
        UserError: as :func:`grade_texts`, or a reward that is None.
        RunStopped: a grader that gives no reward.
    """
    grades = grade_texts(task, problems, texts, patience)
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
