"""The tables of the page as rows of text, with the words under them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onelayer.report import wording
from onelayer.report.data import ArmView, Entry, Scan, View
from onelayer.report.verdicts import LOOKS

GUARD = "guard/"
"""What the names of guards begin with in metrics.jsonl."""


@dataclass(frozen=True)
class Head:
    """The head of a column; ``text`` columns are aligned left."""

    name: str
    text: bool


@dataclass(frozen=True)
class Row:
    """The cells of a row; ``reference`` rows (base, full) are set apart; ``colour`` is the verdict's."""

    cells: tuple[str, ...]
    reference: bool = False
    colour: str | None = None


@dataclass(frozen=True)
class Table:
    """A table with what stands under it."""

    title: str
    heads: tuple[Head, ...]
    rows: tuple[Row, ...]
    caption: str


def plain_table(
    title: str, texts: Sequence[str], numbers: Sequence[str], rows: Sequence[tuple[str, ...]], caption: str
) -> Table:
    """A table whose first columns (``texts``) are names and whose others are numbers."""
    heads = (*(Head(name, True) for name in texts), *(Head(name, False) for name in numbers))
    return Table(title, heads, tuple(Row(cells) for cells in rows), caption)


@dataclass(frozen=True)
class Column:
    """A column of a table of arms."""

    head: str
    cell: Callable[[Entry], str]
    text: bool = False


def _table(
    title: str, view: View, columns: Sequence[Column], rows: Sequence[Entry], references: Sequence[Entry]
) -> Table:
    """Fill a table of arms, leaving out the columns of which nothing is known."""
    arms = (*references, *rows)
    kept = [column for column in columns if any(column.cell(row) != wording.UNKNOWN for row in arms)]
    notes = [COLUMN_NOTES[column.head] for column in kept if column.head in COLUMN_NOTES]
    return Table(
        title=title,
        heads=tuple(Head(column.head, column.text) for column in kept),
        rows=tuple(
            Row(
                cells=tuple(column.cell(row) for column in kept),
                reference=row in references,
                colour=LOOKS[row.verdict].colour if row.verdict else None,
            )
            for row in arms
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
        Column("flip_sd", lambda row: wording.number(row.flip_sd, decimals)),
        Column("Parameters", lambda row: wording.whole(row.parameters)),
        Column("Time", lambda row: wording.duration(row.seconds)),
    ]


COLUMN_NOTES = {
    "Above base": "Above base: score minus the base's, with its 95 % interval.",
    "Cut off": "Cut off: the share of completions that reached the token limit.",
    "Length": "Length: mean number of tokens of a completion.",
    "flip_sd": "flip_sd: the training-seed standard deviation of a score at which the verdict would change.",
    "Parameters": "Parameters: how many are trained.",
    "Time": "Time: an arm's share of the wall-clock time of the arms that trained together.",
}


def ranking(view: View) -> Table:
    """The layers, best first, below the base and full training."""
    columns = [
        Column("ArmView", lambda row: row.name, text=True),
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


def scored_so_far(scan: Scan) -> Table | None:
    """The scores of the arms that are done, before there is a profile; None where there are none."""
    rows = [(a.name, wording.number(a.record.score, 3)) for a in scan.arms if a.record and a.record.score is not None]
    return (
        plain_table("Scored so far", ("ArmView",), ("Score",), rows, "Mean scores on the test problems.")
        if rows
        else None
    )


def guards(scan: Scan) -> Table | None:
    """What the guards saw while the arms trained, but for what they saw in no step; None where that is all."""
    rows = []
    for arm in scan.arms:
        counts = {key: [row.get(key) or 0 for row in arm.metrics] for key in guard_keys(arm)}
        for key, in_row in counts.items():
            if steps := sum(count > 0 for count in in_row):
                rows.append((arm.name, key.removeprefix(GUARD).replace("_", " "), str(steps), str(max(in_row))))
    caption = "Steps that crossed a guard's threshold, in all and at most in a row; the settings have the thresholds."
    return (
        plain_table("What the guards saw", ("ArmView", "Guard"), ("Steps", "In a row"), rows, caption) if rows else None
    )


def guard_keys(arm: ArmView) -> list[str]:
    """The guards in an arm's metrics, in the order of their first appearance."""
    return list(dict.fromkeys(key for row in arm.metrics for key in row if key.startswith(GUARD)))


def pairs(view: View) -> Table:
    """Is the gain of layers trained together the sum of what each gained alone?"""
    decimals = wording.score_decimals(view)
    return plain_table(
        "Layers together against the sum of each alone",
        ("Together", "Parts"),
        ("Together", "Sum of each alone", "Excess"),
        [
            (
                pair.combined,
                ", ".join(pair.parts),
                wording.number(pair.combined_difference, decimals, signed=True),
                wording.number(pair.sum_of_differences, decimals, signed=True),
                wording.plus_minus(pair.excess, pair.excess_ci, decimals),
            )
            for pair in view.profile.pairs
        ],
        f"Scores above the base, the excess with its 95 % interval. {wording.basis(view)} {view.profile.meaning or ''}",
    )
