r"""Where the final answer stands in a completion: the rules. Pure functions, linear in the text.

What is found is taken as it stands; ``math_normal.py`` gives it its usual form. A formula counts whole:
no rule picks a number out of one.
"""

import re
from bisect import bisect_right
from collections import deque
from typing import Literal, NamedTuple, get_args

from onelayer.errors import UserError

Rule = Literal["boxed", "hash", "answer_is", "last_number", "auto"]
RULES: tuple[Rule, ...] = get_args(Rule)
_FALLBACK: tuple[Rule, ...] = ("boxed", "hash", "answer_is", "last_number")
_LONGEST_TOKEN = 200


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = deque(pattern.finditer(text), maxlen=1)
    return found[0] if found else None


# Boxes -----------------------------------------------------------------------------------------------------------------
_BOX = re.compile(r"\\f?boxed")
_BRACE = re.compile(r"\\[\\{}]|[{}]")


def _last_boxed(text: str) -> str | None:
    r"""The content of the last ``\boxed{...}`` whose braces close (or of ``\boxed 5``)."""
    boxes = list(_BOX.finditer(text))
    closing = _closing_braces(text) if boxes else {}
    for match in reversed(boxes):
        start = match.end()
        while start < len(text) and text[start].isspace():
            start += 1
        if start in closing:
            return text[start + 1 : closing[start]]
        token = re.match(r"[^\s$\\{}.,;]+", text[start : start + _LONGEST_TOKEN])
        if token:
            return token.group()
    return None


def _closing_braces(text: str) -> dict[int, int]:
    """Where each opening brace that is closed is closed, in one pass."""
    opened: list[int] = []
    closing = {}
    for brace in _BRACE.finditer(text):
        if brace.group() == "{":
            opened.append(brace.start())
        elif brace.group() == "}" and opened:
            closing[opened.pop()] = brace.start()
    return closing


# Formulas --------------------------------------------------------------------------------------------------------------
class Formula(NamedTuple):
    """A formula in a text, delimiters included, and what stands between them."""

    start: int
    end: int
    content: str


_ENVIRONMENTS = "align|aligned|equation|gather|gathered|split|multline|eqnarray|math|displaymath"
_DELIMITER = re.compile(
    rf"\\\\|\\\$|\$\$|\$|\\[()\[\]]|\\(?P<which>begin|end)\{{(?P<name>{_ENVIRONMENTS})(?P<star>\*?)\}}"
)
_PAIRS = {r"\(": r"\)", r"\[": r"\]", "$$": "$$"}


def formulas(text: str) -> list[Formula]:
    r"""The formulas of ``text`` from left to right: ``$..$``, ``$$..$$``, ``\(..\)``, ``\[..\]`` and environments.

    A dollar sign is money where the next one has a space on its inner side only, or a digit behind it: ``$5 and $7``.
    """
    found: list[Formula] = []
    opened: tuple[str, int, int] | None = None  # what closes it, where it starts, where its content starts
    for match in _DELIMITER.finditer(text):
        token = match.group()
        if opened is None:
            if token in _PAIRS:
                opened = _PAIRS[token], match.start(), match.end()
            elif token == "$":
                opened = "$", match.start(), match.end()
            elif match["which"] == "begin":
                opened = f"\\end{{{match['name']}{match['star']}}}", match.start(), match.end()
        elif token == opened[0]:
            content = text[opened[2] : match.start()]
            if token == "$" and not _is_formula(content, text[match.end() : match.end() + 1]):
                opened = "$", match.start(), match.end()
                continue
            found.append(Formula(opened[1], match.end(), content))
            opened = None
        elif opened[0] == "$" and token in ("$$", r"\[", r"\("):  # the one before was money
            opened = _PAIRS[token], match.start(), match.end()
    return found


def _is_formula(content: str, following: str) -> bool:
    if not content.strip() or "\n\n" in content or following.isdigit():
        return False
    return content[0].isspace() or not content[-1].isspace()


