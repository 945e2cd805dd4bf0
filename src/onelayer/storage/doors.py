"""What the files and folders are that a command reads, writes and removes: ordinary ones, and its own.

A folder for results may have been prepared by somebody else, or hold what another program left: a link where a state
should be leads out of it, a pipe never ends, a device is no file, and a file with a second name elsewhere changes there
too. Nothing of that is followed, waited for or written to: it is refused in a sentence. The folder itself may be reached
through links, as whoever named it wished; nothing below it may.

Not covered: somebody who exchanges a folder for a link while a command works in it, between the look and the deed.
"""

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onelayer.errors import UserError

_HELD: list[Path] = []
"""Folders that this process works in, as absolute paths; see :func:`holding`."""


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """For the length of the block everything below a folder has to lie in it: no part of a path is a link."""
    held = _absolute(folder)
    _HELD.append(held)
    try:
        yield
    finally:
        _HELD.remove(held)


def require_own(path: Path) -> None:
    """Check that a path is free, or an ordinary file or folder, and as :func:`require_inside`.

    Raises:
        UserError: it is a link, a pipe, a socket or a device, or leads out of a folder that is held.
    """
    require_inside(path)
    _require_ordinary(_absolute(path), last=True)


def require_inside(path: Path, folder: Path | None = None) -> None:
    """Check that a path leads out of no folder that is held, or out of ``folder``; any path elsewhere will do.

    Raises:
        UserError: a part of it below the folder is a link, or no folder.
    """
    absolute = _absolute(path)
    if (root := _holder(absolute) if folder is None else _absolute(folder)) is None:
        return
    parts = absolute.relative_to(root).parts
    for number in range(1, len(parts) + 1):
        _require_ordinary(root.joinpath(*parts[:number]), last=number == len(parts))


def _absolute(path: Path) -> Path:
    """Links stay as they are in it: they are what is looked for."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow them


def _holder(absolute: Path) -> Path | None:
    """The folder that is held and a path lies below; the outermost, which a command in a folder inside keeps to as well."""
    return min((held for held in _HELD if held in absolute.parents), key=lambda held: len(held.parts), default=None)


def _require_ordinary(path: Path, *, last: bool) -> None:
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):  # said by what wants to use it
        return
    if not (stat.S_ISDIR(mode) or (last and stat.S_ISREG(mode))):
        used = "file or folder" if last else "folder"
        raise UserError(
            f"'{path}' is {kind_of(mode)}, where only an ordinary {used} is used; move it away, or put there what it "
            "stands for"
        )


def kind_of(mode: int) -> str:
    """What a file is, for messages, from its ``st_mode``."""
    kinds = (
        (stat.S_ISLNK, "a link that leads elsewhere"),
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISREG, "a file"),
    )
    return next((name for test, name in kinds if test(mode)), "a device")


def open_own(path: Path, flags: int) -> int:
    """Open an ordinary file to be changed in place, and no other thing of that name; returns the handle.

    Raises:
        UserError: it is none, or has a second name (a hard link), under which it would change too.
        OSError: the system refuses it.
    """
    require_own(path)
    handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    status = os.fstat(handle)
    if stat.S_ISREG(status.st_mode) and status.st_nlink <= 1:
        return handle
    os.close(handle)
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"'{path}' is {kind_of(status.st_mode)}, where only an ordinary file is used; move it away")
    raise UserError(
        f"'{path}' has another name elsewhere (a hard link), and that file would be changed with it; replace it by a copy"
    )


def append_text(path: Path, text: str) -> None:
    """Add text to the end of an ordinary file, which is made where it is missing.

    Raises:
        UserError: as :func:`open_own`.
        OSError: the system refuses it.
    """
    with os.fdopen(open_own(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "a", encoding="utf-8") as file:
        file.write(text)


def cut(path: Path, size: int) -> None:
    """Shorten an ordinary file to a number of bytes.

    Raises:
        UserError: as :func:`open_own`.
        OSError: the system refuses it.
    """
    handle = open_own(path, os.O_WRONLY)
    try:
        os.ftruncate(handle, size)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it; what a link leads to stays. What is not there is fine.

    Raises:
        UserError: the way to it leads through a link out of a folder that is held.
    """
    require_inside(path.parent)
    try:
        is_folder = stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return
    if is_folder:
        shutil.rmtree(path, ignore_errors=True)  # which follows no links either
    else:
        path.unlink(missing_ok=True)


def require_file(path: Path) -> None:
    """Check that what is to be read is an ordinary file, which a pipe that nobody writes to is not.

    Raises:
        UserError: it is something else, or a link below a folder that is held.
        OSError: it is not there, or cannot be opened.
    """
    os.close(_open_to_read(path))


def read_bytes(path: Path) -> bytes:
    """The content of an ordinary file.

    Raises:
        UserError: it is something else, or a link below a folder that is held.
        OSError: it is not there, or cannot be read.
    """
    with os.fdopen(_open_to_read(path), "rb") as file:
        return file.read()


def read_text(path: Path) -> str:
    """The content of an ordinary file of text in UTF-8, every kind of line end as one line feed.

    Raises:
        UserError: it is something else, or a link below a folder that is held.
        OSError: it is not there, or cannot be read.
        UnicodeDecodeError: it is not UTF-8.
    """
    with os.fdopen(_open_to_read(path), encoding="utf-8") as file:
        return file.read()


def require_files(folder: Path) -> None:
    """Check that nothing in a folder, whose files a library is going to read, is a pipe, a socket or a device.

    Raises:
        UserError: there is one.
    """
    for entry in sorted(folder.iterdir()):
        try:
            mode = entry.stat().st_mode  # of what a link leads to: caches are made of links
        except OSError:  # said by what wants to read it
            continue
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise UserError(f"'{entry}' cannot be read: it is {kind_of(mode)}, not an ordinary file")


def _open_to_read(path: Path) -> int:
    require_inside(path)
    try:
        # Opening must not wait for the other end of a pipe, nor a device act on it.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket, or a device without a driver
            raise UserError(f"'{path}' cannot be read: it is no ordinary file") from error
        raise
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return handle
    os.close(handle)
    more = "; write what comes out of it to a file first" if stat.S_ISFIFO(mode) else ""
    raise UserError(f"'{path}' cannot be read: it is {kind_of(mode)}, not an ordinary file{more}")
