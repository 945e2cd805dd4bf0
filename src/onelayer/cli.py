"""The commands: parse, call, print."""

import dataclasses
import logging
import sys
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import click
from rich.console import Console

from onelayer import __version__
from onelayer.cli_about import completion, doctor
from onelayer.config import BenchmarkConfig, ModelConfig, ScanConfig, TrainConfig
from onelayer.errors import Paused, RunStopped, UserError
from onelayer.files import why
from onelayer.graders.math_text import RULES, Rule
from onelayer.interrupt import interrupts
from onelayer.lock import locked
from onelayer.options import SETTINGS, build_config, config_options
from onelayer.reproduction.command import reproduce

GO_ON = "a run continues from its last state with --resume, on a machine with more of it"
NO_ROOM = ("failed to map segment", "annot allocate memory")
"""What the loader of libraries says where there is no memory for one."""


@click.group(context_settings=SETTINGS, invoke_without_command=True)
@click.version_option(__version__, prog_name="onelayer")
@click.pass_context
def cli(context: click.Context) -> None:
    """Find out which layers of a language model are worth training with reinforcement learning, and train them."""
    _help_without_command(context)


@cli.command(context_settings=SETTINGS)
@config_options(ScanConfig)
def scan(config_file: str | None, preset: str | None, **flags: Any) -> None:
    """Profile a model: train everything, and every layer alone, and compare.

    \b
    Without arguments: the bundled Qwen3 model on the arithmetic task, minutes on a CPU.
    Example: onelayer scan --model bundled:qwen2.5-arithmetic --task arithmetic --layers every:2 --seeds 2 --output runs/a
    """
    from onelayer.scanning import scan as run_scan

    console = Console()
    config = build_config(ScanConfig, flags, config_file, preset, default_task="arithmetic")
    run_scan(config, _output(config, "scan"), console)


@cli.command(context_settings=SETTINGS)
@config_options(TrainConfig)
def train(config_file: str | None, preset: str | None, **flags: Any) -> None:
    """Train one arm: what --layers PLAN says.

    Example: onelayer train --task arithmetic --layers mid:2 --output runs/mid2
    """
    from onelayer.scanning import train as run_train

    console = Console()
    config = build_config(TrainConfig, flags, config_file, preset, default_task="arithmetic")
    run_train(config, _output(config, "train"), console)


@cli.command(context_settings=SETTINGS)
@click.argument("plan", required=False)
@config_options(TrainConfig)
def plan(plan: str | None, config_file: str | None, preset: str | None, **flags: Any) -> None:
    """Show what a plan would train, and about what it would cost, without training and without weights.

    PLAN is by default all layers; the first and the last layer alone stand beside it in the table of costs.

    \b
    Example: onelayer plan "all,mid:2*2" --model bundled:qwen3-arithmetic --task arithmetic
    Example: onelayer plan --preset qwen3-1.7b-numinamath
    """
    from onelayer.architectures import outline_model
    from onelayer.cost import cost_table
    from onelayer.plan_table import plan_table
    from onelayer.specs import choice_notes, spec_of

    flags["layers"] = plan
    config = build_config(TrainConfig, flags, config_file, preset, default_task="arithmetic")
    base = outline_model(config)
    console = Console()
    spec = spec_of(base, config.layers, config.seed)
    console.print(plan_table(base, spec, config.learning_rate))
    beside = [spec_of(base, str(layer), config.seed) for layer in (0, base.num_layers - 1)]
    scan = [spec_of(base, each, config.seed) for each in ("all", *map(str, range(base.num_layers)))]
    console.print(cost_table(base, [spec, *(each for each in beside if each.name != spec.name)], config, scan))
    for note in choice_notes(config.layers):
        console.print(note, style="dim")


@cli.command("eval", context_settings=SETTINGS)
@config_options(BenchmarkConfig)
def evaluate(config_file: str | None, preset: str | None, **flags: Any) -> None:
    """Score a model or a delta on benchmarks: avg@k, pass@k and the rate of completions that were cut off.

    A delta is put on its base for the time of scoring; no checkpoint is written. With --scan all arms of a scan are
    scored, and C(k) is judged on the benchmarks: with several categories as the mean of category averages, C_all.

    \b
    Example: onelayer eval --scan runs/a --benchmarks math500,humaneval
    Example: onelayer eval --delta runs/a/arms/layer-03 --benchmarks math500,amc --harness gpqa_diamond_zeroshot
    """
    from onelayer.evaluation import evaluate_model
    from onelayer.scan_evaluation import evaluate_scan

    config = build_config(BenchmarkConfig, flags, config_file, preset)
    default = Path("runs") / f"eval-{datetime.now():%Y%m%d-%H%M%S}"
    (evaluate_scan if config.scan else evaluate_model)(config, Path(config.output or default), Console())


