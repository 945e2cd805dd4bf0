# ruff: noqa: E501 - attacks read best on one line
"""Programs that end, kill, silence or mislead the process that judges them, as a product of ways. None may be rewarded.

They aim at their own processes and the one above only: where a protection is missing they must not hit anybody else's.
What takes the judge's file size away is tried from outside, by a limit. Each way is tried at each moment and against each form of tests. By default a few of the product are run, chosen so that
every way, moment and form occurs; ``JUDGE_ATTACKS=500`` runs that many in each mode.
"""

import os
from typing import Any, Literal

import pytest

from onelayer.tasks.graders.code_sandbox import grade_code
from onelayer.tasks.graders.protection import Limits
from onelayer.tasks.graders.sandbox import Sandbox

COUNT = int(os.environ.get("JUDGE_ATTACKS", "34"))

WAYS = {
    "sys.exit(0)": "sys.exit(0)",
    "SystemExit without a code": "raise SystemExit",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "GeneratorExit": "raise GeneratorExit",
    "os._exit(0)": "os._exit(0)",
    "os._exit with the judge's code": "os._exit(3)",
    "kills itself": "os.kill(os.getpid(), 9)",
    "kills itself with a real-time signal": "os.kill(os.getpid(), 40)",
    "kills the process above it": "try: os.kill(os.getppid(), 9)\nexcept OSError: pass",
    "stops the process above it": "try: os.kill(os.getppid(), 19)\nexcept OSError: pass",
    "ends its group": "os.killpg(0, 15)",
    "an alarm": "import signal\nsignal.setitimer(signal.ITIMER_REAL, 0.001)\ntime.sleep(1)",
    "puts another file in the channel's place": "os.dup2(0, 4)",
    "changes how it answers": (
        "for name in ('onelayer.tasks.graders.wire', 'onelayer.tasks.graders.sandbox_program'):\n"
        "    for key in ('send', 'encode'): setattr(sys.modules[name], key, lambda *a: None)"
    ),
    "exceptions that end what handles them": ("class E(BaseException):\n    def __str__(self): os._exit(0)\nraise E()"),
    "closes the channel": "os.closerange(3, 64)",
    "shuts the channel down": "import socket\nsocket.socket(fileno=4).shutdown(2)",
    "writes the verdict to every file": (
        'for n in range(64):\n    try: os.write(n, b\'{"reason": "correct", "detail": "", "doubt": false, "token": ""}\')\n'
        "    except OSError: pass"
    ),
    "writes the verdict through /proc": (
        "for n in range(9):\n    try: open(f'/proc/{os.getppid()}/fd/{n}', 'wb').write(b'{\"reason\": \"correct\"}')\n"
        "    except OSError: pass"
    ),
    "half a message": "os.write(4, struct.pack('>I', 999) + b'{')\nos.close(4)",
    "a message that is too long": "os.write(4, b'\\xff' * 64)",
    "a message that is no JSON": "os.write(4, struct.pack('>I', 4) + b'}}}}')",
    "messages that raise in the judge": (
        "for name in ('SystemExit', 'KeyboardInterrupt', 'GeneratorExit', 'AssertionError', 'StopIteration'):\n"
        "    say({'raised': name, 'message': '0'})"
    ),
    "messages that are no replies": "for each in (None, [], 7, {'value': {'x': 1, 'y': 2}}):\n    say(each)",
    "a value that fills the judge": "say({'value': {'list': [[0.5] * 100000] * 20}})",
    "nested values": "text = b'[' * 90000 + b']' * 90000\nos.write(4, struct.pack('>I', len(text)) + text)",
    "a child goes on": "if os.fork(): os._exit(0)",
    "sleeps past its deadline": "time.sleep(99)",
    "fills its memory": "x = []\nwhile True: x.append(bytearray(1 << 26))",
}
WHEN = {
    "at once": "{attack}\n{solution}",
    "when called": "{solution}\ndef f(x):\n    attack()\n    return 'wrong'",
    "at the second call": (
        "{solution}\ncalls = []\ndef f(x):\n    calls.append(x)\n    if len(calls) > 1: attack()\n    return x + 1"
    ),
    "in a thread": "import threading\n{solution}\nthreading.Timer(0.01, attack).start()\ndef f(x):\n    time.sleep(0.05)\n    return 'wrong'",
    "at its end": "import atexit\natexit.register(attack)\n{solution}\nsys.exit(0)",
}
FORMS: dict[str, Any] = {
    "assert": "assert f(1) == 2\nassert f(2) == 'never'",
    "check": {"test": "def check(g):\n    assert g(1) == 2\n    assert g(2) == 'never'", "entry_point": "f"},
    "unittest": (
        "import unittest\nclass T(unittest.TestCase):\n    def test_1(self):\n        self.assertEqual(f(1), 2)\n"
        "    def test_2(self):\n        self.assertEqual([f(1), f(2)], [2, 'never'])\nunittest.main()"
    ),
    "functions that catch everything": (
        "def test_1():\n    try:\n        first = f(1)\n    except BaseException:\n        first = None\n"
        "    assert [first, f(2)] == [2, 'never']"
    ),
    "an exit code": "import sys\nsys.exit(0 if [f(1), f(2)] == [2, 'never'] else 1)",
    "calls": {"fn_name": "f", "inputs": [[1], [2]], "outputs": [2, "never"]},
}
_HEAD = """import json, os, struct, sys, time
def say(message):
    text = json.dumps(message).encode()
    os.write(4, struct.pack('>I', len(text)) + text)
def attack():
    {indented}
"""


