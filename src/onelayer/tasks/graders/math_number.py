r"""Exact numbers: reading the ways in which one number is written, and when two of them are the same.

Whole numbers (``1,234``), decimals, ``4.5e33`` and ``4.5\times10^{33}``, fractions, mixed numbers, repeating decimals,
percentages, sums, products, powers and factorials of these, with a currency or a unit. All arithmetic is that of
fractions; nothing is rounded. What is no such number (roots, letters, several numbers) is left to
:mod:`~onelayer.tasks.graders.math_worker`.

Two numbers are equal if their values are, with one exception: **a decimal with at least six significant digits also
equals what rounds to it** (``0.333333`` is 1/3, ``0.333`` and ``0.333334`` are not). From ten digits on it may be cut off
instead, and digits beyond the fifteenth do not count. The size of a number does not matter.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

from onelayer.tasks.graders.math_units import read_unit

PLAIN_LENGTH, PLAIN_BITS = 300, 4_096
"""What is read in the calling process: microseconds. Longer text and larger numbers are for the worker."""
WORKER_LENGTH, WORKER_BITS = 20_000, 400_000
_DEEPEST = 40
_LONGEST_LITERAL = 4_000
_FEWEST_DIGITS, _CUT_OFF_DIGITS, _MOST_DIGITS = 6, 10, 15


class TooLarge(Exception):
    """The text may be a number, but one beyond the bounds."""


class _NoNumber(Exception):
    """The text does not go on as a number does."""


@dataclass(frozen=True)
class Power:
    """A number too large to write out: ``sign`` times the product of primes to whole, possibly negative, powers."""

    sign: int
    factors: tuple[tuple[int, int], ...]


Value = Fraction | Power


@dataclass(frozen=True)
class Number:
    """A number as it was written.

    ``digits`` and ``place`` are set for a decimal only: its significant digits and the value of its last place.
    ``unit`` is the canonical unit, empty where there is none or none that is known.
    """

    value: Value
    digits: int = 0
    place: Fraction = Fraction(0)
    percent: bool = False
    unit: str = ""


# Arithmetic within bounds ----------------------------------------------------------------------------------------------
def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _size(factors: Iterable[tuple[int, int]]) -> int:
    """Bits of a product of prime powers: at most twice as many as it has."""
    return sum(abs(exponent) * prime.bit_length() for prime, exponent in factors)


def _factorize(number: int) -> dict[int, int]:
    if number >= 10**12:
        raise TooLarge
    factors: dict[int, int] = {}
    divisor = 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            factors[divisor] = factors.get(divisor, 0) + 1
            number //= divisor
        divisor += 1 if divisor == 2 else 2
    if number > 1:
        factors[number] = factors.get(number, 0) + 1
    return factors


def _as_power(value: Value) -> Power:
    if isinstance(value, Power):
        return value
    factors = _factorize(abs(value.numerator))
    for prime, exponent in _factorize(value.denominator).items():
        factors[prime] = factors.get(prime, 0) - exponent
    return Power(-1 if value < 0 else 1, tuple(sorted(factors.items())))


class _Arithmetic:
    """Fractions up to ``bits``; beyond, products of prime powers in the worker."""

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.powers = bits > PLAIN_BITS

    def checked(self, value: Fraction) -> Fraction:
        if _bits(value) > self.bits:
            raise TooLarge
        return value

    def _settled(self, sign: int, factors: dict[int, int]) -> Value:
        """A fraction where it is small enough."""
        if _size(factors.items()) > self.bits:
            return Power(sign, tuple(sorted((prime, exponent) for prime, exponent in factors.items() if exponent)))
        value = Fraction(sign)
        for prime, exponent in factors.items():
            value *= Fraction(prime) ** exponent
        return value

    def add(self, left: Value, right: Value) -> Value:
        if isinstance(left, Power) or isinstance(right, Power):
            raise TooLarge
        return self.checked(left + right)

    def negate(self, value: Value) -> Value:
        return replace(value, sign=-value.sign) if isinstance(value, Power) else -value

    def multiply(self, left: Value, right: Value) -> Value:
        if isinstance(left, Fraction) and isinstance(right, Fraction):
            return self.checked(left * right)
        if left == 0 or right == 0:
            return Fraction(0)
        one, other = _as_power(left), _as_power(right)
        factors = dict(one.factors)
        for prime, exponent in other.factors:
            factors[prime] = factors.get(prime, 0) + exponent
        return self._settled(one.sign * other.sign, factors)

    def divide(self, left: Value, right: Value) -> Value:
        if right == 0:
            raise _NoNumber
        if isinstance(left, Fraction) and isinstance(right, Fraction):
            return self.checked(left / right)
        return self.multiply(left, self.power(right, Fraction(-1)))

    def power(self, base: Value, exponent: Value) -> Value:
        if isinstance(exponent, Power):
            raise TooLarge
        if exponent.denominator != 1:
            return self.root(self.power(base, Fraction(exponent.numerator)), exponent.denominator)
        if base == 0 and exponent <= 0:
            raise _NoNumber
        if base in (0, 1):
            return base
        if base == -1:
            return Fraction(1 if exponent.numerator % 2 == 0 else -1)
        whole = exponent.numerator
        if isinstance(base, Fraction) and _bits(base) * abs(whole) <= self.bits:
            return base**whole
        if not self.powers:
            raise TooLarge
        return self._power_of_primes(base, whole)

    def _power_of_primes(self, base: Value, exponent: int) -> Value:
        if exponent.bit_length() > self.bits:
            raise TooLarge
        primes = _as_power(base)
        factors = {prime: own * exponent for prime, own in primes.factors}
        return self._settled(primes.sign if exponent % 2 else 1, factors)

    def root(self, value: Value, degree: int) -> Value:
        """The root, where it is rational."""
        if isinstance(value, Power) or value < 0:
            raise _NoNumber
        if degree == 2:
            top, bottom = math.isqrt(value.numerator), math.isqrt(value.denominator)
        else:
            if degree > 64 or _bits(value) > 900:
                raise _NoNumber
            top, bottom = (round(part ** (1 / degree)) for part in (value.numerator, value.denominator))
        if top**degree != value.numerator or bottom**degree != value.denominator:
            raise _NoNumber
        return Fraction(top, bottom)

    def factorial(self, value: Value) -> Value:
        if isinstance(value, Power):
            raise TooLarge
        if value < 0 or value.denominator != 1:
            raise _NoNumber
        number = value.numerator
        if number * number.bit_length() > self.bits:
            raise TooLarge
        return Fraction(math.factorial(number))


# Reading ---------------------------------------------------------------------------------------------------------------
_LITERAL = re.compile(
    r"(?P<whole>\d{1,3}(?:,\d{3})+(?![\d,])|\d{1,3}(?: \d{3})+(?![\d/]| \d)|\d+)?(?P<rest>\.\d*)?"
    r"(?:\\overline\{(?P<line>\d+)\}|(?<=\.)\((?P<bracket>\d+)\)|(?P<dots>\.\.\.?))?"
    r"(?: ?(?:[eE]|\\text\{ ?[eE] ?\})(?:\{ ?(?P<braced>[+-]?\d{1,9}) ?\}|(?P<exponent>[+-]?\d{1,9}))(?![\w.]))?"
)
_MIXED = re.compile(r" ?(?:\\frac\{(\d+)\}\{(\d+)\}|(?<= )(\d+)/(\d+)(?![\d/]))|(?: and | ?\+ ?)(\d+)/(\d+)(?![\d/])")
_TIMES = re.compile(r" ?(?:\\times|\\cdot|\*(?!\*)|[xX](?= ?10 ?(?:\^|\*\*))) ?")
_BY = re.compile(r" ?/ ?")
_SIGN = re.compile(r" ?([+-]) ?")
_EXPONENT = re.compile(r" ?(?:\^|\*\*) ?")
_ROOT = re.compile(r"\\sqrt(?:\[(\d{1,2})\])?\{")
_TEN_TO_A_POWER = re.compile(r"10(?:\^|\*\*)")


class _Reader:
    """Recursive descent over one text; ``position`` is where it stands."""

    def __init__(self, text: str, bits: int) -> None:
        self.text, self.position, self.depth = text, 0, 0
        self.math = _Arithmetic(bits)

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self.text, self.position)
        if match:
            self.position = match.end()
        return match

    def sum(self) -> Number:
        number = self.product()
        while True:
            start = self.position
            sign = self.take(_SIGN)
            if not sign:
                return number
            try:
                other = self.product(signed=False)
            except _NoNumber:
                self.position = start
                return number
            value = other.value if sign[1] == "+" else self.math.negate(other.value)
            number = Number(self.math.add(number.value, value))

    def product(self, signed: bool = True) -> Number:
        sign = self.take(_SIGN) if signed else None
        number = self.mixed()
        divided = False
        while True:
            start = self.position
            if self.take(_TIMES):
                ten = bool(_TEN_TO_A_POWER.match(self.text, self.position))
                other = self.power()
                value = self.math.multiply(number.value, other.value)
                if ten and number.digits and isinstance(other.value, Fraction):
                    number = replace(number, value=value, place=number.place * other.value)
                else:
                    number = Number(value)
            elif self.take(_BY):
                number, divided = Number(self.math.divide(number.value, self.power().value)), True
            elif not divided and self.text.startswith(("(", " ("), self.position):
                self.position = self.text.index("(", self.position)
                try:
                    number = Number(self.math.multiply(number.value, self.power().value))
                except _NoNumber:  # a remark in brackets
                    self.position = start
                    break
            else:
                break
        if sign and sign[1] == "-":
            number = replace(number, value=self.math.negate(number.value))
        return number

    def mixed(self) -> Number:
        start = self.position
        number = self.power()
        if not self.text[start : self.position].isdigit():
            return number
        part = self.take(_MIXED)
        if not part:
            return number
        top, bottom = (int(digits) for digits in part.groups() if digits)
        if not 0 < top < bottom:
            raise _NoNumber
        return Number(self.math.add(number.value, Fraction(top, bottom)))

    def power(self) -> Number:
        number = self.primary()
        if self.text.startswith("!", self.position) and not self.text.startswith("!!", self.position):
            self.position += 1
            number = Number(self.math.factorial(number.value))
        start = self.position
        if self.take(_EXPONENT):
            if self.text.startswith(("\\", "{\\circ"), self.position):  # a degree sign
                self.position = start
                return number
            exponent = self.exponent()
            return Number(self.math.power(number.value, exponent))
        return number

    def exponent(self) -> Value:
        sign = self.take(_SIGN)
        value = self.power().value
        return self.math.negate(value) if sign and sign[1] == "-" else value

    def group(self, end: str) -> Number:
        """What stands up to ``end``; the opening bracket is behind."""
        self.depth += 1
        if self.depth > _DEEPEST:
            raise TooLarge
        if self.text.startswith(" ", self.position):
            self.position += 1
        number = self.sum()
        if self.text.startswith(" ", self.position):
            self.position += 1
        if not self.text.startswith(end, self.position):
            raise _NoNumber
        self.position += 1
        self.depth -= 1
        return number

    def primary(self) -> Number:
        for opening, end in (("(", ")"), ("{", "}")):
            if self.text.startswith(opening, self.position):
                self.position += 1
                return self.group(end)
        if self.text.startswith("\\frac{", self.position):
            self.position += len("\\frac{")
            top = self.group("}")
            if self.text.startswith(" ", self.position):
                self.position += 1
            if self.text.startswith("{", self.position):
                self.position += 1
                bottom = self.group("}")
            elif self.position < len(self.text) and self.text[self.position].isdecimal():
                bottom = Number(Fraction(int(self.text[self.position])))
                self.position += 1
            else:
                raise _NoNumber
            return Number(self.math.divide(top.value, bottom.value))
        if root := self.take(_ROOT):
            return Number(self.math.root(self.group("}").value, int(root[1] or 2)))
        return self.literal()

    def literal(self) -> Number:
        match = _LITERAL.match(self.text, self.position)
        if not match or not (match["whole"] or (match["rest"] and len(match["rest"]) > 1) or match["bracket"]):
            raise _NoNumber
        if match.end() - match.start() > _LONGEST_LITERAL:
            raise TooLarge
        self.position = match.end()
        return self.value_of(match)

    def value_of(self, match: re.Match[str]) -> Number:
        whole = (match["whole"] or "0").replace(",", "").replace(" ", "")
        places = (match["rest"] or ".")[1:]
        scale = int(match["braced"] or match["exponent"] or 0)
        repeated = match["line"] or match["bracket"]
        if match["dots"] and places:
            fixed, repeated = _repetition(places)
            places = fixed if repeated else places
        elif (match["dots"] or repeated) and not match["rest"]:
            raise _NoNumber
        value = Fraction(int(whole + places), 10 ** len(places))
        if repeated:
            value += Fraction(int(repeated), 10 ** len(places) * (10 ** len(repeated) - 1))
        scaled = self.math.multiply(value, self.math.power(Fraction(10), Fraction(scale))) if scale else value
        self.math.checked(value)
        if repeated or match["rest"] is None or not isinstance(scaled, Fraction):
            return Number(scaled)
        return Number(scaled, len((whole + places).lstrip("0")), Fraction(10) ** (scale - len(places)))


def _repetition(places: str) -> tuple[str, str]:
    """The fixed and the repeated digits of ``places`` before dots; nothing repeated where no repetition shows."""
    for size in range(1, min(8, len(places) // 2) + 1):
        block, times = places[-size:], 1
        while places.endswith(block * (times + 1)):
            times += 1
        if times * size >= max(3, 2 * size):
            return places[: len(places) - times * size], block
    return places, ""


_CURRENCY = re.compile(
    r"(-?) ?(?:US|CA|AU|C|A|HK|S)?([€£¥₹₩₽¢฿₫₪₱₦]|(?:USD|EUR|GBP|JPY|INR|CNY|RMB|CAD|AUD|Rs\.?)(?![A-Za-z])) ?"
)
_CONTENT_OF_TEXT = re.compile(r"\\text\{([^{}]*)\}")


def read_number(text: str, length: int = PLAIN_LENGTH, bits: int = PLAIN_BITS) -> Number | None:
    """The number that normalized ``text`` is, or None.

    Raises:
        TooLarge: it is longer than ``length`` characters, or a value on the way has more than ``bits`` bits.
    """
    if not text or (text[0] == "(" and text[-1] == ")" and "," in text):  # (1,234) has two parts
        return None
    if len(text) > length:
        raise TooLarge
    unit = ""
    currency = _CURRENCY.match(text)
    if currency:
        text, unit = currency[1] + text[currency.end() :], read_unit(currency[2], attached=False) or ""
    reader = _Reader(text, bits)
    try:
        number = reader.sum()
    except _NoNumber:
        return None
    rest = text[reader.position :]
    if not rest:
        return replace(number, unit=unit) if unit else number
    return _with_rest(number, rest, unit, reader.math)


_PERCENT = re.compile(r" *(?:%|percent(?:age)?\b|pct\b|per cent\b)( points?)?")
_SCALES = {"hundred": 100, "thousand": 1_000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SCALES |= {"dozen": 12}
_SCALE = re.compile(rf" *({'|'.join(_SCALES)})s?(?![A-Za-z])", re.IGNORECASE)


def _with_rest(number: Number, rest: str, unit: str, arithmetic: _Arithmetic) -> Number | None:
    """``number`` with what stands after it: a scale ("million"), percent, a unit. None if it is something else."""
    flat = _CONTENT_OF_TEXT.sub(lambda match: match[1], rest)
    attached = not rest.startswith((" ", "\\text"))
    if scale := _SCALE.match(flat):
        factor = Fraction(_SCALES[scale[1].casefold()])
        value = arithmetic.multiply(number.value, factor)
        number, flat, attached = replace(number, value=value, place=number.place * factor), flat[scale.end() :], False
    if percent := _PERCENT.match(flat):
        number, flat, attached = replace(number, percent=True), flat[percent.end() :], False
    if not flat.strip():
        return replace(number, unit=unit)
    found = read_unit(flat, attached=attached)
    return None if found is None else replace(number, unit=unit or found)


# Comparing -------------------------------------------------------------------------------------------------------------
def rounds_to(value: Fraction, number: Number) -> bool:
    """Whether the decimal ``number``, which has enough digits, may be ``value`` rounded."""
    if number.digits < _FEWEST_DIGITS or not isinstance(number.value, Fraction):
        return False
    written, place, digits = abs(number.value), number.place, number.digits
    if (value < 0) != (number.value < 0):
        return False
    value = abs(value)
    if digits > _MOST_DIGITS:
        place *= Fraction(10) ** (digits - _MOST_DIGITS)
        return abs(value - written) <= place
    near = abs(value - written) <= place / 2
    return near or (digits >= _CUT_OFF_DIGITS and 0 <= value - written < place)


def _written_out(value: Value) -> Value:
    """A power as a fraction, if a fraction may be as large: the bounds go by estimates, which a value passes or not."""
    if isinstance(value, Fraction) or _size(value.factors) > 4 * WORKER_BITS:
        return value
    top, bottom = value.sign, 1
    for prime, exponent in value.factors:
        if exponent > 0:
            top *= prime**exponent
        else:
            bottom *= prime**-exponent
    return Fraction(top, bottom)


def _same_value(one: Number, other: Number) -> bool:
    if one.value == other.value:
        return True
    if isinstance(one.value, Power) or isinstance(other.value, Power):
        return _written_out(one.value) == _written_out(other.value)
    return rounds_to(one.value, other) or rounds_to(other.value, one)


def _hundredth(number: Number) -> Number:
    assert isinstance(number.value, Fraction)
    return replace(number, value=number.value / 100, place=number.place / 100)


def same_number(one: Number, other: Number) -> bool:
    """Whether two numbers are equal: see the top. ``10%`` is 0.1 and 10; two known units that differ are different."""
    if one.unit and other.unit and one.unit != other.unit:
        return False
    if _same_value(one, other):
        return True
    if one.percent == other.percent or isinstance(one.value, Power) or isinstance(other.value, Power):
        return False
    return _same_value(_hundredth(one), other) if one.percent else _same_value(one, _hundredth(other))
