"""The two commands that train: a scan (the full arm and every chosen layer alone) and a single arm."""

from pathlib import Path

from rich.console import Console

from onelayer.config import ScanConfig, TrainConfig
from onelayer.errors import UserError
from onelayer.judge import judge_scan
from onelayer.plan import parse_plan
from onelayer.plan_table import plan_table
from onelayer.profile import Profile
from onelayer.report import terminal
from onelayer.run import Run, run_arms
from onelayer.setup import load_model, load_splits, load_task, spec_of, with_seeds


def scan(config: ScanConfig, output: Path, console: Console) -> Profile:
    """Train the full arm and every chosen layer alone, score all of them, and write profile and report to ``output``.

    Raises:
        UserError: something in the configuration, the model, the data or the reward is wrong.
        RunStopped: training cannot go on.
    """
    base = load_model(config)
    items = parse_plan(config.layers, base.num_layers)
    if any(not (item.everything or item.layers) or item.module or item.multiplier != 1 for item in items):
        raise UserError(
            f"option layers = '{config.layers}': a scan takes whole layers, for example all, 0,4,8 or every:4"
        )
    named = [range(base.num_layers) if item.everything else item.layers or () for item in items]
    chosen = sorted({layer for layers in named for layer in layers})
    data = load_splits(base, task := load_task(config), config)
    specs = [spec_of(base, plan, config.seed) for plan in ("all", *map(str, chosen))]
    console.print(plan_table(base, specs[0], config.learning_rate))
    layers = (
        f"{len(chosen)} of {base.num_layers} layers" if len(chosen) < base.num_layers else f"all {len(chosen)} layers"
    )
    share = max(sum(base.tensor(name).numel() for name in spec.rates) for spec in specs[1:]) / base.num_parameters
    console.print(
        f"and {layers} alone, each at most {share:.1%} of the parameters; {config.seeds} seed{'s' * (config.seeds > 1)}, "
        f"{config.steps} steps of {config.train_batch_size} prompts x {config.num_generations} completions\n",
        highlight=False,
    )
    seeds = range(config.seed, config.seed + config.seeds)
    run_arms(Run(base, task, data, config, with_seeds(specs, seeds), console), output)
    profile, files = judge_scan(output)
    console.print(terminal.render(profile))
    console.print(f"\nresults: {output}\nreport:  {files.html}", soft_wrap=True, highlight=False)
    return profile


def train(config: TrainConfig, output: Path, console: Console) -> None:
    """Train what one plan says, score it beside the base, and write its delta to ``output``.

    Raises:
        UserError: something in the configuration, the model, the data or the reward is wrong.
        RunStopped: training cannot go on.
    """
    base = load_model(config)
    spec = spec_of(base, config.layers, config.seed)
    data = load_splits(base, task := load_task(config), config)
    console.print(plan_table(base, spec, config.learning_rate))
    folder = run_arms(Run(base, task, data, config, [spec], console), output)
    console.print(
        f"\nresults: {output}\ndelta:   {folder.arm(spec.name) / 'delta.safetensors'}", soft_wrap=True, highlight=False
    )
