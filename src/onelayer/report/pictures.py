"""The contribution curve as PNG and SVG for papers, and the numbers behind it as CSV."""

import csv
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onelayer.report.data import Entry, View
from onelayer.report.quantity import Quantity
from onelayer.report.verdicts import GREY, LOOKS, Look
from onelayer.storage.files import atomic_path

PICTURES = ("contribution.png", "contribution.svg", "contribution.csv")
"""What is written beside the page, in this order."""
TEXT = "#59636f"
COLUMNS = (
    "arm",
    "layer",
    "depth",
    "plan",
    "score",
    "difference",
    "difference_low",
    "difference_high",
    "contribution",
    "ci_low",
    "ci_high",
    "verdict",
    "truncation_rate",
    "mean_length",
    "trained_parameters",
    "seconds",
)


def safe_cell(value: object) -> str | int | float:
    """A value as a CSV field that no spreadsheet takes for a formula.

    Text that begins with = + - @, also in their full-width and small forms and after blanks, quotes and what cannot be
    seen, or with a tab or a carriage return, gets a leading apostrophe; numbers stay numbers.
    """
    if value is None:
        return ""
    if isinstance(value, int | float):
        return value
    text = str(value)
    plain = unicodedata.normalize("NFKC", text)
    first = next((c for c in plain if c.isprintable() and not c.isspace() and c not in "\"'`"), "")
    return f"'{text}" if first in tuple("=+-@") or text.startswith(("\t", "\r")) else text


def csv_row(row: Entry) -> list[str | int | float]:
    """An arm in the order of ``COLUMNS``; what is not known is empty."""
    difference_low, difference_high = row.difference_ci or (None, None)
    ci_low, ci_high = row.contribution_ci or (None, None)
    values = (
        row.name,
        row.layer,
        row.depth,
        row.plan,
        row.score,
        row.difference,
        difference_low,
        difference_high,
        row.contribution,
        ci_low,
        ci_high,
        row.verdict,
        row.truncation,
        row.length,
        row.parameters,
        row.seconds,
    )
    return [safe_cell(value) for value in values]


def write_csv(view: View, path: Path) -> None:
    """Write base, full, the layers in the model's order and the strategies, one row each."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        # Text is quoted: where lists are separated by semicolons, one inside a name would begin a field of its own.
        writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow(COLUMNS)
        writer.writerows(csv_row(row) for row in (view.base, view.full, *view.layers, *view.strategies))


def _draw_group(
    axes: Any, quantity: Quantity, verdict: str | None, look: Look, group: Sequence[tuple[Entry, float]]
) -> None:
    """The layers of one verdict, each with its interval."""
    intervals = [quantity.interval(row) or (value, value) for row, value in group]
    axes.errorbar(
        [row.place for row, _ in group],
        [value for _, value in group],
        yerr=[
            # A file that was changed by hand may have its point outside of its interval.
            [max(0.0, value - low) for (low, _), (_, value) in zip(intervals, group, strict=True)],
            [max(0.0, high - value) for (_, high), (_, value) in zip(intervals, group, strict=True)],
        ],
        fmt=look.matplotlib,
        color=look.colour,
        markerfacecolor="white" if verdict == "undecided" else look.colour,
        markersize=6.5 if look.matplotlib == "*" else 4.2,
        elinewidth=0.9,
        label=verdict,
    )


def draw(view: View, paths: Sequence[Path]) -> None:
    """Draw C (or S - S_base where C is refused) of every layer against relative depth; the suffix says the format.

    One column of a paper wide (3.4 inches), text in the size of a caption, colours and markers as in the page.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    quantity = Quantity.of(view)
    settings = {
        "font.size": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.fonttype": "none",
        # Without these an SVG of the same numbers would differ from run to run.
        "svg.hashsalt": "onelayer",
    }
    with rc_context(settings):
        figure = Figure(figsize=(3.4, 2.5), layout="constrained")
        axes = figure.subplots()
        for value, name in ((0.0, "base"), (quantity.full, "full")):
            axes.axhline(value, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
            axes.annotate(name, (1, value), (3, 0), ("axes fraction", "data"), "offset points", va="center", color=TEXT)
        points = quantity.points(view.layers)
        axes.plot(
            [row.place for row, _ in points], [value for _, value in points], color=GREY, linewidth=0.7, alpha=0.6
        )
        for verdict, look in LOOKS.items():
            group = [(row, value) for row, value in points if row.verdict == verdict]
            if group:
                _draw_group(axes, quantity, verdict, look, group)
        axes.set(
            xlabel="Relative depth $k/(L-1)$",
            ylabel=quantity.axis,
            xlim=(-0.03, 1.03),
            ylim=quantity.extent(view.layers),
        )
        if points:
            figure.legend(
                loc="outside lower center", ncols=3, frameon=False, fontsize=7, handletextpad=0.3, columnspacing=1
            )
        for path in paths:
            metadata = {"Date": None} if path.suffix == ".svg" else None
            with atomic_path(path) as temporary:
                figure.savefig(temporary, format=path.suffix[1:], dpi=300, metadata=metadata)


def write_pictures(view: View, folder: Path) -> tuple[Path, ...]:
    """Write the pictures of a scan to a folder and return their paths."""
    paths = tuple(folder / name for name in PICTURES)
    draw(view, paths[:2])
    write_csv(view, paths[2])
    return paths
