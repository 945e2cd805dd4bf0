"""What runs in the tests' process: the tests, with stand-ins for everything that the program defines.

A stand-in (:class:`Remote`) sends each call to the program's process and returns what comes back, as built-in types
only (``wire.py``). What of the tests checks the program was found before, outside
(``code_checks.py``), how they are run is told in ``sandbox_forms.py``. The names that
tests use are found as follows:

* what the tests define or import themselves, and Python's built-ins, are their own: a program that defines ``abs`` or
  ``len`` does not change them. Only where the tests name nothing else of the program (``assert sum(10, 15) == 6``) are
  the built-ins that they call taken from the program;
* what the prompt defines (helper functions of HumanEval) comes from the prompt, run here, where the prompt is given;
* a module of the standard library that the tests use without importing it is imported here;
* every other name is a stand-in, or the plain value that the program gives it.
"""

import builtins
import contextlib
import errno
import importlib
import json
import marshal
import math
import os
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from onelayer.tasks.graders.code_checks import InvalidTest, free_names
from onelayer.tasks.graders.protection import call
from onelayer.tasks.graders.sandbox_alone import AnyProgram
from onelayer.tasks.graders.sandbox_forms import Evidence, prepare_modules, run_forms
from onelayer.tasks.graders.wire import Verdict, decode, encode, receive, send

__all__ = ["free_names", "judge", "run_tests", "same"]
PROGRAM_LOST = 3
"""Exit code of the tests' process when the program's ended first."""
MAX_DETAIL = 200
_METHOD = re.compile(r"(\w+)\(\)\.(\w+)")
_OF_PROGRAM = "raised by the program"
_PR_SET_DUMPABLE = 4

_EXCEPTIONS = {
    name: value
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, Exception) and not issubclass(value, UnicodeError | Warning)
} | {"StopIteration": RuntimeError, "StopAsyncIteration": RuntimeError}


class ProgramEnded(BaseException):
    """The program's process is gone, by ``sys.exit`` or otherwise. No test can catch it by accident."""


class ProgramExit(ProgramEnded, SystemExit):
    """A call ended in ``sys.exit``. Tests that expect it may catch it as the SystemExit that it is."""


class Program:
    """The way to the program's process, which is over once that process is gone, whatever the tests catch."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self.ended = False
        self.touched = False

    def loaded(self) -> None:
        """Wait until the program was loaded; raises what it raised."""
        self._value_of(self._receive(), "load")

    def ask(self, operation: str, *args: Any, **kwargs: Any) -> Any:
        """What an operation of the program's process gives; raises what it raises there."""
        request = {
            "operation": operation,
            "args": [encode(argument, _reference_of) for argument in args],
            "kwargs": {name: encode(argument, _reference_of) for name, argument in kwargs.items()},
        }
        if self.ended:
            raise ProgramEnded
        try:
            send(self._channel, request)
        except OSError as error:
            self.ended = True
            raise ProgramEnded from error
        return self._value_of(self._receive(), operation)

    def named(self, name: str | None) -> Any:
        """The program's object of that name; None is the last function that it defines."""
        return Remote(self, {"name": name})

    def _receive(self) -> Any:
        try:
            return receive(self._channel)
        except (EOFError, OSError) as error:
            self.ended = True
            raise ProgramEnded from error
        except (ValueError, RecursionError, MemoryError) as error:
            error.add_note(_OF_PROGRAM)
            raise

    def _value_of(self, reply: Any, operation: str) -> Any:
        """The value of a reply; what the program raised is raised here, as the built-in exception of that name."""
        try:
            if "raised" not in reply:
                return decode(reply["value"], self._object)
        except Exception as error:  # a reply that is none may be anything
            error.add_note(_OF_PROGRAM)
            raise
        name, message = str(reply["raised"])[:80], str(reply.get("message", ""))
        if name == "SystemExit":
            raise ProgramExit(message)
        if name in ("KeyboardInterrupt", "GeneratorExit"):
            raise ProgramEnded(name)
        if name == "StopIteration" and operation == "next":
            raise StopIteration  # elsewhere it would end a loop of the tests early, so there it becomes RuntimeError
        if name == "StopAsyncIteration" and operation == "anext":
            raise StopAsyncIteration
        raised = _EXCEPTIONS.get(name, RuntimeError)(message)
        raised.add_note(_OF_PROGRAM)
        raise raised

    def _object(self, reference: dict[str, Any]) -> Any:
        return (RemoteCoroutine if "coroutine" in reference else Remote)(self, reference)


class Remote:
    """An object in the program's process. It is equal to itself only and has no truth value."""

    __slots__ = ("_program", "_reference")

    def __init__(self, program: Program, reference: dict[str, Any]) -> None:
        object.__setattr__(self, "_program", program)
        object.__setattr__(self, "_reference", reference)

    def _ask(self, operation: str, *args: Any, **kwargs: Any) -> Any:
        program: Program = object.__getattribute__(self, "_program")
        return program.ask(operation, self, *args, **kwargs)

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

    def __aiter__(self) -> Any:
        return self._ask("aiter")

    async def __anext__(self) -> Any:
        return self._ask("anext")


class RemoteCoroutine(Remote):
    """A coroutine in the program's process: awaiting it runs it there to its end."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)  # asyncio looks for those of Python's own coroutines

    def __await__(self) -> Any:
        return self

    def send(self, value: Any = None) -> Any:
        """Run it; the result comes as any coroutine's does."""
        raise StopIteration(self._ask("await"))

    __next__ = send

    def throw(self, *error: Any) -> Any:
        """End it."""
        raise error[0]

    def close(self) -> None:
        """Nothing to be done: it ends with its process."""


