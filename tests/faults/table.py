"""What came of the trials, as a table in Markdown."""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class Row:
    """A line of the table: one kind of fault on one command."""

    fault: str
    command: str
    tried: int = 0
    """Faults that took effect: a kill that came after the end is none."""
    survived: int = 0
    """Those after which everything was as in an undisturbed run."""
    compared: int = 0
    """Bytes compared one by one."""
    lost: list[str] = field(default_factory=list)
    """What was not as it should be."""

    def add(self, other: "Row") -> None:
        """Add the trials of another row."""
        self.tried, self.survived = self.tried + other.tried, self.survived + other.survived
        self.compared, self.lost = self.compared + other.compared, self.lost + other.lost


def merged(rows: Iterable[Row]) -> list[Row]:
    """One row for each fault and command, in the order of their first appearance."""
    found: dict[tuple[str, str], Row] = {}
    for row in rows:
        found.setdefault((row.fault, row.command), Row(row.fault, row.command)).add(row)
    return list(found.values())


def table(rows: Iterable[Row]) -> str:
    """The rows as a table in Markdown, with their sum."""
    lines = ["| fault | command | tried | survived | bytes compared | lost |", "|---|---|---:|---:|---:|---|"]
    total = Row("all", "")
    for row in rows:
        lost = f"{len(row.lost)}: {row.lost[0][:80]}" if row.lost else "nothing"
        lines.append(f"| {row.fault} | {row.command} | {row.tried} | {row.survived} | {row.compared:,} | {lost} |")
        total.add(row)
    lost = f"{len(total.lost)}" if total.lost else "nothing"
    lines.append(f"| **all** | | {total.tried} | {total.survived} | {total.compared:,} | {lost} |")
    return "\n".join(lines)
