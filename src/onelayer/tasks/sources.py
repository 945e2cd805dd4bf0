"""Rows of problems from local files (.jsonl, .json, .parquet, .arrow, also gzipped text) or from the hub."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onelayer.errors import UserError
from onelayer.storage.doors import require_file
from onelayer.storage.lines import numbered_lines, parse_json, read_text, why_not_json

Row = Mapping[str, Any]
TABLES = (".parquet", ".arrow")
SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", *TABLES)


def is_file_name(name: str) -> bool:
    """Whether a data set's name means a local file rather than one on the hub."""
    return name.endswith(SUFFIXES) or Path(name).expanduser().exists()


def read_file(path: Path) -> list[dict[str, Any]]:
    """The rows of a local file.

    Raises:
        UserError: the file is missing, damaged or empty.
    """
    if not path.exists():
        raise UserError(f"data set '{path}' is not there; give a .jsonl, .parquet or .arrow file, or a hub name")
    require_file(path)
    rows = _read_table(path) if path.suffix in TABLES else _read_json(path)
    if not rows:
        raise UserError(f"data set '{path}' has no rows")
    return rows


def read_hub(
    name: str,
    *,
    subsets: Sequence[str] = (),
    split: str = "train",
    files: Sequence[str] = (),
    revision: str | None = None,
) -> Sequence[Row]:
    """The rows of a data set on the hub, its subsets one after the other.

    Args:
        name: ``owner/name``.
        subsets: configurations to read; none is the default one.
        split: the split of each.
        files: JSON-lines files of the repository to read instead; for data sets that come with a loading script.
        revision: branch, tag or commit.

    Raises:
        UserError: the hub has no such data set, or ``datasets`` is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError(f"data set '{name}' is read from the hub, which needs: pip install 'onelayer[hub]'") from error
    try:
        if files:
            at = f"@{revision}" if revision else ""
            paths = [f"hf://datasets/{name}{at}/{file}" for file in files]
            rows: Sequence[Row] = datasets.load_dataset("json", data_files=paths, split="train")
            return rows
        chosen: Sequence[str | None] = subsets or [None]
        parts = [datasets.load_dataset(name, subset, split=split, revision=revision) for subset in chosen]
    except Exception as error:  # whatever the hub's client raises: network, authorisation, a missing name, a bad script
        raise UserError(
            f"data set '{name}' cannot be loaded from the hub: {' '.join(str(error).split())[:300]}"
        ) from error
    # Subsets need not have the same columns, so they are not joined into one table.
    return parts[0] if len(parts) == 1 else [row for part in parts for row in part]


def _read_json(path: Path) -> list[dict[str, Any]]:
    """The rows of JSON lines, or of one list of objects."""
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise UserError(f"data set '{path}' cannot be read: {error}") from error
    rows = _entries(path, text) if text.lstrip().startswith("[") else _lines(path, text)
    for where, row in rows:
        if not isinstance(row, dict):
            raise UserError(f"data set '{path}', {where}: not a JSON object")
    return [row for _, row in rows]


def _entries(path: Path, text: str) -> list[tuple[str, Any]]:
    try:
        return [(f"entry {number}", row) for number, row in enumerate(parse_json(text), start=1)]
    except ValueError as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise UserError(f"data set '{path}'{line}: not JSON ({why_not_json(error)})") from error


def _lines(path: Path, text: str) -> list[tuple[str, Any]]:
    rows = []
    for number, line in numbered_lines(text):
        try:
            rows.append((f"line {number}", parse_json(line)))
        except ValueError as error:
            raise UserError(
                f"data set '{path}', line {number}: not JSON ({why_not_json(error)}); give one JSON object a line"
            ) from error
    return rows


def _read_table(path: Path) -> list[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        if path.suffix == ".parquet":
            table = pyarrow.parquet.read_table(path)
        else:
            with pyarrow.memory_map(str(path)) as source:
                # The hub's library writes the streaming form of the format; other tools write the one with an index.
                indexed = source.read(6) == b"ARROW1"
                source.seek(0)
                opened = pyarrow.ipc.open_file(source) if indexed else pyarrow.ipc.open_stream(source)
                table = opened.read_all()
    except (OSError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"data set '{path}' is no {path.suffix[1:]} file: {reason}") from error
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows
