"""A pool of worker processes, one thread for each, that replaces those that get lost.

A worker may be lost over what it was given, or to something else: a person or the system ends a process, or it stands
still. So what a worker was lost over is tried once more with a new one, and only a second loss is the item's own.
One that ends while it starts was given nothing yet: another is started.
"""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, Protocol, TypeVar

from onelayer.errors import RunStopped

TRIES = 2
"""Workers that an item gets before it counts as what ends them."""
STARTS = 3
"""Starts in a row that fail before none is expected to succeed."""


class WorkerLost(Exception):
    """The worker process died or hangs, and has to be replaced."""


class Closable(Protocol):
    """What a worker has to offer."""

    def close(self) -> None:
        """End the process and wait until it is gone."""


W = TypeVar("W", bound=Closable)
T = TypeVar("T")
R = TypeVar("R")


class WorkerPool(Generic[W]):
    """``size`` workers, started by ``start`` (an OSError: it failed) when first needed; closing the pool ends them."""

    def __init__(self, start: Callable[[], W], size: int) -> None:
        self._start = start
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="grader")
        self._local = threading.local()
        self._workers: set[W] = set()

    def map(self, work: Callable[[W, T], R], items: Iterable[T], lost: R) -> list[R]:
        """``work(worker, item)`` for each item, in order; ``lost`` where two workers got lost over it.

        Raises:
            RunStopped: workers do not start.
        """

        def run(item: T) -> R:
            for _ in range(TRIES):
                if not hasattr(self._local, "worker"):
                    self._local.worker = self._started()
                    self._workers.add(self._local.worker)
                worker: W = self._local.worker
                try:
                    return work(worker, item)
                except WorkerLost:
                    del self._local.worker
                    self._workers.discard(worker)
                    worker.close()
            return lost

        jobs = [self._threads.submit(run, item) for item in items]
        return [job.result() for job in jobs]

    def _started(self) -> W:
        failure: OSError | None = None
        for _ in range(STARTS):
            try:
                return self._start()
            except OSError as error:
                failure = error
        raise RunStopped(
            f"a process that grades ended while it started, {STARTS} times in a row: {failure}"
        ) from failure

    def close(self) -> None:
        """End all workers, after the items they are at."""
        self._threads.shutdown(cancel_futures=True)
        while self._workers:
            self._workers.pop().close()
