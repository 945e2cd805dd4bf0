# ruff: noqa: E501 - a row reads best on one line
"""Answers that say the same, and their neighbours that do not: one row for each way in which an answer is written."""

from collections.abc import Iterator

import pytest

from onelayer.tasks.graders.math_answer import grade_math
from onelayer.tasks.graders.math_pool import MathPool


@pytest.fixture(scope="module")
def pool() -> Iterator[MathPool]:
    with MathPool(workers=1) as pool:
        yield pool


# kind: rows of "reference | the same | ... || different | ...", each tried in both directions
FORMS = {
    "e-notation": r"""
        4.5e33 | 4.5\times10^{33} | 4.5 \cdot 10^{33} | 4.5*10^33 | 4.5 x 10^33 | 4.5E+33 | 4.5×10³³ | 45\cdot10^{32} || 4.5e32 | 4.5\times e\times 33 | 4.6e33
        1.5e-3 | 0.0015 | 1.5\times10^{-3} | 1.5×10⁻³ | \frac{15}{10000} || 1.5e-4 | 1.5e3 | -0.0015
        -2e3 | -2000 | -2\times10^{3} | -2,000\text{ m} || 2000 | -200
    """,
    "tiny and huge": r"""
        3\times10^{-20} | 3e-20 | \frac{3}{10^{20}} || 2\times10^{-20} | 0 | 3\times10^{-21}
        \frac{1}{2^{60}} | 2^{-60} | 0.5^{60} || \frac{1}{2^{61}} | 0
        \frac{1}{30!} || \frac{1}{32!} | 0
        10^{-20}\pi | \frac{\pi}{10^{20}} || 2\cdot10^{-20}\pi | 0
        x+10^{-20} || x | x+10^{-21}
        10^{100} || \sqrt{10^{200}+1}
        \sqrt{2}\cdot10^{-30} || \sqrt{3}\cdot10^{-30} | 0
    """,
    "large powers": r"""
        3^{1000} | 9^{500} | 3 \cdot 3^{999} | \frac{3^{1001}}{3} || 3^{1001} | 3^{1000}+1 | -3^{1000}
        2024! | 2024 \cdot 2023! || 2023! | 2024!+1
        2^{2^{100}} | 4^{2^{99}} || 2^{2^{101}}
        2^{1000000} | 4^{500000} || 2^{1000001}
        1e400 | 10^{400} || 10^{401}
    """,
    "decimals": r"""
        1/3 | 0.333333 | 0.3333333333 | 33.3333\% || 0.333 | 0.333334 | 0.33333
        \pi | 3.14159 || 3.1416 | 3.14158 | 3.14
        \sqrt{2} | 1.41421 | 1.4142135623730951 || 1.41422 | 1.414
        2/3 | 0.666667 | 0.6666666666666666 || 0.666666 | 0.67
        1 | 1.000 || 1.0000001
    """,
    "words": r"""
        east | \text{East} | \textit{east} | \emph{east} | \mathrm{east} || seat | \text{seat} | eats | e | 5
        no | \textbf{no} || on | \text{on}
        x-axis | \text{x-axis} | \text{x–axis} | x\text{-axis} || y-axis | x | \text{axis}
        Navin's | \text{Navin's} | \text{Navin’s} || Navin
        Smith, Jones | \text{Smith, Jones} | \text{Smith,Jones} || Jones, Smith | Smith
        Évora | \text{Évora} || Evora
        (C) | C | \text{(C)} | \text{C}. || D | \text{(B)}
        xy | x \cdot y || yx | xz
    """,
    "mixed numbers": r"""
        7/2 | 3 1/2 | 3\frac12 | 3½ | 3 \frac{1}{2} | 3 and 1/2 | 3.5 | 3\ \dfrac{1}{2} || 31/2 | 3/2 | -7/2 | 3 2/1
        -7/2 | -3 1/2 | −3½ | \frac{-7}{2} | -(3 1/2) || 7/2 | -5/2
        71/6 | 11 5/6 | 11\frac{5}{6} || 115/6 | 11
        2.5 || 2\frac{3}{2}
    """,
    "the real line": r"""
        (-\infty,\infty) | \mathbb{R} | ℝ | R | (-∞, +∞) | \text{all real numbers} | x \in \mathbb{R} || (0,\infty) | \mathbb{Z} | [-5,\infty) | 5
    """,
    "Unicode": r"""
        90 | 90° | 90º | 90\degree | 90^{\circ} | ９０ | 90\text{°} || 9 | -90
        \sqrt{12} | √12 | 2√3 | √(12) || \sqrt{1}2 | √13
        \frac12 | ½ | 1⁄2 | １／２ || 12 | ⅓
        -5 | –5 | —5 | −5 | －5 || 5
        x^2 | x² | 𝑥² || x2 | x^3
        (1,2) | （1，2） | ⟨1,2⟩ || (2,1) | （1,3）
        5 || ​
        \infty | ∞ || -∞ | 5
    """,
    "look": r"""
        1/3 | 0.\bar{3} | 0.\overline{3} | 0.\bar3 | 0.(3) | 0.333... | 0.\dot{3} || 0.3 | 0.\bar{4} | 0.\overline{34}
        5 | \color{red}{5} | {\color{blue} 5} | \textcolor{red}{5} | \large 5 | \boldsymbol{5} | \displaystyle 5 || 6 | \color{red}{6}
        \emptyset | \varnothing | \{\} | ∅ || 0 | \{0\}
        \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} | \begin{bmatrix}1&2\\[4pt]3&4\end{bmatrix} | \left(\begin{array}{cc}1&2\\3&4\end{array}\right) || \begin{pmatrix}1&2\\4&3\end{pmatrix} | \begin{pmatrix}1&2&3&4\end{pmatrix}
        2+3i | 2+3 i | 3i + 2 | 2 + 3\mathrm{i} || 2-3i | 3+2i | 5
        10000 | 10{,}000 | 10,\!000 | 10\,000 | 10,000 || 1000 | 10,00
    """,
    "units": r"""
        18 | 18 dollars | \$18 | €18 | 18 USD | 18\text{ cm}^2 | 18 cm² | 18 m/s | 18\,\mathrm{m/s^2} | 18m | 18 square meters | 18 apples in total | 18th | 18 °C || 18x | 18k | 18 million | 18\pi | 18 or 19 | 18 half | 18 xy | 19 apples | 18/5 m
        5 km | 5 kilometers | 5 || 5 m | 5 cm | 5 km/h
        5000000 | 5 million | \$5\text{ million} || 5 billion | 5
        12\pi | 12\pi\text{ cm}^2 || 12\text{ cm}^2
    """,
    "clock times": r"""
        3:00 pm | 3:00 | 15:00 | 3 pm | 3:00\text{ p.m.} || 3:00 am | 3:05 pm | 4:00 | 3/0
        12:00 || 1:00 | 12 | 0:00
        0:3 || 0:5 | 0
        3:4 | 6:8 | 3/4 || 4:3 | 3:5
    """,
    "regions": r"""
        (-1,1) | -1<x<1 | 1>x>-1 | x \in (-1,1) | \{x \mid -1<x<1\} | x>-1 \text{ and } x<1 || [-1,1] | -1\le x<1 | (-1,2) | \{-1,1\} | 0
        (-\infty,2] | x \le 2 | x≤2 | 2 \geq x || x<2 | (-\infty,2) | 2 | x \ge 2
        (-\infty,-1)\cup(1,\infty) | x<-1\text{ or }x>1 | (1,\infty)\cup(-\infty,-1) | (−∞,−1)U(1,∞) || (-\infty,1)\cup(1,\infty) | -1<x<1
        x<2 || y<2
    """,
    "several": r"""
        1,-2 | -2, 1 | \{1,-2\} | 1 and -2 | x=1\text{ or }x=-2 || 1 | 1,2 | 1,-2,3
        20, 8, -4 | -4, 20, 8 || 20, 8, 4
        (1,2,3) | \left(1,\frac{4}{2},3.0\right) || (3,2,1) | (1,2) | \{1,2,3\}
        1234 | 1,234 | 1 234 || (1,234) | 1, 234
        11 || 5 6 | 5+7
    """,
    "equations": r"""
        5 | x=5 | x = 2+3 = 5 | x \approx 5 | \text{Area} = 5 || x+1=5 | 6=5 | 5=x=6 | 2x=5
        y=2x+3 | 2x+3 | y=3+2x | 2x-y+3=0 || y=2x+4 | y=2x
        1,000 | x = 1,000 || x = 1
    """,
}  # fmt: skip


