r"""One way to write a math answer: signs of Unicode become LaTeX, and what only changes the look of LaTeX is dropped.

``–5`` becomes ``-5``, ``√2`` ``\sqrt{2}``, ``\color{red}{\dfrac12}`` ``{\frac{1}{2}}``, ``\textbf{yes}`` ``yes``. No
value is computed here. Every pass reads the text once, from left to right: the cost is linear in the length.
"""

import re
import unicodedata

_PLAIN = re.compile(r"-?\d+(?:\.\d+)?")


def _words(text: str) -> list[str]:
    return text.split()


# Unicode ---------------------------------------------------------------------------------------------------------------
_GREEK = {
    **{
        chr(0x3B1 + i): name
        for i, name in enumerate(_words("alpha beta gamma delta epsilon zeta eta theta iota kappa"))
    },
    **{chr(0x3BA + i): name for i, name in enumerate(_words("kappa lambda mu nu xi omicron pi rho"))},
    **dict(zip("στυφχψω", _words("sigma tau upsilon phi chi psi omega"), strict=True)),
    **dict(zip("ΓΔΘΛΞΠΣΦΨΩ", _words("Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"), strict=True)),
    "𝜋": "pi",
    "ϕ": "phi",
    "ϵ": "epsilon",
}
_SIGNS = {
    **dict.fromkeys("−–—‒―‐‑﹣－➖⁃", "-"),
    **dict.fromkeys("×✕✖⨯", r"\times "),
    **dict.fromkeys("·⋅∙•‧", r"\cdot "),
    **dict.fromkeys("÷∕⁄", "/"),
    **dict.fromkeys("°º˚", r"^\circ "),
    **dict.fromkeys("‘’ʼ′", "'"),
    **dict.fromkeys("“”″", '"'),
    **dict.fromkeys("∅⌀", r"\emptyset "),
    "≤": r"\leq ",
    "⩽": r"\leq ",
    "≥": r"\geq ",
    "⩾": r"\geq ",
    "≠": r"\neq ",
    "≈": r"\approx ",
    "≃": r"\approx ",
    "±": r"\pm ",
    "∓": r"\mp ",
    "∞": r"\infty ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∈": r"\in ",
    "∖": r"\setminus ",
    "ℝ": r"\mathbb{R}",
    "ℤ": r"\mathbb{Z}",
    "ℕ": r"\mathbb{N}",
    "ℚ": r"\mathbb{Q}",
    "ℂ": r"\mathbb{C}",
    "⟨": r"\langle ",
    "⟩": r"\rangle ",
    "∠": r"\angle ",
    "⌊": r"\lfloor ",
    "⌋": r"\rfloor ",
    "。": ".",
    "、": ",",
    "⌈": r"\lceil ",
    "⌉": r"\rceil ",
    "√": r"\sqrt",
    "∛": r"\sqrt[3]",
    "∜": r"\sqrt[4]",
    "′": "'",
    "µ": "μ",
    **{sign: rf"\{name} " for sign, name in _GREEK.items()},
}
_SIGNS = {sign: latex for sign, latex in _SIGNS.items() if sign != "μ"} | {"μ": "u"}  # a prefix of units far more often
_TABLE = str.maketrans(_SIGNS)
_RAISED = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ⁽⁾]+")
_LOWERED = re.compile(r"[₀₁₂₃₄₅₆₇₈₉₊₋₍₎]+")
_VULGAR = re.compile(r"(\d?) ?([¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞↉])")
_OVERLINED = re.compile("(?:\\d[\u0304\u0305])+")
_ROOT = re.compile(r"(\\sqrt(?:\[\d\])?) ?(\d+(?:\.\d+)?|[A-Za-z])")


def _fraction(match: re.Match[str]) -> str:
    top, _, bottom = unicodedata.normalize("NFKC", match[2]).partition("\u2044")
    return f"{match[1]}{' ' if match[1] else ''}\\frac{{{top}}}{{{bottom}}}"


def _script(mark: str, match: re.Match[str]) -> str:
    digits = unicodedata.normalize("NFKC", match[0]).translate(_TABLE)
    return f"{mark}{{{digits}}}"


