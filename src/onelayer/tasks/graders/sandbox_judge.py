"""What runs in the tests' process: the tests, with stand-ins for everything that the program defines.

A stand-in (:class:`Remote`) sends each call to the program's process and returns what comes back, as built-in types
only (:mod:`~onelayer.tasks.graders.wire`). The names that tests use are found as follows:

* what the tests define or import themselves, and Python's built-ins, are their own: a program that defines ``abs`` or
  ``len`` does not change them. Only where the tests name nothing else of the program (``assert sum(10, 15) == 6``) are
  the built-ins that they call taken from the program;
* what the prompt defines (helper functions of HumanEval) comes from the prompt, run here, where the prompt is given;
* a module of the standard library that the tests use without importing it is imported here;
* every other name is a stand-in, or the plain value that the program gives it.
"""

import ast
import builtins
import contextlib
import importlib
import math
import socket
import symtable
import sys
from collections.abc import Iterator
from typing import Any

from onelayer.tasks.graders.wire import decode, encode, receive, send

_EXCEPTIONS = {
    name: value
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, Exception) and not issubclass(value, UnicodeError | Warning)
} | {"StopIteration": RuntimeError, "StopAsyncIteration": RuntimeError}


class ProgramEnded(BaseException):
    """The program's process is gone, by ``sys.exit`` or otherwise. No test can catch it by accident."""


class InvalidTest(BaseException):
    """The tests ask for something that cannot be done."""


