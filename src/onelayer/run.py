"""An open run: the base scored, then arms trained to a step, scored and written, one group of arms after another.

A scan decides which arms come next from the scores of those before (the best layers, the survivors of a rung), so arms
arrive in groups. Every decision is a function of stored scores: a run that continues takes the same ones again.
"""

import itertools
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.markup import escape

from onelayer import episodes
from onelayer.arm import Arm
from onelayer.checkpoints import Checkpoints
from onelayer.config import TrainConfig
from onelayer.errors import GuardTripped, Paused, RunStopped, UserError
from onelayer.files import atomic_path, write_json
from onelayer.folder import RunFolder
from onelayer.graders.grade import FAILURES, failure_sentence
from onelayer.guards import sentences
from onelayer.interrupt import Interrupted, interrupts
from onelayer.lock import locked
from onelayer.loop import Record, Training, run_steps
from onelayer.model import BaseModel
from onelayer.out_of_memory import Option, OutOfMemory, halved, with_fewer_rows
from onelayer.progress import RunProgress
from onelayer.prompts import EncodedSplit
from onelayer.rollout import evaluate
from onelayer.scores import ArmScores, read_scores, write_scores
from onelayer.setup import build_manifest, command_line
from onelayer.specs import ArmSpec, create_arm, plan_sets
from onelayer.tasks.agentic import AgenticTask
from onelayer.tasks.base import Split, Task
from onelayer.tasks.training import BenchmarkTask
from onelayer.tracking import Tracker, open_trackers
from onelayer.trajectories import write_trajectories

T = TypeVar("T")
PAGE_SECONDS = 20.0
"""The page of a running scan is at most written this often."""


