"""One process at a time for a folder that is written to.

The operating system holds the lock (flock) and lets go of it when the process ends, however it ends: what a killed
process leaves behind is a file that nobody holds. The file says who took the lock, for the one who comes second.
"""

import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from onelayer.errors import UserError
from onelayer.storage.doors import holding, open_own
from onelayer.storage.files import in_use, is_free, why
from onelayer.storage.lines import parse_json

LOCK_FILE = ".lock"
"""In the folder, while a process works there, or after one was killed."""


def require_free(folder: Path, *, resume: bool) -> None:
    """Check that a command may write to a folder: nothing is in it, or at most the lock of one that was killed.

    Raises:
        UserError: there is something else, and the command is not to ``resume`` what it is.
    """
    if not resume and not is_free(folder, but={LOCK_FILE}):
        raise in_use(folder, resumable=True)


@contextmanager
def locked(folder: Path) -> Iterator[str | None]:
    """Hold a folder, which has to exist, for the length of the block: nothing in it leads out of it meanwhile.

    Yields:
        A sentence about the process that held it before and ended without letting go; None where there was none.

    Raises:
        UserError: another process holds it, or no lock can be taken there.
    """
    path = folder / LOCK_FILE
    handle, left = _take(path)
    try:
        with holding(folder):
            yield left
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _take(path: Path) -> tuple[int, str | None]:
    while True:
        try:
            handle = open_own(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise UserError(f"output '{path.parent}' cannot be written to: {why(error)}") from error
        left = None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _holder(handle)
            os.close(handle)
            raise UserError(
                f"output '{path.parent}' is in use by {_described(holder)}; wait for it, stop it, or give another folder"
            ) from error
        except OSError as error:
            # A file system without locks: what the file says is all there is to go by.
            holder = _holder(handle)
            if holder and not _gone(holder):
                os.close(handle)
                raise UserError(
                    f"output '{path.parent}' seems to be in use by {_described(holder)}, and its file system has no "
                    f"locks ({error.strerror}); if that process is gone, remove '{path}'"
                ) from error
        # The one before may have removed the file between opening and locking: then this lock is of nothing.
        if not os.path.lexists(path) or os.fstat(handle).st_ino != path.lstat().st_ino:
            os.close(handle)
            continue
        if holder := _holder(handle):
            left = f"{_described(holder)} ended without letting go of the folder; this run takes over"
        me = {
            "process": os.getpid(),
            "started": psutil.Process().create_time(),
            "host": socket.gethostname(),
            "since": datetime.now().isoformat(sep=" ", timespec="seconds"),
            "command": " ".join(["onelayer", *sys.argv[1:]]),
        }
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(me).encode(), 0)
        return handle, left


def _holder(handle: int) -> dict[str, Any] | None:
    try:
        holder = parse_json(os.pread(handle, 65536, 0).decode())
    except ValueError:  # empty, or written by half
        return None
    return holder if isinstance(holder, dict) else None


def _described(holder: dict[str, Any] | None) -> str:
    if holder is None:
        return "another process"
    get = {key: str(holder.get(key, "?")) for key in ("process", "host", "since", "command")}
    return f"process {get['process']} on {get['host']} since {get['since']} ({get['command']})"


def _gone(holder: dict[str, Any]) -> bool:
    """Whether the process that a lock file names certainly no longer runs."""
    if holder.get("host") != socket.gethostname():
        return False
    try:
        return bool(psutil.Process(int(holder["process"])).create_time() != holder.get("started"))
    except (psutil.NoSuchProcess, KeyError, ValueError, TypeError):
        return True