@cli.command(context_settings=SETTINGS)
@click.argument("delta", type=click.Path())
@config_options(ModelConfig)
@click.option("--output", required=True, metavar="DIR", help="new folder, with a model card, ready to be pushed")
@click.option("--delta-only", is_flag=True, help="write the delta and its card, no checkpoint")
def merge(delta: str, output: str, delta_only: bool, config_file: str | None, preset: str | None, **flags: Any) -> None:
    """Write a plain Hugging Face checkpoint of the base with a delta in place, with a model card.

    The base is the one that the delta names, unless --model says otherwise. DELTA is a delta.safetensors or its folder.

    Example: onelayer merge runs/a/arms/layer-03 --output runs/merged
    """
    from onelayer.arm import load_delta, read_delta_header
    from onelayer.arm import merge as merge_delta
    from onelayer.card import Origin, model_card
    from onelayer.deltas import copy_delta, delta_file
    from onelayer.setup import command_line, load_model

    path = delta_file(delta)
    header = read_delta_header(path)
    card = model_card(header, Origin.of(path), command=command_line() or "onelayer merge", merged=not delta_only)
    if delta_only:
        copy_delta(path, Path(output), card)
    else:
        if flags["model"] is None:
            flags["model"], flags["revision"] = header["base_model"], flags["revision"] or header["revision"]
        base = load_model(build_config(ModelConfig, flags, config_file, preset))
        merge_delta(load_delta(path, base), base, Path(output), card)
    click.echo(f"{'delta' if delta_only else 'merged checkpoint'}: {output}")


@cli.group(context_settings=SETTINGS, invoke_without_command=True)
@click.pass_context
def export(context: click.Context) -> None:
    """Write a plan and its settings for another trainer.

    Example: onelayer export verl --plan mid:5 --preset qwen3-1.7b-numinamath --output verl-mid5
    """
    _help_without_command(context)


@export.command(context_settings=SETTINGS)
@click.option("--plan", required=True, metavar="PLAN", help="what trains, as in onelayer plan")
@config_options(TrainConfig)
@click.option("--gpus", default=8, show_default=True, help="GPUs of a machine")
@click.option("--train-files", default="train.parquet", show_default=True, help="training data in verl's format")
@click.option("--val-files", default="test.parquet", show_default=True, help="validation data in verl's format")
def verl(
    plan: str,
    gpus: int,
    train_files: str,
    val_files: str,
    config_file: str | None,
    preset: str | None,
    **flags: Any,
) -> None:
    """Write a Hydra configuration for verl, and the hook that freezes its FSDP workers by the plan.

    Example: onelayer export verl --plan mid:5 --preset qwen3-1.7b-numinamath --output verl-mid5
    """
    from onelayer.architectures import outline_model
    from onelayer.engines.verl_export import export as export_verl
    from onelayer.specs import spec_of

    if flags["layers"] is not None:
        raise UserError("export verl takes --plan in the place of --layers")
    config = build_config(TrainConfig, {**flags, "layers": plan}, config_file, preset)
    if config.output is None:
        raise UserError("export verl needs --output: a new folder for job.yaml, run.sh and the hook")
    base = outline_model(config)
    spec = spec_of(base, plan, config.seed)
    output = Path(config.output)
    export_verl(config, base, spec, output, gpus=gpus, train_files=train_files, val_files=val_files)
    click.echo(f"{len(spec.rates)} of {len(base.parts)} tensors train\nstart with: sh {output}/run.sh")


@cli.command(context_settings=SETTINGS)
@click.argument("folders", nargs=-1, required=True, type=click.Path(), metavar="DIR...")
@click.option("--output", default=None, metavar="DIR", help="folder for a report on several scans")
def report(folders: tuple[str, ...], output: str | None) -> None:
    """Write profile.json and report.html again from the stored scores.

    Example: onelayer report runs/a
    """
    from onelayer.judge import judge_scan
    from onelayer.report import terminal
    from onelayer.report.html import write_report

    console = Console()
    for folder in folders:
        profile, files = judge_scan(Path(folder))
        console.print(terminal.render(profile))
        console.print(f"report: {files.html}", soft_wrap=True)
    if len(folders) > 1:
        files = write_report([Path(folder) for folder in folders], Path(output) if output else None)
        console.print(f"report on all: {files.html}", soft_wrap=True)


