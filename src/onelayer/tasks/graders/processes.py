"""Trying things out in a process of its own, and counting, limiting and ending processes (control groups, /proc)."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path


def works(attempt: Callable[[], object]) -> bool:
    """Whether ``attempt`` succeeds in a process of its own."""
    child = os.fork()
    if child == 0:
        try:
            attempt()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def processes_of_this_user() -> int:
    """Threads that run under this user id anywhere on the machine: where no other user is at hand they count too."""
    count = 0
    for process in Path("/proc").glob("[0-9]*/task"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            count += len(list(process.iterdir())) if process.stat().st_uid == os.getuid() else 0
    return count


def sweep(groups: set[int], below: Callable[[], list[int]]) -> None:
    """Where there is no process namespace: kill what programs left behind, wherever it moved to.

    Args:
        groups: process groups to end.
        below: finds the processes below this one.
    """
    for group in groups:
        with contextlib.suppress(ProcessLookupError):  # nothing is left of it
            os.killpg(group, signal.SIGKILL)
    while processes := below():
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def join_process_group(limit: int) -> Path | None:
    """A control group that holds at most ``limit`` processes, with this one in it; None where none can be made."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return None
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    places = [f"/sys/fs/cgroup/pids{path}" for _, kinds, path in lines if kinds == "pids"]
    places += [f"/sys/fs/cgroup{path}" for number, _, path in lines if number == "0"]
    for place in places:
        group = Path(place) / f"onelayer-{os.getpid()}"
        try:
            group.mkdir()
            (group / "pids.max").write_text(str(limit))
            (group / "cgroup.procs").write_text(str(os.getpid()))
        except OSError:  # not writable here, or without the pids controller
            with contextlib.suppress(OSError):
                group.rmdir()
            continue
        return group
    return None


def leave_process_group(group: Path) -> None:
    """Go back to the group above and remove this one."""
    (group.parent / "cgroup.procs").write_text(str(os.getpid()))
    group.rmdir()