def _reference_of(value: Any) -> dict[str, Any]:
    if type(value) in (Remote, RemoteCoroutine):
        reference: dict[str, Any] = object.__getattribute__(value, "_reference")
        return reference
    raise InvalidTest(f"a {type(value).__name__} cannot be handed to a program; tests pass plain data")


def _run_code(tests: dict[str, Any], program: Any, evidence: Evidence) -> None:
    """Run prepared tests, with what ``program`` (or a stand-in for any) gives."""
    namespace = prepare_modules(unittest=tests["unittest"]).__dict__
    if tests["prompt"]:
        exec(marshal.loads(bytes.fromhex(tests["prompt"])), namespace)
    namespace |= {name: importlib.import_module(name) for name in tests["modules"]}
    for name in tests["of_program"]:
        if name in namespace:
            continue
        namespace[name] = program.named(name)
        with contextlib.suppress(NameError):  # a missing name fails where it is used
            namespace[name] = program.ask("value", namespace[name])
    entry_point = tests["entry_point"]
    method = _METHOD.fullmatch(entry_point or "")

    def candidate() -> Any:
        if method:
            return getattr(program.named(method[1])(), method[2])
        return program.named(entry_point)

    if entry_point is not None and not method:
        namespace[entry_point] = candidate()
    namespace |= evidence.names()
    exec(marshal.loads(bytes.fromhex(tests["code"])), namespace)
    run_forms(tests["forms"], namespace, evidence, candidate)


def _run_calls(tests: dict[str, Any], program: Program, evidence: Evidence) -> None:
    """Call the function (or the method of ``Solution``) on each case's arguments and compare with what is expected."""
    function: Any = program.named(tests["fn_name"])
    try:
        program.ask("value", function)
    except NameError:
        function = getattr(program.named("Solution")(), tests["fn_name"])
    for number, (args, expected) in enumerate(tests["cases"]):
        value = function(*args)
        if not same(value, expected) and not (tests["wrapped"] and is_wrapped(value, expected)):
            raise AssertionError(f"case {number}")
        evidence.checked += 1


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


def judge(tests: dict[str, Any], channel: socket.socket, say: Callable[[Verdict], None]) -> Verdict:
    """Run the tests.

    Args:
        tests: the fields of CallTests, or what :func:`~onelayer.tasks.graders.code_checks.prepare` made of CodeTests; with
            ``alone`` these are run without a program.
        channel: to the program.
        say: writes a verdict that holds if the tests end this process before there is another.
    """
    evidence = Evidence(lenient=bool(tests.get("alone")))
    program = Program(channel)
    if evidence.lenient:
        return _alone(tests, evidence, say)
    try:
        program.loaded()
        if "cases" in tests:
            _run_calls(tests, program, evidence)
        else:
            _run_code(tests, program, evidence)
    except BaseException as error:
        return _verdict_on(error, evidence, program)
    if program.ended:
        return _ENDED
    if evidence.failed:
        return Verdict("wrong", "a test failed")
    if not evidence.checked:
        return Verdict("wrong", "the tests checked nothing that the program gave", doubt=True)
    return Verdict("correct")


_ENDED = Verdict("exited", "the program ended before its tests did")


def _verdict_on(error: BaseException, evidence: Evidence, program: Program) -> Verdict:
    """What the end of tests by ``error`` says: nothing that is raised is a pass."""
    if program.ended or isinstance(error, ProgramEnded | EOFError):
        return _ENDED
    name = type(error).__name__[:80]
    if _OF_PROGRAM in getattr(error, "__notes__", ()):
        return Verdict("error", name)
    doubt = not evidence.checked
    if isinstance(error, InvalidTest):
        return Verdict("wrong", _cut(error), doubt=True)
    if isinstance(error, AssertionError):
        return Verdict("wrong", "a test failed", doubt)
    if isinstance(error, SystemExit):
        return Verdict("wrong", "the tests ended themselves before their end", doubt)
    return Verdict("wrong", f"a test failed with {name}", doubt)


def _alone(tests: dict[str, Any], evidence: Evidence, say: Callable[[Verdict], None]) -> Verdict:
    """What the tests do without a program, with a stand-in that allows everything: is a fault their own?"""
    # From where they have seen a value of the program on, another value might have led elsewhere.
    program = AnyProgram(lambda: say(Verdict("sound")))
    try:
        _run_code(tests, program, evidence)
    except InvalidTest as error:
        return Verdict("invalid_test", _cut(error))
    except BaseException as error:
        short = isinstance(error, MemoryError) or getattr(error, "errno", None) in (errno.ENOMEM, errno.EAGAIN)
        if evidence.checked or program.touched or short:  # what the machine lacks is no fault of the tests
            return Verdict("sound")
        return Verdict("invalid_test", f"the tests fail by themselves, with {type(error).__name__[:80]}")
    if evidence.checked:
        return Verdict("sound")
    return Verdict("invalid_test", "the tests check nothing that the program gave")


def _cut(error: BaseException) -> str:
    return str(error)[:MAX_DETAIL]


def run_tests(content: bytes, channel: socket.socket, verdict: int) -> int:
    """Judge, and write the verdict whole or not at all to the file ``verdict``; the exit code of this process.

    Args:
        content: the tests as JSON; ``token`` in it has to come back with the verdict.
        channel: to the program.
        verdict: number of an open file.
    """
    tests = json.loads(content)
    token = tests.pop("token")
    with contextlib.suppress(OSError):  # there is no such thing outside Linux
        call("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)  # nobody may open this process's memory or files

    def say(found: Verdict) -> None:
        os.ftruncate(verdict, 0)
        os.pwrite(verdict, json.dumps(asdict(found) | {"token": token}).encode(), 0)

    found = judge(tests, channel, say)
    say(found)
    return PROGRAM_LOST if found.reason == "exited" else 0
