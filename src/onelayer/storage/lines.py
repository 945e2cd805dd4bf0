"""Reading text that other programs wrote: JSON lines above all. Every command reads its rows through here.

Text is UTF-8, or UTF-16 and UTF-32 where a byte-order mark says so. A line ends at a line feed and nowhere else: JSON
text may hold U+2028, U+2029 and U+0085, at which ``str.splitlines`` would cut a row in two. JSON is what the standard
says: no NaN, no infinity, no key twice in one object, of which the last would win without a word.
"""

import codecs
import gzip
import io
import json
import math
import zlib
from pathlib import Path
from typing import Any

from onelayer.errors import UserError
from onelayer.storage.doors import read_bytes

MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""Byte-order marks and what they say."""
MOST_UNZIPPED = 2**30
"""Bytes that a zipped file may have unzipped: some kilobytes of zeros can stand for gigabytes."""


def read_text(path: Path) -> str:
    """The text of a file, unpacked where its name ends in ``.gz``, without a byte-order mark.

    Raises:
        UserError: it is no ordinary file, or unpacks to more than ``MOST_UNZIPPED`` bytes.
        OSError: it cannot be read, or not unpacked.
        ValueError: it is no text; the message says in which line.
    """
    data = read_bytes(path)
    if path.suffix == ".gz":
        try:
            with gzip.open(io.BytesIO(data)) as file:
                data = file.read(MOST_UNZIPPED + 1)
        except (EOFError, zlib.error) as error:
            raise OSError(f"it cannot be unpacked: {error}") from error
        if len(data) > MOST_UNZIPPED:
            raise UserError(f"'{path}' is larger than {MOST_UNZIPPED >> 30} GiB unzipped; unzip it to be read anyway")
    return decode(data)


def decode(data: bytes) -> str:
    """Bytes as text.

    Raises:
        ValueError: they are none.
    """
    mark, encoding = next(((mark, name) for mark, name in MARKS if data.startswith(mark)), (b"", "utf-8"))
    body = data[len(mark) :]
    try:
        return body.decode(encoding)
    except UnicodeDecodeError as error:
        line = body[: error.start].decode(encoding, errors="replace").count("\n") + 1
        raise ValueError(
            f"line {line} is no {encoding.upper()} text: {error.reason}; save the file as UTF-8"
        ) from error


def numbered_lines(text: str) -> list[tuple[int, str]]:
    """The lines of a text that are not blank, with their numbers as an editor counts them, from 1.

    Byte-order marks inside are those of files that were joined.
    """
    lines = ((number, line.removeprefix("\ufeff")) for number, line in enumerate(text.split("\n"), start=1))
    return [(number, line) for number, line in lines if line.strip()]


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        json.JSONDecodeError: it is none, with the place.
        ValueError: it holds what JSON has not, or what cannot be kept exactly.
    """
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def why_not_json(error: ValueError) -> str:
    """The reason of a failed :func:`parse_json` for a sentence that names the line itself."""
    return error.msg if isinstance(error, json.JSONDecodeError) else str(error)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"it has the key {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return value


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no value of JSON; write null")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value