@pytest.mark.parametrize("kind", FORMS)
def test_the_same_in_every_form_and_neighbours_are_not(pool: MathPool, kind: str) -> None:
    pairs = []
    for row in FORMS[kind].strip().splitlines():
        equal, _, other = row.partition("||")
        reference, *forms = (form.strip() for form in equal.split(" | "))
        for form in forms:
            pairs += [(form, reference, 1.0), (reference, form, 1.0)]
        for form in (form.strip() for form in other.split(" | ")):
            pairs += [(form, reference, 0.0), (reference, form, 0.0)] if form.strip("\u200b") else []
    grades = grade_math(
        [f"So it is \\boxed{{{answer}}}." for answer, _, _ in pairs], [r for _, r, _ in pairs], pool=pool
    )
    failures = [(*pair, grade.reason) for pair, grade in zip(pairs, grades, strict=True) if grade.reward != pair[2]]
    assert not failures
    assert {grade.reason for grade in grades} <= {"correct", "wrong"}


@pytest.mark.parametrize(
    "phrase",
    [
        *(
            "12, which is even.",
            "12 dollars.",
            "**12** apples.",
            "12!",
            "about 12.",
            "approximately 12",
            "12 (twelve).",
            "__12__.",
        ),
        *(
            "therefore 12.",
            "12, not 13.",
            "12; that is all.",
            "12 — an even number.",
            '12." He smiled.',
            "$12$!",
            "\\(12\\).",
        ),
        *(
            "\n\\[\n12\n\\]",
            ":\n$$\n12\n$$",
            ":\n\\begin{align*}\nx &= 5 + 7 \\\\\n&= 12\n\\end{align*}",
            "x = 12",
            "12 km/h.",
        ),
    ],
)
def test_a_stated_answer_is_read_in_its_sentence(pool: MathPool, phrase: str) -> None:
    grades = grade_math([f"The answer is {phrase}"] * 2, ["12", "13"], pool=pool)
    assert [grade.reward for grade in grades] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("The answer is:\n$$\n\\frac{3}{4}\n$$", "4"),
        ("The answer is $\\frac{3}{4}$", "3"),
        ("The answer is\n\\[\n\\frac{3}{4", "4"),
        ("The answer is $$x^2+4$$", "4"),
        ("so x = $\\frac{3}{4}$", "4"),
        ("thus \\frac{3}{4}", "4"),
        ("thus x^2", "2"),
        ("so x + 3", "3"),
        ("\\boxed{\\frac{3}{4} or so, see \\frac{1}{2}}", "1/2"),
        ("The answer is not 12.", "12"),
        ("The answer is 12 or 13.", "12"),
        ("The answer is $12$ or $13$.", "12"),
        ("The answer is $12$ times $3$", "12"),
        ("The answer is $12$ million.", "12"),
        ("The answer is greater than 12.", "12"),
        ("The answer is 5!", "120"),
        ("The answer is $5!$", "5"),
    ],
)
def test_no_number_is_picked_out(pool: MathPool, text: str, reference: str) -> None:
    assert grade_math([text], [reference], pool=pool)[0].reward == 0.0


@pytest.mark.parametrize("text", ["\\boxed{5!}", "The answer is $5!$.", "The answer is \\(5!\\)"])
def test_a_factorial_counts_in_a_formula(pool: MathPool, text: str) -> None:
    assert grade_math([text], ["120"], pool=pool)[0].reward == 1.0


@pytest.mark.parametrize(
    ("text", "reward"),
    [("7=", 1.0), ("so 3+4=7", 1.0), ("is it 7 =", 1.0), ("7=y+1", 0.0), ("x7", 0.0), ("7*3", 0.0), ("7=8", 0.0)],
)
def test_the_last_number_is_one_that_nothing_more_is_said_of(pool: MathPool, text: str, reward: float) -> None:
    (grade,) = grade_math([text], ["7"], rule="last_number", pool=pool)
    assert grade.reward == reward
