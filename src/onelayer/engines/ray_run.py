"""A run whose sets of arms train in the workers of a Ray cluster, each set in one of them at a time."""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from onelayer.engines.ray_worker import Reply
from onelayer.engines.ray_workers import Died, Seat, Workers
from onelayer.errors import GuardTripped, Paused, RunStopped, UserError
from onelayer.interrupt import Interrupted, interrupts
from onelayer.keeping import Course
from onelayer.out_of_memory import OutOfMemory
from onelayer.run import Run
from onelayer.specs import ArmSpec, plan_sets

POLL_SECONDS = 0.2
"""How long this process waits for answers before it looks whether it was asked to stop."""
DEATHS = 3
"""Workers that a set may lose at one state before the run gives up."""


@dataclass
class RayRun(Run):
    """Gives sets to workers, and keeps what they tell."""

    workers: Workers = field(kw_only=True)
    free: int = field(kw_only=True)
    """Bytes that are free where a set trains."""

    def _plan_sets(self, specs: Sequence[ArmSpec]) -> list[list[str]]:
        return plan_sets(
            self.base, specs, getattr(self.config, "arms_per_set", 0), self.free, at_once=len(self.workers.seats)
        )

    def _score_base(self) -> None:
        deaths = 0
        while True:
            while not (idle := self.workers.idle()):
                self.workers.answers(POLL_SECONDS)
            seat = idle[0]
            seat.tell("begin_base", self.folder.manifest["cuts"])
            seat.ask("go_on")
            while not (answers := [answer for each, answer in self.workers.answers(POLL_SECONDS) if each is seat]):
                pass
            answer = answers[0]
            if isinstance(answer, Reply):
                for event in answer.events:
                    self.take(event)
                if answer.error is not None:
                    raise answer.error
                return
            deaths += 1
            self.say_death(seat, answer, "the base is scored again")
            if deaths == DEATHS:
                raise RunStopped(f"{deaths} workers in a row died while they scored the base, the last {seat}")

    def _train_sets(self, sets: dict[int, list[ArmSpec]], until: int) -> None:
        with interrupts.finishing_steps(self.config.grace_seconds, self.progress.say):
            _Spread(self, sets, until).run()

    def say_death(self, seat: Seat, died: Died, then: str) -> None:
        """Say that a worker died, and what follows."""
        self.progress.say(f"{seat} died ({died.why}); {then}", "yellow")


class _Spread:
    """One group of sets, from the first that is given out to the last that is done."""

    def __init__(self, run: RayRun, sets: dict[int, list[ArmSpec]], until: int) -> None:
        self._run, self._workers, self._sets, self._until = run, run.workers, sets, until
        self._waiting = deque(sets)
        self._busy: dict[Seat, Course] = {}
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
            for seat, answer in answers:
                if seat in self._busy:
                    self._hear(seat, answer)
        failures = [error for error in self._ends if not isinstance(error, Interrupted | Paused)]
        if failures:
            raise failures[0]
        if self._stop is not None:
            raise Interrupted(f"stopped by {self._stop}; every set is saved after the step that its worker was at")
        if self._ends:
            raise self._ends[0]

    def _give_out(self) -> None:
        """Give sets that wait to workers that do nothing."""
        for seat in self._workers.idle():
            if not self._waiting:
                return
            number = self._waiting.popleft()
            specs = [spec for spec in self._sets[number] if not self._run.folder.finished(spec.name)]
            course = self._run.set_out(number, specs, self._until)
            training = self._run.training
            seat.tell("begin_set", course.job, training.seeds, training.rungs)
            seat.ask("go_on")
            self._busy[seat] = course

    def _hear(self, seat: Seat, answer: Reply | Died) -> None:
        course = self._busy[seat]
        if isinstance(answer, Died):
            del self._busy[seat]
            self._mourn(seat, answer, course)
            return
        if not answer.ended:
            # At once: the worker need not wait until everything is written.
            seat.ask("go_on", self._stop or interrupts.asked)
        for event in answer.events:
            self._run.take(event, course)
        if answer.ended:
            del self._busy[seat]
            self._end(course, answer.error)

    def _end(self, course: Course, error: BaseException | None) -> None:
        if error is None:
            self._run.arrive(course)
        elif isinstance(error, OutOfMemory):
            try:
                self._run.halve(course, error.option)
                self._waiting.appendleft(course.job.number)
            except RunStopped as hopeless:
                self._fail(hopeless)
        else:
            self._run.progress.end_set(course.job.names)
            if isinstance(error, Interrupted | Paused):
                self._ends.append(error)
            else:
                if isinstance(error, GuardTripped | UserError):
                    self._run.note_end(course, error)
                self._fail(error)

    def _mourn(self, seat: Seat, died: Died, course: Course) -> None:
        """A worker died: its set goes to another, from the state that is kept."""
        names, number = course.job.names, course.job.number
        self._run.progress.end_set(names)
        which = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
        at, times = self._lost.get(number, (-1, 0))
        times = times + 1 if at == course.saved else 1
        self._lost[number] = (course.saved, times)
        then = "kept" if self._stop else "given to another"
        self._run.say_death(seat, died, f"{which} {then} at step {course.saved}")
        self._waiting.appendleft(number)
        if times == DEATHS:
            self._fail(
                RunStopped(
                    f"{which} lost {times} workers at step {course.saved} without getting any further, the last was {seat} "
                    f"({died.why}); look at the memory of the machines and at Ray's logs; --resume goes on from that step"
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
        for seat, course in list(self._busy.items()):
            if course.saved == course.job.until:
                del self._busy[seat]
                self._run.progress.end_set(course.job.names)
