"""Sets of arms in the workers of a Ray cluster, each set in one of them at a time."""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onelayer.arms.spec import ArmSpec
from onelayer.engines.ray.worker import Reply
from onelayer.engines.ray.workers import Died, WorkerHandle, Workers
from onelayer.errors import GuardTripped, Paused, RunStopped, UserError
from onelayer.runs.interrupt import Interrupted, interrupts
from onelayer.runs.keeper import SetUnderWay
from onelayer.runs.run import Run
from onelayer.runs.sets import plan_sets
from onelayer.training.out_of_memory import OutOfMemory

POLL_SECONDS = 0.2
"""How long this process waits for answers before it looks whether it was asked to stop."""
DEATHS = 3
"""Workers that a set may lose at one state before the run gives up."""


@dataclass
class RayRunner:
    """Gives sets to workers; see `onelayer.runs.run.Runner`."""

    workers: Workers
    free: int
    """Bytes that are free where a set trains."""

    def about(self) -> Mapping[str, Any]:
        """Nothing besides the engine's name: which worker trained an arm changes nothing."""
        return {}

    def plan_sets(self, run: Run, specs: Sequence[ArmSpec]) -> list[list[str]]:
        """At least one set for each worker."""
        arms_per_set = getattr(run.config, "arms_per_set", 0)
        return plan_sets(run.base, specs, arms_per_set, self.free, at_once=len(self.workers.handles))

    def score_base(self, run: Run) -> None:
        """Let a worker score the base.

        Raises:
            RunStopped: worker after worker dies of it.
        """
        deaths = 0
        while True:
            while not (idle := self.workers.idle()):
                self.workers.answers(POLL_SECONDS)
            handle = idle[0]
            handle.tell("begin_base", run.folder.manifest.cuts)
            handle.ask("go_on")
            while not (answers := [answer for each, answer in self.workers.answers(POLL_SECONDS) if each is handle]):
                pass
            answer = answers[0]
            if isinstance(answer, Reply):
                for event in answer.events:
                    run.keeper.take(event)
                if answer.error is not None:
                    raise answer.error
                return
            deaths += 1
            say_death(run, handle, answer, "the base is scored again")
            if deaths == DEATHS:
                raise RunStopped(f"{deaths} workers in a row died while they scored the base, the last {handle}")

    def run_sets(self, run: Run, sets: Mapping[int, Sequence[ArmSpec]], until: int) -> None:
        """Spread sets over the workers."""
        with interrupts.finishing_steps(run.config.grace_seconds, run.progress.say):
            _Spread(run, self.workers, sets, until).run()


def say_death(run: Run, handle: WorkerHandle, died: Died, then: str) -> None:
    """Say that a worker died, and what follows."""
    run.progress.say(f"{handle} died ({died.why}); {then}", "yellow")