@dataclass
class Run:
    """A folder with everything that its arms share."""

    base: BaseModel
    task: Task
    data: dict[Split, EncodedSplit]
    config: TrainConfig
    folder: RunFolder
    training: Training
    progress: RunProgress
    trackers: list[Tracker]
    scores: dict[str, float] = field(default_factory=dict)
    """Mean test score of the base and of every arm that is done."""
    write_page: Callable[[], object] | None = None
    """Writes the page on which the run can be watched."""
    _next_page: float = 0.0
    _failures_said: bool = False
    _step: int = 0
    """The step that the set which trains is at."""

    def train(self, specs: Sequence[ArmSpec], until: int | None = None) -> None:
        """Advance arms to step ``until``, side by side; at the last step (the default) score them and write them out.

        Arms that are done are only read. Which arms go together is pinned in the manifest when they are first named.

        Raises:
            RunStopped: training cannot go on.
            Paused: ``stop_at`` was reached.
        """
        by_name = {spec.name: spec for spec in specs}
        self.folder.add_sets(plan_sets(self.base, self._new(specs), getattr(self.config, "arms_per_set", 0)), specs)
        self.progress.expect([spec.name for spec in specs if not self.folder.finished(spec.name)])
        for name in by_name:
            if self.folder.finished(name):
                self.scores.setdefault(name, self.folder.read_arm(name)["score"])
        for number, names in enumerate(self.folder.manifest["sets"]):
            waiting = [by_name[name] for name in names if name in by_name and not self.folder.finished(name)]
            if waiting:
                self._train_set(number, waiting, self.config.steps if until is None else until)

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

    def _new(self, specs: Sequence[ArmSpec]) -> list[ArmSpec]:
        known = {name for names in self.folder.manifest["sets"] for name in names}
        return [spec for spec in specs if spec.name not in known]

    def _train_set(self, number: int, specs: Sequence[ArmSpec], until: int) -> None:
        checkpoints = self.folder.checkpoints(number, self.config.save_total_limit)
        while True:
            arms = [create_arm(self.base, spec, self.config) for spec in specs]
            start, seconds, notes = checkpoints.load(arms)
            for note in notes:
                self.progress.say(f"[yellow]{escape(note)}[/]")
            self.progress.start_set(arms, start)
            try:
                seconds = self._advance(number, checkpoints, arms, start, until, seconds)
                break
            except OutOfMemory as error:
                option = error.option
            # Half an update may be done: what repeats the step begins at the last state that is known to be whole.
            self.progress.end_set(arms)
            del arms
            self._halve(number, self._step, option)
        self._check(arms)
        if until == self.config.steps:
            self.progress.note(f"scoring {arms[0].name if len(arms) == 1 else f'{len(arms)} arms'}")
            policies = [arm.weights for arm in arms]
            tests = self._test(number, [arm.name for arm in arms], policies)
            selections = self._evaluate(number, "selection", policies)
            for arm, (test, about_test), selection in zip(arms, tests, selections, strict=True):
                self._finish(arm, seconds / len(arms), test, about_test, selection.score)
            checkpoints.drop()
        self.progress.end_set(arms)

    def _advance(
        self, number: int, checkpoints: Checkpoints, arms: Sequence[Arm], start: int, until: int, seconds: float
    ) -> float:
        """Take a set of arms from step ``start`` to ``until``; returns the seconds trained in all.

        Raises:
            OutOfMemory: a batch had too many rows.
            Interrupted: a signal asked to stop; the state is saved.
        """
        began = time.perf_counter() - seconds
        self._step = start

        def after_step(step: int, results: list[tuple[Arm, Record]]) -> None:
            self._record(step, results)
            done = self._step = step + 1
            pause = done == self.config.stop_at and done < self.config.steps
            if done % self.config.save_steps == 0 or done == until or pause or interrupts.asked:
                self._check(arms)
                checkpoints.save(arms, done, time.perf_counter() - began)
            if interrupts.asked:
                raise Interrupted(f"stopped by {interrupts.asked} after step {done}, whose state is saved")
            if pause:
                raise Paused(f"paused after step {done}; continue with --resume")

        stops = [step for step in self.folder.cut_steps(number) if start < step < until]
        with interrupts.finishing_steps(self.config.grace_seconds, self.progress.say), self._noting(arms):
            for first, stop in itertools.pairwise([start, *stops, until]):
                training = self.training.with_config(self.folder.cuts(number, self.config, first))
                run_steps(training, arms, start=first, stop=stop, after_step=after_step)
        return time.perf_counter() - began

    @contextmanager
    def _noting(self, arms: Sequence[Arm]) -> Iterator[None]:
        """Give what ends the run a last row in the arms' metrics, for the report; a continued run cuts it off again."""
        try:
            yield
        except (GuardTripped, UserError) as error:
            guard = error.guard if isinstance(error, GuardTripped) else "reward"
            for arm in arms:
                if arm.stopped is None:
                    row = {"step": self._step, f"guard/{guard}": 1, "stopped": str(error)}
                    self.folder.write_record(arm, row)
            raise

    def _halve(self, place: int | str, step: int, option: Option) -> None:
        """Go on with half of the rows from a step on, and say so."""
        self._pin(place, step, halved(option, self.folder.cuts(place, self.config, step)))

    def _pin(self, place: int | str, step: int, cut: Mapping[str, int]) -> None:
        self.folder.pin_cut(place, step, cut)
        shown = ", ".join(f"{option} is {rows}" for option, rows in cut.items())
        which = "scoring" if step >= self.config.steps or place == "base" else f"step {step}"
        self.progress.say(f"[yellow]out of memory in {which}: from here on {shown}, pinned in the manifest[/]")

    def _record(self, step: int, results: Sequence[tuple[Arm, Record]]) -> None:
        """Write and show the metrics of a step."""
        for arm, record in results:
            self.folder.write_record(arm, record)
            for tracker in self.trackers:
                tracker.log(arm.name, record)
            for sentence in sentences(record):
                self.progress.say(f"[yellow]{escape(sentence)}[/]")
        self.progress.step(step, results)
        self._say_failures(step, results)
        self._refresh_page()

    def _say_failures(self, step: int, results: Sequence[tuple[Arm, Record]]) -> None:
        """Say it, once, when a grader gives no verdict or an environment fails: neither must pass for a wrong answer."""
        completions = self.config.train_batch_size * self.config.num_generations
        for arm, record in results:
            counts: dict[str, int] = {
                reason: round(record.get(f"grader/{reason}", 0.0) * completions) for reason in FAILURES
            }
            sentence, metric = failure_sentence(counts, completions), "grader/..."
            if isinstance(self.task, AgenticTask) and record.get("episode/ended/error"):
                sentence, metric = f"the environment failed: {self.task.pool.failures[-1]}", "episode/ended/error"
            if sentence and not self._failures_said:
                self._failures_said = True
                told = f"{arm.name}, step {step + 1}: {sentence}; metrics.jsonl counts all that follow ({metric})"
                self.progress.say(f"[yellow]{escape(told)}[/]")

    def _refresh_page(self) -> None:
        """Write the page anew now and then, for at most a twentieth of the time."""
        started = time.monotonic()
        if self.write_page and started >= self._next_page:
            try:
                self.write_page()
            except (UserError, RunStopped) as error:
                # Days of training do not end because the page for looking at them cannot be written.
                self.progress.say(f"[yellow]{escape(str(error))}; the page is not written any more while training[/]")
                self.write_page = None
            took = time.monotonic() - started
            self._next_page = started + max(PAGE_SECONDS, 20 * took)

    def _check(self, arms: Sequence[Arm]) -> None:
        self.training.frozen()
        for arm in arms:
            arm.check_moved(self.base)

    def _finish(
        self, arm: Arm, seconds: float, test: ArmScores, about_test: Mapping[str, Any], selection_score: float
    ) -> None:
        """Write the delta of an arm at its end, its scores and, last, its record."""
        arm.save_delta(self.folder.arm(arm.name) / "delta.safetensors", self.base)
        record = {
            "arm": arm_of(arm.name),
            "kind": arm.kind,
            "plan": arm.plan,
            "layer": arm.layer,
            "seed": arm.seed,
            "learning_rate": arm.settings.learning_rate,
            "trained_parameters": arm.num_parameters,
            "seconds": seconds,
            "stopped": arm.stopped,
            "skipped_updates": arm.skipped,
            "selection_score": selection_score,
            "change_norms": arm.change_norms(self.base),
            "first_gradient_norms": arm.first_gradient_norms,
            **self._about_engine(),
            **about_test,
        }
        self._write(arm.name, test, record)
        line = f"[bold]{arm.name}[/]  score {self.scores[arm.name]:.4f}"
        gain, full = self.scores[arm.name] - self.scores["base"], self.scores.get("full")
        line += f" ({gain:+.4f})"
        if arm.kind == "layer" and full is not None and full > self.scores["base"]:
            line += f"  C({arm.layer}) = {gain / (full - self.scores['base']):.2f}"
        self.progress.say(line)

    def score_base(self) -> None:
        """Score the base, once for a folder."""
        if not self.folder.finished("base"):
            self.progress.note("scoring the base")
            ((test, about_test),) = self._test("base", ["base"], [{}])
            (selection,) = self._evaluate("base", "selection", [{}])
            record = {"arm": "base", "kind": "base", "selection_score": selection.score, **about_test}
            self._write("base", test, record)
        scored = read_scores(self.folder.arm("base") / "scores.parquet")
        self.scores["base"] = scored.score
        problems, completions = len(self.data["test"].problems), len(scored.reward)
        left_out = sum(split.too_long for split in self.data.values())
        note = f" ({left_out} prompts over {self.config.max_prompt_length} tokens left out)" if left_out else ""
        for remark in self.task.notes if isinstance(self.task, AgenticTask | BenchmarkTask) else ():
            self.progress.say(escape(remark))
        self.progress.say(
            f"[bold]base[/]  score {self.scores['base']:.4f} on {completions} completions of {problems} "
            f"test problems{note}"
        )

    def _test(
        self, place: int | str, names: Sequence[str], policies: Sequence[Mapping[str, Any]]
    ) -> list[tuple[ArmScores, dict[str, Any]]]:
        """Score arms on the test problems; of a task played in turns also keep some episodes and sum up all."""
        task = self.task
        if not isinstance(task, AgenticTask):
            return [(scores, {}) for scores in self._evaluate(place, "test", policies)]
        results = []
        # One arm after the other: all of them at once would hold an environment for every arm and start state.
        for name, tensors in zip(names, policies, strict=True):
            failed = len(task.pool.failures)
            played = self._played(place, tensors)
            if failures := task.pool.failures[failed:]:
                self.progress.say(escape(f"{name}: {len(failures)} test episodes failed, the first: {failures[0]}"))
            if too_long := played.summary()["episode_ends"].get("too_long"):
                self.progress.say(f"{name}: {too_long:g} test episodes ended at a prompt over max_prompt_length")
            write_trajectories(self.folder.arm(name) / "trajectories.jsonl", played.episodes)
            results.append((played.scores, played.summary()))
        return results

    def _played(self, place: int | str, tensors: Mapping[str, Any]) -> episodes.Played:
        """Let a policy play the test episodes."""
        task = self.task
        assert isinstance(task, AgenticTask)

        def play(config: TrainConfig) -> list[episodes.Played]:
            return episodes.evaluate(self.base, task, self.data["test"], [tensors], config)

        return self._within_memory(place, play)[0]

    def _about_engine(self) -> dict[str, Any]:
        """What ``arm.json`` says of what trained the arm."""
        return {"engine": self.config.engine, "command": command_line()}

    def _evaluate(self, place: int | str, split: Split, policies: Sequence[Mapping[str, Any]]) -> list[ArmScores]:
        return self._within_memory(
            place, lambda config: evaluate(self.base, self.task, self.data[split], policies, config)
        )

    def _within_memory(self, place: int | str, score: Callable[[TrainConfig], T]) -> T:
        """Score with as many rows at once as memory allows."""
        step = self.config.steps
        config = self.folder.cuts(place, self.config, step)
        return with_fewer_rows(score, config, lambda cut: self._pin(place, step, cut))

    def _write(self, name: str, test: ArmScores, record: Mapping[str, Any]) -> None:
        with atomic_path(self.folder.arm(name) / "scores.parquet") as temporary:
            write_scores(temporary, test)
        self.scores[name] = test.score
        if sentence := failure_sentence(test.reasons, len(test.reward)):
            self.progress.say(f"[yellow]{name}, test problems: {sentence}[/]")
        self.folder.write_arm(name, {**record, "reasons": test.reasons, "score": self.scores[name]}, self.base)


