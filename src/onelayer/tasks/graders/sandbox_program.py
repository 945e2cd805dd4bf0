"""What runs in a program's process: the program as a script, or the program as functions that its tests call.

The program owns this process entirely and may change anything in it. That is no danger to the verdict: the tests are
elsewhere, and all they take from here is data.
"""

import atexit
import builtins
import contextlib
import functools
import gc
import importlib
import inspect
import io
import operator
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from onelayer.tasks.graders.wire import decode, encode, receive, send


@functools.cache
def _loop() -> Any:
    """The event loop of this process, for tests that await."""
    import asyncio

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


async def _result(awaitable: Any) -> Any:
    return await awaitable


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
    "await": lambda awaitable: _loop().run_until_complete(_result(awaitable)),
    "anext": lambda iterator: _loop().run_until_complete(_result(anext(iterator))),
    "aiter": aiter,
}
"""What tests may do with an object that stays here."""


def _names_of_judges() -> dict[str, Any]:
    """What LiveCodeBench's judge imports before a program that is called, as LeetCode provides it; the last one counts."""
    names: dict[str, Any] = {}
    for name in _OPEN_MODULES:
        module = importlib.import_module(name)
        public = getattr(module, "__all__", [each for each in vars(module) if not each.startswith("_")])
        names |= {each: getattr(module, each) for each in public}
    return names | {name: sys.modules[name] for name in _MODULES}


_MODULES = """
string re datetime collections heapq bisect copy math random statistics itertools functools operator io sys json
""".split()  # noqa: SIM905
_OPEN_MODULES = [*_MODULES, "typing"]
PROVIDED = _names_of_judges()
"""Names that a program whose functions are called may use without importing them; its own and Python's go before."""
_LOOKS_AT_ITSELF = (b"__file__", b"argv", b"inspect")
_LEAVES_TO_THE_END = (b"open", b"IO", b"riter", b"detach", b"__del__", b"finalize")
_RECURSION_LIMIT = 50_000  # LiveCodeBench's too
_STANDARD_FILES = {
    f"{folder}/{name}": number
    for number, names in enumerate((("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")))
    for folder, name in [("/dev", names[0]), ("/dev", names[1]), ("/proc/self", names[1])]
}
"""Names of the three standard files, which lie on no file system here."""


def _module(name: str) -> ModuleType:
    """An empty module in the import system, where dataclasses, typing and pickle look for it."""
    module = ModuleType(name)
    file = f"{os.getcwd()}/program.py"  # noqa: PTH109 - text is all that is needed
    module.__dict__.update(__file__=file, exit=sys.exit, quit=sys.exit)  # the site module adds the last two elsewhere
    sys.modules[name] = module
    return module


def prepare() -> None:
    """Open text files on the descriptors 0 and 1, whatever these will be: once, before the first program's process."""
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # type: ignore[misc]  # noqa: SIM115


def _name_standard_files() -> None:
    """Let programs open the standard files by their names."""
    by_name, by_number = io.open, os.open

    def open_by_name(file: Any, *args: Any, **kwargs: Any) -> Any:
        return by_name(_standard_file(file), *args, **kwargs)

    def open_descriptor(path: Any, *args: Any, **kwargs: Any) -> Any:
        found = _standard_file(path)
        return found if found is not path else by_number(path, *args, **kwargs)

    io.open = builtins.open = open_by_name
    os.open = open_descriptor


def _standard_file(file: Any) -> Any:
    """A new descriptor where ``file`` names a standard file, else ``file``."""
    try:
        number = _STANDARD_FILES.get(os.fspath(file))
    except TypeError:  # a descriptor, or nothing that can be opened
        return file
    return file if number is None else os.dup(number)


