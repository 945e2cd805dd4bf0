"""How a verdict looks, everywhere: colour and marker both differ, so that it is readable without seeing colours."""

from dataclasses import dataclass

from onelayer.judging.contribution import Verdict


@dataclass(frozen=True)
class Look:
    """The colour (on white and near-black alike), Plotly's and matplotlib's marker, and the terminal's colour."""

    colour: str
    plotly: str
    matplotlib: str
    terminal: str


# Okabe and Ito's colours, which colour-blind readers tell apart; yellow and purple darkened to stand out from white.
LOOKS: dict[Verdict | None, Look] = {
    "better than full": Look("#0072B2", "star", "*", "blue"),
    "tied with full": Look("#009E73", "circle", "o", "green"),
    "partial": Look("#C98A00", "diamond", "D", "yellow"),
    "nothing": Look("#8A8F98", "square", "s", "bright_black"),
    "harmful": Look("#D55E00", "x", "X", "red"),
    "undecided": Look("#B2699A", "circle-open", "o", "magenta"),
}
GREY = "#8A8F98"
"""Marks and helping lines."""
