"""What a task is: problems in three splits that never overlap, and a reward for completions.

The *train* split is for updates only. The *selection* split is for every choice (learning rate, best layers, early
stopping). The *test* split is for every reported score. Choosing and judging on the same problems would report the
winner's luck as its merit.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Prompt = str | list[dict[str, Any]]
"""Plain text, or chat messages ``[{"role": ..., "content": ...}]`` that go through the model's chat template."""

Split = Literal["train", "selection", "test"]

Rollout = Literal["at_once", "in_turns"]
"""How problems become completions: one answer each, or episodes of several turns in an environment."""


@dataclass(frozen=True)
class Scoring:
    """How the problems of a benchmark are scored, where a task has several benchmarks for its test split."""

    benchmark: str
    num_samples: int
    """Completions of each problem (avg@k)."""
    temperature: float
    """0 is greedy."""


@dataclass(frozen=True)
class Problem:
    """One problem. ``id`` is unique within its task (where it has a benchmark: within that) and never changes: it keys
    the sampling and the stored scores."""

    id: int
    prompt: Prompt
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Everything else of the row (``answer``, ``tests``, ...): handed to the reward by name."""
    stop: tuple[str, ...] = ()
    """Text that ends a completion; it is cut off before the reward sees it."""
    scoring: Scoring | None = None
    """The benchmark that the problem belongs to; None: the task's name and the settings of the run."""
    template: Mapping[str, Any] = field(default_factory=dict)
    """What the chat template gets beside the messages: ``tools`` and keywords of its own."""


Reward = Callable[..., Any]
"""Scores completions, with TRL's signature: ``reward(prompts=..., completions=..., answer=..., **other_columns)``.

It returns a list of numbers, or something that is awaited for one (see ``reward_call.py``). Beside the columns it
may take ``completion_ids``, ``trainer_state``, ``log_metric`` and ``log_extra``. Each column is a list as long as
``completions``. A completion is text for a text prompt, and
``[{"role": "assistant", "content": text}]`` for chat messages. ``None`` means that this reward does not apply.
"""


class Task(Protocol):
    """A set of problems with a reward.

    A task whose rewards come with reasons also has ``grade(prompts, completions, **columns) -> list[Grade]``, and its
    rewards are those of the grades: what a grader could not judge is then counted apart from what is wrong. A task
    whose answers can be compared also has ``parse_answer(text) -> str | None``: the final answer of a completion in
    one form, None where there is none. A majority vote needs it. A task that is played in turns says ``rollout =
    "in_turns"`` and is an :class:`~onelayer.tasks.agentic.AgenticTask`. What the user should know of the problems is
    in ``notes``, sentences; what went wrong outside of completions in ``failures``. A task whose reward runs the
    completions as programs says so with ``runs_programs = True``: the sandbox is then started and probed before
    anything else.
    """

    @property
    def name(self) -> str:
        """As in reports; a plain attribute does."""

    def problems(self, split: Split) -> Sequence[Problem]:
        """The problems of a split, in a fixed order. The splits are disjoint in ids and in prompts."""

    @property
    def reward(self) -> Reward:
        """The reward; a plain method does."""


def notes_of(task: Task) -> Sequence[str]:
    """What the user should know of a task's problems, in sentences."""
    notes: Sequence[str] = getattr(task, "notes", ())
    return notes


def failures_of(task: Task) -> Sequence[str]:
    """What went wrong outside of completions so far, such as faults of environments, in sentences."""
    failures: Sequence[str] = getattr(task, "failures", ())
    return failures
