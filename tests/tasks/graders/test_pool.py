"""The pool that replaces lost worker processes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from onelayer.errors import RunStopped
from onelayer.tasks.graders.math_pool import MathPool
from onelayer.tasks.graders.pool import STARTS, WorkerLost, WorkerPool


class Worker:
    """Doubles a number; is lost over 13 always, and over 7 when it is the first one."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.closed = False

    def close(self) -> None:
        self.closed = True

    def double(self, item: int) -> int:
        if item == 13 or (item == 7 and self.number == 0):
            raise WorkerLost
        return 2 * item


@contextmanager
def pool_of(fails: Callable[[int], bool]) -> Iterator[tuple[WorkerPool[Worker], list[Worker]]]:
    """A pool of one worker; the attempts for which ``fails`` is true do not start."""
    attempts = 0
    started: list[Worker] = []

    def start() -> Worker:
        nonlocal attempts
        attempts += 1
        if fails(attempts - 1):
            raise OSError("no interpreter")
        started.append(Worker(len(started)))
        return started[-1]

    pool = WorkerPool(start, 1)
    yield pool, started
    pool.close()


def test_an_item_gets_two_workers_and_the_others_their_own() -> None:
    with pool_of(lambda attempt: False) as (pool, started):
        assert pool.map(Worker.double, [1, 7, 13, 2], lost=-1) == [2, 14, -1, 4]
        # The first was lost over 7, the next two over 13.
        assert [worker.closed for worker in started] == [True, True, True, False]
    assert started[-1].closed


def test_a_start_that_fails_is_tried_again() -> None:
    with pool_of(lambda attempt: attempt < STARTS - 1) as (pool, started):
        assert pool.map(Worker.double, [1, 2], lost=-1) == [2, 4]
        assert len(started) == 1


def test_workers_that_never_start_are_a_sentence() -> None:
    with (
        pool_of(lambda attempt: True) as (pool, _),
        pytest.raises(RunStopped, match="3 times in a row: no interpreter"),
    ):
        pool.map(Worker.double, [1], lost=-1)


def test_a_math_worker_that_ends_while_it_starts_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    whole, starts = sys.executable, iter(["/bin/false", sys.executable])
    monkeypatch.setattr("onelayer.tasks.graders.math_pool.sys.executable", "/bin/false")
    with MathPool(1) as pool, pytest.raises(RunStopped, match="ended with status 1 while it started"):
        pool.compare([("1/2", "0.5")], 5, 30)
    monkeypatch.setattr("onelayer.tasks.graders.math_pool.sys", _Executables(whole, starts))
    with MathPool(1) as pool:
        (verdict,) = pool.compare([("1/2", "0.5")], 5, 30)
    assert verdict is not None and verdict.verdict == "correct"


class _Executables:
    """Stands for ``sys`` in a module that asks it for the interpreter only."""

    def __init__(self, last: str, executables: Iterator[str]) -> None:
        self._last, self._executables = last, executables

    @property
    def executable(self) -> str:
        return next(self._executables, self._last)
