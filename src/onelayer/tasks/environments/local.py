"""Environments in this process, in step, for those that cost less than talking to another process would."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from onelayer.tasks.environments.base import Environment, Info, StepResult
from onelayer.tasks.environments.workers import check_result, failure, take


class EnvironmentPool(Protocol):
    """Many episodes in step, numbered from 0; an environment that fails ends its own episode only."""

    failures: list[str]
    """One sentence for each episode that ended in an error."""

    def reset(self, seeds: Sequence[int]) -> list[tuple[str, Info]]:
        """Start one episode per seed; one that could not start has an ``error`` in its info and is over."""

    def step(self, actions: Mapping[int, str]) -> dict[int, StepResult]:
        """Take one action in each of some episodes that are not over."""


class LocalPool:
    """An `EnvironmentPool` of plain objects; what hangs here hangs the run."""

    def __init__(self, factory: Callable[[], Environment]) -> None:
        self._factory = factory
        self._playing: list[Environment] = []
        self._seeds: list[int] = []
        self.failures: list[str] = []

    def reset(self, seeds: Sequence[int]) -> list[tuple[str, Info]]:
        """Start one episode per seed; one that could not start has an ``error`` in its info and is over."""
        for environment in self._playing:
            environment.close()
        self._seeds = list(seeds)
        self._playing = [self._factory() for _ in seeds]
        started = [self._guarded(number, "reset", seed) for number, seed in enumerate(seeds)]
        return [(observation, info) for observation, _, _, _, info in started]

    def step(self, actions: Mapping[int, str]) -> dict[int, StepResult]:
        """Take one action in each of some episodes that are not over."""
        return {number: self._guarded(number, "step", action) for number, action in actions.items()}

    def _guarded(self, number: int, kind: str, content: int | str) -> StepResult:
        try:
            result = take(self._playing[number], kind, content)
            check_result(result)
        except Exception as error:  # an environment may raise anything; its episode is over then
            result = failure(f"{type(error).__name__}: {error}")
            self.failures.append(f"episode with seed {self._seeds[number]}: {result[4]['error']}")
        return result
