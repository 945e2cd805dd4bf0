"""Pairs of written answers against exact arithmetic: one value in two forms, and a value beside its neighbour.

Nothing of the grader decides what is right here: a form writes a value together with what is known of it (the exact
fraction, how many digits were written, percent), and :func:`same` applies the rules that open docs/graders.md to those.

    MATH_ROUNDS=25 python -m pytest tests/tasks/graders/test_math_pairs.py    # every ordered pair of forms 50 times
"""

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import product

import pytest

from onelayer.tasks.graders.math_answer import grade_math
from onelayer.tasks.graders.math_pool import MathPool

ROUNDS = int(os.environ.get("MATH_ROUNDS", "1"))
"""How often each ordered pair of forms comes, each time once with one value and once with a value and its neighbour."""


@pytest.fixture(scope="module")
def pool() -> Iterator[MathPool]:
    with MathPool(workers=1) as pool:
        yield pool


@dataclass(frozen=True)
class Written:
    """A text and what it says: ``value`` exactly, or anything that is compared with ``==``."""

    text: str
    value: object
    digits: int = 0  # of a decimal: its significant digits
    place: Fraction = Fraction(0)  # of a decimal: what one in its last place is worth
    percent: bool = False


def rounds(value: Fraction, decimal: Written) -> bool:
    """A decimal with six significant digits or more is also what rounds to it; from ten on it may be cut off."""
    assert isinstance(decimal.value, Fraction)
    if decimal.digits < 6:
        return False
    if decimal.digits > 15:
        return abs(value - decimal.value) <= decimal.place * 10 ** (decimal.digits - 15)
    cut_off = abs(value) - abs(decimal.value)
    near = 2 * abs(value - decimal.value) <= decimal.place
    return near or (decimal.digits >= 10 and value * decimal.value > 0 and 0 <= cut_off < decimal.place)


def same(one: Written, other: Written) -> bool:
    """The rules of docs/graders.md."""
    if not (isinstance(one.value, Fraction) and isinstance(other.value, Fraction)):
        return one.value == other.value
    readings = [(one, other)]
    if one.percent != other.percent:
        readings.append((hundredth(one), other) if one.percent else (one, hundredth(other)))
    return any(a.value == b.value or rounds(a.value, b) or rounds(b.value, a) for a, b in readings)  # type: ignore[arg-type]


def hundredth(written: Written) -> Written:
    assert isinstance(written.value, Fraction)
    return Written(written.text, written.value / 100, written.digits, written.place / 100)


# Numbers ---------------------------------------------------------------------------------------------------------------
def places_of(value: Fraction) -> int | None:
    """Decimal places of a value that has finitely many."""
    for places in range(40):
        if (value * 10**places).denominator == 1:
            return places
    return None


def decimal(value: Fraction, extra: int = 0, mark: str = "") -> Written | None:
    places = places_of(value)
    if places is None or abs(value) >= 10**15 or places > 12:
        return None
    places += extra
    digits = str(abs(int(value * 10**places))).rjust(places + 1, "0")
    whole, part = digits[: len(digits) - places], digits[len(digits) - places :]
    text = ("-" if value < 0 else "") + (f"{int(whole):,}" if mark else whole) + (f".{part}" if places else "")
    return Written(text, value, len(digits.lstrip("0")) if places else 0, Fraction(1, 10**places))


def scientific(pattern: str) -> Callable[[Fraction], Written | None]:
    def write(value: Fraction) -> Written | None:
        power, scaled = 0, abs(value)
        while scaled >= 10:
            scaled, power = scaled / 10, power + 1
        while scaled < 1:
            scaled, power = scaled * 10, power - 1
        mantissa = decimal(scaled if value > 0 else -scaled)
        if mantissa is None:
            return None
        raised = str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        text = pattern.format(m=mantissa.text, p=power, raised=raised)
        return Written(text, value, mantissa.digits, mantissa.place * Fraction(10) ** power)

    return write


def fraction(pattern: str) -> Callable[[Fraction], Written | None]:
    def write(value: Fraction) -> Written | None:
        sign = "-" if value < 0 else ""
        return Written(pattern.format(s=sign, a=abs(value.numerator), b=value.denominator), value)

    return write