# "The answer is" -------------------------------------------------------------------------------------------------------
_ANSWER_IS = re.compile(r"\banswers?[*_]*\s?(?:(?:is|are)\b|:|=)[*_]*\s?:?", re.IGNORECASE)
_LEADING = re.compile(
    r"(?:[\s*_`:>\"'“]"
    r"|(?:therefore|thus|hence|then|now|simply|just|clearly|given by|equal to|exactly)\b,?(?=\s))+",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(
    r"\n|[.;](?=[\"'”)*_]{0,3}(?:\s|$))|(?<![!?])[!?]++(?=\s+[A-Z(\"]|\s*$|\s*\n)|(?:,\s?|\s)(?:because|since|which|where|so|as"
    r"|for which)\s"
    r"|\s?[—–]\s?(?=[A-Za-z])"
    r"|\s-\s(?=[A-Za-z]{2})|,\s(?:not|and\s(?:not|this|that|it|he|she|we|so|the)|that|it|this|i\.e\.|he|she|we|they|but)\s",
    re.IGNORECASE,
)
_JOINED = re.compile(r"\s?(?:,\s?(?:and|or)|,|and|or)\s(?=[$\\\d-])|\s?/\s?(?=\$)")
_AFTER_FORMULA = re.compile(
    r"\s?(?:\\?%|percent\b|million\b|billion\b|thousand\b|hundred\b|trillion\b|dozen\b|[ap]\.?m\b)", re.IGNORECASE
)
_GOES_ON = re.compile(
    r"\s?(?:[-+*/^=<>]|(?:times|plus|minus|over|divided|multiplied|squared|cubed|more than|less than)\b)", re.IGNORECASE
)
_ANOTHER = re.compile(r"-?\d[\d,.]*\d|-?\d")


def _after_answer_is(text: str) -> str | None:
    match = _last(_ANSWER_IS, text)
    if match is None:
        return None
    start = match.end()
    leading = _LEADING.match(text, start)
    start = leading.end() if leading else start
    return _formulas_at(text, start) or _sentence_at(text, start)


def _formulas_at(text: str, start: int) -> str | None:
    """The formula that starts here, with those joined to it by a comma, "and" or "or"."""
    phrase = text[start:]
    if not phrase.startswith(("$", "\\(", "\\[", "\\begin")):
        return None
    every = formulas(phrase)
    if not every or every[0].start != 0:
        return None if phrase.startswith("$") and not phrase.startswith("$$") else phrase.split("\n\n", 1)[0]
    end, parts = every[0].end, 1
    following = {formula.start: formula.end for formula in every}
    while joined := _JOINED.match(phrase, end):
        number = _ANOTHER.match(phrase, joined.end())
        if joined.end() in following:
            end = following[joined.end()]
        elif number:
            end = number.end()
        else:
            break
        parts += 1
    if _GOES_ON.match(phrase, end):
        return _sentence_at(phrase, 0)
    if after := _AFTER_FORMULA.match(phrase, end):
        end, parts = after.end(), parts + 1
    return every[0].content.strip() if parts == 1 else phrase[:end]


def _sentence_at(text: str, start: int) -> str:
    """The sentence from here on, without emphasis and punctuation at its end: "12!" is 12."""
    end = _SENTENCE_END.search(text, start)
    return _without_punctuation(text[start : end.start() if end else len(text)])


def _without_punctuation(phrase: str) -> str:
    return phrase.strip().rstrip("!?*_` \"'”").strip()


def _after_hash(text: str) -> str | None:
    _, mark, rest = text.rpartition("####")
    return _without_punctuation(rest.strip().split("\n")[0]) if mark else None


# The last number -------------------------------------------------------------------------------------------------------
# A minus sign belongs to a number only where no digit, letter or bracket stands before it: "8-3" holds 8 and 3.
_NUMBER = re.compile(r"(?<![\w.)\]}])-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:/\d+)?|\d[\d,]*(?:\.\d+)?(?:/\d+)?")
_AROUND = re.compile(r"[\\{}^_=+*/()<>|√×·²³]|[A-Za-z]\d|\d[A-Za-z]")
_AFTER_NUMBER = re.compile(
    r"(?:st|nd|rd|th|km|cm|mm|kg|mg|ml|m|g|s|h|L|ft|in|lb|oz|hr|min|sec|mph|am|pm|k?W)?[.,;:!?)\]}*\"'%°]*=*",
    re.IGNORECASE,
)
_OPERATORS = frozenset(("+", "-", "*", "/", "^", "×", "·", "÷", "<", ">", "≤", "≥", "\\times", "\\cdot"))


def _last_number(text: str) -> str | None:
    match = _last(_NUMBER, text)
    if match is None:
        return None
    every = formulas(text)
    place = bisect_right(every, match.start(), key=lambda formula: formula.start) - 1
    if place >= 0 and match.start() < every[place].end:
        return every[place].content
    return _plain_or_whole(text, match)


def _plain_or_whole(text: str, match: re.Match[str]) -> str:
    """The number, or all of the formula without delimiters that it is a part of."""
    number = match.group().rstrip(",")
    start, end = match.start(), match.end()
    while start > 0 and not text[start - 1].isspace() and match.start() - start < _LONGEST_TOKEN:
        start -= 1
    while end < len(text) and not text[end].isspace() and end - match.end() < _LONGEST_TOKEN:
        end += 1
    before, after = text[start : match.start()], text[match.end() : end]
    before = before.rpartition("=")[2] if "=" in before and not _AROUND.search(before.rpartition("=")[2]) else before
    operated = text[:start][-_LONGEST_TOKEN:].split()[-2:]
    if (
        len(operated) == 2
        and operated[1] in _OPERATORS
        and (len(operated[0]) == 1 or re.search(r"[\d)}]", operated[0]))
    ):
        return text[text.rindex(operated[0], 0, start) : end]
    if _AROUND.search(before.lstrip("(*_")) or before[-1:].isalpha() or not _AFTER_NUMBER.fullmatch(after):
        return text[start:end].strip("*_.,;:!?")
    return number


_FINDERS = {"boxed": _last_boxed, "hash": _after_hash, "answer_is": _after_answer_is, "last_number": _last_number}


def extract_answer(text: str, rule: Rule = "auto", *, strict: bool = False) -> str | None:
    r"""The final answer stated in ``text``, or None.

    The rules: ``boxed`` is the last ``\boxed{...}``, ``hash`` what follows the last ``####`` on its line, ``answer_is``
    what follows the last "answer is" (or "answer:"): a formula, also one over several lines, or the text up to the end of
    the sentence or of its main clause; ``last_number`` the last number, or the whole formula that it stands in.
    Strict: only the named rule counts (for ``auto``: any of the first three, in that order). Lenient: where the named
    rule finds nothing the others are tried in the order above.

    Raises:
        UserError: ``rule`` is not one of :data:`RULES`.
    """
    if rule not in RULES:
        raise UserError(f"The answer rule {rule!r} is unknown; use one of {', '.join(RULES)}.")
    if strict:
        order = _FALLBACK[:3] if rule == "auto" else (rule,)
    else:
        order = _FALLBACK if rule == "auto" else (rule, *(other for other in _FALLBACK if other != rule))
    for name in order:
        found = _FINDERS[name](text)
        if found is not None and found.strip(" $.\n"):
            return (_last_boxed(found) or found).strip()
    return None


def reference_answer(text: str) -> str:
    r"""The answer of a reference solution: after ``####``, else in the last ``\boxed{}``, else the whole text."""
    return (_after_hash(text) or _last_boxed(text) or text).strip()