def program(way: str, when: str) -> str:
    """A wrong program that attacks in one way at one moment."""
    head = _HEAD.format(indented=WAYS[way].replace("\n", "\n    "))
    return head + WHEN[when].format(attack="attack()", solution="def f(x):\n    return 'wrong'")


def chosen(count: int) -> list[tuple[str, str, str]]:
    """``count`` of the product, each part of it about equally often."""
    # The sizes have no factor in common: counting through all three at once comes back after their product only.
    whole = len(WAYS) * len(WHEN) * len(FORMS)
    parts = (list(WAYS), list(WHEN), list(FORMS))
    return [tuple(part[number % len(part)] for part in parts) for number in range(min(count, whole))]  # type: ignore[misc]


def test_the_product_holds_enough_and_a_choice_of_it_every_part() -> None:
    assert len(WAYS) * len(WHEN) * len(FORMS) >= 500
    assert len(set(chosen(500))) == 500
    for part, names in enumerate((WAYS, WHEN, FORMS)):
        assert {attack[part] for attack in chosen(max(COUNT, 34))} == set(names)


@pytest.mark.parametrize("size", [0, 1, 40])
def test_a_judge_that_may_not_write_its_verdict_pays_nothing(size: int) -> None:
    with Sandbox(workers=1, limits=Limits(file_bytes=size)) as sandbox:
        grade = grade_code(["def f(x):\n    return x + 1"], ["assert f(1) == 2"], sandbox=sandbox)[0]
    assert grade.reason in ("crash", "invalid_test")  # without the program they cannot write it either


@pytest.mark.parametrize("mode", ["namespaces", "plain"])
def test_no_program_that_ends_kills_or_silences_its_judge_is_rewarded(mode: Literal["namespaces", "plain"]) -> None:
    attacks = chosen(COUNT)
    with Sandbox(workers=2, mode=mode) as sandbox:
        try:
            sandbox.pool.map(lambda worker, _: worker.processes(), [None], set())
        except Exception:  # what a worker that does not start raises
            pytest.skip(f"no sandbox in the mode {mode} here")
        programs = [program(way, when) for way, when, _ in attacks]
        grades = grade_code(programs, [FORMS[form] for _, _, form in attacks], timeout=0.7, sandbox=sandbox)
        honest = grade_code(
            ["def f(x):\n    return [2, 'never'][x - 1]"] * len(FORMS), list(FORMS.values()), sandbox=sandbox
        )
    paid = [(attack, grade) for attack, grade in zip(attacks, grades, strict=True) if grade.reward != 0.0]
    assert paid == []
    assert [grade.reason for grade in honest] == ["correct"] * len(FORMS)
