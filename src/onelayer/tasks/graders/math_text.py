"""Finding a math answer in text, and the comparisons that need no mathematics: pure functions, linear in the text."""

import re
from fractions import Fraction
from typing import Literal, get_args

from onelayer.errors import UserError

Rule = Literal["boxed", "hash", "answer_is", "last_number", "auto"]
RULES: tuple[Rule, ...] = get_args(Rule)
_FALLBACK: tuple[Rule, ...] = ("boxed", "hash", "answer_is", "last_number")

_BOX = re.compile(r"\\f?boxed\s*")
_BRACE = re.compile(r"\\[\\{}]|[{}]")
_ANSWER_IS = re.compile(r"\banswer\s?(?:is\b|:|=)\s?:?", re.IGNORECASE)
_INLINE_MATH = re.compile(r"\$((?:\\.|[^$\\])+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]")
_SENTENCE_END = re.compile(r"\n|[.;](?=\s|$)|\s(?:because|since|which)\s", re.IGNORECASE)
# A minus sign belongs to a number only where no digit, letter or bracket stands before it: "8-3" holds 8 and 3.
_NUMBER = re.compile(r"(?<![\w.)\]}])-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:/\d+)?|\d[\d,]*(?:\.\d+)?(?:/\d+)?")
_PLAIN = re.compile(r"([+-]?)(\d{1,3}(?:,\d{3})+|\d+)?(\.\d*)?(?:[eE]([+-]?\d{1,3}))?")
_PLAIN_FRACTION = re.compile(r"([+-]?)(?:\\frac\{(\d+)\}\{(\d+)\}|(\d+)/(\d+))")
_REPEATING = re.compile(r"(\d*)\.(\d*)\\overline\{(\d+)\}")
# LaTeX ignores these spaces; "5 6", "1 1/2" and "1, 000" keep theirs.
_IDLE_SPACE = re.compile(r" ?([-+*/^_=<>(){}\[\]|&]) ?|(?<=,) (?!\d{3}(?!\d))")
_THOUSANDS_SPACE = re.compile(r"(?<=\d) (?=\d{3}(?!\d))")
_SEVERAL_NUMBERS = re.compile(r"[-+]?[\d.,]+(?: [-+]?[\d.,]+)+")
_PRODUCT = re.compile(r"(?<=[\d)]) ?\((?=[-+]?[\d.]+\))")
_NOT_SINGLE = re.compile(r"[,<>=&]|\\(?:cup|cap|in|leq?|geq?|lt|gt|neq?|pm|mp|begin|text|mbox|infty|or|and|lor|\{)")
_WORDS = re.compile(r"\\(?:text|textbf|textrm|mathrm|mbox)\{\(?([A-Za-z ]+)\)?\}|\(?([A-Za-z ]+)\)?")
_STYLED = re.compile(
    r"\\(?:text|textbf|textit|textrm|mbox|mathbf|mathit|mathrm|boldsymbol|bm|underline)\{([^{}]*\d[^{}]*)\}"
)
_IN_BASE = re.compile(r"([0-9A-Z.]+)_(?:\{(\d+)\}|(\d+))", re.IGNORECASE)
_LONGEST_NUMBER = 200


def _last_boxed(text: str) -> str | None:
    r"""The content of the last ``\boxed{...}`` whose braces close (or of ``\boxed 5``)."""
    boxes = list(_BOX.finditer(text))
    closing = _closing_braces(text) if boxes else {}
    for match in reversed(boxes):
        start = match.end()
        if start in closing:
            return text[start + 1 : closing[start]]
        token = re.match(r"[^\s$\\{}.,;]+", text[start : start + _LONGEST_NUMBER])
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


def _after_hash(text: str) -> str | None:
    _, mark, rest = text.rpartition("####")
    return rest.strip().split("\n")[0] if mark else None


def _after_answer_is(text: str) -> str | None:
    matches = list(_ANSWER_IS.finditer(text))
    if not matches:
        return None
    phrase = text[matches[-1].end() :].lstrip(" *\n")
    inside = _INLINE_MATH.match(phrase)
    if inside:
        return inside[1] or inside[2] or inside[3]
    return _SENTENCE_END.split(phrase, maxsplit=1)[0].strip(" *")


def _last_number(text: str) -> str | None:
    number = None
    for match in _NUMBER.finditer(text):
        number = match.group().rstrip(",")
    return number


_FINDERS = {"boxed": _last_boxed, "hash": _after_hash, "answer_is": _after_answer_is, "last_number": _last_number}


