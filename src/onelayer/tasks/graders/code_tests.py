"""The test formats that data sets use, and the code in a completion: pure functions from rows to what is run.

| format | looks like | becomes |
|---|---|---|
| HumanEval, BigCodeBench | ``{"prompt", "test", "entry_point"}`` | :class:`CodeTests` |
| MBPP | ``{"test_list", "test_setup_code"}``, or a list of ``assert`` lines | :class:`CodeTests` |
| plain Python | text with ``assert`` statements or other tests | :class:`CodeTests` |
| DeepCoder, LiveCodeBench | a list of ``{"input", "output"}`` | :class:`ScriptTests`; with a name :class:`CallTests` |
| TACO, APPS | ``{"inputs", "outputs"}`` | :class:`ScriptTests`; with ``fn_name`` :class:`CallTests` |

JSON text is taken for what it holds. What tests that are code may look like is told in
:mod:`~onelayer.tasks.graders.sandbox_forms`.
"""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onelayer.errors import UserError
from onelayer.tasks.graders.code_blocks import extract_code
from onelayer.tasks.graders.code_output import same_output

__all__ = [
    "CallTests",
    "CodeTests",
    "ScriptTests",
    "Tests",
    "assemble",
    "complete_prompt",
    "extract_code",
    "parse_tests",
    "same_output",
]


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
    """Python code that raises if the program is wrong, or functions and classes that do when they are run."""

    source: str
    prompt: str = ""
    entry_point: str | None = None


Tests = ScriptTests | CallTests | CodeTests
_METHOD = re.compile(r"(\w+)\(\)\.\w+")
"""An entry point like ``Solution().total``: the method of an object of the program's class."""
_SHOWN_KEYS = 6


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
    method = _METHOD.fullmatch(tests.entry_point or "")
    whole = (method[1] if method else tests.entry_point) in defined
    return f"{complete_prompt(tests.prompt)}\n{code}" if whole else tests.prompt + code


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
        except RecursionError as error:
            raise UserError("The tests are JSON that is nested too deep.") from error
        except ValueError as error:
            raise UserError(f"The tests look like JSON but are not: {error}.") from error
    if isinstance(tests, str) and tests.strip():
        return CodeTests(_checked(tests))
    if isinstance(tests, Mapping):
        return _from_mapping(tests)
    if _is_list(tests) and tests and all(isinstance(line, str) for line in tests):
        return CodeTests(_checked("\n".join(tests)))
    if _is_list(tests) and tests and all(isinstance(case, Mapping) for case in tests):
        return _from_cases(tests)
    raise UserError(
        "The tests are in no known format; give assert statements, HumanEval's test and entry_point, MBPP's test_list, "
        "or inputs and outputs."
    )


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)


def _from_mapping(tests: Mapping[str, Any]) -> Tests:
    if "test" in tests:
        prompt = _text(tests.get("prompt") or "", "the prompt")
        if prompt:
            _checked(complete_prompt(prompt))
        entry_point = tests.get("entry_point")
        name = None if entry_point is None else _text(entry_point, "'entry_point'")
        return CodeTests(_checked(_text(tests["test"], "'test'")), prompt, name)
    if tests.get("test_list"):
        setup = [tests.get("test_setup_code") or "", *_list(tests.get("test_imports") or [], "'test_imports'")]
        lines = [*setup, *_list(tests["test_list"], "'test_list'")]
        return CodeTests(_checked("\n".join(_text(line, "a line of 'test_list'") for line in lines)))
    if tests.get("input_output"):
        if not isinstance(tests["input_output"], str | Mapping):
            raise UserError("'input_output' has to be an object with inputs and outputs, or JSON text of one.")
        return parse_tests(tests["input_output"])
    if "inputs" in tests and "outputs" in tests:
        inputs, outputs = _list(tests["inputs"], "'inputs'"), _list(tests["outputs"], "'outputs'")
        if not inputs or len(inputs) != len(outputs):
            raise UserError(
                f"The tests hold {len(inputs)} inputs and {len(outputs)} outputs; give one output for each."
            )
        pairs = list(zip(inputs, outputs, strict=True))
        if tests.get("fn_name"):
            return _calls(_text(tests["fn_name"], "'fn_name'"), pairs, wrapped=True)
        return ScriptTests(tuple((_given(a), _wanted(b)) for a, b in pairs))
    keys = ", ".join(map(str, list(tests)[:_SHOWN_KEYS]))
    raise UserError(f"The tests have the keys {keys}; 'test' or 'inputs' and 'outputs' are missing.")


