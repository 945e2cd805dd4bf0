"""The test formats that data sets use, and the code in a completion: pure functions from rows to what is run.

| format | looks like | becomes |
|---|---|---|
| HumanEval | ``{"prompt", "test", "entry_point"}`` | :class:`CodeTests` |
| MBPP | ``{"test_list", "test_setup_code"}``, or a list of ``assert`` lines | :class:`CodeTests` |
| plain Python | text with ``assert`` statements | :class:`CodeTests` |
| DeepCoder, LiveCodeBench | a list of ``{"input", "output"}`` | :class:`ScriptTests`; with a name :class:`CallTests` |
| TACO, APPS | ``{"inputs", "outputs"}`` | :class:`ScriptTests`; with ``fn_name`` :class:`CallTests` |

JSON text is taken for what it holds.
"""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from onelayer.errors import UserError


@dataclass(frozen=True)
class ScriptTests:
    """Pairs of standard input and expected standard output."""

    cases: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class CallTests:
    """Arguments and expected values of one function, or method of ``Solution``.

    ``wrapped``: an expected list of one element may stand for the element, as TACO and APPS write it.
    """

    fn_name: str
    cases: tuple[tuple[list[Any], Any], ...]
    wrapped: bool = False


@dataclass(frozen=True)
class CodeTests:
    """Python code that raises if the program is wrong. If it defines ``check``, that is called with the entry point."""

    source: str
    prompt: str = ""
    entry_point: str | None = None


Tests = ScriptTests | CallTests | CodeTests
_FENCE = re.compile(r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)


def extract_code(completion: str) -> str:
    """The program in a completion: its last fenced block marked as Python, else its last fenced block, else all."""
    blocks = _FENCE.findall(completion)
    marked = [code for language, code in blocks if language.lower() in ("python", "python3", "py")]
    if marked or blocks:
        return str((marked or [code for _, code in blocks])[-1])
    return completion


def complete_prompt(prompt: str) -> str:
    """A HumanEval prompt as a whole program: the function that it leaves open gets an empty body."""
    return f"{prompt}\n    pass\n" if prompt else ""


def assemble(code: str, tests: Tests) -> str:
    """The program to run. A prompt comes first: completed by ``code``, or followed by it."""
    if not isinstance(tests, CodeTests) or not tests.prompt:
        return code
    try:
        defined = {node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    except (
        SyntaxError,
        ValueError,
        RecursionError,
        MemoryError,
    ):  # a continuation of the prompt is no program by itself
        defined = set()
    return f"{complete_prompt(tests.prompt)}\n{code}" if tests.entry_point in defined else tests.prompt + code


def parse_tests(tests: Any) -> Tests:
    """Recognise the format of ``tests`` (see the table above).

    Raises:
        UserError: no format fits, or the tests are empty.
    """
    if isinstance(tests, ScriptTests | CallTests | CodeTests):
        return tests
    if isinstance(tests, str) and tests.lstrip().startswith(("{", "[")):
        try:
            return parse_tests(json.loads(tests))
        except ValueError as error:
            raise UserError(f"The tests look like JSON but are not: {error}.") from error
    if isinstance(tests, str) and tests.strip():
        return CodeTests(_checked(tests))
    if isinstance(tests, Mapping):
        return _from_mapping(tests)
    if isinstance(tests, Sequence) and tests and all(isinstance(line, str) for line in tests):
        return CodeTests(_checked("\n".join(tests)))
    if isinstance(tests, Sequence) and tests and all(isinstance(case, Mapping) for case in tests):
        return _from_cases(tests)
    raise UserError(
        "The tests are in no known format; give assert statements, HumanEval's test and entry_point, MBPP's test_list, "
        "or inputs and outputs."
    )


def _from_mapping(tests: Mapping[str, Any]) -> Tests:
    if "test" in tests and "entry_point" in tests:
        prompt = str(tests.get("prompt") or "")
        if prompt:
            _checked(complete_prompt(prompt))
        return CodeTests(_checked(str(tests["test"])), prompt, str(tests["entry_point"]))
    if tests.get("test_list"):
        setup = [tests.get("test_setup_code") or "", *(tests.get("test_imports") or [])]
        return CodeTests(_checked("\n".join([*setup, *tests["test_list"]])))
    if tests.get("input_output"):
        return parse_tests(tests["input_output"])
    if "inputs" in tests and "outputs" in tests:
        inputs, outputs = tests["inputs"], tests["outputs"]
        if not inputs or len(inputs) != len(outputs):
            raise UserError(
                f"The tests hold {len(inputs)} inputs and {len(outputs)} outputs; give one output for each."
            )
        if tests.get("fn_name"):
            return CallTests(str(tests["fn_name"]), tuple(zip(inputs, outputs, strict=True)), wrapped=True)
        return ScriptTests(tuple((_lines(a), _lines(b)) for a, b in zip(inputs, outputs, strict=True)))
    raise UserError(
        f"The tests have the keys {', '.join(map(str, tests))}; 'test' or 'inputs' and 'outputs' are missing."
    )


def _from_cases(cases: Sequence[Mapping[str, Any]]) -> Tests:
    if not all("input" in case and "output" in case for case in cases):
        raise UserError("Every test case needs 'input' and 'output'.")
    names = {_function_name(case) for case in cases}
    if len(names) > 1:
        raise UserError(f"The test cases name different functions ({', '.join(map(str, names))}); give one for all.")
    (name,) = names
    if name is None:
        return ScriptTests(tuple((_lines(case["input"]), _lines(case["output"])) for case in cases))
    if any(isinstance(case["input"], str) for case in cases):  # LiveCodeBench: one JSON value a line
        values = [
            ([json.loads(line) for line in case["input"].splitlines()], json.loads(case["output"])) for case in cases
        ]
        return CallTests(name, tuple(values))
    return CallTests(name, tuple((case["input"], case["output"]) for case in cases), wrapped=True)


def _function_name(case: Mapping[str, Any]) -> str | None:
    metadata = case.get("metadata") or {}
    name = case.get("fn_name") or (json.loads(metadata) if isinstance(metadata, str) else metadata).get("func_name")
    kind = str(case.get("type") or case.get("testtype") or "")
    if kind in ("functional", "function_call") and not name:
        raise UserError("A test case that calls a function needs its name in 'fn_name' or metadata['func_name'].")
    return str(name) if name and not kind.startswith("stdin") else None


def _checked(source: str) -> str:
    try:
        compile(source, "tests.py", "exec")
    except SyntaxError as error:
        raise UserError(f"The tests are not valid Python: {error.msg} in line {error.lineno}.") from error
    return source


def _lines(text: Any) -> str:
    return "\n".join(map(str, text)) if isinstance(text, list) else str(text)


def same_output(printed: str, expected: str) -> bool:
    """Whether two outputs agree line by line: numbers by value, space around lines and at the ends aside."""
    lines, expected_lines = ([line.strip() for line in text.strip().splitlines()] for text in (printed, expected))
    return len(lines) == len(expected_lines) and all(map(_same_line, lines, expected_lines))


def _same_line(line: str, expected: str) -> bool:
    if line == expected:
        return True
    try:
        numbers, expected_numbers = ([Decimal(token) for token in text.split()] for text in (line, expected))
    except InvalidOperation:
        return False
    return numbers == expected_numbers
