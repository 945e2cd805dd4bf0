"""How LiveCodeBench and DeepCoder pack tests: cases as JSON, hidden ones as JSON or as pickled, compressed JSON text.

What is packed may be anybody's: it is unpacked up to a size, and of pickle only what a text is written with is read, by
a reader of the format's steps that builds nothing else.
"""

import base64
import json
import pickletools
import zlib
from collections.abc import Mapping
from typing import Any

from onelayer.errors import UserError

MOST_UNPACKED = 2**28
"""Bytes that the tests of one problem may have unpacked, 256 MiB."""
MOST_STEPS = 20
"""Steps of a pickled text; Python's own pickles of one have five or six."""
_AROUND_TEXT = ("PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP")
"""Steps of a pickled text besides the text itself, none of which builds anything."""


def all_tests(packed: Mapping[str, Any], where: str) -> Any:
    """The tests of a row in a form that the code grader reads, each with the name of the function it calls, if any.

    Args:
        packed: ``public`` test cases, and where there are any ``private`` ones and ``metadata`` with ``func_name``.
        where: the row, for messages.

    Raises:
        UserError: the tests cannot be unpacked.
    """
    try:
        public, metadata = _loaded(packed["public"]), _loaded(packed.get("metadata")) or {}
        if isinstance(public, Mapping):  # inputs and outputs of TACO, which name the function themselves
            return public
        cases = [*public, *_unpack(packed.get("private") or "[]")]
        return [{**case, "metadata": metadata} for case in cases]
    except Exception as error:  # what anybody may have written unpacks to almost any of them
        raise UserError(f"{where}: the tests cannot be unpacked ({str(error) or type(error).__name__})") from error


def _loaded(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _unpack(text: str) -> list[dict[str, Any]]:
    if text.lstrip().startswith("["):
        cases: list[dict[str, Any]] = json.loads(text)
    else:
        cases = json.loads(_pickled_text(_decompressed(base64.b64decode(text, validate=True))))
    return cases


def _decompressed(packed: bytes) -> bytes:
    stream = zlib.decompressobj()
    unpacked = stream.decompress(packed, MOST_UNPACKED)
    if stream.unconsumed_tail or (not stream.eof and len(unpacked) >= MOST_UNPACKED):
        raise ValueError(f"they are larger than {MOST_UNPACKED >> 20} MiB")
    if not stream.eof:
        raise ValueError("they are cut short")
    return unpacked


def _pickled_text(pickled: bytes) -> str:
    """The text that was pickled, where it is a text: a data set must not be able to run code here."""
    texts: list[str] = []
    for number, (step, argument, _) in enumerate(pickletools.genops(pickled)):
        if number == MOST_STEPS:
            raise ValueError(f"they are pickled in more than {MOST_STEPS} steps")
        if step.name in ("GLOBAL", "STACK_GLOBAL", "INST"):
            named = str(argument).replace(" ", ".") if argument else ".".join(texts[-2:])
            raise ValueError(f"it asks for {named}")
        if "UNICODE" in step.name and isinstance(argument, str):
            texts.append(argument)
        elif step.name not in _AROUND_TEXT:
            raise ValueError(f"they are pickled as something else than one text ({step.name})")
    if len(texts) != 1:
        raise ValueError(f"they are pickled as {len(texts)} texts and not as one")
    return texts[0]
