"""Terminal tables of a comparison and of a vote."""

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table

from onelayer.judging.compare import Comparison, Correlation
from onelayer.judging.vote import Vote
from onelayer.storage.screen import literal


def comparison_tables(comparison: Comparison) -> RenderableType:
    """Every pair of profiles, the overlap of their best layers, and how stable each ranking is."""
    pairs = _table("pair", "over", "Spearman", "Kendall", "Pearson")
    tops = _table("pair", "k", "shared", "by chance", "p")
    for pair in comparison.pairs:
        name = f"{pair.first} - {pair.second}"
        correlations = (_correlation(value) for value in (pair.spearman, pair.kendall, pair.pearson))
        pairs.add_row(name, f"{pair.points} {pair.over}", *correlations)
        for top in pair.top:
            tops.add_row(name, str(top.k), str(top.overlap), f"{top.expected:.2f}", f"{top.p_value:.3f}")
    shown: list[RenderableType] = [pairs, tops]
    if comparison.stability:
        stable = _table("ranking under resampled problems", "Spearman", "95 % range", "best stays")
        for row in comparison.stability:
            low, high = row.spearman_range
            stable.add_row(row.name, f"{row.spearman:.2f}", f"{low:.2f} to {high:.2f}", f"{row.best_stays:.0%}")
        shown.append(stable)
    return Group(*shown, *(literal(note, "dim") for note in comparison.notes))


def vote_tables(vote: Vote) -> RenderableType:
    """Scores of every way to answer, what the vote gains over each, and how far the voters overlap."""
    differences = {row.other: row for row in vote.differences}
    table = _table("answers from", "score", "answers", "vote is better by", "95 % interval")
    for row in vote.scores:
        against = differences.get(row.name)
        interval = "" if against is None else f"{against.ci[0]:+.4f} to {against.ci[1]:+.4f}"
        by = "" if against is None else f"{against.difference:+.4f}"
        table.add_row(row.name, f"{row.score:.4f}", str(row.answers_per_problem), by, interval)
    overlap = "no pair of voters solves anything new" if vote.jaccard is None else f"{vote.jaccard:.1%}"
    return Group(
        table,
        literal(f"mean pairwise Jaccard overlap of newly solved problems: {overlap}"),
        literal(f"solved by at least one voter: {vote.any_voter:.4f}"),
    )


def _table(first: str, *others: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), collapse_padding=True)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _correlation(correlation: Correlation) -> str:
    if correlation.value is None:
        return "-"
    interval = "" if correlation.ci is None else f" [{correlation.ci[0]:.2f}, {correlation.ci[1]:.2f}]"
    return f"{correlation.value:.2f}{interval} p={correlation.p_value:.3f}"
