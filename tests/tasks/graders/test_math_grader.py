import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onelayer.errors import UserError
from onelayer.tasks.graders.grade import count_reasons, grade_of
from onelayer.tasks.graders.math_answer import grade_math
from onelayer.tasks.graders.math_compare import compare_plainly
from onelayer.tasks.graders.math_normal import normalize
from onelayer.tasks.graders.math_number import TooLarge, read_number
from onelayer.tasks.graders.math_pool import MathPool
from onelayer.tasks.graders.math_text import _last_boxed, extract_answer, reference_answer
from tests.support.hostile import ANSWERS

DATA = Path(__file__).parents[3].parent / "shared" / "data"


@pytest.fixture(scope="module")
def pool() -> Iterator[MathPool]:
    with MathPool(workers=1) as pool:
        grade_math(["\\boxed{x+1}"], ["1+x"], pool=pool)  # starts the worker
        yield pool


def plain_number(text: str) -> Fraction | None:
    """The value of a number, where the calling process reads it."""
    try:
        number = read_number(text)
    except TooLarge:
        return None
    return number.value if number and isinstance(number.value, Fraction) else None


def reason(pool: MathPool, answer: str, reference: str, deadline: float = 10.0) -> str:
    return grade_math([f"\\boxed{{{answer}}}"], [reference], deadline=deadline, pool=pool)[0].reason


@pytest.mark.parametrize(
    ("text", "rule", "expected"),
    [
        (r"so \boxed{\frac{1}{2}}.", "boxed", r"\frac{1}{2}"),
        (r"\boxed{3}, no: \boxed{4}", "boxed", "4"),
        (r"\boxed{3} and an open \boxed{4", "boxed", "3"),
        (r"\boxed{\{1, 2\}}", "boxed", r"\{1, 2\}"),
        (r"\fbox{7} \boxed 5.", "boxed", "5"),
        (r"\boxed{}", "boxed", None),
        ("3 + 4\n#### 7\n", "hash", "7"),
        ("#### 7 #### $1,234", "hash", "$1,234"),
        ("The answer is 42. Then 43.", "answer_is", "42"),
        ("the answer is 4.5", "answer_is", "4.5"),
        ("Final Answer: **12**", "answer_is", "12"),
        (r"The answer is $\frac{1}{2}$ of it", "answer_is", r"\frac{1}{2}"),
        (r"The answer is: \boxed{9}", "answer_is", "9"),
        (r"The answer is $\$32,\!348$.", "answer_is", r"\$32,\!348"),
        (r"The answer is \(x^2\).", "answer_is", "x^2"),
        ("the answer is 42 because 40 + 2 = 42.", "answer_is", "42"),
        ("from 3 to -4", "last_number", "-4"),
        ("costs $1,234.50.", "last_number", "1,234.50"),
        ("8-3", "last_number", "3"),
        ("3/4 of it", "last_number", "3/4"),
        ("none", "last_number", None),
    ],
)
def test_each_rule_finds_its_answer(text: str, rule: str, expected: str | None) -> None:
    assert extract_answer(text, rule, strict=True) == expected  # type: ignore[arg-type]


@given(st.lists(st.sampled_from(["\\boxed", "\\boxed{", "{", "}", "\\{", "\\}", "\\", "5", " ", "x"]), max_size=14))
def test_the_last_box_is_the_last_that_closes(parts: list[str]) -> None:
    text = "".join(parts)
    found = None
    for match in re.finditer(r"\\boxed\s*(?=\{)|\\boxed\s*([^\s\\{}]+)", text):
        depth, rest = 0, text[match.end() :]
        for brace in re.finditer(r"\\[\\{}]|[{}]", rest):
            depth += {"{": 1, "}": -1}.get(brace.group(), 0)
            if depth == 0 and not match[1]:
                found = rest[1 : brace.start()]
                break
        found = match[1] or found
    assert _last_boxed(text) == found


@pytest.mark.parametrize(
    "part", ["\\boxed{", "\\boxed ", "{", "####", "answer is $", "answer is \\(", "1,", "\\text{", " ^", "="]
)
def test_text_costs_no_more_than_its_length(part: str) -> None:
    for text in (part * 20_000, "\\boxed{" * 5_000 + part * 10_000, f"answer is {part * 20_000}"):
        started = time.process_time()
        compare_plainly("x+1", normalize(extract_answer(text) or ""))
        assert time.process_time() - started < 2.0


