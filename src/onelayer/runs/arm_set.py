"""A set of arms at work: trains them side by side to a step and scores them. It computes and tells; it writes nothing."""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onelayer.arms.arm import Arm
from onelayer.arms.spec import ArmSpec, create_arm
from onelayer.errors import Paused
from onelayer.runs.events import ArmState, Between, Event, Reached, Said, Stepped
from onelayer.runs.interrupt import Interrupted
from onelayer.runs.scoring import Scorer, score_arms
from onelayer.tasks.base import Split, failures_of
from onelayer.tasks.graders.grade import FAILURES, failure_sentence
from onelayer.training.loop import Record, Training, run_steps
from onelayer.training.out_of_memory import cut_steps, with_cuts
from onelayer.training.prompts import EncodedSplit


@dataclass(frozen=True)
class Job:
    """What a set of arms is to do: plain values, which can go to another machine."""

    number: int
    """Of the set."""
    specs: Sequence[ArmSpec]
    until: int
    """The step to stop at; at the run's last one the arms are scored as well."""
    cuts: Sequence[Mapping[str, Any]]
    """What memory allowed so far, of all sets (see :mod:`onelayer.training.out_of_memory`)."""
    start: int = 0
    seconds: float = 0.0
    """What training took up to ``start``."""
    states: Mapping[str, ArmState] = field(default_factory=dict)
    """The arms' states at ``start``; none at the base."""

    @property
    def names(self) -> list[str]:
        """The arms' names."""
        return [spec.name for spec in self.specs]


@dataclass
class SetContext:
    """What all sets of a run are trained and scored with."""

    training: Training
    data: Mapping[Split, EncodedSplit]
    asked: Callable[[], str | None]
    """Who asks to stop between two steps, such as the name of a signal; None while nobody does."""
    _failures_said: bool = False

    def failures(self, step: int, records: Sequence[tuple[str, Record]]) -> Iterator[Event]:
        """Say it, once, when a grader gives no verdict or an environment fails: neither must pass for a wrong answer."""
        config, task = self.training.config, self.training.task
        completions = config.train_batch_size * config.num_generations
        for name, record in records:
            counts: dict[str, int] = {
                reason: round(record.get(f"grader/{reason}", 0.0) * completions) for reason in FAILURES
            }
            sentence, metric = failure_sentence(counts, completions), "grader/..."
            if record.get("episode/ended/error"):
                sentence, metric = f"the environment failed: {failures_of(task)[-1]}", "episode/ended/error"
            if sentence and not self._failures_said:
                self._failures_said = True
                told = f"{name}, step {step + 1}: {sentence}; metrics.jsonl counts all that follow ({metric})"
                yield Said(told, warns=True)


class SetAtWork:
    """The arms of a job, from their last state on. First :meth:`train` to the end, then :meth:`score`."""

    def __init__(self, context: SetContext, job: Job) -> None:
        self._context, self._job, self._config = context, job, context.training.config
        self._arms = [create_arm(context.training.base, spec, self._config) for spec in job.specs]
        for arm in self._arms:
            if job.states:
                state = job.states[arm.name]
                arm.load_state(state.tensors, state.counters)
        self._seconds = job.seconds

    def train(self) -> Iterator[Event]:
        """Take the arms to the job's step.

        Raises:
            OutOfMemory: a batch had too many rows; half an update may be done.
            Interrupted: somebody asked to stop; the state was told.
            Paused: ``stop_at`` was reached; the state was told.
            RunStopped: training cannot go on.
        """
        job, config, context = self._job, self._config, self._context
        began = time.perf_counter() - job.seconds
        stops = [step for step in cut_steps(job.cuts, job.number) if job.start < step < job.until]
        for first, stop in itertools.pairwise([job.start, *stops, job.until]):
            training = context.training.with_config(with_cuts(job.cuts, job.number, config, first))
            for step, results in run_steps(training, self._arms, start=first, stop=stop):
                records = [(arm.name, record) for arm, record in results]
                yield Stepped(step, records)
                yield from context.failures(step, records)
                done = step + 1
                pause = done == config.stop_at and done < config.steps
                kept = done % config.save_steps == 0 or done == job.until or pause
                if kept:
                    yield self._reached(done, time.perf_counter() - began)
                yield Between()
                if asked := context.asked():
                    if not kept:
                        yield self._reached(done, time.perf_counter() - began)
                    raise Interrupted(f"stopped by {asked} after step {done}, whose state is saved")
                if pause:
                    raise Paused(f"paused after step {done}; continue with --resume")
        self._seconds = time.perf_counter() - began
        self._check(self._arms)

    def score(self) -> Iterator[Event]:
        """Score the arms, if they are at the last step of the run."""
        if self._job.until == self._config.steps:
            training, job = self._context.training, self._job
            scorer = Scorer(
                training.base,
                training.task,
                self._context.data,
                self._config,
                job.number,
                [dict(cut) for cut in job.cuts],
            )
            yield from score_arms(scorer, self._arms, self._seconds / len(self._arms))

    def _reached(self, next_step: int, seconds: float) -> Reached:
        self._check(self._arms)
        return Reached(next_step, seconds, [ArmState(arm.name, arm.state(), arm.counters()) for arm in self._arms])

    def _check(self, arms: Sequence[Arm]) -> None:
        training = self._context.training
        training.frozen()
        for arm in arms:
            arm.check_moved(training.base)
