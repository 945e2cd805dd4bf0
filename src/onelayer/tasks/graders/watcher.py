"""What a program holds in all its processes together: memory, and room in its directory where that has no end of its own.

The kernel limits each process; their number times that limit is more than a program may have. So the worker looks, some
times a second, and ends a program that holds too much. Memory shared by several processes counts once. Everything is read
through an open ``/proc``, which a worker keeps when it leaves the file system. Man page: proc(5).
"""

import contextlib
import os
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

LOOK_SECONDS = 0.03
"""Time between two looks, at least."""
_SHARE = 5  # looking takes at most this part of the time
DIRECTORY_ENTRIES = 1024
_BLOCK = 512
_TRIES = 10


def open_proc() -> int | None:
    """A descriptor of ``/proc``; None where there is none."""
    try:
        return os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None


def _read(proc: int, name: str) -> str:
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    with os.fdopen(descriptor, encoding="ascii", errors="replace") as file:
        return file.read()


class Descendants:
    """Finds the processes below this one. It remembers which are not, so that few are read each time."""

    def __init__(self, proc: int) -> None:
        self.proc = proc
        self._others: set[int] = set()

    def find(self) -> list[int]:
        """All processes below this one, as ``proc`` numbers them."""
        this = int(os.readlink("self", dir_fd=self.proc))
        for _ in range(_TRIES):
            listed = {int(name) for name in os.listdir(self.proc) if name.isdigit()}  # noqa: PTH208 - of a descriptor
            self._others &= listed
            parents: dict[int, int] = {}
            for process in listed - self._others - {this}:
                with contextlib.suppress(OSError):  # it ended meanwhile
                    parents[process] = int(_read(self.proc, f"{process}/stat").rpartition(")")[2].split()[1])
            found = _offspring({this}, parents)
            self._others |= _offspring({0, *self._others}, parents)
            if found | self._others >= parents.keys():
                break
            # The parent of one ended before it was read. Then the child has another parent now.
        return sorted(found)


def _offspring(ancestors: set[int], parents: dict[int, int]) -> set[int]:
    """The processes whose line of parents leads to one of ``ancestors``."""
    found: set[int] = set()
    layer = ancestors
    while layer:
        layer = {child for child, parent in parents.items() if parent in layer} - found
        found |= layer
    return found


def own_number(proc: int, process: int) -> int:
    """The number of ``process`` in the namespace of this process, which is ``self`` in ``proc``; 0 if it is gone."""
    try:
        depth = len(_field(proc, "self/status", "NSpid").split())
        return int(_field(proc, f"{process}/status", "NSpid").split()[depth - 1])
    except OSError:
        return 0


def _field(proc: int, name: str, key: str) -> str:
    lines = (line.partition(":") for line in _read(proc, name).splitlines())
    return next((value for found, _, value in lines if found == key), "0")


def address_space(proc: int, process: int) -> int:
    """Bytes of all that a process has mapped: never less than what it holds. 0 if it is gone."""
    try:
        return int(_read(proc, f"{process}/statm").split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def held_memory(proc: int, process: int) -> int:
    """Bytes that a process holds, in memory or swapped out. What n processes share counts as an n-th, if it can be seen."""
    for name, keys in (("smaps_rollup", ("Pss", "SwapPss")), ("status", ("VmRSS", "VmSwap"))):
        with contextlib.suppress(OSError):  # not ours to see, an older kernel, or it ended meanwhile
            return 1024 * sum(int(_field(proc, f"{process}/{name}", key).split()[0]) for key in keys)
    return 0


def room_below(directory: str) -> float:
    """Bytes that files below ``directory`` take up; infinite where there are too many, or they cannot be counted."""
    room, entries, pending = 0, 0, [directory]
    while pending:
        try:
            with os.scandir(pending.pop()) as found:
                for entry in found:
                    entries += 1
                    if entries > DIRECTORY_ENTRIES:
                        return float("inf")
                    with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                        room += _BLOCK * entry.stat(follow_symlinks=False).st_blocks
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
        except FileNotFoundError:
            continue
        except OSError:  # closed to its owner, or nested too deep: no way to count it
            return float("inf")
    return room


def room_of_deleted(proc: int, processes: Iterable[int], device: int) -> int:
    """Bytes of files on ``device`` that have no name left but are open in ``processes``."""
    rooms: dict[int, int] = {}
    for process in processes:
        with contextlib.suppress(OSError):  # it ended meanwhile, or is not ours to see
            descriptor = os.open(f"{process}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc)
            try:
                numbers = os.listdir(descriptor)  # noqa: PTH208 - of a descriptor
            finally:
                os.close(descriptor)
            for number in numbers:
                with contextlib.suppress(OSError):  # closed meanwhile
                    about = os.stat(f"{process}/fd/{number}", dir_fd=proc)
                    if stat.S_ISREG(about.st_mode) and about.st_nlink == 0 and about.st_dev == device:
                        rooms[about.st_ino] = _BLOCK * about.st_blocks
    return sum(rooms.values())


@dataclass
class Watch:
    """Looks whether a program holds too much.

    Attributes:
        descendants: finds the program's processes; None: they cannot be looked up.
        memory_bytes: what all processes below this one may hold together.
        apart: a process that does not count, as this process numbers it (the tests, which have a limit of their own).
        directories: directories to look at; empty where their file systems have limits.
        directory_bytes: what may lie in each.
        user: whose processes these are; None: this one's. Without the privilege to look into any process, which root in
            a container rarely has, only their own user may.
        newest: the process that was started last in this process's namespace, if it is the program or its tests. As long
            as it is the last, the program has no other process, and there is nothing to add up.
    """

    descendants: Descendants | None
    memory_bytes: int
    apart: int | None = None
    directories: tuple[str, ...] = ()
    directory_bytes: int = 0
    user: int | None = None
    newest: int | None = None
    _next: float = field(default_factory=lambda: time.monotonic() + LOOK_SECONDS)

    def too_much(self) -> bool:
        """Look, if it is time to; whether the program holds more than it may."""
        started = time.monotonic()
        if started < self._next:
            return False
        result = self.look()
        ended = time.monotonic()
        self._next = ended + max(LOOK_SECONDS, _SHARE * (ended - started))
        return result

    def look(self) -> bool:
        """Whether the program holds more than it may, now."""
        if self.newest is not None and self.descendants and _last_started(self.descendants.proc) == self.newest:
            return False
        with _acting_as(self.user):
            return self._look()

    def _look(self) -> bool:
        processes = self.descendants.find() if self.descendants else []
        if self.descendants and self._memory(self.descendants.proc, processes) > self.memory_bytes:
            return True
        for directory in self.directories:
            room = room_below(directory)
            if self.descendants:
                room += room_of_deleted(self.descendants.proc, processes, Path(directory).stat().st_dev)
            if room > self.directory_bytes:
                return True
        return False

    def _memory(self, proc: int, processes: list[int]) -> int:
        if len(processes) < 2 or sum(address_space(proc, process) for process in processes) <= self.memory_bytes:
            return 0  # one process has the kernel's limit
        if self.apart is not None:
            processes = [process for process in processes if own_number(proc, process) != self.apart]
        return sum(held_memory(proc, process) for process in processes)


def _last_started(proc: int) -> int:
    """The process that was started last in this process's namespace."""
    return int(_read(proc, "loadavg").split()[-1])


@contextlib.contextmanager
def _acting_as(user: int | None) -> Iterator[None]:
    """Look at files with the rights of ``user``, and be root again afterwards."""
    if user is None:
        yield
        return
    os.setegid(user)
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
