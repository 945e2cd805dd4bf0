"""Grading a file of finished answers: JSON lines in, the same lines with ``reward`` and ``reason`` out."""

import json
import os
from pathlib import Path
from typing import Any, Literal

from onelayer.errors import UserError
from onelayer.storage.files import atomic_path
from onelayer.storage.lines import numbered_lines, parse_json, read_text, why_not_json
from onelayer.tasks.graders.code_sandbox import grade_code, shared_sandbox
from onelayer.tasks.graders.code_tests import parse_tests
from onelayer.tasks.graders.grade import Grade, Reason, count_reasons
from onelayer.tasks.graders.math_answer import grade_math
from onelayer.tasks.graders.math_text import Rule

Grader = Literal["math", "code"]
_REFERENCE: dict[Grader, str] = {"math": "answer", "code": "tests"}


def grade_file(
    path: Path,
    grader: Grader,
    output: Path,
    *,
    rule: Rule = "auto",
    strict: bool = False,
    require_sandbox: bool = False,
) -> dict[Reason, int]:
    """Grade the rows of ``path`` and write them, with ``reward`` and ``reason`` added, to ``output``.

    Args:
        path: JSON lines with ``completion`` and ``answer`` (math) or ``tests`` (code, see
            :mod:`~onelayer.tasks.graders.code_tests`).
        grader: which grader.
        output: where to write; an existing file is replaced, whole or not at all.
        rule: math only: where the answer stands in a completion.
        strict: math only: whether only that place counts.
        require_sandbox: code only: refuse to run programs unless every protection holds.

    Returns:
        How often each reason occurred.

    Raises:
        UserError: the file, or one of its rows, is not as described, or ``output`` cannot be written.
    """
    rows = read_rows(path, grader)
    if output.is_dir() or not os.access(output.parent, os.W_OK):
        raise UserError(f"{output} cannot be written; give a file in a folder that exists and is yours.")
    completions = [row["completion"] for row in rows]
    grades: list[Grade]
    if grader == "math":
        grades = grade_math(completions, [str(row["answer"]) for row in rows], rule=rule, strict=strict)
    else:
        sandbox = shared_sandbox(require=require_sandbox)
        grades = grade_code(completions, [row["tests"] for row in rows], sandbox=sandbox)
    with atomic_path(output) as temporary, temporary.open("w", encoding="utf-8") as lines:
        for row, grade in zip(rows, grades, strict=True):
            lines.write(json.dumps(row | {"reward": grade.reward, "reason": grade.reason}) + "\n")
    return count_reasons(grades)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def read_rows(path: Path, grader: Grader) -> list[dict[str, Any]]:
    """The rows of a file to grade.

    Raises:
        UserError: it cannot be read, a line is not a JSON object, or a column is missing or of the wrong type.
    """
    if grader not in _REFERENCE:
        raise UserError(f"There is no grader {grader!r}; use math or code.")
    reference = _REFERENCE[grader]
    try:
        lines = numbered_lines(read_text(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as text: {error}.") from error
    rows = []
    for number, line in lines:
        where = f"{path}, line {number}"
        try:
            row = parse_json(line)
        except ValueError as error:
            raise UserError(
                f"{where}: this is not JSON ({why_not_json(error)}); give one JSON object a line."
            ) from error
        if not isinstance(row, dict):
            raise UserError(f"{where}: this is not a JSON object; give rows with 'completion' and '{reference}'.")
        missing = [name for name in ("completion", reference) if row.get(name) is None]
        if missing:
            found = ", ".join(map(repr, row)) or "nothing"
            raise UserError(f"{where}: the {grader} grader needs '{missing[0]}'; the row has {found}.")
        if not isinstance(row["completion"], str):
            raise UserError(f"{where}: 'completion' has to be text, not {type(row['completion']).__name__}.")
        answer = row.get("answer")
        if grader == "math" and (isinstance(answer, bool) or not (isinstance(answer, int | float) or _is_text(answer))):
            raise UserError(f"{where}: 'answer' has to be text or a number, not {json.dumps(answer)[:80]}.")
        if grader == "code":
            try:
                parse_tests(row["tests"])
            except UserError as error:
                raise UserError(f"{where}: {error}") from error
        rows.append(row)
    if not rows:
        raise UserError(f"{path} holds no rows; give one JSON object a line, with 'completion' and '{reference}'.")
    return rows
