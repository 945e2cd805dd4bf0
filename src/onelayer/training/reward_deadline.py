"""How long a reward may take and how often it may fail: functions of other people, over networks of other people."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from onelayer.config.sampling import RewardConfig
from onelayer.errors import GuardTripped
from onelayer.storage.screen import echo

PAUSE = 1.0
"""Seconds before the second try; each further pause is twice as long."""
LAST_WAIT = 5.0
"""Seconds after which a function that ignores its interruption ends the process."""
T = TypeVar("T")
log = logging.getLogger(__name__)


class Overdue(BaseException):
    """Raised inside the function that takes too long; no handler of ``Exception`` swallows it."""


@dataclass
class Patience:
    """The limits of one call of a reward, and what failed in it."""

    timeout: float = 3600.0
    retries: int = 2
    failures: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, config: RewardConfig) -> "Patience":
        """Those of a configuration."""
        return cls(config.reward_timeout, config.reward_retries)

    def call(self, name: str, reward: Callable[[], T]) -> T:
        """Call a reward; again, after a pause, when it fails as networks and files fail.

        Raises:
            GuardTripped: it does not return in time.
            OSError: it failed more often than ``retries``.
        """
        while True:
            try:
                with deadline(name, self.timeout):
                    return reward()
            except OSError as error:
                self.failures.append(f"{type(error).__name__}: {error}")
                if len(self.failures) > self.retries:
                    raise
                pause = PAUSE * 2 ** (len(self.failures) - 1)
                log.warning(
                    "the reward of task '%s' raised %s; trying again in %g s (%d of %d)",
                    *(name, self.failures[-1], pause, len(self.failures), self.retries),
                )
                time.sleep(pause)


@contextmanager
def deadline(name: str, seconds: float) -> Iterator[None]:
    """Interrupt the block after so many seconds (0 is never); what cannot be interrupted ends with the process.

    A signal to the main thread ends Python code and system calls alike. In other threads there is no such thing, and no
    deadline.

    Raises:
        GuardTripped: the block took too long.
    """
    if seconds <= 0 or threading.current_thread() is not threading.main_thread():
        yield
        return
    sentence = (
        f"the reward of task '{name}' has not returned after {seconds:g} s; raise reward_timeout if it may take so long"
    )
    lock, over = threading.Lock(), False
    main = threading.get_ident()

    def interrupt(number: int, frame: object) -> None:
        raise Overdue

    def act(what: Callable[[], object]) -> None:
        with lock:
            if not over:
                what()

    def give_up() -> None:
        echo(f"error: {sentence}; it could not be interrupted", err=True)
        _end_processes()
        os._exit(1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    timers = [
        threading.Timer(seconds, act, [lambda: signal.pthread_kill(main, signal.SIGUSR1)]),
        threading.Timer(seconds + LAST_WAIT, act, [give_up]),
    ]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield
    except Overdue:
        _end_processes()
        _end_in_time()
        raise GuardTripped("reward", sentence) from None
    finally:
        with lock:
            over = True
        signal.signal(signal.SIGUSR1, before)
        for timer in timers:
            timer.cancel()


def _end_processes() -> None:
    """Kill what the reward has left running in pools of processes, for which the end of this one would wait."""
    for child in multiprocessing.active_children():
        child.kill()


def _end_in_time() -> None:
    """Have the interpreter's end not wait for threads of the reward: they cannot be interrupted, and may never end."""
    left = [each for each in threading.enumerate() if each is not threading.main_thread() and not each.daemon]
    if not left:
        return
    ending = threading.Event()

    def end() -> None:
        ending.wait()
        over = time.monotonic() + LAST_WAIT
        for thread in left:
            thread.join(max(0.0, over - time.monotonic()))
        if any(thread.is_alive() for thread in left):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)

    threading.Thread(target=end, daemon=True).start()
    # Runs before threads are waited for, which what atexit knows does not.
    threading._register_atexit(ending.set)  # type: ignore[attr-defined]