def mixed(pattern: str) -> Callable[[Fraction], Written | None]:
    def write(value: Fraction) -> Written | None:
        whole, rest = divmod(abs(value), 1)
        if not whole or not rest:
            return None
        sign = "-" if value < 0 else ""
        return Written(pattern.format(s=sign, w=whole, a=rest.numerator, b=rest.denominator), value)

    return write


VULGAR = {
    Fraction(1, 2): "½",
    Fraction(1, 4): "¼",
    Fraction(3, 4): "¾",
    Fraction(1, 3): "⅓",
    Fraction(2, 3): "⅔",
    **{Fraction(n, 5): sign for n, sign in enumerate("⅕⅖⅗⅘", start=1)},
    **{Fraction(n, 8): sign for n, sign in zip((1, 3, 5, 7), "⅛⅜⅝⅞", strict=True)},
    Fraction(1, 6): "⅙",
    Fraction(5, 6): "⅚",
}


def vulgar(value: Fraction) -> Written | None:
    whole, rest = divmod(abs(value), 1)
    if rest not in VULGAR:
        return None
    return Written(f"{'−' if value < 0 else ''}{whole or ''}{VULGAR[rest]}", value)


def repeating(value: Fraction) -> Written | None:
    """Long division, until a remainder comes back."""
    whole, rest = divmod(abs(value), 1)
    seen: dict[Fraction, int] = {}
    digits = ""
    while rest not in seen:
        seen[rest] = len(digits)
        digit, rest = divmod(rest * 10, 1)
        digits += str(digit)
        if len(digits) > 30:
            return None
    start = seen[rest]
    bar = "\\bar" if len(digits) - start == 1 else "\\overline"
    return Written(f"{'-' if value < 0 else ''}{whole}.{digits[:start]}{bar}{{{digits[start:]}}}", value)


def percent(value: Fraction) -> Written | None:
    written = decimal(value)
    return written and Written(written.text + "\\%", value, written.digits, written.place, percent=True)


def around(
    before: str, after: str, write: Callable[[Fraction], Written | None]
) -> Callable[[Fraction], Written | None]:
    def wrap(value: Fraction) -> Written | None:
        written = write(value)
        return written and Written(before + written.text + after, value, written.digits, written.place)

    return wrap


def foreign_signs(value: Fraction) -> Written | None:
    """Full-width digits, a minus sign, and characters without a width."""
    written = decimal(value)
    table = str.maketrans("0123456789.-", "０１２３４５６７８９．−")
    return written and Written(
        "\u200b" + written.text.translate(table) + "\ufeff", value, written.digits, written.place
    )


NUMBERS: dict[str, Callable[[Fraction], Written | None]] = {
    "decimal": decimal,
    "decimal with noughts": lambda value: decimal(value, extra=2),
    "thousands": lambda value: decimal(value, mark=","),
    "e": scientific("{m}e{p}"),
    "E": scientific("{m}E{p:+03d}"),
    "times": scientific(r"{m} \times 10^{{{p}}}"),
    "cdot": scientific(r"{m}\cdot10^{{{p}}}"),
    "raised": scientific("{m}×10{raised}"),
    "x": scientific("{m} x 10^({p})"),
    "slash": fraction("{s}{a}/{b}"),
    "frac": fraction(r"{s}\frac{{{a}}}{{{b}}}"),
    "dfrac": fraction(r"\dfrac{{{s}{a}}}{{{b}}}"),
    "quotient": fraction(r"{s}{a} \div {b}"),
    "power": fraction(r"{s}{a} \cdot {b}^{{-1}}"),
    "product": fraction(r"2({s}{a})/(2 \cdot {b})"),
    "mixed": mixed("{s}{w} {a}/{b}"),
    "mixed frac": mixed(r"{s}{w}\frac{{{a}}}{{{b}}}"),
    "mixed words": mixed("{s}{w} and {a}/{b}"),
    "sum": mixed("{s}({w} + {a}/{b})"),
    "vulgar": vulgar,
    "repeating": repeating,
    "percent": percent,
    "foreign signs": foreign_signs,
    "colour": around(r"\color{red}{", "}", fraction(r"{s}\tfrac{{{a}}}{{{b}}}")),
    "bold": around(r"\mathbf{", "}", decimal),
    "text": around(r"\text{", "}", decimal),
    "named": around("x = ", "", fraction(r"{s}\frac{{{a}}}{{{b}}}")),
    "euros": around("", "€", decimal),
    "dollars": around(r"\$", "", decimal),
    "unit": around("", r"\text{ cm}^2", decimal),
    "speed": around("", " m/s", mixed("{s}{w} {a}/{b}")),
    "things": around("", " apples", decimal),
    "degrees": around("", "°", decimal),
}
CURRENCIES_AND_UNITS = {"euros", "unit", "speed", "degrees"}
"""Known units; a dollar sign is none, because it may belong to a formula."""


