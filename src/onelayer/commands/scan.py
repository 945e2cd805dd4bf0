"""The two commands that train: a scan (the full arm, every chosen layer alone, and what follows) and a single arm."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from onelayer.arms.delta_files import DELTA
from onelayer.arms.plan import parse_plan
from onelayer.arms.spec import ArmSpec, spec_of, with_seeds
from onelayer.commands import scan_phases as phases
from onelayer.commands.scan_phases import Extra
from onelayer.config.configs import RATES, ScanConfig, TrainConfig
from onelayer.engines.choose import joined
from onelayer.errors import UserError
from onelayer.judging.profile import Profile
from onelayer.models.base import BaseModel
from onelayer.report import terminal
from onelayer.report.judge_scan import judge_scan
from onelayer.report.page import write_report
from onelayer.report.plan_table import plan_table
from onelayer.runs.engine import Engine
from onelayer.runs.inputs import load_splits, load_task
from onelayer.runs.open_run import open_run
from onelayer.runs.run import Run
from onelayer.storage.arm_names import FULL, layer_alone, with_seed
from onelayer.storage.screen import print_paths


def scan(config: ScanConfig, output: Path, console: Console) -> Profile | None:
    """Train the full arm and layers alone, score all of them, and write profile and report to ``output``.

    Returns:
        The profile; None in processes that only help the main one (engine trl).

    Raises:
        UserError: something in the configuration, the model, the data or the reward is wrong.
        RunStopped: training cannot go on.
    """
    with joined(config) as engine:
        return _scan(config, output, console, engine)


def _scan(config: ScanConfig, output: Path, console: Console, engine: Engine) -> Profile | None:
    base = engine.load(config)
    layers = scanned_layers(config.layers, base.num_layers)
    if too_large := [k for k in config.strategy_k.split(",") if k and int(k) > len(layers)]:
        raise UserError(f"option strategy_k = {too_large[0]}: only {len(layers)} layers are scanned")
    full = spec_of(base, "all", config.seed)
    further = [spec_of(base, plan, config.seed) for plan in config.also.split(";") if plan.strip()]
    also = [Extra(spec.name, spec.plan) for spec in further]
    data = load_splits(base, task := load_task(config), config)
    alone = [spec_of(base, str(layer), config.seed) for layer in layers]
    if not engine.leads(base, task, data, [full, *alone, *further]):
        return None
    seeds = range(config.seed, config.seed + config.seeds)
    rungs = phases.rung_steps(config.steps, config.rungs) if config.search == "halving" else []
    _announce(base, config, full, layers, console)
    with open_run(
        base, task, data, config, seeds, output, console, rungs, lambda: write_report([output]), engine
    ) as run:
        full_rate = _learning_rate(run, config)
        scan_of = _Scan(run, config, list(seeds), full_rate)
        search = {"none": scan_of.every_layer, "halving": scan_of.halving, "coarse": scan_of.coarse}
        trained = search[config.search](layers)
        scan_of.train([*scan_of.extras(trained), *also])
    profile, files = judge_scan(output)
    console.print(terminal.render(profile))
    print_paths(console, results=output, report=files.html)
    return profile


def train(config: TrainConfig, output: Path, console: Console) -> None:
    """Train what one plan says, score it beside the base, and write its delta to ``output``.

    Raises:
        UserError: something in the configuration, the model, the data or the reward is wrong.
        RunStopped: training cannot go on.
    """
    with joined(config) as engine:
        _train(config, output, console, engine)


def _train(config: TrainConfig, output: Path, console: Console, engine: Engine) -> None:
    base = engine.load(config)
    spec = spec_of(base, config.layers, config.seed)
    data = load_splits(base, task := load_task(config), config)
    if not engine.leads(base, task, data, [spec]):
        return
    console.print(plan_table(base, spec, config.learning_rate))
    with open_run(base, task, data, config, [config.seed], output, console, engine=engine) as run:
        run.train([spec])
    delta = run.folder.arm(spec.name) / DELTA
    print_paths(console, results=output, delta=delta)


def scanned_layers(plan: str, num_layers: int) -> list[int]:
    """The layers of a scan's ``--layers``.

    Raises:
        UserError: a plan that names anything but whole layers at the one learning rate.
    """
    items = parse_plan(plan, num_layers)
    if any(not (item.everything or item.layers) or item.module or item.rank or item.multiplier != 1 for item in items):
        raise UserError(f"option layers = '{plan}': a scan takes whole layers, for example all, 0,4,8 or every:4")
    named = [range(num_layers) if item.everything else item.layers or () for item in items]
    return sorted({layer for layers in named for layer in layers})


class _Scan:
    """The phases of one scan: what to train next, given what is known."""

    def __init__(self, run: Run, config: ScanConfig, seeds: Sequence[int], rate: float | None) -> None:
        self._run, self._config, self._seeds, self._rate = run, config, seeds, rate

    def train(self, extras: Sequence[Extra], *, full: bool = False, until: int | None = None) -> None:
        """Train arms from every seed, the full arm with them when asked."""
        base, seed = self._run.base, self._config.seed
        specs = [spec_of(base, "all", seed, learning_rate=self._rate)] if full else []
        for extra in extras:
            kind = None if extra.kind == "layer" else extra.kind
            specs.append(spec_of(base, extra.plan, seed, name=extra.name, kind=kind, learning_rate=self._rate))
        self._run.train(with_seeds(specs, self._seeds), until)

    def every_layer(self, layers: list[int]) -> list[int]:
        """All of them, to the end, in lockstep with the full arm."""
        self.train([_alone(layer) for layer in layers], full=True)
        return layers

    def halving(self, layers: list[int]) -> list[int]:
        """Successive halving: the worse half on the selection problems drops out at every rung."""
        alive = layers
        for step in phases.rung_steps(self._config.steps, self._config.rungs):
            self.train([_alone(layer) for layer in alive], until=step)
            kept = phases.survivors({layer: self._score_at(layer, step) for layer in alive})
            dropped = [layer for layer in alive if layer not in kept]
            for layer in dropped:
                for name in self._names(layer):
                    if not self._run.folder.finished(name):
                        self._run.drop(name, step)
            self._run.progress.say(f"rung at step {step}: layers {_listed(kept)} go on, {_listed(dropped)} drop out")
            alive = kept
        return self.every_layer(alive)

    def coarse(self, layers: list[int]) -> list[int]:
        """Layers at a distance first, then those around the best of them."""
        stride = self._config.stride or phases.default_k(self._run.base.num_layers)
        first = [layers[place] for place in phases.coarse_layers(len(layers), stride)]
        self.every_layer(first)
        scores = {layers.index(layer): self._score(layer) for layer in first}
        near = phases.around_best(scores, len(layers), stride)
        second = [layers[place] for place in near]
        self._run.progress.say(f"around the best so far: layers {_listed(second)}")
        self.train([_alone(layer) for layer in second])
        return sorted(first + second)

    def extras(self, trained: list[int]) -> list[Extra]:
        """The further arms that the configuration asks for."""
        config, depth = self._config, self._run.base.num_layers
        ranking = phases.ranked(self._score, trained)
        asked = [int(k) for k in config.strategy_k.split(",")] if config.strategy_k else [phases.default_k(depth)]
        # A search leaves fewer layers than were asked for.
        counts = sorted({min(k, len(trained)) for k in asked})
        extras = []
        if config.strategies:
            extras += [extra for k in counts for extra in phases.strategies(ranking, depth, k)]
        if config.pairs:
            extras += phases.pairs(ranking, config.pairs)
        if config.leave_one_out:
            extras += phases.leave_one_out(trained)
        if config.lr_check:
            extras += phases.rate_check(ranking, counts[0])
        if config.sublayers:
            extras += phases.sublayers(ranking[0])
        return extras

    def _names(self, layer: int) -> list[str]:
        return [with_seed(layer_alone(layer), number) for number in range(len(self._seeds))]

    def _score(self, layer: int) -> float:
        return float(np.mean([self._run.selection_score(name) for name in self._names(layer)]))

    def _score_at(self, layer: int, step: int) -> float:
        return float(np.mean([self._run.selection_score_at(name, step) for name in self._names(layer)]))


def _alone(layer: int) -> Extra:
    return Extra(layer_alone(layer), str(layer), "layer")


def _listed(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers)) or "none"


def _learning_rate(run: Run, config: ScanConfig) -> float | None:
    """The learning rate of the whole scan, chosen by the full arm on the selection problems before any layer trains.

    Returns:
        The chosen rate, or None where the configuration names one.
    """
    if not isinstance(config.learning_rate, str):
        return None
    rates = [float(rate) for rate in config.learning_rate.removeprefix(RATES).split(",")]
    specs = [
        spec_of(run.base, "all", config.seed, name=f"full-rate-{rate:g}", kind="rate", learning_rate=rate)
        for rate in rates
    ]
    run.train(specs)
    scores = {rate: run.selection_score(spec.name) for rate, spec in zip(rates, specs, strict=True)}
    best = max(rates, key=lambda rate: (scores[rate], -rate))
    # The chosen run is the full arm of the first seed, byte for byte: it is not trained twice.
    run.adopt(specs[rates.index(best)].name, FULL)
    shown = ", ".join(f"{rate:g}: {score:.3f}" for rate, score in scores.items())
    run.progress.say(f"learning rate {best:g} for all arms (selection scores of the full arm: {shown})")
    return best


def _announce(base: BaseModel, config: ScanConfig, full: ArmSpec, layers: Sequence[int], console: Console) -> None:
    rate = config.learning_rate
    console.print(
        plan_table(base, full, float(rate.removeprefix(RATES).split(",")[0]) if isinstance(rate, str) else rate)
    )
    which = (
        f"all {len(layers)} layers" if len(layers) == base.num_layers else f"{len(layers)} of {base.num_layers} layers"
    )
    how = "" if config.search == "none" else f" ({config.search} search)"
    console.print(
        f"and {which} alone{how}; {config.seeds} seed{'s' * (config.seeds > 1)}, "
        f"{config.steps} step{'s' * (config.steps > 1)} of {config.train_batch_size} prompts x "
        f"{config.num_generations} completions",
        soft_wrap=True,
    )
    console.print()
