"""Whether a script printed what it had to: line by line, numbers by value, in bounded memory.

Both texts may have millions of numbers. They are compared piece by piece and never held as lists; beside them there are
copies of three times their length at most. The first difference ends the comparison.
"""

import re
from collections.abc import Iterator
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, InvalidOperation
from itertools import zip_longest

# No part of it gives back what it took: a token of a million digits is read once.
_NUMBER = re.compile(rb"[+-]?+(?:(?:\d++(?:\.\d*+)?+|\.\d++)(?:[eE][+-]?+\d++)?+|(?i:inf(?:inity)?+))")
_WRITTEN_AS_FLOAT = re.compile(rb"[.eE]")
_TOKEN = re.compile(rb"\S++")
_EXACT_ENOUGH = Context(prec=60, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[])


def same_output(printed: str | bytes, expected: str | bytes, float_tolerance: float = 0.0) -> bool:
    """Whether two outputs agree line by line: numbers by value, space around lines and at the ends aside.

    Args:
        printed: what the program printed.
        expected: what it had to print.
        float_tolerance: how far a number may be from the expected one where either is written with a point or an
            exponent: relative to the expected one, or absolute if that is more; absolute alone where the expected one
            is written as a whole number. 0 is equality of values. Whole numbers are always compared exactly.
    """
    text, right = _bytes(printed).strip(), _bytes(expected).strip()
    if text == right:
        return True
    pairs = zip_longest(_lines(text), _lines(right))
    return all(
        line is not None and other is not None and _same_line(line.strip(), other.strip(), float_tolerance)
        for line, other in pairs
    )


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", errors="surrogatepass")


def _lines(text: bytes) -> Iterator[bytes]:
    start = 0
    while (end := text.find(b"\n", start)) >= 0:
        yield text[start:end]
        start = end + 1
    yield text[start:]


def _same_line(line: bytes, expected: bytes, tolerance: float) -> bool:
    if line == expected:
        return True
    pairs = zip_longest(_TOKEN.finditer(line), _TOKEN.finditer(expected))
    # Words may not be moved, numbers may be set apart: lines that differ have to be numbers throughout.
    return all(a is not None and b is not None and _same_number(a[0], b[0], tolerance) for a, b in pairs)


def _same_number(token: bytes, expected: bytes, tolerance: float) -> bool:
    if not (_NUMBER.fullmatch(token) and _NUMBER.fullmatch(expected)):
        return False
    if token == expected:
        return True
    try:
        a, b = Decimal(token.decode()), Decimal(expected.decode())
    except InvalidOperation:  # an exponent that no number of this machine has
        return False
    if a == b:
        return True
    whole = not _WRITTEN_AS_FLOAT.search(expected)
    if not tolerance or not (a.is_finite() and b.is_finite()) or (whole and not _WRITTEN_AS_FLOAT.search(token)):
        return False
    context = _EXACT_ENOUGH.copy()
    margin = Decimal(tolerance)
    if not whole:
        margin = context.multiply(margin, context.max(Decimal(1), context.abs(b)))
    return context.abs(context.subtract(a, b)) <= margin
