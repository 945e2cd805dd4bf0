"""Who keeps what comes out of a run: takes events and writes the run's folder, its trackers, its page and the screen.

Events may come from a set of arms in this process or on another machine; what they turn into is the same.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from onelayer.arm_names import BASE, FULL, arm_of
from onelayer.at_work import Job
from onelayer.checkpoints import Checkpoints
from onelayer.config import TrainConfig
from onelayer.delta_files import DELTA, write_delta
from onelayer.errors import GuardTripped, RunStopped, UserError
from onelayer.events import Cut, Event, Finished, Noted, Reached, Said, Stepped
from onelayer.files import atomic_path
from onelayer.folder import RunFolder
from onelayer.graders.grade import failure_sentence
from onelayer.guards import sentences
from onelayer.model import BaseModel
from onelayer.progress import RunProgress
from onelayer.scores import write_scores
from onelayer.setup import command_line
from onelayer.tracking import Tracker
from onelayer.trajectories import write_trajectories

PAGE_SECONDS = 20.0
"""The page of a running scan is at most written this often."""


@dataclass
class Course:
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
    write_page: Callable[[], object] | None = None
    """Writes the page on which the run can be watched."""
    scores: dict[str, float] = field(default_factory=dict)
    """Mean test score of the base and of every arm that is done."""
    _next_page: float = 0.0

    def take(self, event: Event, course: Course | None = None) -> None:
        """Write and show one event of a set, or of the scoring of the base."""
        match event:
            case Stepped():
                assert course is not None
                self._record(event, course)
            case Reached():
                assert course is not None
                course.checkpoints.save(event.arms, event.next_step, event.seconds)
                course.saved = event.next_step
            case Cut():
                self.pin(event)
            case Said():
                self.progress.say(event.text, "yellow" if event.warns else "")
            case Noted():
                self.progress.note(event.text)
            case Finished():
                self._finish(event)

    def pin(self, cut: Cut) -> None:
        """Pin in the manifest that a batch has fewer rows, and say so."""
        self.folder.pin_cut(cut.place, cut.step, cut.rows)
        shown = ", ".join(f"{option} is {rows}" for option, rows in cut.rows.items())
        which = "scoring" if cut.step >= self.config.steps or cut.place == "base" else f"step {cut.step}"
        self.progress.say(f"out of memory in {which}: from here on {shown}, pinned in the manifest", "yellow")

    def note_end(self, course: Course, error: GuardTripped | UserError) -> None:
        """Give what ends the run a last row in the arms' metrics, for the report; a continued run cuts it off again."""
        guard = error.guard if isinstance(error, GuardTripped) else "reward"
        for name in course.job.names:
            if name not in course.stopped:
                row = {"step": course.step, f"guard/{guard}": 1, "stopped": str(error)}
                self.folder.write_record(name, row)

    def about_engine(self) -> dict[str, Any]:
        """What ``arm.json`` says of what trained the arm."""
        return {"engine": self.config.engine, "command": command_line()}

    def _record(self, event: Stepped, course: Course) -> None:
        """Write and show the metrics of a step."""
        for name, record in event.records:
            self.folder.write_record(name, record)
            for tracker in self.trackers:
                tracker.log(name, record)
            for sentence in sentences(record):
                self.progress.say(sentence, "yellow")
            if record.get("stopped"):
                course.stopped.add(name)
        course.step = event.step + 1
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
        name, record, test = event.name, dict(event.record), event.scores
        folder = self.folder.arm(name)
        if event.trajectories is not None:
            write_trajectories(folder / "trajectories.jsonl", event.trajectories)
        if event.delta is not None:
            write_delta(folder / DELTA, event.delta, self.base, record["plan"])
            record |= self.about_engine()
        with atomic_path(folder / "scores.parquet") as temporary:
            write_scores(temporary, test)
        self.scores[name] = test.score
        if sentence := failure_sentence(test.reasons, len(test.reward)):
            self.progress.say(f"{name}, test problems: {sentence}", "yellow")
        found = {"arm": arm_of(name), **record, "reasons": test.reasons, "score": self.scores[name]}
        self.folder.write_arm(name, found, self.base)
        if event.delta is not None:
            self._say_score(name, record)

    def _say_score(self, name: str, record: Mapping[str, Any]) -> None:
        line = f"  score {self.scores[name]:.4f}"
        gain, full = self.scores[name] - self.scores[BASE], self.scores.get(FULL)
        line += f" ({gain:+.4f})"
        if record["kind"] == "layer" and full is not None and full > self.scores[BASE]:
            line += f"  C({record['layer']}) = {gain / (full - self.scores[BASE]):.2f}"
        self.progress.say(line, head=name)
