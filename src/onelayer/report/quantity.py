"""The quantity that figures and tables are about: C, or the difference to the base where C is refused."""

from collections.abc import Sequence
from dataclasses import dataclass

from onelayer.report import wording
from onelayer.report.data import Entry, Interval, View


@dataclass(frozen=True)
class Quantity:
    """What is drawn for an arm: its contribution C, or S - S_base where the profile refuses C."""

    axis: str
    symbol: str
    refused: bool
    full: float
    """The value of full training."""
    decimals: int

    @classmethod
    def of(cls, view: View) -> "Quantity":
        """C, unless it is refused."""
        if view.profile.refused is None:
            return cls("Contribution C", "C", False, 1.0, 2)
        gain = view.profile.full_score - view.profile.base_score
        return cls("Score above the base", "S − S(base)", True, gain, wording.score_decimals(view))

    def value(self, row: Entry) -> float | None:
        """The value of an arm."""
        return row.difference if self.refused else row.contribution

    def interval(self, row: Entry) -> Interval | None:
        """Its interval."""
        return row.difference_ci if self.refused else row.contribution_ci

    def points(self, rows: Sequence[Entry]) -> list[tuple[Entry, float]]:
        """The arms whose value is known, with it."""
        known = [(row, self.value(row)) for row in rows]
        return [(row, value) for row, value in known if value is not None]

    def extent(self, rows: Sequence[Entry]) -> tuple[float, float]:
        """An axis range that holds every interval and both marks, with a margin."""
        values = [0.0, self.full]
        for row, value in self.points(rows):
            values += self.interval(row) or [value]
        margin = 0.08 * (max(values) - min(values) or 1.0)
        return min(values) - margin, max(values) + margin
