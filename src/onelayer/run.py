"""Run a list of arms to the end: score the base, train set after set, score every arm, write what is left of each."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from onelayer.arm import Arm
from onelayer.config import TrainConfig
from onelayer.errors import RunStopped, UserError
from onelayer.files import atomic_path, write_json
from onelayer.folder import RunFolder
from onelayer.loop import Record, Training, run_steps
from onelayer.model import BaseModel
from onelayer.progress import RunProgress
from onelayer.prompts import EncodedSplit
from onelayer.rollout import evaluate
from onelayer.scores import ArmScores, read_scores, write_scores
from onelayer.setup import ArmSpec, build_manifest, create_arm
from onelayer.tasks.base import Split, Task
from onelayer.tracking import Tracker, open_trackers


class Paused(Exception):
    """The run stopped on purpose after ``stop_at`` steps."""


@dataclass
class Run:
    """Everything that a run works with."""

    base: BaseModel
    task: Task
    data: dict[Split, EncodedSplit]
    config: TrainConfig
    specs: Sequence[ArmSpec]
    console: Console
    scores: dict[str, ArmScores] = field(default_factory=dict)
    """Test scores of the base and of every arm that is done."""

    @property
    def base_score(self) -> float:
        """Mean test score of the base."""
        return float(np.mean(self.scores["base"].reward))

    @property
    def full_score(self) -> float | None:
        """Mean test score of the first seed's full arm, once it is known."""
        return float(np.mean(self.scores["full"].reward)) if "full" in self.scores else None


def run_arms(run: Run, output: Path) -> RunFolder:
    """Train and score every arm of ``run`` in ``output``; continue there when the configuration says so.

    Raises:
        UserError: the folder cannot be used, or the reward function misbehaves.
        RunStopped: training cannot go on.
        Paused: ``stop_at`` was reached.
    """
    manifest = build_manifest(run.base, run.data, run.config, run.specs)
    if run.config.resume:
        folder, manifest = RunFolder.resume(output, manifest)
    else:
        folder = RunFolder.create(output, manifest, run.config)
    started = False
    try:
        trackers = open_trackers(run.config.report_to, output, run.config.model_dump())
        specs = {spec.name: spec for spec in run.specs}
        finished = [name for name in specs if folder.finished(name)]
        with RunProgress(run.console, len(specs), run.config.steps, len(finished)) as progress:
            _score_base(run, folder, progress)
            started = True
            training = Training(
                run.base,
                run.task,
                run.data["train"],
                run.data["selection"],
                run.config,
                tuple(sorted({spec.seed for spec in run.specs})),
            )
            for names in manifest["sets"]:
                _run_set(run, folder, training, [specs[name] for name in names], progress, trackers)
        for tracker in trackers:
            tracker.close()
    except UserError:
        # Wrong input that shows only when the first completions are scored: leave nothing half-written.
        if not started and not run.config.resume:
            folder.discard()
        raise
    return folder


def _score_base(run: Run, folder: RunFolder, progress: RunProgress) -> None:
    path = folder.arm("base") / "scores.parquet"
    if folder.finished("base"):
        run.scores["base"] = read_scores(path)
    else:
        test, selection = (
            evaluate(run.base, run.task, run.data[split], [{}], run.config)[0] for split in ("test", "selection")
        )
        run.scores["base"] = test
        _write_scores(
            folder,
            "base",
            test,
            {"arm": "base", "kind": "base", "selection_score": float(np.mean(selection.reward))},
            run,
        )
    progress.say(f"[bold]base[/]  score {run.base_score:.4f} on {_extent(run)}")


def _run_set(
    run: Run,
    folder: RunFolder,
    training: Training,
    specs: Sequence[ArmSpec],
    progress: RunProgress,
    trackers: Sequence[Tracker],
) -> None:
    """Train a set of arms to the end in lockstep, then score and write each. A set that is done is only read."""
    waiting = [spec for spec in specs if not folder.finished(spec.name)]
    for spec in specs:
        if spec not in waiting:
            run.scores[spec.name] = read_scores(folder.arm(spec.name) / "scores.parquet")
    if not waiting:
        return
    arms = [create_arm(run.base, spec, run.config) for spec in specs]
    start = folder.load_checkpoint(arms)
    progress.start_set(arms, start)
    began = time.perf_counter()

    def after_step(step: int, results: list[tuple[Arm, Record]]) -> None:
        for arm, record in results:
            folder.write_record(arm, record)
            for tracker in trackers:
                tracker.log(arm.name, record)
            if arm.stopped:
                progress.say(f"[yellow]{arm.stopped}[/]")
        progress.step(step, results)
        done = step + 1
        pause = done == run.config.stop_at and done < run.config.steps
        if done % run.config.save_steps == 0 or done == run.config.steps or pause:
            _check(run.base, training, arms)
            folder.save_checkpoint(arms, done)
        if pause:
            raise Paused(f"paused after step {done}; continue with --resume")

    try:
        run_steps(training, arms, start=start, after_step=after_step)
    except RunStopped:
        # What was learned up to here may be wanted: the last good state stays on disk.
        raise
    _check(run.base, training, arms)
    seconds = (time.perf_counter() - began) / len(arms)
    for arm in arms:
        _finish(run, folder, arm, seconds, progress)
    folder.drop_checkpoint(arms)
    progress.end_set(arms)


def _check(base: BaseModel, training: Training, arms: Sequence[Arm]) -> None:
    training.frozen()
    for arm in arms:
        arm.check_moved(base)


def _finish(run: Run, folder: RunFolder, arm: Arm, seconds: float, progress: RunProgress) -> None:
    """Score an arm at its end and write its delta, its scores and, last, its record."""
    test, selection = (
        evaluate(run.base, run.task, run.data[split], [arm.weights], run.config)[0] for split in ("test", "selection")
    )
    run.scores[arm.name] = test
    arm.save_delta(folder.arm(arm.name) / "delta.safetensors", run.base)
    record = {
        "arm": re.sub(r"-seed\d+$", "", arm.name),
        "kind": arm.kind,
        "plan": arm.plan,
        "layer": arm.layer,
        "seed": arm.seed,
        "trained_parameters": arm.num_parameters,
        "seconds": seconds,
        "stopped": arm.stopped,
        "selection_score": float(np.mean(selection.reward)),
        "change_norms": arm.change_norms(run.base),
    }
    _write_scores(folder, arm.name, test, record, run)
    result = float(np.mean(test.reward))
    line = f"[bold]{arm.name}[/]  score {result:.4f} ({result - run.base_score:+.4f})"
    if run.full_score is not None and arm.kind == "layer" and run.full_score > run.base_score:
        line += f"  C({arm.layer}) = {(result - run.base_score) / (run.full_score - run.base_score):.2f}"
    progress.say(line)


def _write_scores(folder: RunFolder, name: str, scores: ArmScores, record: Mapping[str, Any], run: Run) -> None:
    with atomic_path(folder.arm(name) / "scores.parquet") as temporary:
        write_scores(temporary, scores)
    write_json(
        folder.arm(name) / "arm.json",
        {
            "name": name,
            **record,
            "base_model": run.base.name,
            "revision": run.base.revision,
            "base_hash": run.base.hash,
            "score": float(np.mean(scores.reward)),
        },
    )


def _extent(run: Run) -> str:
    data = run.data["test"]
    left_out = sum(split.too_long for split in run.data.values())
    note = f" ({left_out} prompts over {run.config.max_prompt_length} tokens left out)" if left_out else ""
    samples = run.config.eval_num_samples
    return f"{len(data.problems)} test problems x {samples} sample{'s' * (samples > 1)}{note}"
