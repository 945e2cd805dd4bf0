"""Opening of a run: its folder locked and checked, its manifest written or compared, its base scored."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from onelayer.config import TrainConfig
from onelayer.config_sources import read_yaml
from onelayer.engines import Engine, Local
from onelayer.errors import UserError
from onelayer.files import write_json
from onelayer.folder import RunFolder
from onelayer.lock import locked
from onelayer.loop import Training
from onelayer.manifest import build_manifest
from onelayer.model import BaseModel
from onelayer.progress import RunProgress
from onelayer.prompts import EncodedSplit
from onelayer.records import read_kind
from onelayer.run import Run
from onelayer.tasks.base import Split, Task
from onelayer.tasks.training import BenchmarkTask
from onelayer.tracking import open_trackers


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
    manifest = {**build_manifest(base, data, config, seeds), **engine.manifest}
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
            run = engine.make_run(
                base,
                config,
                folder,
                progress,
                open_trackers(config.report_to, output, config.model_dump()),
                write_page,
                task=task,
                data=data,
                training=Training(base, task, data["train"], data["selection"], config, tuple(seeds), tuple(rungs)),
            )
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
        for tracker in run.trackers:
            tracker.close()


def _refuse_other_engines(output: Path, config: TrainConfig) -> None:
    """C(k) compares arms: it would compare engines where these differ.

    Raises:
        UserError: an arm was trained by another engine, or arms were begun by one.
    """
    for path in sorted(output.glob("arms/*/arm.json")):
        engine = read_kind(path).get("engine", config.engine)
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
