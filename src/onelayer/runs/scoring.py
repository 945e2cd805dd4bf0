"""Scoring of policies on the problems of a run, with as many rows at once as memory allows."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from onelayer.arms.arm import Arm
from onelayer.config.configs import TrainConfig
from onelayer.models.base import BaseModel
from onelayer.runs.events import Event, FewerRows, Finished, Noted, Said
from onelayer.runs.trajectories import trajectory_rows
from onelayer.storage.arm_names import BASE
from onelayer.storage.arm_record import ArmRecord
from onelayer.storage.scores import ArmScores
from onelayer.tasks.base import Split, Task, failures_of
from onelayer.training.episodes import summary
from onelayer.training.out_of_memory import Place, fewer_rows, with_cuts
from onelayer.training.prompts import EncodedSplit
from onelayer.training.rollout import evaluate, way_of
from onelayer.training.way import Evaluated

T = TypeVar("T")
Policy = Mapping[str, Tensor]
Evaluate = Callable[[Split, Sequence[Policy]], list[Evaluated]]
Telling = Generator[Event, None, T]
"""Tells events while it works, and returns what came out."""


@dataclass
class Tested:
    """What came out on the test problems."""

    scores: ArmScores
    about: Mapping[str, Any]
    """What ``arm.json`` says of the episodes, where the task is played in turns."""
    trajectories: Sequence[Mapping[str, Any]] | None = None


@dataclass
class Scorer:
    """Scores the arms of a set, or the base."""

    base: BaseModel
    task: Task
    data: Mapping[Split, EncodedSplit]
    config: TrainConfig
    place: Place
    """The set, whose cuts hold."""
    cuts: list[dict[str, Any]]
    """All that are known; new ones are added."""
    evaluate: Evaluate | None = None
    """Scores policies on a split, where that is not done in this process alone."""

    def scores(self, split: Split, policies: Sequence[Policy]) -> Telling[list[ArmScores]]:
        """Score policies (tensors to wear; none for the base) on a split."""
        evaluated = yield from self.evaluated(split, policies)
        return [each.scores for each in evaluated]

    def evaluated(self, split: Split, policies: Sequence[Policy]) -> Telling[list[Evaluated]]:
        """The same, with their episodes."""
        if self.evaluate is not None:
            return self.evaluate(split, policies)
        evaluated = yield from self._within_memory(
            lambda config: evaluate(self.base, self.task, self.data[split], policies, config)
        )
        return evaluated

    def tests(self, names: Sequence[str], policies: Sequence[Policy]) -> Telling[list[Tested]]:
        """Score policies on the test problems; of a task played in turns also sum up all episodes and keep some."""
        at_once = way_of(self.task).arms_at_once or len(policies)
        results = []
        for first in range(0, len(policies), at_once):
            failed = len(failures_of(self.task))
            evaluated = yield from self.evaluated("test", policies[first : first + at_once])
            if failures := failures_of(self.task)[failed:]:
                yield Said(f"{names[first]}: {len(failures)} test episodes failed, the first: {failures[0]}")
            for name, each in zip(names[first:], evaluated, strict=False):
                about = summary(each.episodes)
                if too_long := about.get("episode_ends", {}).get("too_long"):
                    yield Said(f"{name}: {too_long:g} test episodes ended at a prompt over max_prompt_length")
                rows = trajectory_rows(each.episodes) if each.episodes else None
                results.append(Tested(each.scores, about, rows))
        return results

    def _within_memory(self, score: Callable[[TrainConfig], T]) -> Telling[T]:
        step = self.config.steps
        trying = fewer_rows(score, with_cuts(self.cuts, self.place, self.config, step))
        while True:
            try:
                rows = next(trying)
            except StopIteration as end:
                result: T = end.value
                return result
            self.cuts.append({"set": self.place, "step": step, **rows})
            yield FewerRows(self.place, step, rows)


def score_base(scorer: Scorer) -> Iterator[Event]:
    """Score the base."""
    yield Noted("scoring the base")
    (test,) = yield from scorer.tests([BASE], [{}])
    (selection,) = yield from scorer.scores("selection", [{}])
    record = ArmRecord(arm=BASE, kind="base", selection_score=selection.score, **test.about)
    yield Finished(BASE, test.scores, record, trajectories=test.trajectories)


def score_arms(scorer: Scorer, arms: Sequence[Arm], seconds: float) -> Iterator[Event]:
    """Score arms that are trained; ``seconds`` is what training took for each of them."""
    yield Noted(f"scoring {arms[0].name if len(arms) == 1 else f'{len(arms)} arms'}")
    policies = [arm.weights for arm in arms]
    tests = yield from scorer.tests([arm.name for arm in arms], policies)
    selections = yield from scorer.scores("selection", policies)
    for arm, test, selection in zip(arms, tests, selections, strict=True):
        record = ArmRecord(
            kind=arm.kind,
            plan=arm.plan,
            layer=arm.layer,
            seed=arm.seed,
            learning_rate=arm.settings.learning_rate,
            trained_parameters=arm.num_parameters,
            seconds=seconds,
            stopped=arm.stopped,
            skipped_updates=arm.skipped,
            selection_score=selection.score,
            change_norms=arm.change_norms(scorer.base),
            first_gradient_norms=arm.first_gradient_norms,
            **test.about,
        )
        yield Finished(arm.name, test.scores, record, arm.delta(), test.trajectories)
