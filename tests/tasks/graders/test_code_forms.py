"""What counts as a test of a program: the usual forms are run, and what checks nothing of the program pays nothing."""

from collections.abc import Iterator
from typing import Any

import pytest

from onelayer.tasks.graders import code_sandbox
from onelayer.tasks.graders.code_checks import InvalidTest, prepare
from onelayer.tasks.graders.code_sandbox import grade_code
from onelayer.tasks.graders.grade import count_reasons, failure_sentence
from onelayer.tasks.graders.sandbox import Sandbox
from onelayer.tasks.graders.wire import Verdict

RIGHT = "def f(x):\n    return x + 1\n"
WRONG = "def f(x):\n    return 'wrong'\n"
LIAR = (
    "class Same:\n    def __eq__(self, other): return True\n    def __bool__(self): return True\n"
    "def f(x):\n    return Same()"
)
CASE = (
    "import unittest\nclass TestCases(unittest.TestCase):\n    def test_1(self):\n        self.assertEqual(f(1), 2)\n"
)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(workers=1) as sandbox:
        yield sandbox


FORMS: dict[str, Any] = {
    "assert": "assert f(1) == 2",
    "pytest function": "def test_f():\n    assert f(1) == 2",
    "parameters": (
        "import pytest\n@pytest.mark.parametrize('a, b', [(1, 2), pytest.param(3, 4)])\n@pytest.mark.slow\n"
        "def test_f(a, b):\n    assert f(a) == b"
    ),
    "approx": "from pytest import approx\ndef test_f():\n    assert [f(1.0)] == approx([2.0000001])",
    "pytest.main": (
        "import pytest, sys\ndef test_f():\n    assert f(1) == 2\nif __name__ == '__main__':\n"
        "    sys.exit(pytest.main([__file__]))"
    ),
    "pytest class": (
        "class TestF:\n    def setup_method(self):\n        self.x = 1\n    def test_a(self):\n        assert f(self.x) == 2"
    ),
    "fixture": "import pytest\n@pytest.fixture\ndef one():\n    yield 1\ndef test_f(one):\n    assert f(one) == 2",
    "TestCase": CASE,
    "unittest.main": (
        "import unittest\nclass T(unittest.TestCase):\n    def setUp(self):\n        self.r = f(1)\n"
        "    def test_1(self):\n        self.assertEqual(self.r, 2)\nif __name__ == '__main__':\n    unittest.main()"
    ),
    "from unittest import main": (
        "from unittest import TestCase, main\nclass T(TestCase):\n    def test_1(self):\n"
        "        for a, b in [(1, 2), (2, 3)]:\n            with self.subTest(a=a):\n"
        "                self.assertEqual(f(a), b)\nmain()"
    ),
    "a runner of unittest": (
        CASE + "r = unittest.TextTestRunner().run(unittest.TestLoader().loadTestsFromTestCase(TestCases))\n"
        "import sys\nsys.exit(not r.wasSuccessful())"
    ),
    "asynchronous TestCase": (
        "import unittest\nclass T(unittest.IsolatedAsyncioTestCase):\n    async def test_1(self):\n"
        "        self.assertEqual(f(1), 2)"
    ),
    "BigCodeBench": {"prompt": 'import re\ndef f(x):\n    """inc"""\n', "test": CASE, "entry_point": "f"},
    "HumanEval": {"test": "def check(g):\n    assert True\n    assert g(1) == 2", "entry_point": "f"},
    "check without an entry point": "def check(candidate):\n    assert candidate(1) == 2",
    "check without an argument": {"test": "def check():\n    assert f(1) == 2", "entry_point": "f"},
    "check that the tests call": "def check(candidate):\n    assert candidate(1) == 2\ncheck(f)",
    "another name": "def verify(candidate):\n    assert candidate(1) == 2",
    "another name with an entry point": {"test": "def verify(c):\n    assert c(1) == 2", "entry_point": "f"},
    "test of a candidate": "def test_it(candidate):\n    assert candidate(1) == 2",
    "nothing taken": "def run_all():\n    assert f(1) == 2",
    "returns a verdict": "def check(candidate):\n    return candidate(1) == 2",
    "returns False": "def check(candidate):\n    if candidate(1) != 2:\n        return False\n    return True",
    "exits": "import sys\nif f(1) != 2:\n    sys.exit(1)\n",
    "exit code at the end": "import sys\nsys.exit(0 if f(1) == 2 else 1)",
    "exit after asserts": "import sys\nassert f(1) == 2\nsys.exit(0)",
    "raises": "if f(1) != 2:\n    raise AssertionError",
    "or": "import sys\nf(1) == 2 or sys.exit(1)",
    "through text": "s = f'{f(1)}'\nassert s == '2'",
    "through a list": "r = []\nfor x in [1, 2]:\n    r.append(f(x))\nassert r == [2, 3]",
    "through a flag": "ok = True\nfor x in [1, 2]:\n    if f(x) != x + 1:\n        ok = False\nassert ok",
    "through a helper": "def same(a, b):\n    assert a == b\nsame(f(1), 2)",
    "caught by the tests": "try:\n    assert f(1) == 2\n    print('passed')\nexcept AssertionError:\n    print('failed')",
    "async function": "import asyncio\nasync def test_f():\n    await asyncio.sleep(0)\n    assert f(1) == 2",
    "LeetCode's entry point": {
        "prompt": "",
        "test": "def check(candidate):\n    assert candidate(x=1) == 2",
        "entry_point": "Solution().f",
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_tells_right_from_wrong(sandbox: Sandbox, form: str) -> None:
    programs = [RIGHT, WRONG, LIAR]
    if "LeetCode" in form:
        programs = ["class Solution:\n" + "".join(f"    {line}\n" for line in each.replace("(x)", "(self, x)").split("\n")) for each in programs]  # fmt: skip  # noqa: E501
    grades = grade_code(programs, [FORMS[form]] * 3, sandbox=sandbox)
    assert [grade.reward for grade in grades] == [1.0, 0.0, 0.0], grades
    assert grades[1].reason == "wrong"


NOTHING: dict[str, Any] = {
    "comments": "# assert f(1) == 2\n",
    "pass": "pass",
    "assert True": "assert True",
    "a call and assert True": "f(1)\nassert True",
    "a call": "print(f(1))",
    "a comparison without an effect": "f(1) == 2",
    "an empty check": {"test": "def check(candidate):\n    pass", "entry_point": "f"},
    "a check of nothing": {"test": "def check(candidate):\n    candidate(1)\n    return True", "entry_point": "f"},
    "a test of nothing": "def test_f():\n    f(1)\n    assert 1 == 1",
    "a TestCase of nothing": CASE.replace("self.assertEqual(f(1), 2)", "self.assertEqual(1, 1)"),
    "skipped": CASE.replace("    def", "    @unittest.skip('later')\n    def"),
    "never reached": "if False:\n    assert f(1) == 2",
    "never called": "def one(a, b):\n    assert f(a) == b\ndef two(a, b):\n    assert f(b) == a\n",
    "unittest.main alone": "import unittest\nunittest.main()",
    "its own values": "x = 3\nassert x == 3\nf(1)",
    "its own parameters": "import pytest\n@pytest.mark.parametrize('a', [1])\ndef test_f(a):\n    f(a)\n    assert a == 1",
    "ignores everything": "try:\n    f(1)\nexcept Exception:\n    pass",
    "doctest": "'''\n>>> f(1)\n2\n'''",
    "exit 0 first": "import sys\nsys.exit(0)\nassert f(1) == 2",
    "exit 1": "import sys\nsys.exit(1)",
    "SystemExit": "raise SystemExit\nassert f(1) == 2",
    "KeyboardInterrupt": "raise KeyboardInterrupt\nassert f(1) == 2",
    "os._exit": "import os\nos._exit(0)\nassert f(1) == 2",
    "crash": "import ctypes\nctypes.string_at(0)\nassert f(1) == 2",
    "exit code of nothing": "import sys\nx = f(1)\nsys.exit(0)",
    "a module that is not there": "import numpy as np\nassert np.allclose(f(1), 2)",
    "a fault of its own": "expected = 1 / 0\nassert f(1) == expected",
    "a fixture that is not there": "def test_f(tmp_path, x):\n    assert f(1) == 2",
    "pytest that is not there": "import pytest\ndef test_f():\n    pytest.importorskip('x')\n    assert f(1) == 2",
    "a function for the program": "assert f(lambda: 1) == 2",
}


@pytest.mark.parametrize("tests", NOTHING)
def test_what_checks_nothing_of_the_program_is_invalid_whatever_the_program_does(sandbox: Sandbox, tests: str) -> None:
    grades = grade_code([RIGHT, WRONG], [NOTHING[tests]] * 2, sandbox=sandbox)
    assert [(grade.reason, grade.reward) for grade in grades] == [("invalid_test", None)] * 2, grades
    assert all(grade.detail for grade in grades)
    ends = grade_code(["import os\nos._exit(0)"], [NOTHING[tests]], sandbox=sandbox)[0]
    assert ends.reward != 1.0


def test_invalid_tests_are_counted_and_said_once() -> None:
    grades = [code_sandbox.grade_of("invalid_test")] * 4
    assert failure_sentence(count_reasons(grades), 4) == (
        "the grader came to no verdict on 4 of 4 completions: 4 invalid_test (no reward)"
    )


@pytest.mark.parametrize(
    ("program", "tests", "reason"),
    [
        # What the program gives leaves nothing to check: its own fault, not the tests'.
        ("def f(): return []", "for x in f():\n    assert x > 0", "wrong"),
        ("def f(x): raise ValueError", "try:\n    f(1)\nexcept ValueError as e:\n    assert f(e) == 1", "wrong"),
        ("def f(x): raise SystemExit", "try:\n    f(1)\nexcept BaseException:\n    pass\nassert f(2) == 3", "exited"),
        (
            "import os\ndef f(x): os._exit(0)",
            "try:\n    f(1)\nexcept BaseException:\n    x = 2\nassert x == 2",
            "exited",
        ),
        ("import os\ndef f(x): os._exit(0)", CASE, "exited"),
        ("x = 1", CASE, "error"),
        ("def f(x): return 1 / 0", CASE, "error"),
        ("def f(x): return 0", "import sys\nif f(1) == 0:\n    sys.exit(0)\nassert f(1) == 2", "wrong"),
        ("def f(x): return 0", "if f(1) == 0:\n    raise KeyboardInterrupt\nassert f(1) == 2", "wrong"),
        ("def f(x): return 0", "import os\nif f(1) == 0:\n    os._exit(0)\nassert f(1) == 2", "crash"),
    ],
)
def test_no_program_gets_out_of_its_0_by_what_it_does_to_its_tests(
    sandbox: Sandbox, program: str, tests: str, reason: str
) -> None:
    grade = grade_code([program], [tests], sandbox=sandbox)[0]
    assert (grade.reason, grade.reward) == (reason, 0.0), grade


@pytest.mark.parametrize(
    ("program", "tests"),
    [
        ("def f(x): raise ValueError('no')", "import pytest\nwith pytest.raises(ValueError, match='no'):\n    f(1)"),
        (
            "def f(x): raise KeyError",
            "import unittest\nclass T(unittest.TestCase):\n    def test_1(self):\n"
            "        with self.assertRaises(KeyError):\n            f(1)\n        self.assertRaises(KeyError, f, 2)",
        ),
        ("def f(x):\n    raise SystemExit(2)", "import pytest\nwith pytest.raises(SystemExit):\n    f(1)"),
        ("def f(x): raise TypeError", "try:\n    f(1)\n    assert False\nexcept TypeError:\n    pass"),
        ("async def f(x): return x + 1", "import asyncio\nassert asyncio.run(f(1)) == 2"),
        ("async def f(x): return x + 1", "async def test_f():\n    assert await f(1) == 2"),
        (
            "async def f(n):\n    for i in range(n): yield i",
            "async def test_f():\n    assert [x async for x in f(3)] == [0, 1, 2]",
        ),
        ("def f(x): return x", "match f(1):\n    case 1:\n        pass\n    case _:\n        raise AssertionError"),
    ],
)
def test_exceptions_and_coroutines_of_the_program_are_checked_too(sandbox: Sandbox, program: str, tests: str) -> None:
    assert grade_code([program], [tests], sandbox=sandbox)[0].reason == "correct"
    assert grade_code(["def f(x): return 'wrong'"], [tests], sandbox=sandbox)[0].reward == 0.0


def test_only_a_whole_verdict_of_the_tests_own_process_is_a_pass(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onelayer.tasks.graders import sandbox as module

    whole = b'{"reason": "correct", "detail": "", "doubt": false, "token": "t"}'
    assert module._verdict(whole, "t") == Verdict("correct")
    for text in (b"", b"{", whole[:-1], b"[]", b"7", b"null", b"\xff", whole * 2, b'{"reason": "correct"}'):
        assert module._verdict(text, "t") is None
    assert module._verdict(whole, "another") is None
    assert module._verdict(whole.replace(b"doubt", b"more"), "t") is None
    # Whatever else is read, and however the program ended, nothing but that verdict pays.
    for text in (None, Verdict("sound"), Verdict("fine"), Verdict("Correct")):
        monkeypatch.setattr(module, "_verdict", lambda *_, text=text: text)
        grade = grade_code([RIGHT], ["assert f(1) == 2"], sandbox=sandbox)[0]
        assert grade.reward != 1.0


def test_details_are_short(sandbox: Sandbox) -> None:
    long = "x" * 5000
    name = f"def f(x):\n    raise type({long!r}, (Exception,), {{}})({long!r})"
    for program, tests in [(name, "assert f(1)"), ("x = 1", {long: 1}), ("x = 1", f"import {long}\nassert f(1)")]:
        assert len(grade_code([program], [tests], sandbox=sandbox)[0].detail) <= 200


def test_what_grading_raises_is_one_programs_own(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(code: str, tests: Any) -> str:
        if "spoilt" in code:
            raise ZeroDivisionError("in the grader")
        return code

    monkeypatch.setattr(code_sandbox, "assemble", broken)
    grades = grade_code([RIGHT, "spoilt = 1", RIGHT], ["assert f(1) == 2"] * 3, sandbox=sandbox)
    assert [grade.reason for grade in grades] == ["correct", "crash", "correct"]
    assert grades[1].detail == "grading it raised ZeroDivisionError: in the grader"


@pytest.mark.parametrize("printed", ["sNaN", "-sNaN123", "nan", "1e99999999999999999999", "٣", "1_0", "0x7", "inf"])
def test_one_printed_word_spoils_one_grade(sandbox: Sandbox, printed: str) -> None:
    tests = [{"input": "", "output": "7"}]
    grades = grade_code([f"print({printed!r})", "print(7)"], [tests] * 2, sandbox=sandbox)
    assert [grade.reward for grade in grades] == [0.0, 1.0]


@pytest.mark.parametrize("number", [34, 40, 63])
def test_a_signal_without_a_name_is_a_crash(number: int) -> None:
    with Sandbox(workers=1, mode="plain") as sandbox:  # in a namespace of its own a process does not get it
        program = f"import os\nos.kill(os.getpid(), {number})"
        for tests in ([{"input": "", "output": "7"}], "assert f(1) == 2"):
            grade = grade_code([program], [tests], sandbox=sandbox)[0]
            assert (grade.reason, grade.reward) == ("crash", 0.0)
            assert "signal" in grade.detail or "SIGRT" in grade.detail


def test_tests_that_are_no_python_or_check_nothing_need_no_process() -> None:
    for source in ("pass", "assert True", "x = (", "\0", "(" * 500 + ")" * 500, "-" * 50_000 + "1"):
        with pytest.raises(InvalidTest):
            prepare(source)