def _from_cases(cases: Sequence[Mapping[str, Any]]) -> Tests:
    if not all("input" in case and "output" in case for case in cases):
        raise UserError("Every test case needs 'input' and 'output'.")
    names = {_function_name(case) for case in cases}
    if len(names) > 1:
        shown = ", ".join(sorted(map(str, names))[:_SHOWN_KEYS])
        raise UserError(f"The test cases name different functions ({shown}); give one for all.")
    (name,) = names
    if name is None:
        return ScriptTests(tuple((_given(case["input"]), _wanted(case["output"])) for case in cases))
    if any(isinstance(case["input"], str) for case in cases):  # LiveCodeBench: one value a line
        return _calls(name, [(_values(case["input"]), _value(case["output"])) for case in cases], wrapped=False)
    return _calls(name, [(case["input"], case["output"]) for case in cases], wrapped=True)


def _calls(name: str, cases: Sequence[tuple[Any, Any]], *, wrapped: bool) -> CallTests:
    for arguments, _ in cases:
        if not _is_list(arguments):
            raise UserError(f"The arguments of a call have to be a list, one for each, not {_shown(arguments)}.")
    return CallTests(name, tuple((list(arguments), expected) for arguments, expected in cases), wrapped)


def _values(text: Any) -> list[Any]:
    """The values on the lines of a text. Not splitlines(): a value may hold other line separators, such as U+2028."""
    if not isinstance(text, str):
        raise UserError(f"The input of a call is text with one value a line in other cases, but {_shown(text)} here.")
    return [_value(line) for line in text.split("\n") if line.strip()]


def _value(text: Any) -> Any:
    """A value as LiveCodeBench writes it, in JSON, or as Python writes it (``True``, ``None``, ``'a'``, ``(1, 2)``)."""
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        value = ast.literal_eval(text.strip())
        json.dumps(value)  # a set or bytes cannot travel as expected values do
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise UserError(f"The value {_shown(text)} of a test case is neither JSON nor a Python value.") from error
    return value


def _function_name(case: Mapping[str, Any]) -> str | None:
    name = case.get("fn_name") or _metadata(case).get("func_name")
    kind = str(case.get("type") or case.get("testtype") or "")
    if kind in ("functional", "function_call") and not name:
        raise UserError("A test case that calls a function needs its name in 'fn_name' or metadata['func_name'].")
    return _text(name, "the name of a function") if name and not kind.startswith("stdin") else None


def _metadata(case: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a case says of itself: an object, JSON text of one (also of such text), or nothing."""
    metadata = case.get("metadata")
    for _ in range(3):
        if isinstance(metadata, str) and metadata.strip():
            try:
                metadata = json.loads(metadata)
            except (ValueError, RecursionError) as error:
                raise UserError(f"The metadata of a test case is not JSON: {_shown(metadata)}.") from error
        if isinstance(metadata, Mapping) and "func_name" not in metadata and metadata.get("metadata"):
            metadata = metadata["metadata"]
    if metadata is None or metadata == "":
        return {}
    if not isinstance(metadata, Mapping):
        raise UserError(f"The metadata of a test case has to be an object with names, not {_shown(metadata)}.")
    return metadata


def _checked(source: str) -> str:
    try:
        compile(source, "tests.py", "exec", dont_inherit=True)
    except SyntaxError as error:
        raise UserError(f"The tests are not valid Python: {error.msg} in line {error.lineno}.") from error
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:  # null bytes, lone surrogates, nesting
        raise UserError(f"The tests are not valid Python: {str(error)[:100] or 'they are nested too deep'}.") from error
    return source


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"In the tests {what} has to be text, not {_shown(value)}.")
    return value


def _list(value: Any, what: str) -> Sequence[Any]:
    if not _is_list(value):
        raise UserError(f"In the tests {what} has to be a list, not {_shown(value)}.")
    return value  # type: ignore[no-any-return]


def _given(value: Any) -> str:
    return "" if value is None else _lines(value)


def _wanted(value: Any) -> str:
    if value is None:
        raise UserError("A test case has the output null; give the text that the program has to print.")
    return _lines(value)


def _lines(text: Any) -> str:
    return "\n".join(map(str, text)) if isinstance(text, list) else str(text)


def _shown(value: Any) -> str:
    """A value for a message, cut short."""
    text = "null" if value is None else value if isinstance(value, str) else f"a {type(value).__name__}"
    return repr(text[:60]) if isinstance(value, str) else text
