"""The commands: parse, call, print. Those on results are in cli_results.py."""

import json
import logging
import sys
from pathlib import Path
from typing import Any, Literal

import click

from onelayer.arms.plan import SYNTAX
from onelayer.commands.cli_results import compare, contribution, report, stitch, vote
from onelayer.commands.flags import RUNS, SETTINGS, build_config, config_options, default_output
from onelayer.commands.reproduction.command import reproduce
from onelayer.config.configs import BenchmarkConfig, ScanConfig, TrainConfig
from onelayer.config.model import ModelConfig
from onelayer.errors import Paused, RunStopped, UserError
from onelayer.runs.interrupt import interrupts
from onelayer.storage.files import why
from onelayer.storage.screen import Screen, accept_every_character, echo, echo_own
from onelayer.tasks.graders.math_text import RULES, Rule
from onelayer.version import __version__

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
    from onelayer.commands.scan import scan as run_scan

    console = Screen()
    config = build_config(ScanConfig, flags, config_file, preset, default_task="arithmetic")
    run_scan(config, _output(config, "scan"), console)


@cli.command(context_settings=SETTINGS)
@config_options(TrainConfig)
def train(config_file: str | None, preset: str | None, **flags: Any) -> None:
    """Train one arm: what --layers PLAN says.

    Example: onelayer train --task arithmetic --layers mid:2 --output runs/mid2
    """
    from onelayer.commands.scan import train as run_train

    console = Screen()
    config = build_config(TrainConfig, flags, config_file, preset, default_task="arithmetic")
    run_train(config, _output(config, "train"), console)


PLAN_HELP = f"""Show what a plan would train, and about what it would cost, without training and without weights.

PLAN is by default all layers; the first and the last layer alone stand beside it in the table of costs. It is a list of
items with commas between them; where two name the same tensors, the later wins:

\b
{SYNTAX}
\b
Example: onelayer plan "all,mid:2*2" --model bundled:qwen3-arithmetic --task arithmetic
Example: onelayer plan --preset qwen3-1.7b-numinamath
"""


@cli.command(context_settings=SETTINGS, help=PLAN_HELP)
@click.argument("plan", required=False)
@config_options(TrainConfig)
def plan(plan: str | None, config_file: str | None, preset: str | None, **flags: Any) -> None:
    """Show what a plan would train, and about what it would cost."""
    from onelayer.arms.spec import spec_of
    from onelayer.commands.cost import cost_table
    from onelayer.judging.profile import choice_notes
    from onelayer.models.architectures import outline_model
    from onelayer.report.plan_table import plan_table

    flags["layers"] = plan
    config = build_config(TrainConfig, flags, config_file, preset, default_task="arithmetic")
    base = outline_model(config)
    console = Screen()
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
    from onelayer.evaluation.evaluate_model import evaluate_model
    from onelayer.evaluation.evaluate_scan import evaluate_scan

    config = build_config(BenchmarkConfig, flags, config_file, preset)
    output = Path(config.output or default_output("eval"))
    (evaluate_scan if config.scan else evaluate_model)(config, output, Screen())


