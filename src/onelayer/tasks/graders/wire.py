"""How values travel between a program and its tests: as JSON, and as built-in types exactly.

Whatever the program returns is rebuilt from this text on the other side, so an object whose ``__eq__`` is always true,
a list subclass or a patched class never reaches the tests. What is not plain data stays where it is and is represented
by a number (a handle) that only the program's process can resolve.

None, bool, int, float and str stand for themselves; everything else is an object with one key that names its type.
"""

import json
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MAX_MESSAGE = 16 << 20
"""Bytes of a message, as many as a script may print. Rebuilt it takes more, which the reader's own limit bounds."""
_BIG_INT = 1 << 1024
"""Integers beyond this travel as hexadecimal, which has no limit of digits and takes linear time."""

_SEQUENCES: dict[type, str] = {list: "list", tuple: "tuple", set: "set", frozenset: "frozenset"}
_ITERATE: dict[type, Callable[[Any], Any]] = {list: list.__iter__, tuple: tuple.__iter__, set: set.__iter__}
_ITERATE[frozenset] = frozenset.__iter__
_BUILDERS: dict[str, Callable[[Any], Any]] = {name: kind for kind, name in _SEQUENCES.items()}
_BYTES: dict[str, Callable[[str], bytes | bytearray]] = {"bytes": bytes.fromhex, "bytearray": bytearray.fromhex}
_BASES = (bool, int, float, complex, str, bytes, bytearray, list, tuple, set, frozenset, dict)


@dataclass(frozen=True)
class Verdict:
    """What the tests came to.

    ``reason`` is one of :data:`~onelayer.tasks.graders.grade.REASONS`, or "sound" where tests were run without a program and
    nothing was found to be wrong with them. ``doubt``: they came to it before they had checked anything, so that the
    reason may lie in themselves; only a run without the program tells.
    """

    reason: str
    detail: str = ""
    doubt: bool = False


def _plain_type(value: object) -> type | None:
    """The built-in type that ``value`` is, or is a subclass of (Counter is sent as dict, IntEnum as int)."""
    exact = type(value)
    if exact in _BASES or exact is range:
        return exact
    return next((base for base in _BASES if issubclass(exact, base)), None)


def encode(value: Any, refer: Callable[[Any], dict[str, Any]]) -> Any:
    """``value`` as something :mod:`json` writes; ``refer`` gives the reference for what is not plain data.

    Raises:
        RecursionError: ``value`` contains itself or is nested too deep.
    """
    if value is None:
        return None
    kind = _plain_type(value)
    if kind is None:
        return refer(value)
    if kind is bool or kind is float or kind is str:
        return kind(value)
    if kind is int:
        whole = int(value)
        return whole if -_BIG_INT < whole < _BIG_INT else {"int": hex(whole)}
    if kind is dict:
        return {"dict": [[encode(key, refer), encode(item, refer)] for key, item in dict.items(value)]}
    if kind in _SEQUENCES:
        return {_SEQUENCES[kind]: [encode(item, refer) for item in _ITERATE[kind](value)]}
    if kind is complex:
        return {"complex": [value.real, value.imag]}
    if kind is range:
        return {"range": [encode(part, refer) for part in (value.start, value.stop, value.step)]}
    return {kind.__name__: bytes(value).hex()}


def decode(data: Any, resolve: Callable[[dict[str, Any]], Any]) -> Any:
    """The value of what :func:`encode` made; ``resolve`` turns references into objects.

    Raises:
        ValueError, TypeError, RecursionError: ``data`` is not what :func:`encode` makes.
    """
    if data is None or isinstance(data, bool | int | float | str):
        return data
    if not isinstance(data, dict) or len(data) != 1:
        raise ValueError("not an encoded value")
    ((kind, content),) = data.items()
    if kind in _BUILDERS:
        return _BUILDERS[kind](decode(item, resolve) for item in content)
    if kind == "dict":
        return {decode(key, resolve): decode(item, resolve) for key, item in content}
    if kind == "int":
        return int(content, 16)
    if kind == "complex":
        return complex(*map(float, content))
    if kind == "range":
        return range(*(decode(part, resolve) for part in content))
    if kind in _BYTES:
        return _BYTES[kind](content)
    return resolve(data)


def send(channel: socket.socket, message: Any) -> None:
    """Write one message: four bytes of length, then JSON.

    Raises:
        ValueError: the message is longer than :data:`MAX_MESSAGE` bytes.
    """
    text = json.dumps(message).encode()
    if len(text) > MAX_MESSAGE:
        raise ValueError(f"a message of {len(text)} bytes is longer than {MAX_MESSAGE}")
    channel.sendall(struct.pack(">I", len(text)) + text)


def receive(channel: socket.socket) -> Any:
    """Read one message.

    Raises:
        EOFError: the other side is gone.
        ValueError: the message is too long or not JSON.
    """
    (length,) = struct.unpack(">I", _read(channel, 4))
    if length > MAX_MESSAGE:
        raise ValueError(f"a message of {length} bytes is longer than {MAX_MESSAGE}")
    return json.loads(_read(channel, length))


def _read(channel: socket.socket, length: int) -> bytes:
    parts = []
    while length:
        part = channel.recv(min(length, 1 << 20))
        if not part:
            raise EOFError("the other side is gone")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)