def _ascii(text: str) -> str:
    """Signs of mathematics as LaTeX, other forms of letters and digits as the usual ones, nothing that is invisible."""
    if text.isascii():
        return text
    text = "".join(character for character in text if unicodedata.category(character) != "Cf")
    text = " ".join(text.split())
    text = _RAISED.sub(lambda match: _script("^", match), text)
    text = _LOWERED.sub(lambda match: _script("_", match), text)
    text = _VULGAR.sub(_fraction, text)
    text = _OVERLINED.sub(lambda match: rf"\overline{{{re.sub('[^0-9]', '', match[0])}}}", text)
    rooted = "√" in text or "∛" in text or "∜" in text
    text = unicodedata.normalize("NFKC", text.translate(_TABLE)).translate(_TABLE)
    text = "".join(
        str(unicodedata.decimal(character)) if not character.isascii() and character.isdecimal() else character
        for character in text
        if not 0xFE00 <= ord(character) <= 0xFE0F  # variation selectors
    )
    return _ROOT.sub(r"\1{\2}", text) if rooted else text  # the root sign reaches over a whole number


# LaTeX -----------------------------------------------------------------------------------------------------------------
_NOTHING = frozenset(
    _words(
        "left right middle big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr bigm displaystyle textstyle "
        "scriptstyle scriptscriptstyle limits nolimits tiny scriptsize footnotesize small normalsize large Large LARGE "
        "huge Huge centering bf it rm sf tt sl em bfseries itshape rmfamily mdseries upshape boldmath unboldmath hline "
        "noindent mathstrut strut relax nonumber notag text"
    )
)
_SPACES = frozenset(_words("quad qquad enspace enskip thinspace medspace thickspace hfill nobreak newline par space"))
_WITH_ARGUMENT = {
    "color": 1,
    "hspace": 1,
    "vspace": 1,
    "phantom": 1,
    "hphantom": 1,
    "vphantom": 1,
    "label": 1,
    "tag": 1,
}
_WITH_ARGUMENT |= {"textcolor": 1, "colorbox": 1, "fcolorbox": 2, "hskip": 0, "definecolor": 3}
_STYLES = frozenset(
    _words(
        "mathbf boldsymbol bm mathit mathsf mathtt mathnormal underline pmb mathcal mathscr mathfrak boxed fbox "
        "ensuremath smash"
    )
)
_TEXTS = frozenset(
    _words(
        "text textbf textit textrm textsf texttt textsc textsl textup textmd textnormal emph mbox hbox mathrm "
        "operatorname uline"
    )
)
_OTHER_NAMES = {
    **dict.fromkeys(("dfrac", "tfrac", "cfrac", "sfrac", "nicefrac"), r"\frac"),
    **dict.fromkeys(("le", "leqslant", "leqq"), r"\leq"),
    **dict.fromkeys(("ge", "geqslant", "geqq"), r"\geq"),
    **dict.fromkeys(("varnothing", "O"), r"\emptyset"),
    **dict.fromkeys(("degree", "degrees", "textdegree"), r"^\circ"),
    **dict.fromkeys(("bar", "overline"), r"\overline"),
    **dict.fromkeys(("lbrace", "lbrac"), r"\{"),
    **dict.fromkeys(("langle", "lparen", "lgroup"), "("),
    **dict.fromkeys(("rangle", "rparen", "rgroup"), ")"),
    **dict.fromkeys(("dots", "ldots", "cdots", "dotsc", "dotsb"), "..."),
    **dict.fromkeys(("ast", "star"), "*"),
    **dict.fromkeys(("lvert", "rvert", "vert"), "|"),
    **dict.fromkeys(("textdollar", "dollar"), ""),
    "rbrace": r"\}",
    "lbrack": "[",
    "rbrack": "]",
    "lt": "<",
    "gt": ">",
    "ne": r"\neq",
    "infin": r"\infty",
    "div": "/",
    "colon": ":",
    "cdotp": r"\cdot",
    "pounds": "£",
    "textsterling": "£",
    "euro": "€",
    "texteuro": "€",
    "textyen": "¥",
    "yen": "¥",
    "cent": "¢",
    "textcent": "¢",
    "R": r"\mathbb{R}",
    "reals": r"\mathbb{R}",
    "cr": r"\\",
    "lor": " or ",
    "vee": " or ",
    "land": " and ",
    "wedge": " and ",
    "simeq": r"\approx",
    "mid": "|",
    "percent": "%",
    "minus": "-",
    "degC": r"^\circ C",
    "prime": "'",
    "backslash": r"\setminus",
    "sim": r"\approx",
    "iff": r"\iff",
    "isin": r"\in",
    "infinity": r"\infty",
}
_TOKEN = re.compile(r"\\\\(?:\*|\s*\[\s*-?[\d.]+\s*[a-z]{2}\s*\])?|\\[A-Za-z]+\*?|\\.|[{}]|[^\\{}]+|\\", re.DOTALL)
_ESCAPED = {
    **dict.fromkeys((r"\,", r"\;", r"\:", r"\>", "\\ ", "\\\n", "\\\t"), " "),
    **dict.fromkeys((r"\$", r"\(", r"\)", r"\[", r"\]", r"\#"), ""),
    r"\%": "%",
    r"\|": "|",
    r"\_": "_",
    r"\&": "&",
    r"\!": "\\!",
}