def arm_of(name: str) -> str:
    """The arm of a run's name: without the suffix of the seed."""
    return re.sub(r"-seed\d+$", "", name)


def _refuse_other_engines(output: Path, config: TrainConfig) -> None:
    """C(k) compares arms: it would compare engines where these differ."""
    for path in sorted(output.glob("arms/*/arm.json")):
        engine = json.loads(path.read_text(encoding="utf-8")).get("engine", config.engine)
        if engine != config.engine:
            raise UserError(
                f"arm {path.parent.name} of '{output}' was trained by engine {engine}, and this run's is {config.engine}, "
                "so that C(k) would compare engines; go on with the first, or add --mix-engines"
            )


@contextmanager
def open_run(
    base: BaseModel,
    task: Task,
    data: dict[Split, EncodedSplit],
    config: TrainConfig,
    seeds: Sequence[int],
    output: Path,
    console: Console,
    rungs: Sequence[int] = (),
    write_page: Callable[[], object] | None = None,
    make: Callable[..., Run] = Run,
) -> Iterator[Run]:
    """Open a new folder, or with ``resume`` an old one, and score the base.

    ``rungs`` are steps after which every arm is scored on the selection problems, besides those of ``eval_steps``.
    ``make`` is the run of the engine that trains.

    Raises:
        UserError: the folder cannot be used, or the reward function misbehaves; a new folder is then removed again.
    """
    manifest = build_manifest(base, data, config, seeds)
    if config.resume:
        if not output.is_dir():
            raise UserError(f"output '{output}' holds no run that could be resumed: there is no such folder")
    else:
        RunFolder.prepare(output)
    with locked(output) as left_behind, RunProgress(console, config.steps) as progress:
        if config.resume and not config.mix_engines:
            _refuse_other_engines(output, config)
        folder = (RunFolder.resume if config.resume else RunFolder.create)(output, manifest, config)
        for note in ([left_behind] if left_behind else []) + folder.notes:
            progress.say(f"[yellow]{escape(note)}[/]")
        if isinstance(task, BenchmarkTask):
            write_json(folder.path / "task.json", task.description)
        try:
            run = make(
                base,
                task,
                data,
                config,
                folder,
                Training(base, task, data["train"], data["selection"], config, tuple(seeds), tuple(rungs)),
                progress,
                open_trackers(config.report_to, output, config.model_dump()),
                write_page=write_page,
            )
            if config.top_p < 1 or config.top_k > 0:
                progress.say(
                    "[yellow]With top_p or top_k the ratios and the divergence are of the untruncated policy.[/]"
                )
            run.score_base()
        except UserError:
            if not config.resume:
                folder.discard()
            raise
        yield run
        for tracker in run.trackers:
            tracker.close()