@cli.command(context_settings=SETTINGS)
@click.argument("delta", type=click.Path())
@config_options(ModelConfig)
@click.option("--output", required=True, metavar="DIR", help="new folder, with a model card, ready to be pushed")
@click.option("--delta-only", is_flag=True, help="write the delta and its card, no checkpoint")
def merge(delta: str, output: str, delta_only: bool, config_file: str | None, preset: str | None, **flags: Any) -> None:
    """Write a plain Hugging Face checkpoint of the base with a delta in place, with a model card.

    The base is the one that the delta names, unless --model says otherwise. DELTA is a delta.safetensors or its folder.
    Every tensor keeps the type that it has in the base's checkpoint, unless --dtype names one for all.

    Example: onelayer merge runs/a/arms/layer-03 --output runs/merged
    """
    from onelayer.arms.delta_files import copy_delta, delta_file, read_delta_for, read_delta_header
    from onelayer.arms.delta_files import merge as merge_delta
    from onelayer.commands.model_card import Origin, model_card
    from onelayer.runs.inputs import command_line, load_to_merge

    path = delta_file(delta)
    header = read_delta_header(path)
    card = model_card(header, Origin.of(path), command=command_line() or "onelayer merge", merged=not delta_only)
    if delta_only:
        copy_delta(path, Path(output), card)
    else:
        if flags["model"] is None:
            flags["model"], flags["revision"] = header["base_model"], flags["revision"] or header["revision"]
        config = build_config(ModelConfig, flags, config_file, preset)
        base, types = load_to_merge(config)
        merge_delta(read_delta_for(base, path), base, Path(output), card, types)
    echo(f"{'delta' if delta_only else 'merged checkpoint'}: {output}")


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
    from onelayer.arms.spec import spec_of
    from onelayer.engines.verl.export import export as export_verl
    from onelayer.models.architectures import outline_model

    if flags["layers"] is not None:
        raise UserError("export verl takes --plan in the place of --layers")
    config = build_config(TrainConfig, {**flags, "layers": plan}, config_file, preset)
    if config.output is None:
        raise UserError("export verl needs --output: a new folder for job.yaml, run.sh and the hook")
    base = outline_model(config)
    spec = spec_of(base, plan, config.seed)
    output = Path(config.output)
    export_verl(config, base, spec, output, gpus=gpus, train_files=train_files, val_files=val_files)
    echo(f"{len(spec.rates)} of {len(base.parts)} tensors train", f"start with: sh {output}/run.sh")


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
    from onelayer.tasks.graders.grade_file import grade_file

    if grader == "code" and (rule or strict):
        raise UserError("--rule and --strict are for --grader math: programs have no place where an answer stands")
    if grader == "math" and require_sandbox:
        raise UserError("--require-sandbox is for --grader code: the math grader runs no programs")
    counts = grade_file(
        Path(file), grader, Path(output), rule=rule or "auto", strict=strict, require_sandbox=require_sandbox
    )
    for reason, count in counts.items():
        echo(f"{reason:<12} {count:>9,}")
    echo("", f"results: {output}")


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
    from onelayer.tasks.environments.alfworld_games import write_games

    written = write_games(number, Path(output), seed, held_out=held_out, min_receptacles=min_receptacles)
    for kind, count in sorted(written.task_types.items()):
        echo(f"{count:5d}  {kind}")
    echo(
        f"games: {', '.join(f'{count} {split}' for split, count in written.games.items())}; "
        f"{written.receptacles[0]} to {written.receptacles[1]} receptacles, "
        f"expert plans of {written.steps[0]} to {written.steps[1]} steps"
    )
    echo(f"export ALFWORLD_DATA={written.folder}")


@cli.command(context_settings=SETTINGS)
@click.option("--output", default=str(RUNS), show_default=True, metavar="DIR", help="folder where results would go")
@click.option("--json", "as_json", is_flag=True, help="the same as one JSON object")
def doctor(output: str, as_json: bool) -> None:
    """Say what a run would find here: versions, devices, threads, the sandbox, the disk. For bug reports.

    Changes nothing and sends nothing. Takes some seconds, in which the sandbox is attacked to see what it keeps out.

    Example: onelayer doctor --json > doctor.json
    """
    from onelayer.commands.doctor import examine, render

    found = examine(Path(output))
    if as_json:
        echo_own(json.dumps(found, indent=2))  # in ASCII: what cannot be printed is an escape of JSON
    else:
        echo(*render(found))


@cli.command(context_settings=SETTINGS)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes commands, options, tasks and presets in a shell.

    \b
    bash: onelayer completion bash > ~/.local/share/bash-completion/completions/onelayer
    zsh:  onelayer completion zsh > ~/.zfunc/_onelayer      (with fpath+=~/.zfunc before compinit in ~/.zshrc)
    fish: onelayer completion fish > ~/.config/fish/completions/onelayer.fish
    Example: onelayer completion bash
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    echo_own(kind(cli, {}, "onelayer", "_ONELAYER_COMPLETE").source())


for command in (report, contribution, compare, stitch, vote, reproduce):
    cli.add_command(command)


class _Announcements(logging.Handler):
    """Prints what the package logs, such as the sandbox's protections."""

    def emit(self, record: logging.LogRecord) -> None:
        echo(self.format(record))


def _help_without_command(context: click.Context) -> None:
    if context.invoked_subcommand is None:
        echo_own(context.get_help())


def _output(config: TrainConfig, command: str) -> Path:
    if config.output is not None:
        return Path(config.output)
    if config.resume:
        raise UserError("--resume needs --output: the folder of the run to continue")
    task = config.task or Path(config.dataset or "").stem
    return default_output(command, task)


def main() -> None:
    """Run a command. Exit codes: 0 done, 1 failed, 2 the user's input is wrong (one sentence on stderr)."""
    logger = logging.getLogger("onelayer")
    logger.handlers = [_Announcements(logging.INFO)]
    logger.setLevel(logging.INFO)
    accept_every_character()
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
        echo(str(note))
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
    echo(f"error: {sentence}", err=True)
    sys.exit(code)
