r"""When two normalized answers are the same: words, clock times, lists, sets, intervals, matrices, equations.

Answers are taken apart here, down to single numbers and expressions. Numbers are compared exactly
(``math_number.py``); an expression is for ``mathematics``, a function that the caller gives: none in the
calling process, math-verify in the worker. The result has three values: equal, different, or None where only mathematics
can tell.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from onelayer.tasks.graders.math_number import (
    PLAIN_BITS,
    PLAIN_LENGTH,
    Number,
    TooLarge,
    read_number,
    same_number,
)

Mathematics = Callable[[str, str], bool | None]
_DEEPEST = 12
_MOST_UNORDERED = 60

# LaTeX ignores these spaces; "5 6", "1 1/2" and "1, 000" keep theirs.
_IDLE_SPACE = re.compile(r" ?([-+*/^_=<>(){}\[\]|&]) ?|(?<=,) (?!\d{3}(?!\d))")
_BRACE = re.compile(r"\\[\\{}]|[{}]")


def _braces_balance(text: str) -> bool:
    depth = 0
    for brace in _BRACE.findall(text):
        depth += {"{": 1, "}": -1}.get(brace, 0)
        if depth < 0:
            return False
    return depth == 0


# Words -----------------------------------------------------------------------------------------------------------------
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_WORDS = re.compile(r"[^\W\d_](?:[^\W\d_]|[ ,.;:'’\"()&?!-])*", re.DOTALL)
_RUN = re.compile(r"[^\W\d_]{2}")
_LONG_RUN = re.compile(r"[^\W\d_]{3}")
_SPACES_AROUND = re.compile(r" ?([,;:-]) ?")
_ARTICLE = re.compile(r"(?:the|an?) (?=[^\W\d_]{2})")


def words_of(text: str) -> str | None:
    """The words that ``text`` is, to be compared; None where it is not words alone: a single letter is a variable."""
    flat = _TEXT.sub(lambda match: match[1], text) if "\\text" in text else text
    flat = flat.strip(" ()[]\"'.,;:!?")
    if not _WORDS.fullmatch(flat) or not (_RUN.search(flat) or "\\text" in text):
        return None
    if "-" in flat and not _LONG_RUN.search(flat):  # ab-c
        return None
    return _ARTICLE.sub("", _SPACES_AROUND.sub(r"\1", flat.casefold()), count=1)


_LETTER_PRODUCT = re.compile(r" |\\cdot|\\times|\*")


def _same_words(reference: str, answer: str, words: str) -> bool:
    """Words are the same words; the letters of a product may be written apart."""
    other = words_of(answer)
    return words == other or (other is None and _LETTER_PRODUCT.sub("", answer).casefold() == words)


_CHOICE = re.compile(r"\(?([A-Za-z])(?:\)|[.:])?")


# Clock times and ratios ------------------------------------------------------------------------------------------------
_CLOCK = re.compile(
    r"(\d{1,2})(?: ?: ?(\d\d)(?: ?: ?(\d\d))?)? ?([ap])\.? ?m\.?|(\d{1,2}) ?: ?(\d\d)(?: ?: ?(\d\d))?", re.I
)
_RATIO = re.compile(r"-?[\d.,]+(?: ?: ?-?[\d.,]+)+")


@dataclass(frozen=True)
class _Clock:
    hour: int
    minute: int
    second: int
    half: str  # "a", "p", or "" where it is not said
    to_the_minute: bool

    def same(self, other: "_Clock") -> bool:
        """Whether the two may be one time; a time without am or pm is on either half, or on its own past 12."""
        if (self.minute, self.second) != (other.minute, other.second):
            return False
        if self.half and other.half:
            return self.of_day() == other.of_day()
        return self.hour == other.hour or (bool(self.half or other.half) and self.of_day() == other.of_day())

    def of_day(self) -> int:
        return self.hour % 12 + 12 * (self.half == "p") if self.half else self.hour


def _clock(text: str) -> _Clock | None:
    match = _CLOCK.fullmatch(_TEXT.sub(lambda inner: inner[1], text).strip(" ."))
    if not match:
        return None
    hour, minute, second = (int(match[n] or match[n + 4] or 0) for n in (1, 2, 3))
    half = (match[4] or "").casefold()
    if minute > 59 or second > 59 or hour > 24 or (half and not 1 <= hour <= 12):
        return None
    return _Clock(hour, minute, second, half, bool(match[2] or match[6]))


def _ratio(text: str) -> list[Number] | None:
    if not _RATIO.fullmatch(text):
        return None
    parts = [_number(part.strip()) for part in text.split(":")]
    numbers = [part for part in parts if part is not None]
    return numbers if len(numbers) == len(parts) else None


def _same_ratio(one: list[Number], other: list[Number]) -> bool:
    """Proportional; with a nought in them the parts themselves have to be equal (0:3 is not 0:5)."""
    if len(one) != len(other):
        return False
    if any(part.value == 0 for part in (*one, *other)):
        return all(same_number(*pair) for pair in zip(one, other, strict=True))
    return all(
        one[0].value * right.value == left.value * other[0].value  # type: ignore[operator]  # fractions, by their length
        for left, right in zip(one, other, strict=True)
    )


def _compare_times(reference: str, answer: str) -> bool | None:
    """Clock times and ratios; None where neither is one."""
    clocks = _clock(reference), _clock(answer)
    ratios = _ratio(reference), _ratio(answer)
    if clocks[0] and clocks[1]:
        return clocks[0].same(clocks[1])
    if ratios[0] and ratios[1]:
        return _same_ratio(ratios[0], ratios[1])
    for clock, ratio, other in ((clocks[0], ratios[0], answer), (clocks[1], ratios[1], reference)):
        if clock or ratio:
            number = _number(other)
            if number is None:
                return False
            if clock:  # "3 pm" answers "at which hour?"
                return not clock.to_the_minute and number.value == clock.hour
            assert ratio
            one, two = ratio[0].value, ratio[1].value
            return len(ratio) == 2 and one != 0 != two and one == two * number.value  # type: ignore[operator]
    return None


# Taking apart ----------------------------------------------------------------------------------------------------------
_PIECE = re.compile(
    r"\\(?:begin|end)\{[A-Za-z]+\*?\}|\\[{}]|\\\\|\\[A-Za-z]+|\\.|[(\[{]|[)\]}]|,? (?:or|and) |[,;=<>&]", re.DOTALL
)
_OPENS = ("(", "[", "{", "\\{", "\\begin")
_CLOSES = (")", "]", "}", "\\}", "\\end")
_COMMAS = frozenset((",", ";", " or ", " and ", ", or ", ", and "))
_LESS = {"<": True, "\\leq": False}  # whether the end is open
_GREATER = {">": True, "\\geq": False}
_RELATIONS = frozenset((*_LESS, *_GREATER, "=", "\\approx", "\\neq", "\\in", "\\subset", "\\iff", "\\equiv"))
_THOUSANDS = re.compile(r"\d{3}(?!\d)")


def split(text: str, separators: frozenset[str]) -> tuple[list[str], list[str]]:
    """The parts of ``text`` between ``separators`` outside all brackets, and those separators."""
    parts, found, depth, start = [], [], 0, 0
    loose = ", " in text or not _RELATIONS.isdisjoint(text)
    for piece in _PIECE.finditer(text):
        token = piece.group()
        if token.startswith(_OPENS):
            depth += 1
        elif token.startswith(_CLOSES):
            depth -= 1
        elif depth == 0 and token in separators:
            thousands = (
                loose
                and token == ","
                and _THOUSANDS.match(text, piece.end())
                and text[piece.start() - 1 : piece.start()].isdigit()
            )
            if thousands:
                continue
            parts.append(text[start : piece.start()].strip())
            found.append(token)
            start = piece.end()
    parts.append(text[start:].strip())
    return parts, found


def _in_brackets(text: str, opening: str, closing: str) -> str | None:
    """What stands in one pair of brackets around all of ``text``; any bracket closes any."""
    if not (text.startswith(opening) and text.endswith(closing) and len(text) >= len(opening) + len(closing)):
        return None
    depth = 0
    for piece in _PIECE.finditer(text):
        token = piece.group()
        depth += token.startswith(_OPENS) - token.startswith(_CLOSES)
        if depth == 0:
            return text[len(opening) : -len(closing)].strip() if piece.end() == len(text) else None
    return None


@dataclass(frozen=True)
class _Interval:
    low: str
    high: str
    low_open: bool
    high_open: bool


@dataclass(frozen=True)
class _Region:
    """A part of the real line: intervals and points, in the order they were written; ``variable`` where one is named."""

    intervals: tuple[_Interval, ...]
    points: tuple[str, ...] = ()
    variable: str = ""


@dataclass(frozen=True)
class _Sequence:
    """Parts in a row: "(" and ")" for a tuple or an interval, "{" for a set, "" for a bare list."""

    opening: str
    closing: str
    parts: tuple[str, ...]


@dataclass(frozen=True)
class _Matrix:
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class _Equation:
    sides: tuple[str, ...]


@dataclass(frozen=True)
class _Leaf:
    text: str


_Node = _Region | _Sequence | _Matrix | _Equation | _Leaf

_LINE = _Interval("-\\infty", "\\infty", True, True)
_ALL_REALS = re.compile(
    r"(?:\\mathbb\{R\}|all real numbers|all reals?|the set of (?:all )?real numbers|the real numbers|real numbers)",
    re.I,
)
_NAME = re.compile(r"(?:[A-Za-z]|\\[a-zA-Z]+)(?:_(?:\w|\{[^{}]*\}))?'*")
_BUILDER = re.compile(r"(\\?[A-Za-z]+)(?: ?\\in ?\\mathbb\{R\})? ?(?:\||:|\\colon) ?(.+)", re.DOTALL)
_PLUS_MINUS = re.compile(r"\\pm|\\mp")


def take_apart(text: str) -> _Node:
    """The structure of a normalized answer, one level deep."""
    if _ALL_REALS.fullmatch(text):
        return _Region((_LINE,))
    sides, relations = split(text, _RELATIONS)
    if relations == ["="] and _SIMPLE_NAME.fullmatch(sides[0]):  # x = 1,000 and x = 1, 2
        return _Equation(tuple(sides))
    parts, found = split(text, _COMMAS)
    if found:
        return _list_of(parts, found)
    unions = split(text, frozenset(("\\cup",)))[0]
    if len(unions) > 1:
        return _union([take_apart(part) for part in unions], text)
    if relations:
        return _relation_of(sides, relations, text)
    if (inner := _in_brackets(text, "\\begin{pmatrix}", "\\end{pmatrix}")) is not None:
        rows = [row for row in split(inner, frozenset(("\\\\",)))[0] if row]
        return _Matrix(tuple(tuple(split(row, frozenset("&"))[0]) for row in rows))
    if (inner := _in_brackets(text, "\\{", "\\}")) is not None:
        if builder := _BUILDER.fullmatch(inner):
            condition = take_apart(builder[2])
            return condition if isinstance(condition, _Region) else _Leaf(text)
        return _Sequence("{", "}", tuple(_with_plus_minus(split(inner, _COMMAS)[0])))
    for opening in "([":
        for closing in ")]":
            inner = _in_brackets(text, opening, closing)
            if inner is not None:
                parts = split(inner, frozenset((",", ";")))[0]
                if len(parts) > 1:
                    return _Sequence(opening, closing, tuple(parts))
                if opening + closing == "()":
                    return take_apart(inner)
    without, backslash = split(text, frozenset(("\\setminus",)))
    if backslash and len(without) == 2 and _ALL_REALS.fullmatch(without[0]):
        points = take_apart(without[1])
        if isinstance(points, _Sequence) and points.opening == "{":
            return _line_without(points.parts, "")
    both = _with_plus_minus([text])
    return _Sequence("", "", tuple(both)) if len(both) > 1 else _Leaf(text)


def _with_plus_minus(parts: Sequence[str]) -> list[str]:
    """``1 \\pm 2`` as two parts."""
    written: list[str] = []
    for part in parts:
        if len(_PLUS_MINUS.findall(part)) == 1:
            plus, minus = ("+", "-") if "\\pm" in part else ("-", "+")
            written += [_PLUS_MINUS.sub(sign, part).strip().removeprefix("+").strip() for sign in (plus, minus)]
        else:
            written.append(part)
    return written


def _line_without(points: Sequence[str], variable: str) -> _Region:
    ends = ["-\\infty", *points, "\\infty"]
    return _Region(tuple(_Interval(low, high, True, True) for low, high in pairwise(ends)), (), variable)


def as_region(node: _Node) -> _Region | None:
    """An interval or set as a region; None where it is none."""
    if isinstance(node, _Region):
        return node
    if isinstance(node, _Sequence):
        if node.opening in ("(", "[") and len(node.parts) == 2:
            return _Region((_Interval(*node.parts, node.opening == "(", node.closing == ")"),))
        if node.opening == "{":
            return _Region((), node.parts)
    return None


def _union(nodes: Sequence[_Node], text: str) -> _Node:
    regions = [as_region(node) for node in nodes]
    if any(region is None for region in regions):
        return _Leaf(text)
    names = {region.variable for region in regions if region} - {""}
    if len(names) > 1:
        return _Leaf(text)
    return _Region(
        tuple(interval for region in regions if region for interval in region.intervals),
        tuple(point for region in regions if region for point in region.points),
        next(iter(names), ""),
    )


def _list_of(parts: list[str], separators: list[str]) -> _Node:
    """Parts between commas, "or" and "and": inequalities joined by these are one region."""
    parts = [part.removeprefix("or ").removeprefix("and ") for part in parts]
    nodes = [take_apart(part) for part in parts] if any(_is_inequality(part) for part in parts) else []
    regions = [node for node in nodes if isinstance(node, _Region) and node.variable]
    if nodes and len(regions) == len(nodes) and len({region.variable for region in regions}) == 1:
        if all("or" in separator for separator in separators):
            return _union(regions, ", ".join(parts))
        if len(regions) == 2 and all("and" in separator or separator == "," for separator in separators):
            both = _both(regions)
            if both:
                return both
    return _Sequence("", "", tuple(_with_plus_minus(parts)))


def _is_inequality(text: str) -> bool:
    return bool({*split(text, _RELATIONS)[1]} & {*_LESS, *_GREATER, "\\neq"})


def _both(regions: list[_Region]) -> _Region | None:
    """``x > 1`` and ``x < 3`` as one interval."""
    low = [r.intervals[0] for r in regions if len(r.intervals) == 1 and r.intervals[0].high == "\\infty"]
    high = [r.intervals[0] for r in regions if len(r.intervals) == 1 and r.intervals[0].low == "-\\infty"]
    if len(low) == len(high) == 1:
        interval = _Interval(low[0].low, high[0].high, low[0].low_open, high[0].high_open)
        return _Region((interval,), (), regions[0].variable)
    return None


def _relation_of(sides: list[str], relations: list[str], text: str) -> _Node:
    if set(relations) <= {"=", "\\approx"}:
        return _Equation(tuple(side for side in sides if side))
    if relations == ["\\in"] and _NAME.fullmatch(sides[0]):
        inner = take_apart(sides[1])
        region = as_region(inner)
        return _Region(region.intervals, region.points, sides[0]) if region else inner
    if relations == ["\\neq"] and _NAME.fullmatch(sides[0]):
        return _line_without([sides[1]], sides[0])
    for less, greater in ((_LESS, _GREATER), (_GREATER, _LESS)):
        if not set(relations) <= set(less):
            continue
        if less is _GREATER:
            sides, relations = sides[::-1], relations[::-1]
        ends = {**less, **greater}
        if len(sides) == 2 and _NAME.fullmatch(sides[0]):
            return _Region((_Interval("-\\infty", sides[1], True, ends[relations[0]]),), (), sides[0])
        if len(sides) == 2 and _NAME.fullmatch(sides[1]):
            return _Region((_Interval(sides[0], "\\infty", ends[relations[0]], True),), (), sides[1])
        if len(sides) == 3 and _NAME.fullmatch(sides[1]):
            interval = _Interval(sides[0], sides[2], ends[relations[0]], ends[relations[1]])
            return _Region((interval,), (), sides[1])
    return _Leaf(text)


# Comparing -------------------------------------------------------------------------------------------------------------
_IN_BASE = re.compile(r"((?=[A-Z.]*\d)[0-9A-Z.]+)_(?:\{(\d+)\}|(\d+))", re.IGNORECASE)
_SEVERAL_NUMBERS = re.compile(r"[-+]?[\d.]+(?:,\d{3})*(?: [-+]?[\d.]+(?:,\d{3})*)+")
_SIMPLE_NAME = re.compile(
    r"(?:[A-Za-z]+|\\[a-zA-Z]+|\\text\{[^{}]*\}| )+(?:_(?:\w+|\{[^{}]*\}))?'*(?: ?\([^()]*\))?"
    r"|\|[A-Za-z ]+\||\([A-Za-z, ]+\)|\\overline\{[A-Z]+\}"
)
_CALCULATION = re.compile(r"[\d\s+*/().,!^{}%-]|\\(?:times|cdot|frac)")


class _Comparison:
    """One comparison of a reference and an answer, down to their parts."""

    def __init__(self, mathematics: Mathematics, length: int, bits: int) -> None:
        self.mathematics, self.length, self.bits = mathematics, length, bits

    def number(self, text: str) -> Number | None:
        return read_number(text, self.length, self.bits)

    def same(self, reference: str, answer: str, depth: int = 0) -> bool | None:
        """Whether two texts are the same answer."""
        if _IDLE_SPACE.sub(r"\1", reference) == _IDLE_SPACE.sub(r"\1", answer):
            return True
        if depth:  # a part that is all text
            reference, answer = (_without_text(part) for part in (reference, answer))
        if depth > _DEEPEST:
            return None
        unread = False
        numbers: list[Number | None] = []
        for text in (reference, answer):
            try:
                numbers.append(self.number(text))
            except TooLarge:
                unread = True
                numbers.append(None)
        left, right = numbers
        if left and right:
            return same_number(left, right)
        if unread:
            return self.mathematics(reference, answer)
        return self.not_both_numbers(reference, answer, left, right, depth)

    def not_both_numbers(
        self, reference: str, answer: str, left: Number | None, right: Number | None, depth: int
    ) -> bool | None:
        if (times := _compare_times(reference, answer)) is not None:
            return times
        if not _ALL_REALS.fullmatch(reference) and (words := words_of(reference)):
            named = take_apart(answer) if "=" in answer else None
            value = _value_of(named) if isinstance(named, _Equation) else None
            return _same_words(reference, answer if value is None else value, words)
        choices = _CHOICE.fullmatch(reference), _CHOICE.fullmatch(answer)
        if choices[0] and choices[1]:
            return choices[0][1].casefold() == choices[1][1].casefold()
        if words_of(answer) and (left or not _has_letters(reference)):
            return self.region(reference, answer, depth) or False
        in_base = [_IN_BASE.fullmatch(text.replace(" ", "")) for text in (reference, answer)]
        if in_base[0] and in_base[1]:
            digits, bases = ([match[1].casefold(), match[2] or match[3]] for match in in_base if match)
            return digits == bases
        if in_base[0] or in_base[1] or _SEVERAL_NUMBERS.fullmatch(answer) or _SEVERAL_NUMBERS.fullmatch(reference):
            return False
        one = _Leaf(reference) if left else take_apart(reference)  # 1,000 is no list
        other = _Leaf(answer) if right else take_apart(answer)
        return self.nodes(one, other, (reference, answer), depth)

    def region(self, reference: str, answer: str, depth: int) -> bool | None:
        """Words that name a set."""
        one, other = as_region(take_apart(reference)), as_region(take_apart(answer))
        return self.regions(one, other, depth) if one and other else None

    def nodes(self, one: _Node, other: _Node, texts: tuple[str, str], depth: int) -> bool | None:
        """Whether two structures are the same."""
        if isinstance(one, _Equation) or isinstance(other, _Equation):
            return self.equations(one, other, texts, depth)
        if "R" in texts and not (isinstance(one, _Leaf) and isinstance(other, _Leaf)):
            one, other = (
                _Region((_LINE,)) if text == "R" else node for text, node in zip(texts, (one, other), strict=True)
            )
        if isinstance(one, _Region) or isinstance(other, _Region):
            regions = as_region(one), as_region(other)
            return self.regions(regions[0], regions[1], depth) if regions[0] and regions[1] else False
        for node, leaf in ((one, other), (other, one)):
            if isinstance(node, _Sequence) and node.opening == "{" and len(node.parts) == 1 and isinstance(leaf, _Leaf):
                one, other = (_Leaf(node.parts[0]), leaf) if node is one else (leaf, _Leaf(node.parts[0]))
                break
        if isinstance(one, _Sequence) and isinstance(other, _Sequence):
            return self.sequences(one, other, depth)
        if isinstance(one, _Matrix) and isinstance(other, _Matrix):
            if [len(row) for row in one.rows] != [len(row) for row in other.rows]:
                return False
            return self.all_same(
                [cell for row in one.rows for cell in row], [cell for row in other.rows for cell in row], depth
            )
        if isinstance(one, _Leaf) and isinstance(other, _Leaf):
            if one.text == texts[0] and other.text == texts[1]:
                return self.mathematics(one.text, other.text)
            return self.same(one.text, other.text, depth + 1)
        return False

    def all_same(self, left: Sequence[str], right: Sequence[str], depth: int) -> bool | None:
        """Whether each is the same as its counterpart; one that differs settles it."""
        verdict: bool | None = True
        for pair in zip(left, right, strict=True):
            same = self.same(*pair, depth + 1)
            if same is False:
                return False
            verdict = None if same is None else verdict
        return verdict

    def unordered(self, left: Sequence[str], right: Sequence[str], depth: int) -> bool | None:
        """Whether each has a counterpart, in any order."""
        if len(left) != len(right) or len(left) > _MOST_UNORDERED:
            return False if len(left) != len(right) else self.all_same(left, right, depth)
        free, verdict = list(right), True
        unknown = False
        for part in left:
            found = None
            for candidate in free:
                same = self.same(part, candidate, depth + 1)
                if same:
                    found = candidate
                    break
                unknown = unknown or same is None
            if found is None:
                verdict = False
                if not unknown:
                    return False
            else:
                free.remove(found)
        return None if unknown and not verdict else verdict

    def sequences(self, one: _Sequence, other: _Sequence, depth: int) -> bool | None:
        """Tuples and intervals in order and with their brackets, sets and lists in any order."""
        if len(one.parts) != len(other.parts):
            return False
        if one.opening in ("", "{") and other.opening in ("", "{"):
            return self.unordered(one.parts, other.parts, depth)
        if "{" in (one.opening, other.opening):
            return False
        if "" not in (one.opening, other.opening) and (one.opening, one.closing) != (other.opening, other.closing):
            return False
        if "[" in one.opening + other.opening and "" in (one.opening, other.opening):
            return False
        return self.all_same(one.parts, other.parts, depth)

    def regions(self, one: _Region, other: _Region, depth: int) -> bool | None:
        """The same intervals and points, in any order; the variable matters where both name one."""
        if one.variable and other.variable and one.variable.casefold() != other.variable.casefold():
            return False
        if len(one.intervals) != len(other.intervals):
            return False
        verdict = self.unordered(one.points, other.points, depth) if one.points or other.points else True
        free = list(other.intervals)
        for interval in one.intervals:
            best: bool | None = False
            for candidate in free:
                if (interval.low_open, interval.high_open) != (candidate.low_open, candidate.high_open):
                    continue
                same = self.all_same((interval.low, interval.high), (candidate.low, candidate.high), depth)
                if same:
                    free.remove(candidate)
                    best = True
                    break
                best = None if same is None else best
            if best is False or verdict is False:
                return False
            verdict = None if best is None else verdict
        return verdict

    def equations(self, one: _Node, other: _Node, texts: tuple[str, str], depth: int) -> bool | None:
        """``x = 5`` is 5, ``y = 2x`` is 2x, and what is calculated before the last sign has to be right."""
        values = [
            _value_of(node) if isinstance(node, _Equation) else text
            for node, text in zip((one, other), texts, strict=True)
        ]
        if any(isinstance(node, _Equation) and not self.calculates_right(node) for node in (one, other)):
            return False
        if isinstance(one, _Equation) and isinstance(other, _Equation):
            names = [node.sides[0].replace(" ", "").casefold() if len(node.sides) > 1 else "" for node in (one, other)]
            if names[0] == names[1] and values[0] is not None and values[1] is not None:
                return self.same(values[0], values[1], depth + 1)
            if len(one.sides) == len(other.sides) == 2:
                return self.mathematics(*texts)
            return False
        if values[0] is None or values[1] is None:
            return False
        return self.same(values[0], values[1], depth + 1)

    def calculates_right(self, equation: _Equation) -> bool:
        """Whether those sides that are numbers are the same number: ``5 = x = 6`` is not a way to write 6."""
        numbers = []
        for side in equation.sides:
            try:
                number = self.number(side)
            except TooLarge:
                continue
            if number:
                numbers.append(number)
        return all(same_number(number, numbers[-1]) for number in numbers[:-1])


def _value_of(equation: _Equation) -> str | None:
    """The last side, where the sides before it are a name and calculations; else None: ``x + 1 = 5`` is not 5."""
    *before, last = equation.sides
    if len(before) == 1 and _NAME.fullmatch(last) and not _NAME.fullmatch(before[0]):
        return before[0]
    for side in before:
        if not _SIMPLE_NAME.fullmatch(side) and _CALCULATION.sub("", side) and side is before[0]:
            return None
    return last


def _without_text(text: str) -> str:
    inner = _TEXT.fullmatch(text)
    return inner[1].strip() if inner else text


def _has_letters(text: str) -> bool:
    return any(character.isalpha() for character in text)


def _number(text: str) -> Number | None:
    try:
        return read_number(text)
    except TooLarge:
        return None


def compare(
    reference: str, answer: str, mathematics: Mathematics, length: int = PLAIN_LENGTH, bits: int = PLAIN_BITS
) -> bool | None:
    """Whether two normalized answers are the same; None where ``mathematics`` would have to know and does not."""
    if reference == answer:
        return True
    if not _braces_balance(answer):  # they could smuggle in a second answer
        return False
    return _Comparison(mathematics, length, bits).same(reference, answer)


def _unknown(reference: str, answer: str) -> None:
    return None


def compare_plainly(reference: str, answer: str) -> bool | None:
    """Whether two normalized answers are equal, where text and exact numbers decide it; None where mathematics has to."""
    return compare(reference, answer, _unknown)