class _Spread:
    """One group of sets, from the first that is given out to the last that is done."""

    def __init__(self, run: Run, workers: Workers, sets: Mapping[int, Sequence[ArmSpec]], until: int) -> None:
        self._run, self._workers, self._sets, self._until = run, workers, sets, until
        self._waiting = deque(sets)
        self._busy: dict[WorkerHandle, SetUnderWay] = {}
        self._lost: dict[int, tuple[int, int]] = {}
        """Set -> the step of its state when it last lost its worker, and how often it lost one there."""
        self._ends: list[BaseException] = []
        """How sets ended that did not arrive."""
        self._stop: str | None = None
        """Why workers are asked to stop."""
        self._give_up = float("inf")
        """When they are no longer waited for."""

    def run(self) -> None:
        """See the class.

        Raises:
            RunStopped: a set cannot go on, or the workers cannot; the others were stopped after their step.
            Interrupted: a signal asked to stop; states are saved.
            Paused: ``stop_at`` was reached.
        """
        while True:
            if interrupts.asked and self._stop is None:
                self._stop = interrupts.asked
            if self._stop is None and not self._ends:
                self._give_out()
            elif self._stop is not None:
                self._leave_those_that_score()
            if not self._busy and (self._ends or self._stop is not None or not self._waiting):
                break
            if time.monotonic() > self._give_up:
                break
            try:
                answers = self._workers.answers(POLL_SECONDS)
            except (UserError, RunStopped) as error:
                self._fail(error)
                continue
            except KeyboardInterrupt as error:
                # Ray puts one of its own in the place of the one that says which signal it was.
                if isinstance(error, Interrupted) or interrupts.asked is None:
                    raise
                raise Interrupted(f"stopped by {interrupts.asked}") from None
            for handle, answer in answers:
                if handle in self._busy:
                    self._hear(handle, answer)
        failures = [error for error in self._ends if not isinstance(error, Interrupted | Paused)]
        if failures:
            raise failures[0]
        if self._stop is not None:
            raise Interrupted(f"stopped by {self._stop}; every set is saved after the step that its worker was at")
        if self._ends:
            raise self._ends[0]

    def _give_out(self) -> None:
        """Give sets that wait to workers that do nothing."""
        for handle in self._workers.idle():
            if not self._waiting:
                return
            number = self._waiting.popleft()
            specs = [spec for spec in self._sets[number] if not self._run.folder.finished(spec.name)]
            under_way = self._run.set_out(number, specs, self._until)
            training = self._run.training
            handle.tell("begin_set", under_way.job, training.seeds, training.rungs)
            handle.ask("go_on")
            self._busy[handle] = under_way

    def _hear(self, handle: WorkerHandle, answer: Reply | Died) -> None:
        under_way = self._busy[handle]
        if isinstance(answer, Died):
            del self._busy[handle]
            self._replace_dead(handle, answer, under_way)
            return
        if not answer.ended:
            # At once: the worker need not wait until everything is written.
            handle.ask("go_on", self._stop or interrupts.asked)
        for event in answer.events:
            self._run.keeper.take(event, under_way)
        if answer.ended:
            del self._busy[handle]
            self._end(under_way, answer.error)

    def _end(self, under_way: SetUnderWay, error: BaseException | None) -> None:
        if error is None:
            self._run.arrive(under_way)
        elif isinstance(error, OutOfMemory):
            try:
                self._run.halve(under_way, error.option)
                self._waiting.appendleft(under_way.job.number)
            except RunStopped as hopeless:
                self._fail(hopeless)
        else:
            self._run.progress.end_set(under_way.job.names)
            if isinstance(error, Interrupted | Paused):
                self._ends.append(error)
            else:
                if isinstance(error, GuardTripped | UserError):
                    self._run.keeper.note_end(under_way, error)
                self._fail(error)

    def _replace_dead(self, handle: WorkerHandle, died: Died, under_way: SetUnderWay) -> None:
        """A worker died: its set goes to another, from the state that is kept."""
        names, number = under_way.job.names, under_way.job.number
        self._run.progress.end_set(names)
        which = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
        at, times = self._lost.get(number, (-1, 0))
        times = times + 1 if at == under_way.saved else 1
        self._lost[number] = (under_way.saved, times)
        then = "kept" if self._stop else "given to another"
        say_death(self._run, handle, died, f"{which} {then} at step {under_way.saved}")
        self._waiting.appendleft(number)
        if times == DEATHS:
            self._fail(
                RunStopped(
                    f"{which} lost {times} workers at step {under_way.saved} without getting any further, the last was "
                    f"{handle} ({died.why}); look at the memory of the machines and at Ray's logs; --resume goes on from "
                    "that step"
                )
            )

    def _fail(self, error: BaseException) -> None:
        """End the run because of one set, after the others have done their steps."""
        self._ends.append(error)
        if self._stop is None:
            self._stop = "a failure elsewhere"
            self._give_up = time.monotonic() + self._run.config.grace_seconds

    def _leave_those_that_score(self) -> None:
        """What is trained to the end is kept, and is scored when the run goes on."""
        for handle, under_way in list(self._busy.items()):
            if under_way.saved == under_way.job.until:
                del self._busy[handle]
                self._run.progress.end_set(under_way.job.names)
