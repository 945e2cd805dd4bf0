"""The workers of a run on a Ray cluster: started, asked, listened to, and replaced when they die."""

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from onelayer.engines.ray.cluster import Size, machines
from onelayer.engines.ray.worker import Greeting, Refusal, Reply
from onelayer.errors import RunStopped, UserError

log = logging.getLogger(__name__)
SLOW_SECONDS = 60.0
"""After which it is said that workers are waited for."""
SILENT_SECONDS = 600.0
"""A step that takes longer may hang, if it also takes ``SILENT_TIMES`` as long as any before it."""
SILENT_TIMES = 10.0
LOADS = 3
"""Workers in a row that may die before they have loaded."""


@dataclass(eq=False)
class WorkerHandle:
    """A worker, from its start to its death."""

    number: int
    actor: Any
    asked: Any = None
    """What Ray will answer: the loading, or one step; None while nothing is asked."""
    greeting: Greeting | None = None
    """None until it has loaded."""
    since: float = 0.0
    """When it was asked."""
    remarked: bool = False
    """Whether it was said that its answer is late."""

    def __str__(self) -> str:
        where = f" (process {self.greeting.process} on {self.greeting.host})" if self.greeting else ""
        return f"worker {self.number}{where}"

    def tell(self, method: str, *arguments: Any) -> None:
        """Call something that has no answer: it is done before what is asked for next."""
        getattr(self.actor, method).remote(*arguments)

    def ask(self, method: str, *arguments: Any) -> None:
        """Call something whose answer :meth:`Workers.answers` gives."""
        self.asked = getattr(self.actor, method).remote(*arguments)
        self.since, self.remarked = time.monotonic(), False


@dataclass(frozen=True)
class Died:
    """A worker that gives no more answers."""

    why: str


@dataclass
class Workers:
    """Processes on a cluster, each with the base and the problems in its memory.

    Args:
        size: what one of them takes of a machine.
        make: starts one; returns Ray's handle.
        check: compares what one says of itself with this process.
    """

    size: Size
    make: Callable[[], Any]
    check: Callable[[Greeting], None]
    handles: list[WorkerHandle] = field(default_factory=list)
    _started: int = 0
    _failed: int = 0
    """Workers in a row that died while they loaded."""
    _problem: UserError | RunStopped | None = None
    """Why the run cannot go on with these workers."""
    _longest: float = 0.0
    """Seconds of the longest step so far."""

    def start(self, count: int) -> None:
        """Start so many more."""
        for _ in range(count):
            self._started += 1
            handle = WorkerHandle(self._started, self.make())
            handle.ask("load")
            self.handles.append(handle)

    def wait_for_all(self) -> None:
        """Wait until all have loaded.

        Raises:
            UserError: what one of them could not load, or has otherwise than this process.
            RunStopped: worker after worker dies while it loads.
        """
        while any(handle.greeting is None for handle in self.handles):
            self.answers(1.0)

    def idle(self) -> list[WorkerHandle]:
        """Those that have loaded and do nothing."""
        return [handle for handle in self.handles if handle.greeting is not None and handle.asked is None]

    def answers(self, seconds: float) -> list[tuple[WorkerHandle, Reply | Died]]:
        """What workers have answered within so many seconds. In the place of one that died a new one starts.

        Raises:
            UserError: a worker could not load, or has other code or data than this process.
            RunStopped: worker after worker dies while it loads, or no machine is left that has room for one.
        """
        import ray

        if self._problem is not None:
            problem, self._problem = self._problem, None
            raise problem
        self._remark()
        asked = {handle.asked: handle for handle in self.handles if handle.asked is not None}
        if not asked:
            time.sleep(seconds)
            return []
        ready, _ = ray.wait(list(asked), num_returns=1, timeout=seconds)
        if ready:
            ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=0)
        found: list[tuple[WorkerHandle, Reply | Died]] = []
        for reference in ready:
            handle = asked[reference]
            handle.asked = None
            try:
                answer = ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                raise error.as_instanceof_cause() from None  # a fault of the program
            except ray.exceptions.RayError as error:
                found.append((handle, Died(_cause(error))))
                self._drop_dead(handle, error)
                continue
            if isinstance(answer, Reply):
                self._longest = max(self._longest, time.monotonic() - handle.since)
                found.append((handle, answer))
            else:
                self._greeted(handle, answer)
        return found

    def drop(self, handle: WorkerHandle) -> None:
        """End a worker, whatever it does."""
        import ray

        self.handles.remove(handle)
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(handle.actor)

    def _remark(self) -> None:
        """Say, once each time, that workers do not start and that one may hang: the run itself waits for ever."""
        now = time.monotonic()
        late = [handle for handle in self.handles if handle.asked is not None and not handle.remarked]
        loading = [handle for handle in late if handle.greeting is None and now - handle.since > SLOW_SECONDS]
        if loading:
            log.info("waiting for %d of %d workers to start and load", len(loading), len(self.handles))
        limit = max(SILENT_SECONDS, SILENT_TIMES * self._longest)
        silent = [handle for handle in late if handle.greeting is not None and now - handle.since > limit]
        for handle in silent:
            log.warning(
                "%s has been silent for %.0f s, and the longest step before took %.0f s; if it hangs, end that process, "
                "and what it had goes to another",
                handle,
                now - handle.since,
                self._longest,
            )
        for handle in loading + silent:
            handle.remarked = True

    def _greeted(self, handle: WorkerHandle, answer: Greeting | Refusal) -> None:
        if isinstance(answer, Refusal):
            kind = UserError if isinstance(answer.error, UserError) else RunStopped
            self._problem = self._problem or kind(f"{answer.error} (on the machine {answer.host} of the Ray cluster)")
            return
        try:
            self.check(answer)
        except UserError as error:
            self._problem = self._problem or error
        handle.greeting, self._failed = answer, 0

    def _drop_dead(self, handle: WorkerHandle, error: Exception) -> None:
        # One that was only out of reach must not go on.
        self.drop(handle)
        self._failed += handle.greeting is None
        if "No module named 'onelayer" in str(error):
            self._problem = UserError(
                "a machine of the Ray cluster has no onelayer, or an old one; install there what is installed here: "
                "pip install 'onelayer[ray]'"
            )
        elif self._failed >= LOADS:
            self._problem = RunStopped(
                f"{self._failed} workers in a row ended while they loaded the model ({_cause(error)}); look at the memory "
                "of their machines, of which a worker takes that of the model twice, and at Ray's logs"
            )
        elif not any(self.size.fits(machine.total) for machine in machines()):
            self._problem = RunStopped(
                f"{handle} died, and no machine of the cluster is left that could hold another ({self.size}); --resume "
                "goes on from the last state"
            )
        else:
            if handle.greeting is None:
                log.warning("%s ended while it loaded the model (%s); another is started", handle, _cause(error))
            self.start(1)


def _cause(error: Exception) -> str:
    """What Ray knows of a death, in a few words."""
    text = " ".join(str(error).split())
    if "running low on memory" in text:
        return "Ray ended it because its machine ran low on memory"
    if "node has died" in text or "node is dead" in text or "node was terminated" in text:
        return "its machine is gone"
    return "its process ended"
