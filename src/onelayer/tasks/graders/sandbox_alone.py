"""A stand-in for every program, to see what tests do by themselves: it has every name and allows every operation.

Tests that fail, end or ask for the impossible with it, or check nothing, do so because of what they are and not because
of a program: no program can bring that about.
"""

from collections.abc import Callable, Iterator
from typing import Any

from onelayer.tasks.graders.code_checks import InvalidTest
from onelayer.tasks.graders.wire import encode


class AnyProgram:
    """Has every name. ``touched``: whether anything was done with what it gave; the first time is told."""

    def __init__(self, tell: Callable[[], None]) -> None:
        self.touched = False
        self._tell = tell

    def touch(self) -> None:
        """Something is done with a value."""
        if not self.touched:
            self.touched = True
            self._tell()

    def named(self, name: str | None) -> "Anything":
        """An object that allows everything."""
        return Anything(self)

    def ask(self, operation: str, thing: Any, *args: Any) -> Any:
        """The object itself: all are alike."""
        return thing


class Anything:
    """An object whose operations all succeed and give another like it. Handed over is plain data only, as to a program."""

    __slots__ = ("_program",)
    __hash__ = object.__hash__

    def __init__(self, program: AnyProgram) -> None:
        object.__setattr__(self, "_program", program)

    def _next(self, *_: Any) -> "Anything":
        program: AnyProgram = object.__getattribute__(self, "_program")
        program.touch()
        return Anything(program)

    def __call__(self, *args: Any, **kwargs: Any) -> "Anything":
        """Take plain data, as a program's function would."""
        for argument in (*args, *kwargs.values()):
            encode(argument, _refuse)
        return self._next()

    def __getattr__(self, name: str) -> "Anything":
        if name.startswith("__"):
            raise AttributeError(name)
        return self._next()

    def __setattr__(self, name: str, value: Any) -> None:
        self._next()

    def __setitem__(self, key: Any, value: Any) -> None:
        self._next()

    def __iter__(self) -> Iterator["Anything"]:
        return iter([self._next()])

    def __next__(self) -> "Anything":
        return self._next()

    def __await__(self) -> Any:
        yield from ()
        return self._next()

    def __aiter__(self) -> Any:
        return _once(self._next())

    def __str__(self) -> str:
        self._next()
        return "1"

    __repr__ = __str__

    def __format__(self, form: str) -> str:
        return str(self)

    def __bool__(self) -> bool:
        self._next()
        return True

    def __contains__(self, value: Any) -> bool:
        return bool(self)

    def __len__(self) -> int:
        return int(bool(self))

    __int__ = __index__ = __len__

    def __float__(self) -> float:
        return float(bool(self))

    def __complex__(self) -> complex:
        return complex(bool(self))

    def __round__(self, digits: Any = None) -> "Anything":
        return self._next()


def _allow_operators() -> None:
    """Comparisons and arithmetic."""
    names = ["eq", "ne", "lt", "le", "gt", "ge", "neg", "pos", "invert", "abs", "getitem"]
    two_sided = "add sub mul truediv floordiv mod pow lshift rshift and or xor matmul".split()  # noqa: SIM905
    for name in [*names, *two_sided, *(f"r{each}" for each in two_sided), "divmod", "rdivmod"]:
        setattr(Anything, f"__{name}__", Anything._next)


_allow_operators()


async def _once(thing: Anything) -> Any:
    yield thing


def _refuse(value: Any) -> dict[str, Any]:
    if isinstance(value, Anything):
        return {"handle": 0}
    raise InvalidTest(f"a {type(value).__name__} cannot be handed to a program; tests pass plain data")