def test_strict_takes_one_place_only_and_lenient_falls_back() -> None:
    text = "The answer is 5"
    assert extract_answer(text, "boxed", strict=True) is None
    assert extract_answer(text, "boxed") == "5"
    assert extract_answer("just 5", "auto", strict=True) is None
    assert extract_answer("just 5", "auto") == "5"


def test_unknown_rule_is_the_users_error() -> None:
    with pytest.raises(UserError, match="'box' is unknown; use one of boxed"):
        extract_answer("5", "box")  # type: ignore[arg-type]


@given(st.text(alphabet="\\boxed{}$# 0123456789.,-/isanwer\n", max_size=200))
def test_extraction_never_fails_and_returns_a_part_of_the_text(text: str) -> None:
    found = extract_answer(text)
    assert found is None or (found in text and found.strip())


@given(st.integers(-(10**9), 10**9), st.integers(0, 6))
def test_plain_numbers_are_exact(value: int, places: int) -> None:
    exact = Fraction(value, 10**places)
    assert plain_number(f"{value / 10**places:.{places}f}") == pytest.approx(exact)
    assert plain_number(f"{value:,}") == value
    assert plain_number(f"{value}/{10**places}") == exact
    assert plain_number(f"{value}e-{places}") == exact


@pytest.mark.parametrize("text", ["", "1,23", "x", "1.2.3", ".", "-", "1/0", "9" * 500, "1 1", "1 2345"])
def test_what_is_no_plain_number(text: str) -> None:
    assert plain_number(text) is None


@given(st.integers(0, 99), st.integers(0, 99), st.integers(1, 99))
def test_repeating_decimals_become_exact_fractions(whole: int, fixed: int, repeated: int) -> None:
    text = normalize(f"{whole}.{fixed}\\overline{{{repeated}}}")
    expected = float(f"{whole}.{fixed}" + str(repeated) * 30)
    assert float(plain_number(text) or 0) == pytest.approx(expected, rel=1e-12)


def test_reference_answers_may_be_worked_solutions() -> None:
    assert reference_answer("2 + 3 = <<2+3=5>>5\n#### 5") == "5"
    assert reference_answer(r"thus $\boxed{x^2}$.") == "x^2"
    assert reference_answer("12") == "12"


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        (r"10\%", "0.1"),  # turns wrong, silently, when another package brings an older antlr4
        ("0.1", r"10\%"),
        ("1/2", r"\frac12"),
        (r"\dfrac{1}{2}", "0.5"),
        (r"0.\overline{3}", "1/3"),
        ("1,234", "1234"),
        ("1 234", "1234"),
        ("2(18)", "36"),
        ("- 5", "-5"),
        ("(x+1)^2", "x^2+2x+1"),
        (r"\{2,1\}", r"\{1,2\}"),
        ("x=5", "5"),
        (r"90", r"90^\circ"),
        (r"\textbf{(C)}", r"\text{(C)}"),
        ("evelyn", r"\text{Evelyn}"),
        (r"1-\sqrt{19}, 1+\sqrt{19}", r"1 \pm \sqrt{19}"),
        (r"6.72\times10^{-5}", ".0000672"),
        ("(-\\infty, 3]", r"\left(-\infty,3\right]"),
        (r"90 ^ \circ", "90"),
        (r"5 \text {cm}", "5"),
        (r"\mathbf{5}", "5"),
        (r"\text{x = 5}", "5"),
        (r"\text{even}", "even"),
    ],
)
def test_equal_answers_are_correct(pool: MathPool, answer: str, reference: str) -> None:
    assert reason(pool, answer, reference) == "correct"


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("5 or 6", "5"),
        ("5, 6", "6"),
        ("6=5", "5"),
        ("5} or \\boxed{6", "5"),
        ("the answer is 5", "6"),
        ("[1,2]", "(1,2)"),
        ("(2,1)", "(1,2)"),
        ("4343_7", "4343_6"),
        ("seat", r"\text{east}"),
        ("1.26", "1.25"),
        ("x", "5"),
        ("5x", "5"),
        ("nan", "5"),
        ("True", "5"),
        (r"\{1,2,3,4,5\}", "5"),
        ("5 = x = 6", "5"),
        ("10000001", "10000000"),
        ("import os", "5"),
        ("5 6", "11"),
        ("5 6", "56"),
        ("2(18)", "20"),
        ("(1,2)", "x+1"),
        ("(1, 000)", "1000"),
        ("1, 000", "1,000"),
        ("1 1/2", "11/2"),
        (r"\mathbf{5 6}", "11"),
        (r"\text{5 or 6}", "5"),
        (r"\text{seat}", "east"),
    ],
)
def test_other_answers_and_hedges_are_wrong(pool: MathPool, answer: str, reference: str) -> None:
    assert reason(pool, answer, reference) == "wrong"


