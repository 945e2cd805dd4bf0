"""The pictures of the reproduction's page, as SVG: curves, the matrix of rank correlations, strategies, depth."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onelayer.commands.reproduction.rankings import spearman
from onelayer.commands.reproduction.results import Result
from onelayer.commands.reproduction.study import ALGORITHMS, FAMILIES, TASKS
from onelayer.judging.profile import ArmProfile
from onelayer.storage.files import atomic_path

COLOURS = {"grpo": "#0072b2", "dr_grpo": "#d55e00", "gigpo": "#009e73"}
"""Okabe and Ito's, which colour-blind readers tell apart."""
GREY = "#59636f"


def draw_all(results: Mapping[str, Result], folder: Path) -> dict[str, Path]:
    """Draw what there are results for: name -> file."""
    main = [result for result in results.values() if result.curve and result.scan.part == "main"]
    depth = [result for result in results.values() if result.curve and result.scan.part == "depth"]
    with_arms = [result for result in main if result.profile.strategies]
    drawn = {}
    if main:
        drawn["curves"] = _save(curves(main), folder / "curves.svg")
    if len(main) > 1:
        drawn["matrix"] = _save(matrix(main), folder / "matrix.svg")
    if with_arms:
        drawn["strategies"] = _save(strategies(with_arms), folder / "strategies.svg")
    if depth:
        reference = [
            result for result in main if result.scan.base.name == "qwen3-arithmetic" and result.scan.algorithm == "grpo"
        ]
        drawn["depth"] = _save(depths([*reference, *depth]), folder / "depth.svg")
    return drawn


def curves(results: Sequence[Result]) -> Any:
    """C of every layer with its interval: a row for each domain, a column for each family, a colour for each algorithm."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(TASKS), len(FAMILIES), figsize=(9, 9), sharex=True, sharey="row", squeeze=False)
    for row, (domain, task) in enumerate(TASKS.items()):
        for column, family in enumerate(FAMILIES):
            axis = axes[row][column]
            cell = [r for r in results if r.scan.base.task == task and r.scan.base.family == family]
            for place, result in enumerate(cell):
                algorithm = result.scan.algorithm
                shift = (place - (len(cell) - 1) / 2) * 0.12
                _points(axis, result, COLOURS[algorithm], f"{algorithm}, {_seeds(result)}", shift)
            _references(axis)
            axis.set_title(f"{domain} ({task}), {family}", fontsize=10)
            if cell:
                axis.legend(fontsize=8, frameon=False)
            else:
                axis.text(0.5, 0.5, "no profile", transform=axis.transAxes, ha="center", va="center", color=GREY)
            if column == 0:
                axis.set_ylabel("C(k)")
            if domain == list(TASKS)[-1]:
                axis.set_xlabel("layer k")
    figure.tight_layout()
    return figure


def _points(axis: Any, result: Result, colour: str, label: str, shift: float) -> None:
    rows = result.judged
    values = np.array([row.contribution for row in rows])
    bounds = [_interval(row, value) for row, value in zip(rows, values, strict=True)]
    errors = np.array([[value - low, high - value] for value, (low, high) in zip(values, bounds, strict=True)]).T
    at = [row.layer + shift for row in rows]
    axis.errorbar(at, values, errors, color=colour, label=label, marker="o", markersize=4, linewidth=1, capsize=2)


def _interval(row: ArmProfile, value: float) -> tuple[float, float]:
    return (value if row.ci_low is None else row.ci_low, value if row.ci_high is None else row.ci_high)


def _references(axis: Any) -> None:
    for value in (0.0, 1.0):
        axis.axhline(value, color=GREY, linewidth=0.8, linestyle="--")


def _seeds(result: Result) -> str:
    return f"{result.scan.seeds} seed{'s' * (result.scan.seeds > 1)}"


def matrix(results: Sequence[Result]) -> Any:
    """Spearman's correlation between the rankings of all scans of one depth."""
    import matplotlib.pyplot as plt

    order = {algorithm: place for names in ALGORITHMS.values() for place, algorithm in enumerate(names)}
    shown = sorted(
        results,
        key=lambda r: (list(TASKS).index(r.scan.domain), r.scan.base.task, r.scan.base.family, order[r.scan.algorithm]),
    )
    # None, where too few layers are shared, becomes NaN.
    values = np.array([[spearman(one.curve, other.curve).value for other in shown] for one in shown], dtype=float)
    names = [result.name for result in shown]
    figure, axis = plt.subplots(figsize=(9, 8))
    image = axis.imshow(values, vmin=-1, vmax=1, cmap="RdBu")
    axis.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    for row, column in np.ndindex(values.shape):
        value = values[row, column]
        text = "" if np.isnan(value) else f"{value:.2f}"
        axis.text(
            column, row, text, ha="center", va="center", fontsize=7, color="white" if abs(value) > 0.6 else "black"
        )
    figure.colorbar(image, label="Spearman", shrink=0.7)
    figure.tight_layout()
    return figure


def strategies(results: Sequence[Result]) -> Any:
    """C of the further arms with intervals, a column for each scan."""
    import matplotlib.pyplot as plt

    names = [arm.name for arm in results[0].profile.strategies]
    figure, axes = plt.subplots(1, len(results), figsize=(9, 1.5 + 0.24 * len(names)), sharey=False, squeeze=False)
    for axis, result in zip(axes[0], results, strict=True):
        arms = [arm for arm in result.profile.strategies if arm.contribution is not None]
        values = np.array([arm.contribution for arm in arms])
        bounds = [_interval(arm, value) for arm, value in zip(arms, values, strict=True)]
        errors = np.array([[value - low, high - value] for value, (low, high) in zip(values, bounds, strict=True)]).T
        places = range(len(arms), 0, -1)
        axis.errorbar(values, places, xerr=errors, fmt="o", color=COLOURS["grpo"], markersize=4, capsize=2)
        axis.set_yticks(places, [arm.name for arm in arms], fontsize=7)
        for value in (0.0, 1.0):
            axis.axvline(value, color=GREY, linewidth=0.8, linestyle="--")
        axis.set_title(result.name, fontsize=10)
        axis.set_xlabel("C")
    figure.tight_layout()
    return figure


def depths(results: Sequence[Result]) -> Any:
    """C against relative depth for models of other depths and other lengths of pretraining."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(9, 4))
    for result in results:
        base = result.scan.base
        label = f"{base.layers} layers, {base.steps} steps of pretraining"
        at = [row.depth for row in result.judged]
        axis.plot(at, [row.contribution for row in result.judged], marker="o", markersize=4, label=label)
    _references(axis)
    axis.set_xlabel("relative depth k / (L - 1)")
    axis.set_ylabel("C(k)")
    axis.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout()
    return figure


def _save(figure: Any, path: Path) -> Path:
    import matplotlib
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    # The same bytes for the same figures: no date, and ids that do not change.
    with matplotlib.rc_context({"svg.hashsalt": "onelayer"}), atomic_path(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
    plt.close(figure)
    return path