def _restyle(text: str) -> str:
    r"""LaTeX without what only changes its look; every command for text is ``\text``."""
    tokens = _TOKEN.findall(text)
    written: list[str] = []
    closing: list[str] = []  # what the closing brace of each open one becomes
    texts = 0
    position = 0
    while position < len(tokens):
        token = tokens[position]
        position += 1
        if token == "{":
            closing.append("}")
            written.append("{")
        elif token == "}":
            end = closing.pop() if closing else "}"
            texts -= end.startswith("\0")
            written.append(end.lstrip("\0"))
        elif token.startswith("\\\\"):
            written.append("\\\\")
        elif not token.startswith("\\") or token == "\\":
            written.append(token)
        elif token in _ESCAPED:
            written.append(_ESCAPED[token])
        else:
            name = token[1:].rstrip("*")
            following = position
            if following < len(tokens) and tokens[following].isspace():
                following += 1
            opens = following < len(tokens) and tokens[following] == "{"
            if name in _TEXTS and opens:
                position = following + 1
                closing.append("\0" if texts else "\0}")
                written.append("" if texts else "\\text{")
                texts += 1
            elif name in ("mathbb", "Bbb") and opens:
                written.append(r"\mathbb")
                position = following
            elif name in _STYLES and opens:
                position = following + 1
                closing.append("")
            elif name in _WITH_ARGUMENT:
                position = _after_groups(tokens, position, _WITH_ARGUMENT[name])
            elif name in _SPACES:
                written.append(" ")
            elif name in ("left", "right") and position < len(tokens) and tokens[position].startswith("."):
                tokens[position] = tokens[position][1:]  # a bracket that is not drawn
            elif name not in _NOTHING and name not in _STYLES and name not in _TEXTS:
                written.append(_OTHER_NAMES.get(name, token))
    return "".join(written)


def _after_groups(tokens: list[str], position: int, groups: int) -> int:
    """The position after so many brace groups."""
    for _ in range(groups):
        while position < len(tokens) and (tokens[position].isspace() or tokens[position].startswith("[")):
            position += 1
        if position == len(tokens) or tokens[position] != "{":
            return position
        depth = 0
        while position < len(tokens):
            depth += {"{": 1, "}": -1}.get(tokens[position], 0)
            position += 1
            if depth == 0:
                break
    return position