def test_missing_answer_has_its_own_reason(pool: MathPool) -> None:
    grades = grade_math(["", "no idea", "\\boxed{}"], ["1", "2", "3"], pool=pool)
    assert [(grade.reason, grade.reward, grade.extracted) for grade in grades] == [("no_answer", 0.0, None)] * 3


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
def test_hostile_answers_earn_nothing_and_cost_at_most_their_deadline(pool: MathPool, answer: str) -> None:
    started = time.monotonic()
    grades = grade_math([f"\\boxed{{{answer}}}"] * 2, ["7", "x^2+1"], deadline=0.3, pool=pool)
    assert {grade.reward for grade in grades} == {0.0}
    assert time.monotonic() - started < 3.0
    assert reason(pool, "1+x", "x+1") == "correct"


@pytest.mark.parametrize("name", ["tower of powers", "50,000 terms", "20,000 brackets"])
def test_a_deadline_is_not_called_a_wrong_answer(pool: MathPool, name: str) -> None:
    grade = grade_math([f"\\boxed{{{ANSWERS[name]}}}"], ["x^2+1"], deadline=0.3, pool=pool)[0]
    assert grade.reason in ("timeout", "crash")


def test_batch_deadline_leaves_the_rest_without_a_reward(pool: MathPool) -> None:
    hostile = [f"\\boxed{{9^{{9^{{9^{{{k}}}}}}}}}" for k in range(11, 20)]
    grades = grade_math(
        [*hostile, "\\boxed{1+x}"], ["x^2+1"] * 9 + ["x+1"], deadline=0.3, batch_deadline=0.8, pool=pool
    )
    assert grades[-1].reason == "correct", "short answers come first"
    counts = count_reasons(grades)
    assert counts["timeout"] + counts["not_graded"] == 9
    assert counts["not_graded"] >= 5
    assert {grade.reward for grade in grades if grade.reason == "not_graded"} == {None}


def test_works_from_a_thread(pool: MathPool) -> None:
    grades = []
    thread = threading.Thread(target=lambda: grades.extend(grade_math(["\\boxed{x+1}"], ["1+x"], pool=pool)))
    thread.start()
    thread.join()
    assert grades[0].reason == "correct"


def test_closing_leaves_no_process() -> None:
    before = set(psutil.Process().children(recursive=True))
    with MathPool(workers=1) as pool:
        assert reason(pool, "2+x", "x+2") == "correct"
        started = set(psutil.Process().children(recursive=True)) - before
        assert len(started) == 2  # the worker and the child that computes
    assert not [process for process in psutil.wait_procs(started, timeout=5)[1] if process.is_running()]


