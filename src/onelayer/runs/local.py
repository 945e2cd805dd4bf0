"""The built-in loop in this process: one set of arms after the other."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from onelayer.arms.spec import ArmSpec
from onelayer.errors import GuardTripped, UserError
from onelayer.runs.arm_set import SetAtWork, SetContext
from onelayer.runs.interrupt import interrupts
from onelayer.runs.keeper import SetUnderWay
from onelayer.runs.run import Run
from onelayer.runs.scoring import score_base
from onelayer.runs.sets import free_memory, plan_sets
from onelayer.tasks.base import Split
from onelayer.training.loop import Training
from onelayer.training.out_of_memory import OutOfMemory
from onelayer.training.prompts import EncodedSplit


class LocalRunner:
    """Runs sets here; see `onelayer.runs.run.Runner`."""

    def __init__(self, training: Training, data: Mapping[Split, EncodedSplit]) -> None:
        self._context = SetContext(training, data, lambda: interrupts.asked)

    def about(self) -> Mapping[str, Any]:
        """Nothing besides the engine's name."""
        return {}

    def plan_sets(self, run: Run, specs: Sequence[ArmSpec]) -> list[list[str]]:
        """As many at once as memory allows."""
        return plan_sets(run.base, specs, getattr(run.config, "arms_per_set", 0), free_memory(run.base))

    def score_base(self, run: Run) -> None:
        """Score the base."""
        for event in score_base(run.scorer("base")):
            run.keeper.take(event)

    def run_sets(self, run: Run, sets: Mapping[int, Sequence[ArmSpec]], until: int) -> None:
        """One set after the other; a batch that is too large for memory is halved, and its step done again."""
        for number, specs in sets.items():
            while True:
                under_way = run.set_out(number, specs, until)
                try:
                    self._work(run, under_way)
                    break
                except OutOfMemory as error:
                    option = error.option
                # Half an update may be done: what repeats the step begins at the last state that is known to be whole.
                run.halve(under_way, option)
            run.arrive(under_way)

    def _work(self, run: Run, under_way: SetUnderWay) -> None:
        at_work = SetAtWork(self._context, under_way.job)
        with interrupts.finishing_steps(run.config.grace_seconds, run.progress.say), _noting(run, under_way):
            for event in at_work.train():
                run.keeper.take(event, under_way)
        for event in at_work.score():
            run.keeper.take(event, under_way)


@contextmanager
def _noting(run: Run, under_way: SetUnderWay) -> Iterator[None]:
    try:
        yield
    except (GuardTripped, UserError) as error:
        run.keeper.note_end(under_way, error)
        raise