@cli.command(context_settings=SETTINGS)
@click.argument("scores", type=click.Path(), metavar="SCORES.csv")
@click.option("--output", required=True, metavar="DIR", help="new folder for profile.json and report.html")
@click.option("--num-layers", type=int, default=None, help="layers of the model [default: highest in the file + 1]")
@click.option("--score-sd", type=float, default=None, help="standard deviation of an average, for files of averages")
@click.option("--score-range", nargs=2, type=float, default=None, metavar="LOW HIGH", help="possible scores")
@click.option(
    "--categories", default=None, help="Math=gsm8k,math500;Code=humaneval: judge the mean of category averages (C_all)"
)
@click.option("--model", default="measured elsewhere", help="the model's name, for the report")
@click.option("--task", default=None, help="the task's name, for the report [default: the file's]")
def contribution(scores: str, output: str, categories: str | None, **options: Any) -> None:
    """Judge scores that were measured elsewhere.

    SCORES.csv is wide (setting,layer,<benchmark>,...: one row for Base, Full and each layer) or long
    (setting,layer,seed,problem,sample,score).

    Example: onelayer contribution scores.csv --score-sd 0.4 --output runs/published
    """
    from onelayer.elsewhere import judge_csv, parse_categories
    from onelayer.report import terminal

    console = Console()
    named = parse_categories(categories) if categories else None
    profile, files = judge_csv(Path(scores), Path(output), categories=named, **options)
    console.print(terminal.render(profile))
    console.print(f"\nresults: {output}\nreport:  {files.html}", soft_wrap=True, highlight=False)


@cli.command(context_settings=SETTINGS)
@click.argument("folders", nargs=-1, required=True, type=click.Path(), metavar="DIR DIR...")
@click.option("--output", required=True, metavar="DIR", help="folder for the report on all")
@click.option("--across-tasks", is_flag=True, help="compare profiles of different tasks")
@click.option("--seed", type=int, default=0, help="of permutations and resamples")
def compare(folders: tuple[str, ...], output: str, across_tasks: bool, seed: int) -> None:
    """Compare profiles: rank correlations, overlap of the best layers, stability under other problems.

    Example: onelayer compare runs/a runs/b --output runs/a-and-b
    """
    from onelayer.elsewhere import compare_profiles
    from onelayer.tables import comparison_tables

    console = Console()
    result, files = compare_profiles([Path(f) for f in folders], Path(output), across_tasks=across_tasks, seed=seed)
    console.print(comparison_tables(result))
    console.print(f"\nreport: {files.html}", soft_wrap=True, highlight=False)


@cli.command(context_settings=SETTINGS)
@click.argument("folder", type=click.Path(file_okay=False), metavar="DIR")
@click.option("--layers", default="best:3", metavar="PLAN", help="which layers' deltas [default: best:3]")
def stitch(folder: str, layers: str) -> None:
    """Put the deltas of single-layer arms into one model, without training, and score it.

    Example: onelayer stitch runs/a --layers best:3
    """
    from onelayer.combine import FinishedScan
    from onelayer.combine import stitch as stitch_deltas
    from onelayer.judge import judge_scan

    scan = FinishedScan.open(Path(folder))
    with locked(Path(folder)):
        name, result = stitch_deltas(scan, layers)
        _, files = judge_scan(Path(folder))
    low, high = result.excess_ci or (None, None)
    interval = "" if low is None else f" (95 % interval {low:+.4f} to {high:+.4f})"
    click.echo(
        f"{name}: gain {result.combined_difference:+.4f} over the base; the single layers' gains add up to "
        f"{result.sum_of_differences:+.4f}; difference {result.excess:+.4f}{interval}"
    )
    click.echo(f"delta:  {Path(folder) / 'arms' / name / 'delta.safetensors'}\nreport: {files.html}")


@cli.command(context_settings=SETTINGS)
@click.argument("folder", type=click.Path(file_okay=False), metavar="DIR")
@click.option("--k", default=7, help="how many of the best layers vote [default: 7]")
@click.option("--temperature", default=1.0, help="of every answer [default: 1.0]")
def vote(folder: str, k: int, temperature: float) -> None:
    """Let the best single-layer arms vote, against as many samples from full training.

    Example: onelayer vote runs/a --k 5
    """
    from onelayer.combine import FinishedScan
    from onelayer.combine import vote as hold_vote
    from onelayer.files import write_json
    from onelayer.tables import vote_tables

    result = hold_vote(FinishedScan.open(Path(folder)), k, temperature)
    path = Path(folder) / "vote.json"
    write_json(path, dataclasses.asdict(result))
    console = Console()
    console.print(vote_tables(result))
    console.print(f"\nresults: {path}", soft_wrap=True, highlight=False)


