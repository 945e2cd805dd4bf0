"""The profile in a terminal: a headline, a table, and bars with the marks of the base and of full training."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from onelayer.judging.profile import Profile
from onelayer.report import wording
from onelayer.report.data import Entry, View
from onelayer.report.quantity import Quantity
from onelayer.report.verdicts import LOOKS
from onelayer.storage.screen import literal

PLAIN = str.maketrans({"–": "-", "−": "-", "\N{NO-BREAK SPACE}": " "})
"""Terminals and pipes may have an encoding without these characters."""


@dataclass(frozen=True)
class BarChart:
    """Horizontal bars from a line at 0, with a dashed line at the value of full training."""

    rows: Sequence[tuple[str, float, str]]
    """Label, value and style of each bar."""
    full: float
    decimals: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw with blocks, or with ASCII where the output's encoding has no blocks."""
        block, axis, dash = ("#", "|", ":") if options.ascii_only else ("█", "│", "┊")
        marks = {0.0: "base", self.full: "full"}
        values = [value for _, value, _ in self.rows] + list(marks)
        label_width = max(len(label) for label, _, _ in self.rows)
        # Beside the bars stand the label, the value and the spaces between them.
        width = max(20, min(options.max_width, 100) - label_width - 10)
        low, high = min(values), max(values)

        def place(value: float) -> int:
            return round((value - low) / ((high - low) or 1.0) * (width - 1))

        header = [" "] * (width + 4)
        for value, name in marks.items():
            start = max(0, place(value) - (0 if place(value) < 4 else len(name) - 1))
            header[start : start + len(name)] = name
        yield Text(" " * (label_width + 1) + "".join(header).rstrip(), style="dim")
        zero, full = place(0.0), place(self.full)
        for label, value, style in self.rows:
            end = place(value)
            line = [" "] * width
            for cell in range(min(zero, end), max(zero, end) + 1):
                line[cell] = block
            line[full] = dash
            line[zero] = axis
            yield Text.assemble(
                f"{label:>{label_width}} ", ("".join(line), style), f" {wording.number(value, self.decimals):>7}"
            )


def _table(view: View, quantity: Quantity) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for head in ("Layer", "Depth", "Score", quantity.symbol.translate(PLAIN), "95 % interval"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("Verdict", no_wrap=True)
    table.add_column("Cut off", justify="right", no_wrap=True)
    decimals = wording.score_decimals(view)

    def cells(row: Entry, label: str) -> list[str]:
        values = [
            label,
            wording.number(row.depth, 2),
            wording.number(row.score, decimals),
            wording.number(quantity.value(row), quantity.decimals),
            wording.interval(quantity.interval(row), quantity.decimals),
            row.verdict or wording.UNKNOWN,
            wording.percent(row.truncation),
        ]
        return [value.translate(PLAIN) for value in values]

    table.add_row(*cells(view.base, "base"), style="dim")
    table.add_row(*cells(view.full, "full"), style="dim")
    for row in view.layers:
        table.add_row(*cells(row, str(row.layer)), style=LOOKS[row.verdict].terminal)
    return table


def render(profile: Profile) -> RenderableType:
    """Arrange a profile for printing: headline, table of the layers in the model's order, bars, recommendation."""
    view = View.of(profile)
    quantity = Quantity.of(view)
    parts: list[RenderableType] = [literal(wording.headline(view).translate(PLAIN), "bold"), Text()]
    if view.layers:
        bars = [(str(row.layer), value, LOOKS[row.verdict].terminal) for row, value in quantity.points(view.layers)]
        parts += [_table(view, quantity), Text(), BarChart(bars, quantity.full, quantity.decimals), Text()]
    parts += [literal(warning, "yellow") for warning in profile.warnings]
    if profile.recommended:
        parts.append(literal(f"Recommended: train {profile.recommended.plan}. {profile.recommended.reason}"))
    return Group(*parts)