def number(rng: random.Random) -> Fraction:
    """A value: mostly one that every form can write, else of any size, or with a repeating expansion."""
    part = (
        rng.choice(list(VULGAR))
        if rng.random() < 0.7
        else Fraction(rng.randrange(1, 60), rng.choice([16, 25, 60, 7, 125]))
    )
    value = rng.choice([1, 9, 75, 3_000, 10**6]) * rng.randrange(1, 9) + part
    if rng.random() < 0.15:
        value *= Fraction(10) ** rng.randrange(-25, 30)
    return -value if rng.random() < 0.3 else value


def neighbour(value: Fraction, rng: random.Random) -> Fraction:
    """Another value that is easily taken for this one."""
    changed = rng.choice(
        [
            value + 1,
            -value,
            value * 10,
            value / 10,
            value * Fraction(11, 10),
            value + Fraction(1, 8),
            1 / value,
            value - 2 * (value % 1) + 1,
            value * Fraction(1001, 1000),
        ]
    )
    return changed if changed != value and changed else value + 1


# Where an answer stands; the text comes between ------------------------------------------------------------------------
PLACES = [
    ("So the result is \\boxed{", "}."),
    ("So the result is $\\boxed{ ", " }$. Done."),
    ("It was \\boxed{99}, no: \\boxed{", "}"),
    ("Hence.\n#### ", "\n"),
    ("The answer is ", "."),
    ("The answer is **", "**."),
    ("The answer is ", ", which is what we wanted."),
    ("The answer is about ", "!"),
    ("The final answer is: $", "$."),
    ("The answer is $", "$ because of that."),
    ("The answer is:\n\\[\n", "\n\\]"),
    ("The answer is:\n$$\n", "\n$$\nThat is all."),
    ("The answer is \\(", "\\)"),
    ("The answer is\n\\begin{align*}\nx &= ", "\n\\end{align*}"),
]


def asked(one: Written, other: Written, rng: random.Random) -> tuple[str, str, bool]:
    # "x =" stands before a value, not before x < 2 or three numbers.
    before, after = rng.choice(PLACES if isinstance(one.value, Fraction | str) else PLACES[:-1])
    return before + one.text + after, other.text, same(one, other)


def settle(pool: MathPool, rows: list[tuple[str, str, bool]]) -> None:
    """Grade them all; whatever differs from the oracle is shown."""
    grades = grade_math(
        [row[0] for row in rows], [row[1] for row in rows], deadline=20.0, batch_deadline=3600.0, pool=pool
    )
    wrong = [
        (completion, reference, "same" if right else "different", grade.reason)
        for (completion, reference, right), grade in zip(rows, grades, strict=True)
        if grade.reason != ("correct" if right else "wrong")
    ]
    assert not wrong, f"{len(wrong)} of {len(rows)}: {wrong[:20]}"


def numbers(rng: random.Random, one: str, other: str, near: bool) -> tuple[Written, Written]:
    """A value in both forms, or a value and its neighbour."""
    while True:
        value = number(rng)
        left, right = NUMBERS[one](value), NUMBERS[other](neighbour(value, rng) if near else value)
        if left and right:
            break
    if one != other and {one, other} <= CURRENCIES_AND_UNITS:  # two units that are known and differ
        return left, Written(right.text, "another unit")
    return left, right


