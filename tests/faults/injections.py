"""Faults inside a command: a write that the disk refuses, a kill at a write, limits, clocks that jump."""

import errno
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
ERRORS = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EMFILE, errno.EIO, errno.EDQUOT)
Action = Callable[[str, str], None]
"""What to do at a write point: is given its name and the path."""


def watch_writes(output: Path, action: Action) -> None:
    """Call ``action`` before everything that changes something below a folder, with the place in the code it comes from.

    Python reports what it opens, renames, makes and removes; what libraries write by themselves, and flushes, are
    wrapped.
    """
    # A folder that is there whole or not at all is filled under another name beside its own.
    below = (str(output), str(output.with_name(f".{output.name}.")))

    def at(kind: str, path: object) -> None:
        if isinstance(path, (str, bytes, os.PathLike)):
            text = os.fsdecode(path)
            if text.startswith(below):
                action(f"{kind} {_place()}", text)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            if (isinstance(mode, str) and set(mode) & set("wax+")) or (mode is None and flags & WRITES):
                at("open", path)
        elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree"):
            at(event, arguments[0])
        elif event == "os.rename":
            at(event, arguments[1])

    sys.addaudithook(hook)
    _wrap_libraries(at)


def _wrap_libraries(at: Callable[[str, object], None]) -> None:
    import pyarrow.parquet as pq
    import transformers.modeling_utils as transformers

    from onelayer.arms import delta_files
    from onelayer.runs import checkpoints

    def torn_save(save: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(tensors: Any, path: Any, *more: Any, **named: Any) -> None:
            save(tensors, path, *more, **named)
            size = Path(path).stat().st_size
            os.truncate(path, size // 2)  # what a disk that is full, or a kill, leaves
            at("save_file", path)
            save(tensors, path, *more, **named)

        return wrapped

    for module in (checkpoints, delta_files):
        module.save_file = torn_save(module.save_file)
    transformers.safe_save_file = torn_save(transformers.safe_save_file)
    write_table = pq.write_table

    def torn_table(table: Any, path: Any, **named: Any) -> None:
        Path(path).write_bytes(b"PAR1")
        at("write_table", path)
        write_table(table, path, **named)

    pq.write_table = torn_table
    fsync = os.fsync

    def flush(handle: int) -> None:
        at("fsync", Path(f"/proc/self/fd/{handle}").readlink())
        fsync(handle)

    os.fsync = flush


def _place() -> str:
    """The innermost two lines of the package that lead here, but for those that only write."""
    frames = [
        f"{Path(frame.filename).name}:{frame.lineno}"
        for frame in traceback.extract_stack()
        if "/onelayer/" in frame.filename
    ]
    own = [frame for frame in frames if not frame.startswith(("cli.py", "options.py"))]
    return " < ".join(reversed(own[-3:]))


def list_points(output: Path, report: Path) -> Callable[[], None]:
    """A fault that is none: writes the name of every write point to a file outside of the folder, once each."""

    def fault() -> None:
        seen: set[str] = set()
        handle = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

        def note(point: str, path: str) -> None:
            if point not in seen:
                seen.add(point)
                os.write(handle, f"{point}\n".encode())

        watch_writes(output, note)

    return fault


def refuse_at(output: Path, point: str, number: int) -> Callable[[], None]:
    """The disk refuses the first write at a point with error ``number``."""

    def fault() -> None:
        left = [1]

        def refuse(here: str, path: str) -> None:
            if here == point and left[0]:
                left[0] = 0
                raise OSError(number, os.strerror(number), path)

        watch_writes(output, refuse)

    return fault


def kill_at(output: Path, point: str) -> Callable[[], None]:
    """The process is killed at the first write at a point."""

    def fault() -> None:
        def kill(here: str, path: str) -> None:
            if here == point:
                os.kill(os.getpid(), signal.SIGKILL)

        watch_writes(output, kill)

    return fault


def limit(kind: int, value: int) -> Callable[[], None]:
    """A limit of the system: file size (what a full disk is to every library alike), open files, memory."""

    def fault() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(kind, (value, resource.getrlimit(kind)[1]))

    return fault


def little_memory(extra: int) -> Callable[[], None]:
    """At most ``extra`` bytes of address space beyond what the process has now."""

    def fault() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        value = pages * resource.getpagesize() + extra
        resource.setrlimit(resource.RLIMIT_AS, (value, value))

    return fault


def jumping_clock(seed: int) -> Callable[[], None]:
    """The time of day jumps by up to eleven days, forwards and back, whenever it is asked for."""

    def fault() -> None:
        now, rng = time.time, random.Random(seed)
        time.time = lambda: now() + rng.uniform(-1e6, 1e6)

    return fault
