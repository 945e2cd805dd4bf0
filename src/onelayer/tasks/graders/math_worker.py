"""The process that does the mathematics: started by :mod:`onelayer.tasks.graders.math_pool`, never imported by it.

The main process only waits. A forked child, which has math-verify loaded and warm, grades; when an answer outlives
its deadline the child is killed and the next one forked: milliseconds, where a new interpreter would take a second.

One JSON object a line on stdin: ``{"reference", "answer", "deadline"}`` (seconds); one a line on stdout:
``{"verdict"}``, one of "correct", "wrong", "unreadable" (the answer is no expression), "unreadable reference",
"timeout", "crash".
"""

import ctypes
import json
import logging
import os
import re
import resource
import select
import signal
import sys
from fractions import Fraction
from functools import lru_cache
from typing import Any

from onelayer.tasks.graders import math_compare
from onelayer.tasks.graders.math_number import WORKER_BITS, WORKER_LENGTH, Number, TooLarge, read_number, rounds_to
from onelayer.tasks.graders.math_units import without_unit

DIGITS = 60
"""Digits that values are computed to; two that agree in as many are computed to :data:`MORE_DIGITS`."""
MORE_DIGITS = 600
_COMMAND = re.compile(r"\\text\{[^{}]*\}|\\[A-Za-z]+")
_LOOSE_LETTER = re.compile(r"(?<=\d) (?=[A-Za-z](?![A-Za-z]))")
_E_NOTATION = re.compile(r"(?<=[\d.])[eE]([+-]?\d+)(?![\w.])")
_IMAGINARY = re.compile(r"(?<![A-Za-z\\_])i(?![A-Za-z=])|\\(?:det|arg|Re|Im)\b|\\mathbb\{C\}")
_PROSE = re.compile(r"[A-Za-z]{5}|[A-Za-z]{2} +[A-Za-z]{2}")
MEMORY_BYTES = 4 << 30
PR_SET_PDEATHSIG = 1
WARM_UP = (
    "x^2+2x+1",
    "(x+1)(y-2)",
    "\\frac{2\\sqrt{3}}{4}",
    "-\\frac{1}{2}",
    "(1,\\frac{1}{2}]",
    "(1,-2,3)",
    "(-\\infty,0) \\cup (9,36)",
    "1,-2",
    "10\\%",
    "5\\text{ cm}",
    "y = 2x+3",
    "\\begin{pmatrix} 1 & -2 \\\\ 1/3 & 0 \\end{pmatrix}",
    "90^\\circ",
    "2\\pi",
    "1 \\pm \\sqrt{2}",
    "0.5",
)
"""Expressions that make the parser build its tables before the first fork, so that children need not."""


@lru_cache(maxsize=1024)
def _parse(text: str, real: bool) -> Any:
    """The expression that is the whole of ``text``, or None; nothing is ever picked out of a longer text.

    Decimals become the fractions that they are: sympy's floats would round what is compared. ``real`` says what its
    letters stand for; where they may be complex, i is the imaginary unit.
    """
    from latex2sympy2_extended.latex2sympy2 import NormalizationConfig, latex2sympy, normalize_latex
    from sympy import Basic, Float, I, MatrixBase, Rational, S

    if _PROSE.search(_COMMAND.sub(" ", text)):
        return None
    config = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none")
    try:
        text = _LOOSE_LETTER.sub("", _E_NOTATION.sub(r"\\cdot 10^{\1}", without_unit(text)))
        latex = normalize_latex(text, config=config)
        parsed = latex2sympy(latex, is_real=real, convert_degrees=False, normalization_config=None)
    except RecursionError:
        raise
    except Exception:  # its parser raises plain Exceptions
        return None
    if not isinstance(parsed, Basic | MatrixBase) or parsed.has(S.NaN, S.ComplexInfinity):
        return None
    exact = {decimal: Rational(str(decimal)) for decimal in parsed.atoms(Float)}
    if not real:
        exact |= {symbol: I for symbol in parsed.free_symbols if symbol.name == "i"}
    return parsed.xreplace(exact) if exact else parsed


def _values(one: Any, other: Any, digits: int) -> tuple[Any, Any] | None:
    """Both expressions at one point, to ``digits`` digits; None where there is no such value or it is not as exact."""
    from sympy import Expr, Rational

    if not (isinstance(one, Expr) and isinstance(other, Expr)):
        return None
    symbols = sorted(one.free_symbols | other.free_symbols, key=str)
    point = {symbol: Rational(7390851332 + 6180339887 * index, 10**10) for index, symbol in enumerate(symbols)}
    values = []
    for expression in (one, other):
        value = expression.evalf(digits, subs=point, maxn=4 * digits)
        parts = value.as_real_imag()
        if not all(part.is_Number and part.is_finite for part in parts):
            return None
        # A sum that may be nought is known to few digits only, whatever was asked for.
        if any(part.is_Float and part != 0 and part._prec < 3 * digits for part in parts):
            return None
        values.append(value)
    return values[0], values[1]