def test_numbers_in_any_two_forms(pool: MathPool) -> None:
    rng, rows = random.Random(1), []
    for _ in range(ROUNDS):
        for one, other in product(NUMBERS, repeat=2):
            for near in (False, True):
                rows.append(asked(*numbers(rng, one, other, near), rng))
    assert 0.3 < sum(right for _, _, right in rows) / len(rows) < 0.6
    settle(pool, rows)


# Other answers ---------------------------------------------------------------------------------------------------------
_WORDS = (
    "seat east on no May Amy listen silent north thorn dog god x-axis y-axis Navin's Smith yes even odd Évora night"
)
WORDS = _WORDS.split()
WORD_FORMS = [
    "{w}",
    r"\text{{{w}}}",
    r"\textbf{{{w}}}",
    r"\textit{{{w}}}",
    r"\emph{{{w}}}",
    r"\mathrm{{{w}}}",
    r"\text{{ {w} }}",
]
REGION_FORMS: list[Callable[[str, str, bool, bool], str | None]] = [
    lambda a, b, lo, hi: f"{'[('[lo]}{a}, {b}{'])'[hi]}",
    lambda a, b, lo, hi: rf"\left{'[('[lo]}{a},{b}\right{'])'[hi]}",
    lambda a, b, lo, hi: f"{a} {('≤', '<')[lo]} x {('≤', '<')[hi]} {b}",
    lambda a, b, lo, hi: rf"{b}{(chr(92) + 'ge ', '>')[hi]}x{(chr(92) + 'geq ', '>')[lo]}{a}",
    lambda a, b, lo, hi: rf"x \in {'[('[lo]}{a},{b}{'])'[hi]}",
    lambda a, b, lo, hi: rf"\{{x \mid {a} {(chr(92) + 'leqslant', '<')[lo]} x {(chr(92) + 'le', '<')[hi]} {b}\}}",
]
END_FORMS = [NUMBERS[name] for name in ("slash", "frac", "mixed frac", "decimal")]


def region(rng: random.Random, form: int, ends: tuple[Fraction, Fraction], opened: tuple[bool, bool]) -> Written:
    texts = []
    for end in ends:
        written = None
        while written is None:
            written = rng.choice(END_FORMS)(end)
        texts.append(written.text)
    text = REGION_FORMS[form](*texts, *opened)
    assert text
    return Written(text, (ends, opened))


def regions(rng: random.Random, one: int, other: int, near: bool) -> tuple[Written, Written]:
    low, high = sorted((Fraction(rng.randrange(-40, 0), 8), Fraction(rng.randrange(1, 60), 4)))
    opened = rng.random() < 0.5, rng.random() < 0.5
    left = region(rng, one, (low, high), opened)
    if near:
        low, high, opened = rng.choice(
            [
                (low + Fraction(1, 8), high, opened),
                (low, high + 1, opened),
                (low, high, (not opened[0], opened[1])),
                (low, high, (opened[0], not opened[1])),
                (-high, -low, opened),
            ]
        )
    return left, region(rng, other, (low, high), opened)


def words(rng: random.Random, one: int, other: int, near: bool) -> tuple[Written, Written]:
    word = rng.choice(WORDS)
    second = rng.choice([w for w in WORDS if w.casefold() != word.casefold()]) if near else word
    return (
        Written(WORD_FORMS[one].format(w=word), word),
        Written(WORD_FORMS[other].format(w=rng.choice([second, second.upper()])), second),
    )


ORDERED = [r"({})", r"\left({}\right)", "（{}）"]
UNORDERED = [r"\{{{}\}}", r"\left\{{{}\right\}}", "{}"]


def sequences(rng: random.Random, one: int, other: int, near: bool) -> tuple[Written, Written]:
    """Tuples in order, sets in any order; a set is no tuple."""
    values = rng.sample(range(-30, 90), rng.randrange(2, 5))
    changed = list(values)
    kinds = [ORDERED, UNORDERED]
    if near:
        changed = rng.choice([[*values[:-1], values[-1] + 100], [*values, 91], values[1:] + values[:1]])
    elif one >= 3 or other >= 3:
        rng.shuffle(changed)
    pair = []
    for form, numbers in ((one, values), (other, changed)):
        joined = rng.choice([", ", ","] if form < 5 else [", "]).join(map(str, numbers))
        kind = form // 3
        value: tuple[object, ...] = ("tuple", *numbers) if kind == 0 else ("set", *sorted(numbers))
        if form == 5:  # a bare list is a set, or a tuple where the other side is one
            value = ("list", *numbers)
        pair.append(Written(kinds[kind][form % 3].format(joined), value))
    kinds_seen = {written.value[0] for written in pair}  # type: ignore[index]
    if "list" in kinds_seen:
        as_tuple = "tuple" in kinds_seen
        pair = [Written(w.text, w.value[1:] if as_tuple else tuple(sorted(w.value[1:]))) for w in pair]  # type: ignore[index]
    return pair[0], pair[1]


