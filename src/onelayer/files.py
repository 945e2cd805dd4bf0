"""Writing files so that a reader finds the old one or the new one whole, never a torn one, and checking what is read.

A file is written under a temporary name, flushed to the disk and renamed; the rename is flushed too. Whatever the disk
refuses becomes one sentence that names the file and the reason.
"""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from onelayer.errors import RunStopped, UserError

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
    """A temporary path beside ``path`` to write to; flushed to disk and renamed to ``path`` when the block succeeds.

    Raises:
        WriteFailed: the disk refused it.
    """
    # Named by the process: a report may be written while the scan that it is about writes its own.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path):
            yield temporary
            flush(temporary)
            temporary.replace(path)
            flush(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Have a file's content, or a folder's names, reach the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes have left anywhere below a folder that nobody else writes to."""
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def make_folder(path: Path) -> Path:
    """Make a folder, and those above it, where they are missing.

    Raises:
        UserError: it cannot be made.
    """
    try:
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
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def checksum(path: Path, size: int | None = None) -> str:
    """SHA-256 of a file, or of its first ``size`` bytes, in hexadecimal."""
    with path.open("rb") as file:
        if size is None:
            return hashlib.file_digest(file, "sha256").hexdigest()
        return hashlib.sha256(file.read(size)).hexdigest()


SEAL = "checksum"
"""The key of a JSON file's own checksum."""


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with a checksum of itself.

    Raises:
        WriteFailed: the disk refused it.
    """
    write_json(path, {**value, SEAL: _seal(value)})


def read_sealed(path: Path) -> dict[str, Any]:
    """Read what :func:`write_sealed` wrote, without the checksum.

    Raises:
        ValueError: the content is not what was written.
        OSError: there is no such file, or it cannot be read.
    """
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict) or value.pop(SEAL, None) != _seal(value):
        raise ValueError("its checksum does not fit its content")
    return value


def _seal(value: Mapping[str, Any]) -> str:
    own = {key: item for key, item in value.items() if key != SEAL}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()