def run_script(source: bytes) -> int:
    """Run the program as ``python program.py`` would, with ``__name__ == "__main__"``; its exit code.

    Raises nothing, whatever the program did.
    """
    _name_standard_files()
    sys.argv = ["program.py"]
    code: object = 0
    try:
        module = _module("__main__")
        if any(word in source for word in _LOOKS_AT_ITSELF):
            with contextlib.suppress(OSError):
                Path("program.py").write_bytes(source)
        exec(compile(source, module.__file__ or "", "exec"), module.__dict__)
    except SystemExit as end:
        code = end.code or 0
    except BaseException:  # what a script does not catch is its failure
        code = 1
    module = None  # type: ignore[assignment]
    steps = [_end_threads, atexit._run_exitfuncs, _flush]
    if any(word in source for word in _LEAVES_TO_THE_END):  # for others it would be the longest of these steps
        steps += [atexit._clear, _let_go, _flush]
    for step in steps:
        # Whatever goes wrong from here on an interpreter only reports, at most: the script itself has ended.
        with contextlib.suppress(BaseException):
            step()
    return code & 255 if isinstance(code, int) else 1


# What the interpreter does at its end, but for taking itself apart, which takes longer than most programs.
def _end_threads() -> None:
    """Tell executors to end, and wait for all threads that are no daemons."""
    threading._shutdown()  # type: ignore[attr-defined]


def _flush() -> None:
    for file in (sys.stdout, sys.stderr, sys.__stdout__):
        with contextlib.suppress(Exception):  # closed, detached, or of the program's own making
            file.flush()  # type: ignore[union-attr]


def _let_go() -> None:
    """Write files that were left open, then let go of the program's objects: their finalizers run."""
    for kind in (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom):  # text first: it is written to the others
        for file in [each for each in gc.get_objects() if type(each) is kind]:
            with contextlib.suppress(Exception):  # closed, detached, or for reading
                file.flush()
    sys.modules.pop("__main__", None)
    gc.collect()


def serve_calls(source: bytes, channel: socket.socket, *, provided: bool) -> None:
    """Load the program, then do what its tests ask for, until they hang up.

    Args:
        source: the program.
        channel: to the tests.
        provided: whether it may use the names of :data:`PROVIDED`.
    """
    module = _module("program")
    objects: list[Any] = []

    def refer(value: Any) -> dict[str, Any]:
        objects.append(value)
        return {"coroutine" if inspect.iscoroutine(value) else "handle": len(objects) - 1}

    def resolve(reference: dict[str, Any]) -> Any:
        (kind, name), *_ = reference.items()
        if kind != "name":
            return objects[name]
        if name is None:
            name = _last_function(module)
        if name not in module.__dict__:
            raise NameError(f"the program does not define {name!r}")
        return module.__dict__[name]

    def attempt(work: Callable[[], Any]) -> None:
        try:
            reply = {"value": encode(work(), refer)}
            send(channel, reply)
        except BaseException as error:  # SystemExit too: the tests are told how each request ended
            send(channel, {"raised": type(error).__name__, "message": _text(error)})

    def load() -> None:
        code = compile(source, "program.py", "exec")
        if provided:
            sys.setrecursionlimit(_RECURSION_LIMIT)
            for name in _names_used(code) & PROVIDED.keys():  # to touch all of them takes longer than most programs
                builtins.__dict__.setdefault(name, PROVIDED[name])
        exec(code, module.__dict__)

    attempt(load)
    while True:
        try:
            request = receive(channel)
        except EOFError:
            os._exit(0)
        attempt(lambda request=request: _perform(request, resolve))  # type: ignore[misc]


def _names_used(code: CodeType) -> set[str]:
    """The global names, and attributes, that a program's code uses."""
    used: set[str] = set()
    codes = [code]
    while codes:
        each = codes.pop()
        used.update(each.co_names)
        codes += [constant for constant in each.co_consts if isinstance(constant, CodeType)]
    return used


def _last_function(module: ModuleType) -> str | None:
    """The function that a program without a stated entry point is about: the last one that it defines."""
    own = [
        name
        for name, value in module.__dict__.items()
        if inspect.isfunction(value) and value.__globals__ is module.__dict__
    ]
    return own[-1] if own else None


def _perform(request: dict[str, Any], resolve: Callable[[dict[str, Any]], Any]) -> Any:
    args = [decode(argument, resolve) for argument in request["args"]]
    kwargs = {name: decode(argument, resolve) for name, argument in request.get("kwargs", {}).items()}
    return OPERATIONS[request["operation"]](*args, **kwargs)


def _text(error: BaseException) -> str:
    try:
        return str(error)[:200]
    except Exception:  # an exception of the program's own making
        return ""