@cli.command(context_settings=SETTINGS)
@click.argument("file", type=click.Path(), metavar="FILE.jsonl")
@click.option("--grader", type=click.Choice(["math", "code"]), required=True, help="what the completions are")
@click.option("--output", required=True, metavar="OUT.jsonl", help="the rows again, with reward and reason")
@click.option("--rule", type=click.Choice(RULES), default=None, help="math: where the answer stands [default: auto]")
@click.option("--strict", is_flag=True, help="math: an answer anywhere else counts as none")
@click.option("--require-sandbox", is_flag=True, help="code: refuse to run programs unless every protection holds")
def grade(
    file: str, grader: Literal["math", "code"], output: str, rule: Rule | None, strict: bool, require_sandbox: bool
) -> None:
    """Grade finished answers: rows of completion and answer (math), or of completion and tests (code).

    Example: onelayer grade answers.jsonl --grader math --rule boxed --output graded.jsonl
    """
    from onelayer.graders.grade_file import grade_file

    if grader == "code" and (rule or strict):
        raise UserError("--rule and --strict are for --grader math: programs have no place where an answer stands")
    if grader == "math" and require_sandbox:
        raise UserError("--require-sandbox is for --grader code: the math grader runs no programs")
    counts = grade_file(
        Path(file), grader, Path(output), rule=rule or "auto", strict=strict, require_sandbox=require_sandbox
    )
    for reason, count in counts.items():
        click.echo(f"{reason:<12} {count:>9,}")
    click.echo(f"\nresults: {output}")


@cli.command("alfworld-games", context_settings=SETTINGS)
@click.option("--number", type=int, default=100, show_default=True, help="training games")
@click.option("--output", required=True, metavar="DIR", help="folder for json_2.1.1; set ALFWORLD_DATA to it to play")
@click.option("--seed", type=int, default=0, show_default=True, help="of everything that is drawn")
@click.option(
    "--held-out", type=int, default=None, help="games in each validation split [default: an eighth, at least 6]"
)
@click.option(
    "--min-receptacles", type=int, default=1, show_default=True, help="least furniture of a room; official 20+"
)
def alfworld_games(number: int, output: str, seed: int, held_out: int | None, min_receptacles: int) -> None:
    """Write new ALFWorld games with the engine's own domain and grammar, each won by its expert plan.

    Example: onelayer alfworld-games --number 60 --output games && ALFWORLD_DATA=games onelayer train --task alfworld
    """
    from onelayer.environments.alfworld_games import write_games

    written = write_games(number, Path(output), seed, held_out=held_out, min_receptacles=min_receptacles)
    for kind, count in sorted(written.task_types.items()):
        click.echo(f"{count:5d}  {kind}")
    click.echo(
        f"games: {', '.join(f'{count} {split}' for split, count in written.games.items())}; "
        f"{written.receptacles[0]} to {written.receptacles[1]} receptacles, "
        f"expert plans of {written.steps[0]} to {written.steps[1]} steps"
    )
    click.echo(f"export ALFWORLD_DATA={written.folder}")


cli.add_command(doctor)
cli.add_command(completion)
cli.add_command(reproduce)


class _Announcements(logging.Handler):
    """Prints what the package logs, such as the sandbox's protections."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(self.format(record))


def _help_without_command(context: click.Context) -> None:
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def _output(config: TrainConfig, command: str) -> Path:
    if config.output is not None:
        return Path(config.output)
    if config.resume:
        raise UserError("--resume needs --output: the folder of the run to continue")
    task = config.task or Path(config.dataset or "").stem
    return Path("runs") / f"{command}-{task}-{datetime.now():%Y%m%d-%H%M%S}"


def main() -> None:
    """Run a command. Exit codes: 0 done, 1 failed, 2 the user's input is wrong (one sentence on stderr)."""
    logger = logging.getLogger("onelayer")
    logger.handlers = [_Announcements(logging.INFO)]
    logger.setLevel(logging.INFO)
    try:
        with interrupts:
            cli(prog_name="onelayer", standalone_mode=False)
    except UserError as error:
        _fail(str(error), 2)
    except click.ClickException as error:
        _fail(" ".join(error.format_message().split()), 2)
    except RunStopped as error:
        _fail(str(error), 1)
    except Paused as note:
        click.echo(str(note))
    except (KeyboardInterrupt, click.exceptions.Abort) as error:
        # click raises its own exception from the one that says which signal it was.
        _fail(f"{str(error.__cause__ or error) or 'interrupted'}; a run continues from its last state with --resume", 1)
    except MemoryError:
        _fail(f"out of memory; {GO_ON}", 1)
    except (ImportError, SystemError) as error:
        # What C code makes of a lack of memory: a library that cannot be mapped, an error without a name.
        if isinstance(error, ImportError) and not any(sign in str(error) for sign in NO_ROOM):
            raise
        _fail(f"Python itself failed ({error}), as it does when memory runs out; {GO_ON}", 1)
    except OSError as error:
        # What is read and written has its own sentences; here is what anything else of the system refused.
        where = f"'{error.filename}': " if error.filename else ""
        _fail(f"{where}{why(error)}", 1)


def _fail(sentence: str, code: int) -> None:
    # Names and data come from anywhere: what steers a terminal is shown, not obeyed.
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in sentence)
    click.echo(f"error: {shown}", err=True)
    sys.exit(code)
