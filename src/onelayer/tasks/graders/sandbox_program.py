"""What runs in a program's process: the program as a script, or the program as functions that its tests call.

The program owns this process entirely and may change anything in it. That is no danger to the verdict: the tests are
elsewhere, and all they take from here is data.
"""

import atexit
import operator
import os
import socket
import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

from onelayer.tasks.graders.wire import decode, encode, receive, send

OPERATIONS: dict[str, Callable[..., Any]] = {
    "value": lambda value: value,
    "call": lambda function, *args, **kwargs: function(*args, **kwargs),
    "getattr": getattr,
    "setattr": setattr,
    "iter": iter,
    "next": next,
    "len": len,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "contains": operator.contains,
}
"""What tests may do with an object that stays here."""


def _module(name: str) -> ModuleType:
    """An empty module in the import system, where dataclasses, typing and pickle look for it."""
    module = ModuleType(name)
    module.__dict__.update(exit=sys.exit, quit=sys.exit)  # in an ordinary interpreter the site module adds them
    sys.modules[name] = module
    return module


def run_script(source: bytes) -> int:
    """Run the program as ``python program.py`` would, with ``__name__ == "__main__"``; its exit code."""
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.argv = ["program.py"]
    code: object = 0
    try:
        exec(compile(source, "program.py", "exec"), _module("__main__").__dict__)
    except SystemExit as end:
        code = end.code or 0
    except BaseException:  # what a script does not catch is its failure
        code = 1
    # What the interpreter does at its end, but for taking itself apart, which takes longer than most programs.
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    return code & 255 if isinstance(code, int) else 1


def serve_calls(source: bytes, channel: socket.socket) -> None:
    """Load the program, then do what its tests ask for, until they hang up."""
    module = _module("program")
    objects: list[Any] = []

    def refer(value: Any) -> dict[str, Any]:
        objects.append(value)
        return {"handle": len(objects) - 1}

    def resolve(reference: dict[str, Any]) -> Any:
        if "handle" in reference:
            return objects[reference["handle"]]
        name = reference["name"]
        if name not in module.__dict__:
            raise NameError(f"the program does not define {name!r}")
        return module.__dict__[name]

    def attempt(work: Callable[[], Any]) -> None:
        try:
            reply = {"value": encode(work(), refer)}
            send(channel, reply)
        except BaseException as error:  # SystemExit too: the tests are told how each request ended
            send(channel, {"raised": type(error).__name__, "message": _text(error)})

    attempt(lambda: exec(compile(source, "program.py", "exec"), module.__dict__))
    while True:
        try:
            request = receive(channel)
        except EOFError:
            os._exit(0)
        attempt(lambda request=request: _perform(request, resolve))  # type: ignore[misc]


def _perform(request: dict[str, Any], resolve: Callable[[dict[str, Any]], Any]) -> Any:
    args = [decode(argument, resolve) for argument in request["args"]]
    kwargs = {name: decode(argument, resolve) for name, argument in request.get("kwargs", {}).items()}
    return OPERATIONS[request["operation"]](*args, **kwargs)


def _text(error: BaseException) -> str:
    try:
        return str(error)[:200]
    except Exception:  # an exception of the program's own making
        return ""