_LAYOUT = re.compile(
    r"\\(?:begin|end)\{(?:align|aligned|alignat|equation|gather|gathered|split|multline|eqnarray|center|math|displaymath)\*?\}"
)
_MATRIX = re.compile(r"\\(begin|end)\{(?:[pbB]|small)?(?:matrix|array)\}(?:\{[lcr| ]*\})?")
_NEXT_LINE = re.compile(r" ?\\\\ ?(=?) ?")
_EMPHASIS = re.compile(r"(?<!\S)[*_`]{1,3}(?=\S)|(?<=\S)[*_`]{1,3}(?=[\s.,;:!?)]|$)")
_JOINING_TEXT = re.compile(r" ?,? ?\\text\{ ?,? ?(and|or) ?,? ?\} ?")
_HEDGE = re.compile(
    r"(?:\\text\{\s*)?(?:(?:about|approximately|approx\.?|roughly|around|nearly|exactly|simply|just|only|equal to|equals)\b"
    r"|\\approx|\\cong|=)(?:\s*\})?\s*:?\s*",
    re.IGNORECASE,
)
_SUBSTITUTIONS = [
    (re.compile(r"\\!\s*"), ""),
    (re.compile(r"\\mathbb ([A-Z])(?![A-Za-z])"), r"\\mathbb{\1}"),
    (re.compile(r"\{ ?, ?\}"), ","),
    (re.compile(r"\s+"), " "),
    (re.compile(r"\^ ?(?:\{ ?\\circ ?\}|\\circ)"), r"^\\circ"),
    (re.compile(r"\\text\{ ?\^\\circ ?([CF]?) ?\}"), r"^\\circ\1"),
    (re.compile(r"(\\[A-Za-z]+) (?=\{)"), r"\1"),
    (re.compile(r"\\overline ?(\d)"), r"\\overline{\1}"),
    (re.compile(r"\^\{?(?:\\text\{)?(st|nd|rd|th)\b\}{0,2}"), r"\1"),
    (re.compile(r"[(\[] ?(?=\\begin\{pmatrix\})|(?<=\\end\{pmatrix\}) ?[)\]]"), ""),
    (re.compile(r" ?\^ ?"), "^"),
    (re.compile(r"\\frac ?(\d) ?(\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac ?(\d) ?\{"), r"\\frac{\1}{"),
    (re.compile(r"\\sqrt ?(\d|[A-Za-z])"), r"\\sqrt{\1}"),
    (re.compile(r"(?<![A-Za-z\\])(?:sqrt)(?=[({])"), r"\\sqrt"),
    (re.compile(r"(?<![A-Za-z\\])(?:infinity|infty|inf|oo)(?![A-Za-z])"), r"\\infty"),
    (re.compile(r"(?<![A-Za-z\\])pi(?![A-Za-z])"), r"\\pi"),
    (
        re.compile(
            r"(?<![A-Za-z\\])(arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln)"
            r"(?= ?[({\\^\d]| ?[A-Za-z](?![A-Za-z]))"
        ),
        r"\\\1",
    ),
    (re.compile(r"(?<=[)\]]) ?U ?(?=[(\[])"), r"\\cup "),
    (re.compile(r"\\dot\{?(\d)\}?(?:(\d*)\\dot\{?(\d)\}?)?"), r"\\overline{\1\2\3}"),
    (re.compile(r"\+(?=\\infty)"), ""),
    (re.compile(r"\\\{ ?\\\}"), r"\\emptyset"),
]


def closing_braces(text: str, brackets: re.Pattern[str]) -> dict[int, int]:
    """Where each opening bracket that is closed is closed, in one pass; the last character tells the two kinds apart."""
    opened: list[int] = []
    closing = {}
    for bracket in brackets.finditer(text):
        if bracket.group() in "({":
            opened.append(bracket.start())
        elif bracket.group() in ")}" and opened:
            closing[opened.pop()] = bracket.start()
    return closing


_ROUND = re.compile(r"[()]")


def _brace_roots(text: str) -> str:
    r"""``\sqrt(x+1)`` as ``\sqrt{x+1}``."""
    if r"\sqrt(" not in text:
        return text
    closing = closing_braces(text, _ROUND)
    characters = list(text)
    start = text.find(r"\sqrt(")
    while start >= 0:
        opened = start + len(r"\sqrt")
        if opened in closing:
            characters[opened], characters[closing[opened]] = "{", "}"
        start = text.find(r"\sqrt(", opened)
    return "".join(characters)


_WHOLE_TEXT = re.compile(r"\\text\{([^{}]*)\}[.,]?")
_WHOLE_GROUP = re.compile(r"\{([^{}]*)\}")


def normalize(answer: str) -> str:
    """``answer`` without what carries no meaning: dollar signs, spacing, size, colour, emphasis, a full stop at the end."""
    text = " ".join(answer.split())  # no pattern below has to meet a long run of spaces
    if _PLAIN.fullmatch(text):
        return text
    text = _restyle(_ascii(text)).replace("$", "").replace("~", " ")
    text = " ".join(_EMPHASIS.sub("", text).split())
    if "\\begin" in text:
        text = _LAYOUT.sub("", text)
        text = _MATRIX.sub(r"\\\1{pmatrix}", text)
    if "matrix}" not in text and "{cases}" not in text and ("\\\\" in text or "&" in text):
        text = text.replace("&", "").strip().removesuffix("\\\\")
        text = _NEXT_LINE.sub(lambda match: " = " if match[1] else ", ", text)
    text = _JOINING_TEXT.sub(r" \1 ", text)
    for pattern, replacement in _SUBSTITUTIONS:
        text = pattern.sub(replacement, text)
    text = _brace_roots(text)
    for _ in range(3):  # one wrapping in another: \text{**5**.}
        before = text
        text = text.strip(" \"'`").rstrip(",;:").strip(" *_")
        text = text.removesuffix(".") if not text.endswith("..") else text
        inner = _WHOLE_TEXT.fullmatch(text) or _WHOLE_GROUP.fullmatch(text)
        text = inner[1] if inner else text
        hedge = _HEDGE.match(text)
        text = text[hedge.end() :] if hedge else text
        if text == before:
            break
    return text
