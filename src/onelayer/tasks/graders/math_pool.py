"""Worker processes for :mod:`onelayer.tasks.graders.math_answer`: killable, reused between calls, gone when this process is.

Each worker is its own interpreter (the calling one holds models and threads and must not be forked); what it does is in
:mod:`onelayer.tasks.graders.math_worker`. The worker imports the very package that started it.
"""

import atexit
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from onelayer.tasks.graders.pool import WorkerLost, WorkerPool

GRACE = 5.0
"""Seconds that a worker gets beyond an answer's deadline before it is taken for dead."""
START_SECONDS = 120.0
"""Seconds to import math-verify and warm it up; 2 are usual."""


_PACKAGE_ROOT = str(Path(__file__).parents[2])
_START = "import sys; sys.path.insert(0, {path!r}); from onelayer.tasks.graders.math_worker import main; main()"


class Verdict(NamedTuple):
    """What a worker said about one answer, and the wall seconds it took."""

    verdict: str
    seconds: float


class _Worker:
    """One worker process; ``ask`` is for one thread at a time.

    Raises:
        OSError: it does not start.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START.format(path=_PACKAGE_ROOT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._process.stdin and self._process.stdout
        self._requests, self._replies = self._process.stdin, self._process.stdout
        watchdog = threading.Timer(START_SECONDS, self._process.kill)
        watchdog.start()
        ready = self._replies.readline()
        watchdog.cancel()
        if not ready:
            self.close()
            raise OSError(f"the math grader's process ended with status {self._process.returncode} while it started")

    def ask(self, reference: str, answer: str, deadline: float) -> str:
        """The verdict.

        Raises:
            WorkerLost: the worker itself died or hangs.
        """
        request = {"reference": reference, "answer": answer, "deadline": deadline}
        watchdog = threading.Timer(deadline + GRACE, self._process.kill)
        watchdog.start()
        try:
            self._requests.write(json.dumps(request).encode() + b"\n")
            self._requests.flush()
            reply = self._replies.readline()
        except BrokenPipeError as error:
            raise WorkerLost from error
        finally:
            watchdog.cancel()
        if not reply:
            raise WorkerLost
        return str(json.loads(reply)["verdict"])

    def close(self) -> None:
        """End the process and wait until it is gone."""
        self._process.kill()
        self._process.wait()
        self._requests.close()
        self._replies.close()


class MathPool:
    """``workers`` processes that compare answers. A context manager; closing it ends them."""

    def __init__(self, workers: int | None = None) -> None:
        self._pool = WorkerPool(_Worker, workers or os.cpu_count() or 1)

    def compare(self, pairs: Sequence[tuple[str, str]], deadline: float, batch_deadline: float) -> list[Verdict | None]:
        """Compare (reference, answer) pairs; None for those the batch's deadline left no time for.

        Args:
            pairs: normalized text.
            deadline: seconds for each pair.
            batch_deadline: seconds for this call.
        """
        batch_end = time.monotonic() + batch_deadline

        def ask(worker: _Worker, pair: tuple[str, str]) -> Verdict | None:
            started = time.monotonic()
            left = batch_end - started
            if left <= 0:
                return None
            verdict = worker.ask(*pair, min(deadline, left))
            return Verdict(verdict, time.monotonic() - started)

        return self._pool.map(ask, pairs, lost=Verdict("crash", 0.0))

    def close(self) -> None:
        """End all processes."""
        self._pool.close()

    def __enter__(self) -> "MathPool":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


_shared: list[MathPool] = []


def shared_pool() -> MathPool:
    """The pool that calls without one share; started by the first of them, ended with the process."""
    if not _shared:
        pool = MathPool()
        atexit.register(pool.close)
        _shared.append(pool)
    return _shared[0]
