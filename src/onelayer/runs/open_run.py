"""Opening of a run: its folder locked and checked, its manifest written or compared, its base scored."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from onelayer.config.configs import TrainConfig
from onelayer.config.sources import read_yaml
from onelayer.errors import UserError
from onelayer.models.base import BaseModel
from onelayer.runs.engine import Engine, Local
from onelayer.runs.keeper import Keeper
from onelayer.runs.manifest import build_manifest
from onelayer.runs.progress import RunProgress
from onelayer.runs.run import Run
from onelayer.runs.run_folder import RunFolder
from onelayer.runs.tracking import open_trackers
from onelayer.storage.arm_record import ArmRecord
from onelayer.storage.files import write_json
from onelayer.storage.lock import locked
from onelayer.tasks.base import Split, Task
from onelayer.tasks.training import BenchmarkTask
from onelayer.training.loop import Training
from onelayer.training.prompts import EncodedSplit


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
    engine: Engine | None = None,
) -> Iterator[Run]:
    """Open a new folder, or with ``resume`` an old one, and score the base.

    ``rungs`` are steps after which every arm is scored on the selection problems, besides those of ``eval_steps``.
    ``engine`` is what trains; None is the built-in loop in this process.

    Raises:
        UserError: the folder cannot be used, or the reward function misbehaves; a new folder is then removed again.
    """
    engine = engine or Local()
    manifest = build_manifest(base, data, config, seeds).changed(**engine.manifest)
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
            progress.say(note, "yellow")
        if isinstance(task, BenchmarkTask):
            write_json(folder.path / "task.json", task.description)
        try:
            training = Training(base, task, data["train"], data["selection"], config, tuple(seeds), tuple(rungs))
            runner = engine.runner(training, data)
            trackers = open_trackers(config.report_to, output, config.model_dump())
            keeper = Keeper(base, config, folder, progress, trackers, runner.about, write_page)
            run = Run(keeper, task, data, training, runner)
            if config.top_p < 1 or config.top_k > 0:
                progress.say(
                    "With top_p or top_k the ratios and the divergence are of the untruncated policy.", "yellow"
                )
            run.score_base()
        except UserError:
            if not config.resume:
                folder.discard()
            raise
        yield run
        for tracker in keeper.trackers:
            tracker.close()


def _refuse_other_engines(output: Path, config: TrainConfig) -> None:
    """C(k) compares arms: it would compare engines where these differ.

    Raises:
        UserError: an arm was trained by another engine, or arms were begun by one.
    """
    for path in sorted(output.glob("arms/*/arm.json")):
        engine = ArmRecord.read_judged(path).engine or config.engine
        if engine != config.engine:
            raise UserError(
                f"arm {path.parent.name} of '{output}' was trained by engine {engine}, and this run's is {config.engine}, "
                "so that C(k) would compare engines; go on with the first, or add --mix-engines"
            )
    if not any((output / "state").glob("*/step-*.json")):
        return
    began = read_yaml(output / "config.yaml").get("engine", "local")
    if began != config.engine:
        raise UserError(
            f"arms of '{output}' were begun by engine {began}, and this run's is {config.engine}, so that C(k) would "
            "compare engines; go on with the first, or add --mix-engines"
        )