CLOCK_FORMS = [
    lambda h, m: f"{(h - 1) % 12 + 1}:{m:02d} {'ap'[h >= 12]}m",
    lambda h, m: f"{(h - 1) % 12 + 1}:{m:02d} {'AP'[h >= 12]}.M.",
    lambda h, m: rf"{(h - 1) % 12 + 1}:{m:02d}\text{{ {'ap'[h >= 12]}.m.}}",
    lambda h, m: f"{h:02d}:{m:02d}" if h > 12 or h == 0 else f"{(h - 1) % 12 + 1}:{m:02d} {'ap'[h >= 12]}m",
]


def clocks(rng: random.Random, one: int, other: int, near: bool) -> tuple[Written, Written]:
    hour, minute = rng.randrange(24), rng.randrange(60)
    second = rng.choice([(hour, (minute + 1) % 60), ((hour + 1) % 24, minute), ((hour + 12) % 24, minute)])
    changed = second if near else (hour, minute)
    return Written(CLOCK_FORMS[one](hour, minute), (hour, minute)), Written(CLOCK_FORMS[other](*changed), changed)


ROOT_FORMS = [
    lambda a, b: rf"{a}\sqrt{{{b}}}",
    lambda a, b: f"{a}√{b}",
    lambda a, b: rf"\sqrt{{{a * a * b}}}",
    lambda a, b: rf"{a} \cdot {b}^{{1/2}}",
    lambda a, b: rf"\frac{{{a * b}}}{{\sqrt{{{b}}}}}",
]


def roots(rng: random.Random, one: int, other: int, near: bool) -> tuple[Written, Written]:
    a, b = rng.randrange(2, 30), rng.choice([2, 3, 5, 6, 7])
    c, d = rng.choice([(a + 1, b), (a, b + 1 if b != 3 else 10), (b, a * a)]) if near else (a, b)
    return Written(ROOT_FORMS[one](a, b), a * a * b), Written(ROOT_FORMS[other](c, d), c * c * d)


POWER_FORMS = [
    lambda p, n: f"{p}^{{{n}}}",
    lambda p, n: rf"{p} \cdot {p}^{{{n - 1}}}",
    lambda p, n: f"{p}^{{{n + 2}}}/{p}^2",
    lambda p, n: rf"{p * p}^{{{n // 2}}}" if n % 2 == 0 else rf"{p} \times {p * p}^{{{n // 2}}}",
    lambda p, n: rf"\frac{{1}}{{{p}^{{-{n}}}}}",
]


def powers(rng: random.Random, one: int, other: int, near: bool) -> tuple[Written, Written]:
    p, n = rng.choice([2, 3, 7, 12]), rng.choice([300, 1_001, 2_005, 10**5, 10**9])
    m = n + rng.choice([-1, 1]) if near else n
    return Written(POWER_FORMS[one](p, n), (p, n)), Written(POWER_FORMS[other](p, m), (p, m))


KINDS = {
    "regions": (regions, len(REGION_FORMS)),
    "words": (words, len(WORD_FORMS)),
    "sequences": (sequences, 6),
    "clocks": (clocks, len(CLOCK_FORMS)),
    "roots": (roots, len(ROOT_FORMS)),
    "powers": (powers, len(POWER_FORMS)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_answers_in_any_two_forms(pool: MathPool, kind: str) -> None:
    write, forms = KINDS[kind]
    rng, rows = random.Random(kind), []
    for _ in range(ROUNDS):
        for one, other in product(range(forms), repeat=2):
            for near in (False, True):
                rows.append(asked(*write(rng, one, other, near), rng))
    settle(pool, rows)
