"""Which trials there are, and how several processes share them."""

import json
import os
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onelayer.storage.files import write_text
from tests.faults.scenarios import SCENARIOS, prepare
from tests.faults.suite import Suite
from tests.faults.table import Row

SHARES = {
    "scan": 0.2,
    "train": 0.28,
    "eval": 0.18,
    "eval --scan": 0.06,
    "halving": 0.06,
    "household": 0.06,
    "lisa": 0.1,
    "rates": 0.06,
}
"""How the kills are shared out: the shorter a command, the more."""
REPEATED = ("merge", "merge --delta-only", "export verl", "contribution", "stitch", "vote", "report", "grade")
"""Commands that are repeated where others have --resume."""
AT_ONCE = 10
"""Kills of one task."""


@dataclass(frozen=True)
class Task:
    """A call of one of the suite's kinds of trials."""

    kind: str
    command: str
    arguments: tuple[Any, ...] = ()

    def run(self, suite: Suite) -> None:
        """Make the trials."""
        getattr(suite, self.kind)(SCENARIOS[self.command], *self.arguments)


def all_tasks(kills: int, points: int | None, only: Collection[str]) -> list[Task]:
    """Every kind of fault (or ``only`` some), with ``kills`` kills at random moments over the commands."""
    tasks: list[Task] = []

    def each(kind: str, names: Sequence[str], *arguments: Any) -> None:
        tasks.extend(Task(kind, name, arguments) for name in names)

    for name, share in SHARES.items():
        number = max(1, round(kills * share))
        for done in range(0, number, AT_ONCE):
            each("kills", [name], min(AT_ONCE, number - done))
    each("kills", REPEATED, max(1, kills // 50))
    each("signals", ("scan", "train", "eval", "household"), max(1, kills // 25))
    each("torn_states", ("scan", "train", "eval", "eval --scan"), max(1, kills // 25))
    for name, parts in (("scan", 6), ("train", 4), ("eval", 2), ("eval --scan", 4), ("stitch", 2)):
        for part in range(parts):
            each("write_points", [name], points, part, parts)
    each("write_points", [name for name in REPEATED if name != "stitch"], points)
    each("limits", ("train", "eval"))
    each("clocks", ("scan", "eval"))
    each("two_at_once", ("scan",))
    each("stuck_workers", ("grade", "programs"), max(1, kills // 40))
    each("endless_reward", ("train",))
    return [task for task in tasks if not only or task.kind in only]


FEW = (
    Task("kills", "train", (2,)),
    Task("kills", "eval", (1,)),
    Task("signals", "train", (1,)),
    Task("write_points", "train", (1,)),
    Task("two_at_once", "train"),
)
"""A few of each kind, for every change of the code."""


def run(tasks: Sequence[Task], work: Path, seed: int, jobs: int, say: Callable[[str], object]) -> list[Row]:
    """Make all trials that ``work`` has no rows of, in ``jobs`` processes, and return all rows in the order of the tasks.

    Raises:
        RuntimeError: a process of the suite itself failed, or ``work`` is of other tasks.
    """
    plan = json.dumps([seed, [asdict(task) for task in tasks]])
    if (work / "plan.json").exists() and (work / "plan.json").read_text() != plan:
        raise RuntimeError(f"{work} is of a suite with other options")
    (work / "plan.json").write_text(plan)
    for left in (*work.glob("taken-*"), *work.glob("worker-*")):
        if left.is_dir():
            shutil.rmtree(left)
        elif not (work / left.name.replace("taken", "rows")).exists():
            left.unlink()
    workers = []
    for number in range(jobs):
        if (child := os.fork()) == 0:
            _work(tasks, work, work / f"worker-{number}", seed, say)
        workers.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) for worker in workers]
    if any(codes):
        raise RuntimeError(f"the suite itself failed: {codes}")
    return [Row(**row) for place in range(len(tasks)) for row in json.loads((work / f"rows-{place}").read_text())]


def _work(tasks: Sequence[Task], work: Path, own: Path, seed: int, say: Callable[[str], object]) -> None:
    """Take tasks that nobody has taken until there are none, then end the process."""
    code = 70
    try:
        own.mkdir()
        # In a child: the process that trials are forked from runs no model.
        if (child := os.fork()) == 0:
            prepare(own)
            os._exit(0)
        os.waitpid(child, 0)
        suite = Suite(own, say)
        for place, task in enumerate(tasks):
            try:
                os.close(os.open(work / f"taken-{place}", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            suite.begin(f"{seed} {place}")
            task.run(suite)
            rows = list(suite.rows.values())
            write_text(work / f"rows-{place}", json.dumps([asdict(row) for row in rows]))
            counts = f"{sum(row.tried for row in rows)} faults, {sum(row.survived for row in rows)} survived"
            say(f"{task.kind} of {task.command} {' '.join(map(str, task.arguments))}: {counts}")
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)
