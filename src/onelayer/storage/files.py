"""Writing files so that a reader finds the old one or the new one whole, never a torn one, and checking what is read.

A file is written in a temporary folder beside it, flushed to the disk and renamed; the rename is flushed too. The folder
has a name that nobody can foresee, is made anew and is this user's alone: nothing can lie in wait in it. Whatever the
disk refuses becomes one sentence that names the file and the reason.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from safetensors import SafetensorError

from onelayer.errors import RunStopped, UserError
from onelayer.storage.doors import read_text, remove, require_file, require_inside, require_own
from onelayer.storage.lines import parse_json

REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EROFS: "make the disk writable",
    errno.EACCES: "give this user the right to write there",
    errno.EPERM: "give this user the right to write there",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "close other programs: the machine is out of file handles",
    errno.EIO: "check the disk",
}
"""What helps against the errors that disks and limits cause."""


class WriteFailed(RunStopped):
    """A file could not be written; the one that was there before still is."""


def why(error: BaseException) -> str:
    """The reason of a failed read or write, with what helps against it."""
    if isinstance(error, OSError) and error.errno is not None:
        remedy = REMEDIES.get(error.errno)
        return (os.strerror(error.errno) or str(error)) + (f"; {remedy}" if remedy else "")
    text = " ".join(str(error).split())
    for number, remedy in REMEDIES.items():
        if f"(os error {number})" in text:
            return f"{os.strerror(number)}; {remedy}"
    return text


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the disk refuses inside the block into a sentence about ``path``.

    Raises:
        WriteFailed: the disk refused something.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise WriteFailed(f"'{path}' cannot be written: {why(error)}") from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path for a file, or a folder, to be written to: ``path`` is there whole or not at all.

    When the block succeeds, what it wrote is flushed to disk and renamed to ``path``. A folder may only take the place of
    an empty one.

    Raises:
        UserError: there is something else than an ordinary file or folder at ``path``, or it leads out of the folder
            that the command works in.
        WriteFailed: the disk refused it.
    """
    own = path.with_name(f".{path.name}.{_machine()}.{os.getpid()}.{secrets.token_hex(8)}.tmp")
    temporary = own / path.name
    try:
        with writing(path):
            require_own(path)
            _remove_abandoned(path)
            own.mkdir(mode=0o700)  # refused where anything, also a link, has that name
            yield temporary
            for written in (*temporary.rglob("*"), temporary):
                flush(written)
            temporary.replace(path)
            flush(path.parent)
    finally:
        with contextlib.suppress(OSError):
            remove(own)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """As :func:`atomic_path`, for a folder, which is made.

    Raises:
        WriteFailed: the disk refused it.
    """
    with atomic_path(path) as temporary:
        temporary.mkdir(parents=True)
        yield temporary


def _machine() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())


def _remove_abandoned(path: Path) -> None:
    """Remove what processes of this machine that have ended left of writing ``path``."""
    name = re.compile(re.escape(f".{path.name}.{_machine()}.") + r"(\d{1,9})(\.[0-9a-f]+)?\.tmp")
    for left in [*path.parent.iterdir()]:
        match = name.fullmatch(left.name)
        if match and not psutil.pid_exists(int(match[1])):
            remove(left)


def empty_folder(path: Path) -> None:
    """Make a folder that is not there yet.

    Raises:
        UserError: it is there and not empty, cannot be made, or is the one that the command is run in.
    """
    if not is_free(path):
        raise in_use(path)
    if path.resolve() == Path.cwd():
        raise UserError(f"output '{path}' is the folder that the command is run in; give another one")
    make_folder(path)


def is_free(path: Path, but: Collection[str] = ()) -> bool:
    """Whether a folder is not there yet, or holds nothing but what has one of some names."""
    return not path.exists() or (path.is_dir() and {entry.name for entry in path.iterdir()} <= set(but))


