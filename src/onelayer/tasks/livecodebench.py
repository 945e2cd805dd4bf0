"""How LiveCodeBench and DeepCoder pack tests: cases as JSON, hidden ones as JSON or as pickled, compressed JSON text."""

import base64
import io
import json
import pickle
import zlib
from collections.abc import Mapping
from typing import Any

from onelayer.errors import UserError


class _TextOnly(pickle.Unpickler):
    """Loads text and nothing else: a data set must not be able to run code here."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


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
        unpacked = zlib.decompress(base64.b64decode(text, validate=True))
        cases = json.loads(_TextOnly(io.BytesIO(unpacked)).load())
    return cases
