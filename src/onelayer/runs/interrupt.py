"""Ctrl-C and SIGTERM: the first asks a run to stop at the end of its step, the second stops it at once.

A scheduler that takes a machine away sends SIGTERM and kills some seconds later; what a step still needs may be more. So
the first signal starts a clock, and when the grace is over the run stops where it is and goes on from its last state.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupted(KeyboardInterrupt):
    """A signal ended the command; the message says which, and what is kept."""


class Interrupts:
    """What signals do while a command runs: a context manager for the main thread; in any other it changes nothing."""

    def __init__(self) -> None:
        self.asked: str | None = None
        """Name of the signal that asked the run to stop at its next step."""
        self._grace: float | None = None
        self._timer: threading.Timer | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exception: object) -> None:
        self._end_grace()
        self.asked = None
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    @contextmanager
    def finishing_steps(self, grace: float, tell: Callable[[str], object]) -> Iterator[None]:
        """Inside the block the first signal only notes itself in :attr:`asked`, for ``grace`` seconds.

        ``tell`` gets a sentence about that.
        """
        self._grace, self._tell = grace, tell
        try:
            yield
        finally:
            self._grace = None
            self._end_grace()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self._grace is None or self.asked:
            raise Interrupted(f"stopped by {name}")
        self.asked = name
        if self._grace <= 0:
            raise Interrupted(f"stopped by {name}")
        self._timer = threading.Timer(self._grace, signal.pthread_kill, (threading.main_thread().ident, number))
        self._timer.daemon = True
        self._timer.start()
        with contextlib.suppress(RuntimeError):  # the signal came in the middle of another line
            self._tell(
                f"{name}: stopping at the end of this step, in {self._grace:g} s at the latest; once more stops now"
            )

    def _end_grace(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


interrupts = Interrupts()
"""Signals belong to the whole process, so there is one."""
