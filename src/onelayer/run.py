"""An open run: the base scored, then arms trained to a step, scored and written, one group of arms after another.

A scan decides which arms come next from the scores of those before (the best layers, the survivors of a rung), so arms
arrive in groups. Every decision is a function of stored scores: a run that continues takes the same ones again.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from onelayer.arm_names import BASE, arm_of
from onelayer.at_work import Bench, Job, SetAtWork
from onelayer.errors import GuardTripped, UserError
from onelayer.events import Cut
from onelayer.interrupt import interrupts
from onelayer.keeping import Course, Keeper
from onelayer.loop import Training
from onelayer.out_of_memory import Option, OutOfMemory, Place, halved
from onelayer.prompts import EncodedSplit
from onelayer.scores import read_scores
from onelayer.scoring import Scorer, score_base
from onelayer.specs import ArmSpec, free_memory, plan_sets
from onelayer.tasks.base import Split, Task


@dataclass
class Run(Keeper):
    """A run whose arms train in this process, and what engines change of that."""

    task: Task = field(kw_only=True)
    data: dict[Split, EncodedSplit] = field(kw_only=True)
    training: Training = field(kw_only=True)

    def __post_init__(self) -> None:
        self._bench = Bench(self.training, self.data, lambda: interrupts.asked)

    def train(self, specs: Sequence[ArmSpec], until: int | None = None) -> None:
        """Advance arms to step ``until``, side by side; at the last step (the default) score them and write them out.

        Arms that are done are only read. Which arms go together is pinned in the manifest when they are first named.

        Raises:
            RunStopped: training cannot go on.
            Paused: ``stop_at`` was reached.
        """
        by_name = {spec.name: spec for spec in specs}
        known = {name for names in self.folder.manifest["sets"] for name in names}
        self.folder.add_sets(self._plan_sets([spec for spec in specs if spec.name not in known]), specs)
        self.progress.expect([spec.name for spec in specs if not self.folder.finished(spec.name)])
        for name in by_name:
            if self.folder.finished(name):
                self.scores.setdefault(name, self.folder.read_arm(name)["score"])
        sets = {
            number: [by_name[name] for name in names if name in by_name and not self.folder.finished(name)]
            for number, names in enumerate(self.folder.manifest["sets"])
        }
        waiting = {number: named for number, named in sets.items() if named}
        self._train_sets(waiting, self.config.steps if until is None else until)

    def drop(self, name: str, step: int) -> None:
        """Give up an arm at a rung: it trains no more and is not scored."""
        spec_record = {"arm": arm_of(name), "kind": "dropped", "dropped_at": step, "score": None}
        self.folder.write_arm(name, spec_record, self.base)
        self.progress.forget(name)

    def adopt(self, name: str, new_name: str) -> None:
        """Let a finished arm stand for another that would be the same run, under that one's name."""
        if not self.folder.finished(new_name):
            self.folder.copy_arm(name, new_name)
            self.folder.write_arm(
                new_name, {**self.folder.read_arm(name), "arm": new_name, "kind": new_name}, self.base
            )

    def selection_score(self, name: str) -> float:
        """Score of a finished arm on the selection problems."""
        return float(self.folder.read_arm(name)["selection_score"])

    def selection_score_at(self, name: str, step: int) -> float:
        """The last score on the selection problems that an arm logged in its first ``step`` steps."""
        logged = [
            record["eval/score"]
            for record in self.folder.read_records(name)
            if record["step"] < step and "eval/score" in record
        ]
        return float(logged[-1]) if logged else 0.0

    def score_base(self) -> None:
        """Score the base, once for a folder."""
        if not self.folder.finished(BASE):
            self._score_base()
        scored = read_scores(self.folder.arm(BASE) / "scores.parquet")
        self.scores[BASE] = scored.score
        problems, completions = len(self.data["test"].problems), len(scored.reward)
        left_out = sum(split.too_long for split in self.data.values())
        note = f" ({left_out} prompts over {self.config.max_prompt_length} tokens left out)" if left_out else ""
        for remark in getattr(self.task, "notes", ()):
            self.progress.say(remark)
        self.progress.say(
            f"  score {self.scores['base']:.4f} on {completions} completions of {problems} test problems{note}",
            head=BASE,
        )

    def _plan_sets(self, specs: Sequence[ArmSpec]) -> list[list[str]]:
        """Which of the new arms go together."""
        return plan_sets(self.base, specs, getattr(self.config, "arms_per_set", 0), free_memory(self.base))

    def _scorer(self, place: Place) -> Scorer:
        return Scorer(self.base, self.task, self.data, self.config, place, list(self.folder.manifest["cuts"]))

    def _score_base(self) -> None:
        for event in score_base(self._scorer("base")):
            self.take(event)

    def _train_sets(self, sets: dict[int, list[ArmSpec]], until: int) -> None:
        """Train sets of arms, each by its number, to a step."""
        for number, specs in sets.items():
            self._train_set(number, specs, until)

    def _train_set(self, number: int, specs: Sequence[ArmSpec], until: int) -> None:
        while True:
            course = self.set_out(number, specs, until)
            try:
                self._work(course)
                break
            except OutOfMemory as error:
                option = error.option
            # Half an update may be done: what repeats the step begins at the last state that is known to be whole.
            self.halve(course, option)
        self.arrive(course)

    def set_out(self, number: int, specs: Sequence[ArmSpec], until: int) -> Course:
        """Begin, or go on, with a set at the newest state that is kept of it."""
        checkpoints = self.folder.checkpoints(number, self.config.save_total_limit)
        state = checkpoints.load([spec.name for spec in specs])
        for note in state.notes:
            self.progress.say(note, "yellow")
        cuts = list(self.folder.manifest["cuts"])
        job = Job(number, specs, until, cuts, state.next_step, state.seconds, state.arms)
        self.progress.start_set(job.names, job.start)
        return Course(job, checkpoints, job.start, job.start)

    def _work(self, course: Course) -> None:
        at_work = SetAtWork(self._bench, course.job)
        with interrupts.finishing_steps(self.config.grace_seconds, self.progress.say), self._noting(course):
            for event in at_work.train():
                self.take(event, course)
        for event in at_work.score():
            self.take(event, course)

    def arrive(self, course: Course) -> None:
        """The set has done its job; at the end of the run nothing is kept but the results."""
        if course.job.until == self.config.steps:
            course.checkpoints.drop()
        self.progress.end_set(course.job.names)

    @contextmanager
    def _noting(self, course: Course) -> Iterator[None]:
        try:
            yield
        except (GuardTripped, UserError) as error:
            self.note_end(course, error)
            raise

    def halve(self, course: Course, option: Option) -> None:
        """Give up what a set has done since its last state; from the step that failed on it gets half of the rows."""
        self.progress.end_set(course.job.names)
        number, step = course.job.number, course.step
        self.pin(Cut(number, step, halved(option, self.folder.cuts(number, self.config, step))))
