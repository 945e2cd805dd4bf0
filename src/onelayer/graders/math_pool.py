"""Worker processes for :mod:`onelayer.graders.math_answer`: killable, reused between calls, gone when this process is.

Each worker is its own interpreter (the calling one holds models and threads and must not be forked); what it does is in
:mod:`onelayer.graders.math_worker`.
"""

import atexit
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from onelayer.errors import UserError

GRACE = 5.0
"""Seconds that a worker gets beyond an answer's deadline before it is taken for dead."""


class Verdict(NamedTuple):
    """What a worker said about one answer, and the wall seconds it took."""

    verdict: str
    seconds: float


class _Worker:
    """One worker process; ``ask`` is for one thread at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("math_worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._process.stdin and self._process.stdout
        self._requests, self._replies = self._process.stdin, self._process.stdout
        if not self._replies.readline():
            raise RuntimeError("A math grading process ended while it started.")

    def ask(self, reference: str, answer: str, deadline: float) -> str:
        """The verdict; "" if the worker itself died or hangs."""
        request = {"reference": reference, "answer": answer, "deadline": deadline}
        watchdog = threading.Timer(deadline + GRACE, self._process.kill)
        watchdog.start()
        try:
            self._requests.write(json.dumps(request).encode() + b"\n")
            self._requests.flush()
            reply = self._replies.readline()
        except BrokenPipeError:
            reply = b""
        finally:
            watchdog.cancel()
        return str(json.loads(reply)["verdict"]) if reply else ""

    def close(self) -> None:
        """End the process and wait until it is gone."""
        self._process.kill()
        self._process.wait()
        self._requests.close()
        self._replies.close()


class MathPool:
    """``workers`` processes that compare answers. A context manager; closing it ends them."""

    def __init__(self, workers: int | None = None) -> None:
        if find_spec("math_verify") is None:
            raise UserError("The math grader needs math-verify; install it with: pip install 'onelayer[math]'.")
        size = workers or os.cpu_count() or 1
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="math-grader")
        self._local = threading.local()
        self._workers: set[_Worker] = set()

    def _replace_worker(self) -> None:
        old: _Worker | None = getattr(self._local, "worker", None)
        if old:
            self._workers.discard(old)
            old.close()
        self._local.worker = _Worker()
        self._workers.add(self._local.worker)

    def _compare(self, reference: str, answer: str, deadline: float, batch_end: float) -> Verdict | None:
        if not hasattr(self._local, "worker"):
            self._replace_worker()
        started = time.monotonic()
        left = batch_end - started
        if left <= 0:
            return None
        verdict = self._local.worker.ask(reference, answer, min(deadline, left))
        if not verdict:
            self._replace_worker()
        return Verdict(verdict or "crash", time.monotonic() - started)

    def compare(self, pairs: Sequence[tuple[str, str]], deadline: float, batch_deadline: float) -> list[Verdict | None]:
        """Compare (reference, answer) pairs; None for those the batch's deadline left no time for.

        Args:
            pairs: normalized text.
            deadline: seconds for each pair.
            batch_deadline: seconds for this call.
        """
        batch_end = time.monotonic() + batch_deadline
        jobs = [self._threads.submit(self._compare, *pair, deadline, batch_end) for pair in pairs]
        return [job.result() for job in jobs]

    def close(self) -> None:
        """End all processes."""
        self._threads.shutdown(cancel_futures=True)
        while self._workers:
            self._workers.pop().close()

    def __enter__(self) -> "MathPool":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


_shared: list[MathPool] = []


def shared_pool() -> MathPool:
    """The pool that calls without one share; started by the first of them, ended with the process."""
    if not _shared:
        pool = MathPool()
        close: Callable[[], None] = pool.close
        atexit.register(close)
        _shared.append(pool)
    return _shared[0]
