"""Reading JSON files, with one object or one a line (``metrics.jsonl``): what is damaged is one sentence, never skipped."""

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onelayer.errors import UserError
from onelayer.storage import lines


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    return parse_object(read_text(path), str(path))


def read_lines(path: Path) -> list[tuple[dict[str, Any], str]]:
    """The JSON objects of a file with one on each line, each with its place for messages.

    What is no whole line yet, because a run is just writing it, is left out.

    Raises:
        UserError: it cannot be read, or a line holds something else.
    """
    whole, _, _ = read_text(path).rpartition("\n")
    places = [(line, f"{path}, line {number},") for number, line in lines.numbered_lines(whole)]
    return [(parse_object(line, where), where) for line, where in places]


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return lines.read_text(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); restore it or remove it") from error


def parse_object(text: str, where: str) -> dict[str, Any]:
    """A JSON object, or a sentence that says where there is none.

    Raises:
        UserError: something else.
    """
    try:
        value = lines.parse_json(text)
    except ValueError as error:
        raise UserError(f"{where} is not valid JSON ({error}); restore it or remove it") from error
    if not isinstance(value, dict):
        raise UserError(f"{where} should hold a JSON object; restore it or remove it")
    return value


def check_metrics(row: Mapping[str, Any], where: str) -> None:
    """Refuse a row of ``metrics.jsonl`` that is not a step with numbers, and sentences where they belong.

    Raises:
        UserError: something else.
    """
    if type(row.get("step")) is not int:
        raise UserError(f"{where} has no number 'step'; restore it or remove it")
    for key, value in row.items():
        if not (isinstance(value, str | None) if key in ("stopped", "warning") else value is None or is_number(value)):
            raise UserError(f"{where} has a '{key}' that is {value!r}; restore it or remove it")


def is_number(value: object) -> bool:
    """Whether a value is a finite number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf


def norm_by_layer(norms: Mapping[str, float]) -> dict[int, float]:
    """Euclidean norms of layers, in their order, from those of their tensors.

    A tensor belongs to the layer whose number is the first in its name, as in ``model.layers.3.mlp.up_proj.weight``.
    """
    squares: dict[int, float] = defaultdict(float)
    for name, norm in norms.items():
        if match := re.search(r"\.(\d+)\.", name):
            squares[int(match[1])] += norm**2
    return {layer: math.sqrt(square) for layer, square in sorted(squares.items())}