class Remote:
    """An object in the program's process. It is equal to itself only and has no truth value."""

    __slots__ = ("_channel", "_reference")

    def __init__(self, channel: socket.socket, reference: dict[str, Any]) -> None:
        object.__setattr__(self, "_channel", channel)
        object.__setattr__(self, "_reference", reference)

    def _ask(self, operation: str, *args: Any, **kwargs: Any) -> Any:
        channel: socket.socket = object.__getattribute__(self, "_channel")
        request = {
            "operation": operation,
            "args": [encode(argument, _reference_of) for argument in (self, *args)],
            "kwargs": {name: encode(argument, _reference_of) for name, argument in kwargs.items()},
        }
        try:
            send(channel, request)
            reply = receive(channel)
        except (EOFError, OSError) as error:
            raise ProgramEnded from error
        return _value_of(reply, channel, operation)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it in the program's process."""
        return self._ask("call", *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._ask("getattr", name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("setattr", name, value)

    def __iter__(self) -> Iterator[Any]:
        iterator = self._ask("iter")
        if not isinstance(iterator, Remote):
            raise TypeError("the program returned an iterator that is plain data")
        return iterator

    def __next__(self) -> Any:
        return self._ask("next")

    def __len__(self) -> int:
        return self._ask("len")  # type: ignore[no-any-return]  # Python itself checks that it is one

    def __getitem__(self, key: Any) -> Any:
        return self._ask("getitem", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._ask("setitem", key, value)

    def __contains__(self, value: Any) -> bool:
        return self._ask("contains", value) is True

    def __bool__(self) -> bool:
        raise TypeError("the program returned something that is not plain data")


def _reference_of(value: Any) -> dict[str, Any]:
    if isinstance(value, Remote):
        reference: dict[str, Any] = object.__getattribute__(value, "_reference")
        return reference
    raise InvalidTest(f"a {type(value).__name__} cannot be handed to a program; tests pass plain data")


def _value_of(reply: Any, channel: socket.socket, operation: str) -> Any:
    """The value of a reply; what the program raised is raised here, as the built-in exception of that name."""
    if not isinstance(reply, dict):
        raise ValueError("the program sent something that is not a reply")
    if "raised" not in reply:
        return decode(reply.get("value"), lambda reference: Remote(channel, reference))
    name, message = str(reply["raised"]), str(reply.get("message", ""))
    if name in ("SystemExit", "KeyboardInterrupt", "GeneratorExit"):
        raise ProgramEnded(name)
    if name == "StopIteration" and operation == "next":
        raise StopIteration  # elsewhere it would end a loop of the tests early, so there it becomes RuntimeError
    error = _EXCEPTIONS.get(name, RuntimeError)(message)
    error.add_note("raised by the program")
    raise error


def free_names(source: str) -> set[str]:
    """The names that ``source`` uses without defining or importing them.

    Raises:
        SyntaxError: ``source`` is not Python.
    """
    top = symtable.symtable(source, "tests.py", "exec")
    defined = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    used: set[str] = set()
    tables = [top]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        used |= {
            symbol.get_name()
            for symbol in table.get_symbols()
            if symbol.is_referenced() and (symbol.is_global() or table is top)
        }
    return used - defined


def _called_names(source: str) -> set[str]:
    calls = (node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return {function.id for function in calls if isinstance(function, ast.Name)}


def _used_as_module_only(source: str, name: str) -> bool:
    """Whether every use of ``name`` is ``name.attribute`` and it is a module of the standard library."""
    tree = ast.parse(source)
    bases = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == name]
    return name in sys.stdlib_module_names and all(id(use) in bases for use in uses)


def test_namespace(source: str, prompt: str, entry_point: str | None, channel: socket.socket) -> dict[str, Any]:
    """The global names for ``source``, as the module's docstring tells."""
    namespace: dict[str, Any] = {"__name__": "tests"}
    if prompt:
        exec(compile(prompt, "prompt.py", "exec"), namespace)
    outside = free_names(source)
    of_program = {name for name in outside if not hasattr(builtins, name)}
    if not of_program and entry_point is None:
        of_program = outside & _called_names(source)
    for name in of_program:
        if _used_as_module_only(source, name):
            namespace[name] = importlib.import_module(name)
        elif name not in namespace:
            remote = Remote(channel, {"name": name})
            with contextlib.suppress(NameError):  # a missing name fails where it is used
                namespace[name] = remote
                namespace[name] = remote._ask("value")
    if entry_point is not None:
        namespace[entry_point] = Remote(channel, {"name": entry_point})
    return namespace


def _run_code(tests: dict[str, Any], channel: socket.socket) -> None:
    entry_point = tests.get("entry_point")
    namespace = test_namespace(tests["source"], tests.get("prompt", ""), entry_point, channel)
    exec(compile(tests["source"], "tests.py", "exec"), namespace)
    if entry_point is not None and "check" in namespace:
        namespace["check"](namespace[entry_point])


def _run_calls(tests: dict[str, Any], channel: socket.socket) -> None:
    """Call the function (or the method of ``Solution``) on each case's arguments and compare with what is expected."""
    function: Any = Remote(channel, {"name": tests["fn_name"]})
    try:
        function._ask("value")
    except NameError:
        function = getattr(Remote(channel, {"name": "Solution"})(), tests["fn_name"])
    for number, (args, expected) in enumerate(tests["cases"]):
        value = function(*args)
        if not same(value, expected) and not (tests["wrapped"] and is_wrapped(value, expected)):
            raise AssertionError(f"case {number}")


def is_wrapped(value: Any, expected: Any) -> bool:
    """Whether ``expected`` is a list that holds only the value, as some data sets write it."""
    return isinstance(expected, list) and len(expected) == 1 and same(value, expected[0])


def same(value: Any, expected: Any) -> bool:
    """Equality with JSON data: tuples are lists, keys are text, floats agree to a billionth."""
    if isinstance(value, list | tuple) and isinstance(expected, list):
        return len(value) == len(expected) and all(map(same, value, expected))
    if isinstance(value, dict) and isinstance(expected, dict):
        named = {str(key): item for key, item in value.items()}
        return named.keys() == expected.keys() and all(same(named[key], expected[key]) for key in named)
    if isinstance(value, float) and isinstance(expected, int | float):
        return value == expected or math.isclose(value, expected, rel_tol=1e-9, abs_tol=1e-12)
    return bool(value == expected)


def judge(tests: dict[str, Any], channel: socket.socket) -> tuple[str, str]:
    """Run the tests; the reason and a detail for people."""
    try:
        _value_of(receive(channel), channel, "load")
        (_run_calls if "cases" in tests else _run_code)(tests, channel)
    except (ProgramEnded, EOFError):
        return "exited", "the program ended before its tests did"
    except InvalidTest as error:
        return "invalid_test", str(error)
    except SyntaxError as error:
        if "raised by the program" not in getattr(error, "__notes__", ()):
            return "invalid_test", f"the tests are not valid Python: {error.msg}"
        return "error", "SyntaxError"
    except Exception as error:
        name = type(error).__name__
        if "raised by the program" in getattr(error, "__notes__", ()):
            return "error", name
        return "wrong", "a test failed" if isinstance(error, AssertionError) else f"a test failed with {name}"
    return "correct", ""
