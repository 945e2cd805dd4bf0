"""Text costs the calling process no more than its length: twice the text, at most about twice the time."""

import time

import pytest

from onelayer.tasks.graders.math_compare import compare_plainly
from onelayer.tasks.graders.math_normal import normalize
from onelayer.tasks.graders.math_text import RULES, extract_answer, reference_answer

UNITS = [
    *(
        "1",
        "1,",
        "1.",
        "1/",
        "1 ",
        "-",
        "- ",
        "+",
        "=",
        "x",
        "x=",
        "^",
        "^ ",
        "_",
        "!",
        "! ",
        "?",
        ".",
        ". ",
        "...",
        ",",
        ", ",
    ),
    *(
        " ",
        "  ",
        "\t",
        "\n",
        " \n",
        "\n\n",
        "\u00a0",
        "\u200b",
        "*",
        "**",
        "** ",
        "`",
        '"',
        "~",
        "$",
        "$ ",
        "$$",
        "$1",
        "\\$",
    ),
    *(
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "{}",
        "\\{",
        "\\}",
        "\\",
        "\\\\",
        "\\\\[4pt]",
        "\\\\[1",
        "\\(",
        "\\)",
        "\\[",
        "\\]",
        "&",
    ),
    *(
        "\\boxed",
        "\\boxed ",
        "\\boxed{",
        "\\fbox{",
        "####",
        "#### ",
        "answer is ",
        "answer",
        "answer:**",
        "answer is $",
        "is",
    ),
    *(
        "answer is \\(",
        "the answer is 12, which ",
        " or ",
        " and ",
        "and",
        " because",
        "—",
        " —",
        " - a",
        ", not",
        "therefore ",
    ),
    *(
        "\\text{",
        "\\text{or}",
        "\\text",
        "\\frac",
        "\\frac1",
        "\\frac{1}",
        "\\sqrt",
        "\\sqrt(",
        "sqrt(",
        "\\sqrt{",
        "√",
        "√(",
        "½",
    ),
    *(
        "1½",
        " ½",
        "¹",
        "₁",
        "1\u0305",
        "\ufdfa",
        "°",
        "^\\circ",
        "^ {\\circ",
        "\\color{",
        "\\color",
        "\\color{red}",
        "\\color[",
    ),
    *(
        "\\begin{align}",
        "\\end{align}",
        "\\begin{pmatrix}",
        "\\begin{array}{",
        "\\dot1",
        "\\dot",
        "\\bar3",
        "\\left.",
        "\\!",
        "\\! ",
    ),
    *(
        "\\large ",
        "\\mathbf{",
        "\\mathbb ",
        "\\,",
        "about ",
        "=\\approx",
        "inf",
        "pi",
        "sin",
        "U",
        ") U (",
        "}\\text{and}",
        "<",
        "\\leq ",
    ),
    *("1e", "1e9", "10^", "1 2", "1 234", "1:", "%", "€", "cm ", "million ", "seat ", "\\cup", "\\{x|", "\\pm", "km/"),
]
PREFIXES = ["", "The answer is "]


def seconds(text: str) -> float:
    """Processor seconds for all that the calling process does with one completion and its reference."""
    started = time.process_time()
    for rule in RULES:
        extract_answer(text, rule, strict=True)
    compare_plainly(normalize(reference_answer(text)), normalize(extract_answer(text) or ""))
    compare_plainly("x+1", normalize(text))
    return time.process_time() - started


@pytest.mark.parametrize("prefix", PREFIXES)
def test_twice_the_text_takes_about_twice_the_time(prefix: str) -> None:
    slow = {}
    for unit in [*UNITS, "\u200b ", " \u200b½", "** "]:
        text = prefix + unit * (3_000 // len(unit))
        if seconds(text) > 0.1 and seconds(text) > 0.1:  # what takes the square of the length takes more
            longer = min(seconds(prefix + unit * (12_000 // len(unit))) for _ in range(2))
            shorter = min(seconds(prefix + unit * (6_000 // len(unit))) for _ in range(2))
            if longer > 3 * shorter:
                slow[unit] = longer / shorter
    assert not slow


@pytest.mark.parametrize("unit", ["1", "!", " ", "\\text{", "$1", "** "])
def test_long_text_is_done_at_once(unit: str) -> None:
    for text in (unit * (100_000 // len(unit)), f"The answer is {unit * (100_000 // len(unit))} x"):
        assert seconds(text) < 3.0