def extract_answer(text: str, rule: Rule = "auto", *, strict: bool = False) -> str | None:
    r"""The final answer stated in ``text``, or None.

    The rules: ``boxed`` is the last ``\boxed{...}``, ``hash`` what follows the last ``####`` on its line, ``answer_is``
    what follows the last "answer is" (or "answer:") up to the end of the sentence, ``last_number`` the last number.
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


def normalize(answer: str) -> str:
    """``answer`` without what carries no meaning: dollar signs, spacing, size commands, a full stop at the end."""
    text = answer.strip()
    text = re.sub(r"\\(?:left|right|displaystyle|[,;:!>])(?![a-zA-Z])|\\(?:q?quad)(?![a-zA-Z])|~", "", text)
    text = re.sub(r"\\[dt]frac(?![a-zA-Z])", r"\\frac", text)
    text = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", text)
    text = text.replace("\\$", "").replace("$", "").replace("\\(", "").replace("\\)", "")
    text = text.replace("\u2212", "-").replace("\u00a0", " ").strip(" *\n\t")
    text = text.removesuffix(".") if not text.endswith("..") else text
    styled = _STYLED.fullmatch(text)  # math-verify reads no number in bold, nor one as text
    text = styled[1].strip() if styled else text
    repeating = _REPEATING.fullmatch(text)
    if repeating and len(text) < _LONGEST_NUMBER:
        text = _fraction_of_repeating(*repeating.groups())
    text = _PRODUCT.sub(r" \\cdot (", text)  # math-verify takes 2(18) for a mixed number, 20
    text = re.sub(r"\s+", " ", text)
    return re.sub(r" ?\^ ?", "^", re.sub(r"(\\[a-zA-Z]+) \{", r"\1{", text))  # math-verify reads neither with a space


def _fraction_of_repeating(whole: str, fixed: str, repeated: str) -> str:
    """``0.1`` with 6 repeating is (16 - 1) / 90."""
    fraction = Fraction(int(whole + fixed + repeated) - int((whole + fixed) or "0"), 1) / (
        10 ** len(fixed) * (10 ** len(repeated) - 1)
    )
    return f"\\frac{{{fraction.numerator}}}{{{fraction.denominator}}}"


def plain_number(text: str) -> Fraction | None:
    """The exact value of a plain number: sign, thousands commas, decimals, or a fraction of two whole numbers."""
    text = _THOUSANDS_SPACE.sub("", text).replace("- ", "-")
    if not text or len(text) > _LONGEST_NUMBER:
        return None
    match = _PLAIN.fullmatch(text)
    if match and (match[2] or (match[3] and len(match[3]) > 1)):
        digits = (match[2] or "0").replace(",", "") + (match[3] or "").rstrip(".")
        value = Fraction(digits) * Fraction(10) ** int(match[4] or 0)
        return -value if match[1] == "-" else value
    match = _PLAIN_FRACTION.fullmatch(text)
    if match:
        numerator, denominator = int(match[2] or match[4]), int(match[3] or match[5])
        if denominator:
            return Fraction(-numerator if match[1] == "-" else numerator, denominator)
    return None


def _words(text: str) -> str | None:
    match = _WORDS.fullmatch(text)
    return (match[1] or match[2]).strip().casefold() if match else None


def _braces_balance(text: str) -> bool:
    depth = 0
    for brace in _BRACE.findall(text):
        depth += {"{": 1, "}": -1}.get(brace, 0)
        if depth < 0:
            return False
    return depth == 0


def _is_structure(text: str) -> bool:
    """A matrix, or one pair of brackets around parts between commas: a tuple or an interval."""
    if text.startswith("\\begin{") and text.endswith("matrix}"):
        return True
    if not (text.startswith(("(", "[")) and text.endswith((")", "]")) and "," in text):
        return False
    depth = 0
    for position, character in enumerate(text):
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(character, 0)
        if depth == 0:
            return position == len(text) - 1
    return False


def _is_single(text: str) -> bool:
    """One number or expression: no list, no relation, no words."""
    return not _NOT_SINGLE.search(text)


def _digits_and_base(match: re.Match[str]) -> tuple[str, str]:
    return match[1].casefold(), match[2] or match[3]


def compare_plainly(reference: str, answer: str) -> bool | None:
    """Whether two normalized answers are equal, where text and exact numbers decide it; None where mathematics has to.

    Two whole numbers that differ are different, and no number or expression is a tuple, an interval or a matrix;
    numbers within one percent may still agree after rounding, so they are left to the mathematics. It also decides what
    math-verify (0.9) gets wrong: words are compared as words, not as products of letters; numbers in stated, different
    bases differ; ``6 = 5`` is not a way to write 5; braces that do not match are no answer (they could smuggle in a
    second one); ``5 6`` is not 11.
    """
    if _IDLE_SPACE.sub(r"\1", reference) == _IDLE_SPACE.sub(r"\1", answer):
        return True
    if not _braces_balance(answer):
        return False
    left, right = plain_number(reference), plain_number(answer)
    if left is not None and right is not None:
        if left == right:
            return True
        both_whole = "." not in reference + answer and left.denominator == right.denominator == 1
        return False if both_whole or abs(left - right) > max(abs(left), abs(right)) / 100 else None
    if (_is_structure(answer) and _is_single(reference)) or (_is_structure(reference) and _is_single(answer)):
        return False
    if _SEVERAL_NUMBERS.fullmatch(answer):
        return False
    if "\\" in reference and _words(reference) and _words(answer):
        return _words(reference) == _words(answer)
    if "\\" in answer and (word := _words(answer)) and len(word) > 1 and word == _words(reference):
        return True
    in_base = [_IN_BASE.fullmatch(text.replace(" ", "")) for text in (reference, answer)]
    if in_base[0] and in_base[1]:
        return _digits_and_base(in_base[0]) == _digits_and_base(in_base[1])
    if left is not None and "=" in answer:
        sides = [plain_number(side) for side in answer.split("=")]
        if any(side is not None and side != left for side in sides):
            return False
    return None