def clearly_different(reference: Any, answer: Any) -> bool:
    """Whether two expressions have different values at a point: proof enough, and ten times faster than algebra.

    The margin is relative, so that small numbers are told apart as large ones are.
    """
    from sympy import Rational

    for digits in (DIGITS, MORE_DIGITS):
        values = _values(reference, answer, digits)
        if values is None:
            return False
        left, right = values
        # Ten digits are left for the rounding of the difference.
        if abs(left - right) > max(abs(left), abs(right)) * Rational(1, 10 ** (digits - 10)):
            return True
    return False


def _rounds(expression: Any, number: Number | None) -> bool:
    """Whether a decimal is the rounded value of a constant: 3.14159 of \\pi."""
    from sympy import Rational

    if number is None or not number.digits or not hasattr(expression, "free_symbols") or expression.free_symbols:
        return False
    values = _values(expression, Rational(0), DIGITS)
    if values is None or not values[0].is_real:
        return False
    value = Rational(values[0])
    return rounds_to(Fraction(int(value.p), int(value.q)), number)


class Unreadable(Exception):
    """A side is no expression; the message says which."""


def _mathematics(reference: str, answer: str) -> bool:
    """Ask math-verify whether ``answer`` equals ``reference`` (in that order: its comparison is not symmetric).

    Raises:
        Unreadable: one of them is no expression.
    """
    from math_verify import verify

    real = not (_IMAGINARY.search(reference) or _IMAGINARY.search(answer))
    gold, target = _parse(reference, real), _parse(answer, real)
    if gold is None or target is None:
        raise Unreadable("unreadable" if gold is not None else "unreadable reference")
    # 10 % counts as 0.1 and as 10, so its value alone proves nothing.
    if "%" not in reference + answer and clearly_different(gold, target):
        return _rounds(gold, _number(answer)) or _rounds(target, _number(reference))
    return bool(verify(gold, target, numeric_precision=DIGITS, timeout_seconds=None, raise_on_error=True))


def _number(text: str) -> Number | None:
    try:
        return read_number(text)
    except TooLarge:
        return None


def compare(reference: str, answer: str) -> str:
    """The verdict on one normalized pair."""
    try:
        same = math_compare.compare(reference, answer, _mathematics, WORKER_LENGTH, WORKER_BITS)
    except Unreadable as error:
        return str(error)
    return "correct" if same else "wrong"


def _serve(requests: int, replies: int) -> None:
    """Grade requests until the pipe closes."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # never outlive a killed parent
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for standard in (0, 1):
        os.close(standard)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with os.fdopen(requests, "rb") as lines:
        for line in lines:
            request = json.loads(line)
            try:
                verdict = compare(request["reference"], request["answer"])
            except Exception:
                # Whatever the mathematics trips over (recursion, memory, a bug) is reported as such, not as "wrong".
                verdict = "crash"
            os.write(replies, json.dumps({"verdict": verdict}).encode() + b"\n")


class _Child:
    """A forked grading process and the two pipes to it."""

    def __init__(self) -> None:
        request_read, self._requests = os.pipe()
        self._replies, reply_write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._requests)
            os.close(self._replies)
            _serve(request_read, reply_write)
            os._exit(0)
        os.close(request_read)
        os.close(reply_write)

    def ask(self, line: bytes, deadline: float) -> bytes | None:
        """The reply, b"" if the child died, None if there is none within ``deadline`` seconds or the caller is gone."""
        try:
            os.write(self._requests, line)
        except BrokenPipeError:
            return b""
        # The caller waits for this reply, so standard input only becomes readable when it has closed.
        if self._replies not in select.select([self._replies, sys.stdin], [], [], deadline)[0]:
            return None
        return os.read(self._replies, 1 << 16)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._requests)
        os.close(self._replies)


def main() -> None:
    """Serve stdin until it closes."""
    logging.disable(logging.CRITICAL)  # math-verify warns on every call that its own timeouts are off
    for example in WARM_UP:
        compare(example, example + "+0")
    child = _Child()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin.buffer:
        reply = child.ask(line, json.loads(line)["deadline"])
        if not reply:
            child.kill()
            child = _Child()
            reply = json.dumps({"verdict": "timeout" if reply is None else "crash"}).encode() + b"\n"
        sys.stdout.buffer.write(reply)
        sys.stdout.buffer.flush()
    child.kill()
