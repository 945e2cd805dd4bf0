"""The tables of the page as rows of text, with the words under them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onelayer.report import wording
from onelayer.report.data import Entry, View
from onelayer.report.verdicts import LOOKS


@dataclass(frozen=True)
class Column:
    """A column of a table; ``text`` columns are aligned left."""

    head: str
    cell: Callable[[Entry], str]
    text: bool = False


@dataclass(frozen=True)
class Row:
    """The cells of a row; ``reference`` rows (base, full) are set apart; ``colour`` is the verdict's."""

    cells: tuple[str, ...]
    reference: bool
    colour: str | None


@dataclass(frozen=True)
class Table:
    """A table with what stands under it."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    caption: str


def _table(
    title: str, view: View, columns: Sequence[Column], rows: Sequence[Entry], references: Sequence[Entry]
) -> Table:
    """Fill a table, leaving out the columns of which nothing is known."""
    cells = {column: [column.cell(row) for row in (*references, *rows)] for column in columns}
    kept = [column for column in columns if any(cell != wording.UNKNOWN for cell in cells[column])]
    notes = [COLUMN_NOTES[column.head] for column in kept if column.head in COLUMN_NOTES]
    return Table(
        title=title,
        columns=tuple(kept),
        rows=tuple(
            Row(
                cells=tuple(cells[column][index] for column in kept),
                reference=index < len(references),
                colour=LOOKS[row.verdict].colour if row.verdict else None,
            )
            for index, row in enumerate((*references, *rows))
        ),
        caption=" ".join([wording.basis(view), view.profile.meaning or "", *notes]),
    )


def _columns(view: View) -> list[Column]:
    """What is known of an arm beside its name, from the score to the cost."""
    decimals = wording.score_decimals(view)
    return [
        Column("C", lambda row: wording.number(row.contribution, 2)),
        Column("95 % interval", lambda row: wording.interval(row.contribution_ci, 2)),
        Column("Verdict", lambda row: row.verdict or wording.UNKNOWN, text=True),
        Column("Score", lambda row: wording.number(row.score, decimals)),
        Column("Above base", lambda row: wording.plus_minus(row.difference, row.difference_ci, decimals)),
        Column("Cut off", lambda row: wording.percent(row.truncation)),
        Column("Length", lambda row: wording.number(row.length, 1)),
        Column("Depth", lambda row: wording.number(row.depth, 2)),
        Column("Flips at", lambda row: wording.number(row.flip_sd, decimals)),
        Column("Parameters", lambda row: wording.whole(row.parameters)),
        Column("Time", lambda row: wording.duration(row.seconds)),
        Column("Memory", lambda row: wording.size(row.memory)),
    ]


PAIR_HEADS = (
    ("Together", True),
    ("Parts", True),
    ("Together, above base", False),
    ("Sum of each alone", False),
    ("Excess", False),
)

COLUMN_NOTES = {
    "Above base": "Above base: score minus the base's, with its 95 % interval.",
    "Cut off": "Cut off: the share of completions that reached the token limit.",
    "Length": "Length: mean number of tokens of a completion.",
    "Flips at": "Flips at: the seed standard deviation of a score at which the verdict would change.",
    "Parameters": "Parameters: how many are trained.",
    "Memory": "Memory: peak during training.",
}


def ranking(view: View) -> Table:
    """The layers, best first, below the base and full training."""
    columns = [
        Column("Arm", lambda row: row.name, text=True),
        *_columns(view),
    ]
    return _table("Ranking", view, columns, view.ranked, (view.base, view.full))


def strategies(view: View) -> Table:
    """The further arms in the order of the profile, with their cost."""
    columns = [
        Column("Strategy", lambda row: row.name, text=True),
        Column("Plan", lambda row: row.plan or wording.UNKNOWN, text=True),
        *_columns(view),
    ]
    return _table("Strategies", view, columns, view.strategies, (view.full,))


def pairs(view: View) -> Table:
    """Is the gain of layers trained together the sum of what each gained alone?"""
    decimals = wording.score_decimals(view)
    columns = [Column(head, str, text) for head, text in PAIR_HEADS]
    rows = [
        Row(
            (
                pair.combined,
                ", ".join(pair.parts),
                wording.number(pair.combined_difference, decimals, signed=True),
                wording.number(pair.sum_of_differences, decimals, signed=True),
                wording.plus_minus(pair.excess, pair.excess_ci, decimals),
            ),
            reference=False,
            colour=None,
        )
        for pair in view.profile.pairs
    ]
    caption = f"Scores above the base. {wording.basis(view)} {view.profile.meaning or ''}"
    return Table("Layers together against the sum of each alone", tuple(columns), tuple(rows), caption)
