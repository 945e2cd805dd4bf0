"""How a reward is called, which is TRL's way, and what its answer means.

TRL 1.16 (``GRPOTrainer._calculate_rewards``) calls with keywords: ``prompts``, ``completions``, ``completion_ids``, each
further column, ``trainer_state``, ``log_extra`` and ``log_metric``. It takes a list of numbers, of which None and NaN mean
that there is no reward. What is a function without ``**columns`` gets here what it names; TRL would fail.
"""

import inspect
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from decimal import Decimal
from numbers import Real
from typing import Any

from onelayer.tasks.awaiting import settled

GIVEN = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")
"""Keywords that every reward is called with: a column of such a name has no place."""
LEFT_OUT = ("prompt", "completion")
"""Columns that TRL does not hand on either."""


@dataclass(frozen=True)
class TrainerState:
    """What a reward is told of the run: of transformers' ``TrainerState`` the fields that mean something here."""

    global_step: int
    """Steps done in training; when scoring, all of them, so that all arms are scored alike."""
    max_steps: int


@dataclass
class Told:
    """What a reward is told beside its columns, and the numbers that it tells."""

    step: int = 0
    steps: int = 0
    numbers: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def log_metric(self, name: str, value: float) -> None:
        """TRL's ``log_metric``: the mean over a step's calls becomes a metric."""
        number = as_reward(value)
        if number is None:
            raise ValueError(f"log_metric of '{name}' got {value!r}, which is no number")
        self.numbers[str(name)].append(number)

    def log_extra(self, column: str, values: Sequence[Any]) -> None:
        """TRL's ``log_extra``: a column of its table of completions, which training does not keep here."""

    def keywords(self) -> dict[str, Any]:
        """As keywords of a call."""
        state = TrainerState(self.step, self.steps)
        return {"trainer_state": state, "log_extra": self.log_extra, "log_metric": self.log_metric}


def metrics_of(numbers: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The metrics of what ``log_metric`` was told in a step: the means, as ``reward/NAME``."""
    return {f"reward/{name}": math.fsum(values) / len(values) for name, values in sorted(numbers.items())}


def ask(reward: Callable[..., Any], columns: Mapping[str, Any], given: Mapping[str, Any]) -> list[Any] | None:
    """Call a reward with the columns and with those of the further keywords that it takes.

    Returns:
        Its answer as a list; None where it is none: a single number, a text, a mapping, a set.

    Raises:
        BaseException: whatever it raises.
    """
    answer = settled(reward(**columns, **_taken(reward, given)))
    # The order or the parts of these mean something else.
    if isinstance(answer, str | bytes | Mapping | AbstractSet):
        return None
    try:
        return list(answer)
    except TypeError:
        if isinstance(answer, Iterator):  # raised by the user's code, which runs as the answer is read
            raise
        return None


def as_reward(value: Any) -> float | None:
    """One reward as a number; None where there is none (None, NaN).

    Numbers of any kind: also truth values, scalars of numpy, tensors with one element, fractions and decimals.

    Raises:
        ValueError: it is no number, or not finite.
    """
    if value is None:
        return None
    try:
        number = value.item() if hasattr(value, "item") else value
        if not isinstance(number, Real | Decimal):
            raise ValueError("it is no number")
        number = float(number)
    except Exception as error:  # objects of the user may raise anything
        raise ValueError(f"it is no number: {error}") from error
    if math.isinf(number):
        raise ValueError("it is not finite")
    return None if math.isnan(number) else number


def _taken(reward: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    try:
        parameters = inspect.signature(reward).parameters
    except (TypeError, ValueError):  # written in C
        return dict(given)
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return dict(given)
    return {name: value for name, value in given.items() if name in parameters}
