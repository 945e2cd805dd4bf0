"""An open run: the base scored, then arms trained to a step, scored and written, one group of arms after another.

A scan decides which arms come next from the scores of those before (the best layers, the survivors of a rung), so arms
arrive in groups. Every decision is a function of stored scores: a run that continues takes the same ones again.

How sets of arms are run is a :class:`Runner`'s: in this process, in the workers of a cluster, by TRL.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from onelayer.arms.spec import ArmSpec
from onelayer.config.configs import TrainConfig
from onelayer.models.base import BaseModel
from onelayer.runs.arm_set import Job
from onelayer.runs.events import FewerRows
from onelayer.runs.keeper import Keeper, SetUnderWay
from onelayer.runs.progress import RunProgress
from onelayer.runs.run_folder import RunFolder
from onelayer.runs.scoring import Evaluate, Scorer
from onelayer.storage.arm_names import BASE, arm_of
from onelayer.storage.arm_record import ArmRecord
from onelayer.storage.scores import read_scores
from onelayer.tasks.base import Split, Task, notes_of
from onelayer.training.loop import Training
from onelayer.training.out_of_memory import Option, Place, halved
from onelayer.training.prompts import EncodedSplit


class Runner(Protocol):
    """A way to run sets of arms. It gives what they tell to ``run.keeper``, and asks ``run`` for their states."""

    def about(self) -> Mapping[str, Any]:
        """What ``arm.json`` says of what trained an arm."""

    def plan_sets(self, run: "Run", specs: Sequence[ArmSpec]) -> list[list[str]]:
        """Which of some new arms go together: names, by set."""

    def score_base(self, run: "Run") -> None:
        """Score the base.

        Raises:
            UserError: the reward misbehaves.
            RunStopped: it cannot be scored.
        """

    def run_sets(self, run: "Run", sets: Mapping[int, Sequence[ArmSpec]], until: int) -> None:
        """Train sets of arms, each by its number, to a step; at the last one score them.

        Raises:
            RunStopped: training cannot go on.
            Paused: ``stop_at`` was reached.
        """


@dataclass
class Run:
    """A run, whoever trains its arms."""

    keeper: Keeper
    task: Task
    data: dict[Split, EncodedSplit]
    training: Training
    runner: Runner

    @property
    def base(self) -> BaseModel:
        """The frozen model."""
        return self.keeper.base

    @property
    def config(self) -> TrainConfig:
        """All options."""
        return self.keeper.config

    @property
    def folder(self) -> RunFolder:
        """Where everything is written."""
        return self.keeper.folder

    @property
    def progress(self) -> RunProgress:
        """What the screen shows."""
        return self.keeper.progress

    def train(self, specs: Sequence[ArmSpec], until: int | None = None) -> None:
        """Advance arms to step ``until``, side by side; at the last step (the default) score them and write them out.

        Arms that are done are only read. Which arms go together is pinned in the manifest when they are first named.

        Raises:
            RunStopped: training cannot go on.
            Paused: ``stop_at`` was reached.
        """
        by_name = {spec.name: spec for spec in specs}
        known = {name for names in self.folder.manifest.sets for name in names}
        self.folder.add_sets(self.runner.plan_sets(self, [spec for spec in specs if spec.name not in known]), specs)
        self.progress.expect([spec.name for spec in specs if not self.folder.finished(spec.name)])
        for name in by_name:
            if self.folder.finished(name):
                self.keeper.scores.setdefault(name, self.folder.read_arm(name).score or 0.0)
        sets = {
            number: [by_name[name] for name in names if name in by_name and not self.folder.finished(name)]
            for number, names in enumerate(self.folder.manifest.sets)
        }
        waiting = {number: named for number, named in sets.items() if named}
        self.runner.run_sets(self, waiting, self.config.steps if until is None else until)

    def drop(self, name: str, step: int) -> None:
        """Give up an arm at a rung: it trains no more and is not scored."""
        self.folder.write_arm(name, ArmRecord(arm=arm_of(name), kind="dropped", dropped_at=step, score=None), self.base)
        self.progress.forget(name)

    def adopt(self, name: str, new_name: str) -> None:
        """Let a finished arm stand for another that would be the same run, under that one's name."""
        if not self.folder.finished(new_name):
            self.folder.copy_arm(name, new_name)
            self.folder.write_arm(new_name, self.folder.read_arm(name).changed(arm=new_name, kind=new_name), self.base)

    def selection_score(self, name: str) -> float:
        """Score of a finished arm on the selection problems."""
        return self.folder.read_arm(name).selection_score or 0.0

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
            self.runner.score_base(self)
        scored = read_scores(self.folder.arm(BASE) / "scores.parquet")
        self.keeper.scores[BASE] = scored.score
        problems, completions = len(self.data["test"].problems), len(scored.reward)
        left_out = sum(split.too_long for split in self.data.values())
        note = f" ({left_out} prompts over {self.config.max_prompt_length} tokens left out)" if left_out else ""
        for remark in notes_of(self.task):
            self.progress.say(remark)
        score = self.keeper.scores[BASE]
        self.progress.say(
            f"  score {score:.4f} on {completions} completions of {problems} test problems{note}",
            head=BASE,
        )

    def scorer(self, place: Place, evaluate: Evaluate | None = None) -> Scorer:
        """What scores the base or a set, in this process or by ``evaluate``."""
        cuts = [*self.folder.manifest.cuts]
        return Scorer(self.base, self.task, self.data, self.config, place, cuts, evaluate)

    def set_out(self, number: int, specs: Sequence[ArmSpec], until: int) -> SetUnderWay:
        """Begin, or go on, with a set at the newest state that is kept of it."""
        checkpoints = self.folder.checkpoints(number, self.config.save_total_limit)
        state = checkpoints.load([spec.name for spec in specs])
        for note in state.notes:
            self.progress.say(note, "yellow")
        cuts = self.folder.manifest.cuts
        job = Job(number, specs, until, cuts, state.next_step, state.seconds, state.arms)
        self.progress.start_set(job.names, job.start)
        return SetUnderWay(job, checkpoints, job.start, job.start)

    def arrive(self, under_way: SetUnderWay) -> None:
        """The set has done its job; at the end of the run nothing is kept but the results."""
        if under_way.job.until == self.config.steps:
            under_way.checkpoints.drop()
        self.progress.end_set(under_way.job.names)

    def halve(self, under_way: SetUnderWay, option: Option) -> None:
        """Give up what a set has done since its last state; from the step that failed on it gets half of the rows."""
        self.progress.end_set(under_way.job.names)
        number, step = under_way.job.number, under_way.step
        self.keeper.pin(FewerRows(number, step, halved(option, self.folder.cuts(number, self.config, step))))
