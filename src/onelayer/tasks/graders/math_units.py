r"""Units and currencies after a number: which text is one, and which of them are the same.

A unit is words and symbols after a number (``cm``, ``m/s``, ``cm^2``, ``square meters``, ``dollars``, ``apples``,
``in total``) and is dropped. It is none if a word changes the value or the sense ("or", "not", "than", "half"), if there
is a digit in it, or if it is one letter directly after the number (``5x``, ``2k``; ``5m``, ``5g``, ``5s``, ``5h`` and ``5L``
are units).
"""

import re

_NAMES = {
    "m": "m meter meters metre metres",
    "km": "km kms kilometer kilometers kilometre kilometres",
    "cm": "cm cms centimeter centimeters centimetre centimetres",
    "mm": "mm millimeter millimeters millimetre millimetres",
    "in": "in inch inches",
    "ft": "ft foot feet",
    "yd": "yd yds yard yards",
    "mi": "mi mile miles",
    "g": "g gram grams",
    "kg": "kg kgs kilogram kilograms",
    "mg": "mg milligram milligrams",
    "lb": "lb lbs pounds-of-weight",
    "oz": "oz ounce ounces",
    "s": "s sec secs second seconds",
    "min": "min mins minute minutes",
    "h": "h hr hrs hour hours",
    "day": "day days",
    "week": "week weeks",
    "month": "month months",
    "year": "year years yr yrs",
    "L": "l liter liters litre litres",
    "mL": "ml milliliter milliliters millilitre millilitres",
    "°": "degree degrees deg",
    "rad": "rad rads radian radians",
    "dollar": "dollar dollars usd $",
    "cent": "cent cents ¢",
    "euro": "euro euros eur €",
    "pound": "gbp £",
    "yen": "yen jpy ¥",
    "rupee": "rupee rupees inr ₹ rs",
    "N": "newton newtons",
    "J": "joule joules",
    "W": "watt watts",
    "V": "volt volts",
    "A": "ampere amperes amp amps",
    "K": "kelvin kelvins",
    "Hz": "hz hertz",
    "Pa": "pa pascal pascals",
}
_LETTERS = {letter: letter for letter in "mgshLNJWVAK"} | {"l": "L"}


def _words(text: str) -> list[str]:
    return text.split()


_KNOWN = {name: unit for unit, names in _NAMES.items() for name in names.split()}
_ATTACHED_LETTERS = frozenset("mgshL")
_ATTACHED = frozenset(
    _words(
        "kWh Wh kcal cal mol rpm ppm psi MB GB TB dB kHz GHz "
        "km cm mm ft yd mi kg mg lb lbs oz sec min hr hrs mL ml Hz Pa kPa kJ kW kN MHz mph kmh kph rad deg in st nd rd "
        "th cc USD EUR GBP K J N W V A"
    )
)
_SHORT_WORDS = frozenset(_words("in of at by on an sq cu"))
_REAL_WORD = re.compile(r"(?=.{3})(?=.*[aeiouy])", re.IGNORECASE)
_CHANGES_THE_SENSE = frozenset(
    _words(
        "or and not no nor neither if is isn are was were plus minus times divided over than less fewer least most mod "
        "modulo sin cos tan cot sec csc log ln exp pi sqrt root infinity infty inf when where but except unless between "
        "half halves third thirds fourths fifths sixths sevenths eighths ninths tenth tenths hundredth hundredths "
        "thousandth thousandths squared cubed factorial false wrong incorrect instead choose base rather without "
        "negative positive to million billion thousand hundred trillion dozen because since so which as that"
    )
)
_SYMBOLS = re.compile(r"[€£¥₹₩₽¢฿₫₪₱₦]")
_TOKEN = re.compile(
    r"(?P<power>\^(?:\{ ?-?\d ?\}|-?\d))|(?P<circ>\^\\circ(?: ?[CFK](?![A-Za-z]))?)|(?P<th>\^\{?(?:th|st|nd|rd)\}?)"
    r"|(?P<word>[^\W\d_]+(?:['’-][^\W\d_]+)*)(?P<raised>[23](?!\d))?"
    r"|(?P<currency>[€£¥₹₩₽¢฿₫₪₱₦])|(?P<join>/|\\cdot|\*|[(){}.,]|\\AA|\\mu|\\Omega)|(?P<space>\s+)"
)
_LONGEST = 80
_MOST_WORDS = 7


def read_unit(text: str, *, attached: bool) -> str | None:
    """The canonical unit that ``text`` is, "" for one that is not known, None where it is no unit.

    Args:
        text: what stands after a number, without ``\\text``.
        attached: whether it follows the number without a space.
    """
    if len(text) > _LONGEST:
        return None
    parts: list[str] = []
    known, words, position, per, power = True, 0, 0, False, ""
    while position < len(text):
        token = _TOKEN.match(text, position)
        if not token:
            return None
        first = position == 0
        position = token.end()
        kind = token.lastgroup if token.lastgroup != "raised" else "word"
        if kind == "word":
            word = token["word"]
            if word.casefold() in _CHANGES_THE_SENSE and not (word == "in" and words == 0):
                return None
            words += 1
            if words > _MOST_WORDS or not _is_word(word, first and attached, words):
                return None
            if word.casefold() in ("square", "sq", "cubic", "cu"):
                power = "2" if word[0].casefold() == "s" else "3"
                continue
            if word == "per" or (word in ("a", "an") and parts):
                per = True
                continue
            unit = _LETTERS.get(word) if len(word) == 1 else _KNOWN.get(word.casefold())
            known = known and unit is not None
            parts.append(("/" if per else "") + (unit or word) + (token["raised"] or power))
            per, power = False, ""
        elif kind == "power":
            if not parts or first:
                return None
            parts[-1] += re.sub(r"[^\d-]", "", token["power"])
        elif kind == "circ":
            parts.append("°" + token["circ"][6:].strip())
        elif kind == "currency":
            parts.append(_KNOWN.get(token["currency"], token["currency"]))
        elif kind == "th":
            known = False
        elif kind == "join":
            if first and (attached or token["join"] not in ("(", "{", "\\AA", "\\mu", "\\Omega")):
                return None
            per = token["join"] == "/"
            known = known and token["join"] in "/*\\cdot{}."
    return "".join(sorted(parts)) if known and parts else ""


def _is_word(word: str, attached: bool, number: int) -> bool:
    """Whether a word may stand in a unit: no single letter that may be a variable, and only known units directly after."""
    if attached:
        return word in _ATTACHED_LETTERS or word in _ATTACHED
    if len(word) == 1:
        return word in _LETTERS or (number > 1 and word == "a")
    return word.casefold() in _KNOWN or word in _ATTACHED or word in _SHORT_WORDS or bool(_REAL_WORD.search(word))


_UNIT_AFTER_EXPRESSION = re.compile(
    r"(?: ?\\text\{[^{}]{1,60}\}(?:\^(?:\{-?\d\}|\d))?|\^\\circ"
    r"|(?<=[\d})]) [A-Za-z]{2,20}(?:/[A-Za-z]{1,10})?(?:\^(?:\{-?\d\}|\d))?)$"
)


def without_unit(text: str) -> str:
    r"""An expression without the unit after it: ``12\pi\text{ cm}^2`` is ``12\pi``."""
    match = _UNIT_AFTER_EXPRESSION.search(text, max(0, len(text) - _LONGEST - 20))
    if (
        match
        and match.start()
        and read_unit(match[0].replace("\\text{", " ").replace("}", "", 1), attached=False) is not None
    ):
        return text[: match.start()].rstrip()
    return text
