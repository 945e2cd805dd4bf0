"""Who keeps what comes out of a run: takes events and writes the run's folder, its trackers, its page and the screen.

Events may come from a set of arms in this process or on another machine; what they turn into is the same.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, assert_never

from onelayer.arms.delta_files import DELTA, write_delta
from onelayer.config.configs import TrainConfig
from onelayer.errors import GuardTripped, RunStopped, UserError
from onelayer.models.base import BaseModel
from onelayer.runs.arm_set import Job
from onelayer.runs.checkpoints import Checkpoints
from onelayer.runs.events import Between, Event, FewerRows, Finished, Noted, Reached, Said, Stepped
from onelayer.runs.inputs import command_line
from onelayer.runs.progress import RunProgress
from onelayer.runs.run_folder import RunFolder
from onelayer.runs.tracking import Tracker
from onelayer.runs.trajectories import write_trajectories
from onelayer.storage.arm_names import BASE, FULL, arm_of
from onelayer.storage.arm_record import ArmRecord
from onelayer.storage.files import atomic_path
from onelayer.storage.scores import write_scores
from onelayer.tasks.graders.grade import failure_sentence
from onelayer.training.guards import sentences

PAGE_SECONDS = 20.0
"""The page of a running scan is at most written this often."""


@dataclass
class SetUnderWay:
    """A set of arms under way, as far as its keeper knows."""

    job: Job
    checkpoints: Checkpoints
    step: int
    """The step that comes next, or is being done."""
    saved: int
    """The step of the newest state that is kept."""
    stopped: set[str] = field(default_factory=set)
    """Arms that a guard has stopped."""


@dataclass
class Keeper:
    """A run's folder and everything else that shows or stores what its arms do."""

    base: BaseModel
    config: TrainConfig
    folder: RunFolder
    progress: RunProgress
    trackers: list[Tracker]
    about_engine: Callable[[], Mapping[str, Any]]
    """What ``arm.json`` says of what trained an arm, besides the engine's name."""
    write_page: Callable[[], object] | None = None
    """Writes the page on which the run can be watched."""
    scores: dict[str, float] = field(default_factory=dict)
    """Mean test score of the base and of every arm that is done."""
    _next_page: float = 0.0

    def take(self, event: Event, under_way: SetUnderWay | None = None) -> None:
        """Write and show one event of a set, or of the scoring of the base."""
        match event:
            case Stepped():
                assert under_way is not None
                self._record(event, under_way)
            case Reached():
                assert under_way is not None
                under_way.checkpoints.save(event.arms, event.next_step, event.seconds)
                under_way.saved = event.next_step
            case FewerRows():
                self.pin(event)
            case Said():
                self.progress.say(event.text, "yellow" if event.warns else "")
            case Noted():
                self.progress.note(event.text)
            case Finished():
                self._finish(event)
            case Between():
                pass  # for whoever may stop the set there
            case _:
                assert_never(event)

    def pin(self, cut: FewerRows) -> None:
        """Pin in the manifest that a batch has fewer rows, and say so."""
        self.folder.pin_cut(cut.place, cut.step, cut.rows)
        shown = ", ".join(f"{option} is {rows}" for option, rows in cut.rows.items())
        which = "scoring" if cut.step >= self.config.steps or cut.place == "base" else f"step {cut.step}"
        self.progress.say(f"out of memory in {which}: from here on {shown}, pinned in the manifest", "yellow")

    def note_end(self, under_way: SetUnderWay, error: GuardTripped | UserError) -> None:
        """Give what ends the run a last row in the arms' metrics, for the report; a continued run cuts it off again."""
        guard = error.guard if isinstance(error, GuardTripped) else "reward"
        for name in under_way.job.names:
            if name not in under_way.stopped:
                row = {"step": under_way.step, f"guard/{guard}": 1, "stopped": str(error)}
                self.folder.write_record(name, row)

    def _record(self, event: Stepped, under_way: SetUnderWay) -> None:
        """Write and show the metrics of a step."""
        for name, record in event.records:
            self.folder.write_record(name, record)
            for tracker in self.trackers:
                tracker.log(name, record)
            for sentence in sentences(record):
                self.progress.say(sentence, "yellow")
            if record.get("stopped"):
                under_way.stopped.add(name)
        under_way.step = event.step + 1
        self.progress.step(event.step, event.records)
        self._refresh_page()

    def _refresh_page(self) -> None:
        """Write the page anew now and then, for at most a twentieth of the time."""
        started = time.monotonic()
        if self.write_page and started >= self._next_page:
            try:
                self.write_page()
            except (UserError, RunStopped) as error:
                # Days of training do not end because the page for looking at them cannot be written.
                self.progress.say(f"{error}; the page is not written any more while training", "yellow")
                self.write_page = None
            took = time.monotonic() - started
            self._next_page = started + max(PAGE_SECONDS, 20 * took)

    def _finish(self, event: Finished) -> None:
        """Write the delta of an arm at its end, its scores and, last, its record."""
        name, record, test = event.name, event.record, event.scores
        folder = self.folder.arm(name)
        if event.trajectories is not None:
            write_trajectories(folder / "trajectories.jsonl", event.trajectories)
        if event.delta is not None:
            assert record.plan is not None
            write_delta(folder / DELTA, event.delta, self.base, record.plan)
            record = record.changed(engine=self.config.engine, command=command_line(), **self.about_engine())
        with atomic_path(folder / "scores.parquet") as temporary:
            write_scores(temporary, test)
        self.scores[name] = test.score
        if sentence := failure_sentence(test.reasons, len(test.reward)):
            self.progress.say(f"{name}, test problems: {sentence}", "yellow")
        scored = {"arm": arm_of(name), "reasons": test.reasons, "score": self.scores[name]}
        self.folder.write_arm(name, record.changed(**scored), self.base)
        if event.delta is not None:
            self._say_score(name, record)

    def _say_score(self, name: str, record: ArmRecord) -> None:
        line = f"  score {self.scores[name]:.4f}"
        gain, full = self.scores[name] - self.scores[BASE], self.scores.get(FULL)
        line += f" ({gain:+.4f})"
        if record.kind == "layer" and full is not None and full > self.scores[BASE]:
            line += f"  C({record.layer}) = {gain / (full - self.scores[BASE]):.2f}"
        self.progress.say(line, head=name)