def in_use(path: Path, *, resumable: bool = False) -> UserError:
    """The error of a folder for results in which there is something already."""
    resume = ", or add --resume" if resumable else ""
    return UserError(f"output '{path}' already exists and is not an empty folder; give another one{resume}")


def flush(path: Path) -> None:
    """Have a file's content, or a folder's names, reach the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Remove what :func:`atomic_path` of killed processes has left anywhere below a folder that nobody else writes to."""
    for parent, folders, names in os.walk(folder):  # which enters no links
        for name in [*folders, *names]:
            if name.startswith(".") and name.endswith(".tmp"):
                remove(Path(parent) / name)
        folders[:] = [name for name in folders if not (name.startswith(".") and name.endswith(".tmp"))]


def make_folder(path: Path) -> Path:
    """Make a folder, and those above it, where they are missing.

    Raises:
        UserError: it cannot be made, or leads out of the folder that the command works in.
    """
    try:
        require_inside(path)
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"folder '{path}' cannot be made: {why(error)}") from error
    return path


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all.

    Raises:
        WriteFailed: the disk refused it.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all. NaN and infinities are an error: JSON has none.

    Raises:
        WriteFailed: the disk refused it.
    """
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """What :func:`write_json` writes."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def checksum(path: Path, size: int | None = None) -> str:
    """SHA-256 of an ordinary file, or of its first ``size`` bytes, in hexadecimal."""
    require_file(path)
    with path.open("rb") as file:
        if size is None:
            return hashlib.file_digest(file, "sha256").hexdigest()
        return hashlib.sha256(file.read(size)).hexdigest()


SEAL = "checksum"
"""The key of a JSON file's own checksum."""


def write_sealed(path: Path, value: Mapping[str, Any], before: Path | None = None) -> None:
    """Write a JSON object with a checksum of itself; what was there, where that is whole, is kept as ``before``.

    Raises:
        WriteFailed: the disk refused it.
    """
    if before is not None and _is_whole(path):
        with atomic_path(before) as temporary:
            shutil.copyfile(path, temporary)
    write_text(path, sealed_text(value))


def sealed_text(value: Mapping[str, Any]) -> str:
    """What :func:`write_sealed` writes."""
    return json_text({**value, SEAL: _seal(value)})


def read_sealed(path: Path) -> dict[str, Any]:
    """Read what :func:`write_sealed` wrote, without the checksum.

    Raises:
        ValueError: the content is not what was written.
        OSError: there is no such file, or it cannot be read.
    """
    value = parse_json(read_text(path))
    if not isinstance(value, dict) or SEAL not in value or not seal_holds(value):
        raise ValueError("its checksum does not fit its content")
    return {key: item for key, item in value.items() if key != SEAL}


def read_sealed_or_before(path: Path, before: Path) -> tuple[dict[str, Any], str | None]:
    """Read ``path``, or where that is damaged ``before``, and a sentence about it.

    Raises:
        UserError: there is no file, it cannot be read, or both are damaged.
    """
    try:
        return read_sealed(path), None
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {why(error)}") from error
    except ValueError as error:
        try:
            return read_sealed(before), f"{path.name} is damaged ({error}); {before.name} is used"
        except (OSError, ValueError):
            raise UserError(f"'{path}' is damaged ({error}), and there is no whole '{before.name}'") from error


def seal_holds(value: Mapping[str, Any]) -> bool:
    """Whether an object is what was written, as far as it has a checksum of itself."""
    return SEAL not in value or value[SEAL] == _seal(value)


def _is_whole(path: Path) -> bool:
    try:
        read_sealed(path)
    except (OSError, ValueError):
        return False
    return True


def _seal(value: Mapping[str, Any]) -> str:
    own = {key: item for key, item in value.items() if key != SEAL}
    # As it is read again: numbers as keys become text, which has another order.
    return hashlib.sha256(json.dumps(json.loads(json.dumps(own)), sort_keys=True).encode()).hexdigest()