def is_running(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_killed_parent_leaves_no_process(tmp_path: Path) -> None:
    script = (
        "import psutil, os, threading, time\n"
        "from onelayer.tasks.graders.math_answer import grade_math\n"
        "hostile = ['\\\\boxed{9^{9^{9^9}}}'], ['x']\n"
        "threading.Thread(target=grade_math, args=hostile, kwargs={'deadline': 30}, daemon=True).start()\n"
        "while len(children := psutil.Process().children(recursive=True)) < 2: time.sleep(0.05)\n"
        "print(*(child.pid for child in children), flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60).stdout
    processes = [psutil.Process(int(pid)) for pid in output.split() if psutil.pid_exists(int(pid))]
    assert len(output.split()) >= 2
    deadline = time.monotonic() + 10
    while any(map(is_running, processes)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, processes))


def test_lengths_must_agree() -> None:
    with pytest.raises(UserError, match="2 completions but 1 answers"):
        grade_math(["1", "2"], ["1"])


def test_rewards_follow_reasons() -> None:
    assert [grade_of(r).reward for r in ("correct", "wrong", "timeout", "crash", "not_graded")] == [1, 0, 0, 0, None]


LATEX = r"""
x+1 x-1 -x^{2}+3x-4 (x+1)(y-2) 2x+y x^2+y 5(x+2)^{3} 1+2i |x-1| x_1+x_2 a/b b/a 2^{10} 2^{1}0 1,-2 12,-2 y=2x+3
\frac{2\sqrt{3}}{4} \frac{14}{3} -\frac{14}{3} 3\pi-\frac{1}{2} \sqrt[3]{x} \sqrt{x} 3\sqrt{13} (-\infty,0)\cup(9,36)
(3,\frac{\pi}{2}) (3,4) (34) [3,4] (3,4] (3,400) x\in[-2,7] \begin{pmatrix}1&-2\\3&0\end{pmatrix}
\begin{pmatrix}1&-2\\30&1\end{pmatrix}
"""
EXPRESSIONS = LATEX.split()


def test_spaces_decide_as_mathematics_would(pool: MathPool) -> None:
    spaced = [re.sub(r"([-+*/^_=<>()\[\]|&]|(?<=\}))", r" \1 ", text) for text in EXPRESSIONS]
    pairs = [(normalize(text), normalize(other)) for text, other in zip(EXPRESSIONS, spaced, strict=True)]
    assert sum(text != other for text, other in pairs) > 25
    assert [compare_plainly(*pair) for pair in pairs] == [True] * len(pairs)
    for pair, verdict in zip(pairs, pool.compare(pairs, 5.0, 120.0), strict=True):
        assert verdict is not None
        assert verdict.verdict == "correct", pair


def test_what_text_decides_mathematics_decides_alike(pool: MathPool) -> None:
    others = [normalize(re.sub(r"([-+*/,])", r"\1 ", text)) for text in EXPRESSIONS]
    pairs = {(normalize(text), other): a == b for a, text in enumerate(EXPRESSIONS) for b, other in enumerate(others)}
    decided = {pair: plain for pair in pairs if (plain := compare_plainly(*pair)) is not None}
    assert len(decided) > 300
    assert all(pairs[pair] for pair, plain in decided.items() if plain)
    for (pair, plain), verdict in zip(decided.items(), pool.compare(list(decided), 5.0, 120.0), strict=True):
        assert verdict is not None
        assert (verdict.verdict == "correct") == plain, pair


def references(name: str) -> list[str]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return [reference_answer(json.loads(line)["answer"]) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", ["gsm8k_test.jsonl", "math500.jsonl"])
def test_real_references_are_right_for_themselves(pool: MathPool, name: str) -> None:
    answers = references(name)
    grades = grade_math([f"So it is $\\boxed{{{answer}}}$." for answer in answers], answers, pool=pool)
    assert count_reasons(grades) == {"correct": len(answers)}


def test_gsm8k_references_shuffled_are_wrong_unless_equal(pool: MathPool) -> None:
    answers = references("gsm8k_test.jsonl")
    others = answers[1:] + answers[:1]
    grades = grade_math([f"#### {other}" for other in others], answers, rule="hash", strict=True, pool=pool)
    equal = [Fraction(a.replace(",", "")) == Fraction(b.replace(",", "")) for a, b in zip(answers, others, strict=True)]
    assert [grade.reason == "correct" for grade in grades] == equal


def test_compare_plainly_leaves_mathematics_to_others() -> None:
    assert compare_plainly("x+1", "1+x") is None
    assert compare_plainly("0.333333", "1/3") is True
    assert compare_plainly("1.41421", "\\sqrt{2}") is None
    assert compare_plainly("3", "4") is False
    assert compare_plainly("3", "3.0") is True
    assert compare_plainly("3", "(3,4)") is False
