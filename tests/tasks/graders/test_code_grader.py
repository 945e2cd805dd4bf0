import contextlib
import gzip
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onelayer.errors import UserError
from onelayer.tasks.graders.code_sandbox import grade_code, require_protections
from onelayer.tasks.graders.code_tests import (
    CallTests,
    CodeTests,
    ScriptTests,
    assemble,
    extract_code,
    parse_tests,
    same_output,
)
from onelayer.tasks.graders.grade import Grade, count_reasons
from onelayer.tasks.graders.grade_file import grade_file
from onelayer.tasks.graders.probes import attacks, bait, probe, statement
from onelayer.tasks.graders.protection import Limits
from onelayer.tasks.graders.sandbox import Sandbox
from onelayer.tasks.graders.sandbox_judge import free_names, same
from onelayer.tasks.graders.wire import decode, encode
from tests.support.hostile import HONEST, PROGRAMS, TESTS

HUMAN_EVAL = Path(__file__).parents[3].parent / "shared" / "data" / "HumanEval.jsonl.gz"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(workers=1) as sandbox:
        yield sandbox


def grade(sandbox: Sandbox, program: str, tests: Any, timeout: float = 10.0) -> Grade:
    return grade_code([program], [tests], timeout=timeout, sandbox=sandbox)[0]


# The test formats ---------------------------------------------------------------------------------------------------
STDIN_CASES = [{"input": "1 2\n", "output": "3\n"}, {"input": "5 6", "output": "11"}]
ADD_SCRIPT = "a, b = map(int, input().split())\nprint(a + b)"
ADD = "def add(a, b):\n    return a + b"
ADD_METHOD = "class Solution:\n    def add(self, a: int, b: int) -> int:\n        return a + b"
LIVE_CODE_BENCH = [{"input": "1\n2", "output": "3", "testtype": "functional", "metadata": {"func_name": "add"}}]


@pytest.mark.parametrize(
    ("tests", "right", "wrong"),
    [
        (STDIN_CASES, ADD_SCRIPT, "print(3)"),
        (json.dumps(STDIN_CASES), ADD_SCRIPT, "print(3)"),
        ([case | {"type": "stdin_stdout"} for case in STDIN_CASES], ADD_SCRIPT, "print(3)"),
        ({"inputs": ["1 2", ["5 6"]], "outputs": ["3", ["11"]]}, ADD_SCRIPT, "print(3)"),
        ({"input_output": json.dumps({"inputs": ["1 2"], "outputs": ["3"]})}, ADD_SCRIPT, "print(4)"),
        (["assert add(1, 2) == 3", "assert add(5, 6) == 11"], ADD, "def add(a, b): return 3"),
        ("assert add(1, 2) == 3\nassert add(a=5, b=6) == 11", ADD, "def add(a, b): return 3"),
        ({"test_list": ["assert add(1, two) == 3"], "test_setup_code": "two = 2"}, ADD, "def add(a, b): return 2"),
        ({"test": "def check(f):\n    assert f(1, 2) == 3", "entry_point": "add"}, ADD, "def add(a, b): return 2"),
        ({"fn_name": "add", "inputs": [[1, 2], [5, 6]], "outputs": [3, [11]]}, ADD, "def add(a, b): return 3"),
        ([{"input": [1, 2], "output": [3], "fn_name": "add", "type": "function_call"}], ADD, "def add(a, b): return 0"),
        (LIVE_CODE_BENCH, ADD_METHOD, "class Solution:\n    def add(self, a, b): return 4"),
        (LIVE_CODE_BENCH, ADD, "def add(a, b): return 4"),
    ],
)
def test_every_format_tells_right_from_wrong(sandbox: Sandbox, tests: Any, right: str, wrong: str) -> None:
    assert grade(sandbox, right, tests).reason == "correct"
    assert grade(sandbox, wrong, tests).reason == "wrong"


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        ("", "no known format"),
        ([], "no known format"),
        (3, "no known format"),
        ("[1,", "look like JSON but are not"),
        ("assert f(", "not valid Python: '\\(' was never closed in line 1"),
        ({"inputs": ["1"], "outputs": []}, "1 inputs and 0 outputs"),
        ({"questions": 1}, "have the keys questions"),
        ([{"input": "1"}], "needs 'input' and 'output'"),
        ([{"input": "1", "output": "2", "type": "function_call"}], "needs its name"),
    ],
)
def test_unknown_tests_are_the_users_error_and_no_verdict(sandbox: Sandbox, tests: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_tests(tests)
    verdict = grade(sandbox, "x = 1", tests)
    assert (verdict.reason, verdict.reward) == ("invalid_test", None)


def test_code_is_taken_from_the_last_python_block() -> None:
    text = "First\n```python\na = 1\n```\nbetter:\n```py\na = 2\n```\nprints\n```\n2\n```\n"
    assert extract_code(text) == "a = 2\n"
    assert extract_code("x\n```\na = 3\n```") == "a = 3\n"
    assert extract_code("```python\na = 4\n") == "a = 4\n"
    assert extract_code("    return 5\n") == "    return 5\n"


def test_a_prompt_is_completed_or_followed() -> None:
    tests = CodeTests("", 'def helper():\n    return 1\n\ndef f(x):\n    """Double."""\n', "f")
    for code in ("    return 2 * x\n", "def f(x):\n    return 2 * x\n"):
        namespace: dict[str, Any] = {}
        exec(assemble(code, tests), namespace)
        assert (namespace["f"](3), namespace["helper"]()) == (6, 1)


def test_outputs_agree_by_line_and_by_number() -> None:
    assert same_output("1 2 \n3\n\n", "1 2\n3")
    assert same_output("1.0 2", "1 2.00")
    assert not same_output("1 2 3", "1 2\n3")
    assert not same_output("1.1", "1")
    assert not same_output("", "1")
    assert not same_output("yes", "Yes")


def test_parsed_tests_pass_through() -> None:
    for tests in (ScriptTests((("1", "2"),)), CallTests("f", (([1], 2),)), CodeTests("assert 1")):
        assert parse_tests(tests) is tests


# What tests see of a program ----------------------------------------------------------------------------------------
def no_reference(value: Any) -> Any:
    raise AssertionError(f"{value!r} is plain data")


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.binary(max_size=5)
)
PLAIN = st.recursive(
    SCALARS | st.complex_numbers(allow_nan=False) | st.integers(1 << 1024, 1 << 1100),
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(PLAIN)
def test_plain_data_crosses_unchanged(value: Any) -> None:
    copy = decode(json.loads(json.dumps(encode(value, no_reference))), no_reference)
    assert repr(copy) == repr(value)


@pytest.mark.parametrize("value", [{1, 2}, frozenset("ab"), range(2, 9, 3), bytearray(b"a"), {(1, 2): [None]}])
def test_other_built_in_types_cross_unchanged(value: Any) -> None:
    copy = decode(json.loads(json.dumps(encode(value, no_reference))), no_reference)
    assert copy == value
    assert type(copy) is type(value)


def test_integers_beyond_the_limit_of_digits_cross_unchanged() -> None:
    value = -(1 << 70_000)
    assert decode(json.loads(json.dumps(encode(value, no_reference))), no_reference) == value


def test_subclasses_cross_as_their_base() -> None:
    class Liar(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    copy = decode(encode([Liar(3)], dict), dict)
    assert type(copy[0]) is int
    assert copy == [3]


def test_free_names() -> None:
    source = "import math\nlimit = 3\ndef check(f):\n    def g(x): return h(x, limit)\n    assert f(1) == other"
    assert free_names(source) == {"h", "other"}
    assert free_names("assert math.isclose(f(1), len([y for y in range(2)]))") == {"math", "f", "len", "range"}


@pytest.mark.parametrize(
    ("program", "tests"),
    [
        ("def f(n):\n    yield from range(n)", "assert list(f(3)) == [0, 1, 2]\nassert sum(x for x in f(4)) == 6"),
        (
            "class P:\n    def __init__(self, x): self.x = x\ndef g(p): return p.x",
            "p = P(3)\nassert g(p) == 3\np.x = 4\nassert g(p) == p.x == 4",
        ),
        ("LIMIT = 5\ndef f(): return LIMIT", "assert f() == LIMIT == 5"),
        (
            "def f(x):\n    if x < 0: raise ValueError('no')\n    return x",
            "try:\n    f(-1)\nexcept ValueError:\n    assert f(1) == 1\nelse:\n    assert False",
        ),
        ("from collections import Counter\ndef f(t): return Counter(t)", "assert f('aab') == {'a': 2, 'b': 1}"),
        ("import math\ndef f(x): return math.pi * x", "assert math.isclose(f(1), 3.14159265358979)"),
        ("def sum(a, b): return a * b", "assert sum(2, 5) == 10\nassert sum(3, 3) == 9"),
        ("def f(x): return x", "assert f((1, 'a', None, 2.5, {1: {2}})) == (1, 'a', None, 2.5, {1: {2}})"),
        ("def f(): return float('inf')", "assert f() == float('inf')"),
        ("x = 3", "assert x == 3"),
        ("if __name__ == '__main__':\n    raise SystemExit\ndef f(): return 1", "assert f() == 1"),
        ("import dataclasses\n@dataclasses.dataclass\nclass P:\n    x: int\ndef f(): return P(2).x", "assert f() == 2"),
    ],
)  # fmt: skip
def test_tests_work_as_they_would_in_one_process(sandbox: Sandbox, program: str, tests: str) -> None:
    exec(program + "\n" + tests, {"__name__": "in_process"})
    assert grade(sandbox, program, tests).reason == "correct"


def test_built_ins_of_the_program_do_not_reach_the_tests(sandbox: Sandbox) -> None:
    program = "def abs(x): return 0\ndef len(x): return 2\ndef f(x): return 0"
    assert grade(sandbox, program, "assert abs(f(1) - 5) < 1").reason == "wrong"
    assert grade(sandbox, program, "assert len([f(1)]) == 2").reason == "wrong"


def test_helpers_of_the_prompt_cannot_be_redefined(sandbox: Sandbox) -> None:
    tests = {
        "prompt": 'def twice(x):\n    return 2 * x\n\ndef f(x):\n    """Halve."""\n',
        "test": "def check(candidate):\n    assert candidate(twice(3)) == 3",
        "entry_point": "f",
    }
    assert grade(sandbox, "    return x // 2\n", tests).reason == "correct"
    assert grade(sandbox, "    return x\n\ndef twice(x):\n    return x\n", tests).reason == "wrong"


def test_values_of_json_tests_compare_as_json() -> None:
    assert same((1, [2.0000000000001]), [1, [2]])
    assert same({1: "a"}, {"1": "a"})
    assert not same([1, 2], [1])
    assert not same("1", 1)
    assert not same(None, 0)


def test_reasons_tell_failures_apart(sandbox: Sandbox) -> None:
    expected = {
        "def f(): return 1": "correct",
        "def f(): return 2": "wrong",
        "def f(): return 1 / 0": "error",
        "def g(): return 1": "error",
        "def f(: return 1": "error",
        "import sys; sys.exit(0)": "exited",
        "def f():\n    while True: pass": "timeout",
        "import os; os.kill(os.getpid(), 11); os.abort()": "crash",
        "": "no_answer",
    }
    grades = grade_code(list(expected), ["assert f() == 1"] * len(expected), timeout=2.0, sandbox=sandbox)
    assert [verdict.reason for verdict in grades] == list(expected.values())
    missing = grade(sandbox, "f = 1", "assert unknown(1) == f")
    assert (missing.reason, missing.detail) == ("error", "NameError")
    assert grade(sandbox, "def f(x): return x", "assert f(lambda: 1)").reason == "invalid_test"


def test_scripts_see_a_plain_interpreter(sandbox: Sandbox) -> None:
    program = (
        "import sys, threading, atexit\n"
        "atexit.register(print, 'last')\n"
        "threading.Thread(target=lambda: print(len(sys.stdin.read()), __name__)).start()\n"
    )
    assert grade(sandbox, program, [{"input": "x" * 1000, "output": "1000 __main__\nlast"}]).reason == "correct"
    assert grade(sandbox, "print(1)\nexit()", [{"input": "", "output": "1"}]).reason == "correct"
    failed = grade(sandbox, "print(1)\nraise SystemExit('x')", [{"input": "", "output": "1"}])
    assert (failed.reason, failed.detail) == ("error", "test 1 of 1: exit code 1")


def test_programs_do_not_see_each_other(sandbox: Sandbox) -> None:
    leave = "import builtins, json\nbuiltins.left = 1\njson.left = 1\nopen('left', 'w').write('x')\ndef f(): return 1"
    look = (
        "import builtins, json, os\ndef f(): return [hasattr(builtins, 'left'), hasattr(json, 'left'), os.listdir('.')]"
    )
    assert grade(sandbox, leave, "assert f() == 1").reason == "correct"
    assert grade(sandbox, look, "assert f() == [False, False, []]").reason == "correct"


def test_batch_deadline_leaves_the_rest_without_a_reward(sandbox: Sandbox) -> None:
    grades = grade_code(["while True: pass"] * 4, ["assert f()"] * 4, timeout=0.5, batch_deadline=0.8, sandbox=sandbox)
    assert [verdict.reason for verdict in grades] == ["timeout", "not_graded", "not_graded", "not_graded"]
    assert grades[-1].reward is None


# Attacks ------------------------------------------------------------------------------------------------------------
def test_protections_are_probed_and_stated(sandbox: Sandbox) -> None:
    protections = probe(sandbox)
    always = {"memory", "file size", "open files", "environment", "deadline"}
    assert all(protections[name] for name in always)
    assert ("NOT protected" in statement(sandbox, protections)) == (not all(protections.values()))
    if sandbox.mode == "namespaces":
        require_protections(protections)


def test_the_attacks_succeed_where_nothing_protects(tmp_path: Path) -> None:
    limits = Limits(memory_bytes=1 << 20, file_bytes=1 << 20, open_files=8)
    with bait() as (folder, port):
        programs = attacks(limits, folder, port)
        # Whether an ordinary process may do these depends on the system; "processes" leaves processes behind.
        for name in programs.keys() - {"privileges", "looking into processes", "processes", "root's user id"}:
            command = [sys.executable, "-c", programs[name]]
            assert subprocess.run(command, cwd=tmp_path, timeout=30).returncode == 0, name


def test_what_is_not_protected_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"an attack on it succeeded \(network\)"):
        require_protections({"reading files": True, "network": False})


@pytest.fixture(scope="module")
def strong_sandbox(sandbox: Sandbox) -> Sandbox:
    missing = [name for name, held in probe(sandbox).items() if not held]
    if missing:
        pytest.skip(f"this system cannot protect {', '.join(missing)}")
    return sandbox


@pytest.mark.parametrize("name", PROGRAMS)
def test_hostile_programs_earn_nothing_and_leave_nothing(strong_sandbox: Sandbox, name: str) -> None:
    before = strong_sandbox.pool.map(lambda worker, _: worker.processes(), [None], set())
    started = time.monotonic()
    assert grade(strong_sandbox, PROGRAMS[name], TESTS, timeout=0.5).reward == 0.0
    assert time.monotonic() - started < 3.0
    assert strong_sandbox.pool.map(lambda worker, _: worker.processes(), [None], set()) == before
    assert grade(strong_sandbox, HONEST, TESTS).reason == "correct"


def test_without_namespaces_cheating_still_fails() -> None:
    cheats = list(PROGRAMS)[: list(PROGRAMS).index("reads /etc/passwd")]
    with Sandbox(workers=1, mode="plain") as sandbox:
        grades = grade_code([PROGRAMS[name] for name in cheats], [TESTS] * len(cheats), timeout=1.0, sandbox=sandbox)
        assert {verdict.reward for verdict in grades} == {0.0}
        assert grade(sandbox, HONEST, TESTS).reason == "correct"


def is_running(process: int) -> bool:
    return psutil.pid_exists(process) and psutil.Process(process).status() != psutil.STATUS_ZOMBIE


def wait_until_gone(processes: set[int]) -> bool:
    end = time.monotonic() + 10
    while any(map(is_running, processes)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(is_running, processes))


@pytest.mark.parametrize(("tries", "verdict"), [(2, ("correct", 1.0)), (1, ("crash", 0.0))])
def test_a_killed_worker_is_replaced_and_its_program_run_again(
    tries: int, verdict: tuple[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onelayer.tasks.graders.pool.TRIES", tries)
    with Sandbox(workers=1) as sandbox:
        (processes,) = sandbox.pool.map(lambda worker, _: worker.processes(), [None], set())
        worker = min(processes, key=lambda number: (psutil.Process(number).create_time(), number))

        def kill_all() -> None:
            for process in psutil.Process(worker).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):  # it went with its parent
                    process.kill()

        # While it works: one that dies idle is replaced before it gets anything.
        timer = threading.Timer(0.5, kill_all)
        timer.start()
        slow = f"import time\ntime.sleep(2)\n{HONEST}"
        first, next_one = grade_code([slow, HONEST], [TESTS, TESTS], timeout=6.0, sandbox=sandbox)
        timer.join()
    assert (first.reason, first.reward) == verdict
    assert next_one.reason == "correct"
    assert wait_until_gone(processes)


def test_killed_parent_leaves_no_process() -> None:
    script = """
import os, threading, time
from onelayer.tasks.graders.code_sandbox import grade_code
from onelayer.tasks.graders.sandbox import Sandbox
sandbox = Sandbox(workers=1)
print(*sandbox.pool.map(lambda worker, _: worker.processes(), [None], set())[0], flush=True)
job = lambda: grade_code(["while True: pass"], ["assert f()"], timeout=2, sandbox=sandbox)
threading.Thread(target=job, daemon=True).start()
time.sleep(0.3)
os.kill(os.getpid(), 9)
"""
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60).stdout
    processes = {int(process) for process in output.split()}
    assert processes
    assert wait_until_gone(processes)


# Real problems ------------------------------------------------------------------------------------------------------
def in_process(program: str, problem: dict[str, str]) -> bool:
    """HumanEval's own rule, without its isolation: the program, the tests, then ``check(entry_point)``, all in one."""
    source = f"{program}\n{problem['test']}\ncheck({problem['entry_point']})"
    code = f"try:\n    exec({source!r}, {{}})\nexcept BaseException:\n    raise SystemExit(1)"
    return subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, timeout=10).returncode == 0


def test_human_eval_solutions_pass_and_mutants_agree_with_its_own_rule(sandbox: Sandbox) -> None:
    if not HUMAN_EVAL.exists():
        pytest.skip(f"{HUMAN_EVAL} is not there")
    with gzip.open(HUMAN_EVAL, "rt") as lines:
        problems = [json.loads(line) for line in lines][::8]
    solutions = [problem["canonical_solution"] for problem in problems]
    assert count_reasons(grade_code(solutions, problems, sandbox=sandbox)) == {"correct": len(problems)}
    mutants = [re.sub(r"\breturn .+", "return 0", solution) for solution in solutions]
    grades = grade_code(mutants, problems, sandbox=sandbox)
    official = [
        in_process(problem["prompt"] + mutant, problem) for mutant, problem in zip(mutants, problems, strict=True)
    ]
    assert [verdict.reason == "correct" for verdict in grades] == official


# Files --------------------------------------------------------------------------------------------------------------
def test_grade_file_adds_reward_and_reason(tmp_path: Path) -> None:
    rows = [{"id": 1, "completion": "The answer is 4", "answer": "#### 4"}, {"id": 2, "completion": "", "answer": "4"}]
    path, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert grade_file(path, "math", output) == {"correct": 1, "no_answer": 1}
    graded = [json.loads(line) for line in output.read_text().splitlines()]
    assert graded == [rows[0] | {"reward": 1.0, "reason": "correct"}, rows[1] | {"reward": 0.0, "reason": "no_answer"}]


def test_grade_file_runs_programs(tmp_path: Path) -> None:
    path, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    path.write_text(json.dumps({"completion": f"Here:\n```python\n{HONEST}```", "tests": TESTS}))
    assert grade_file(path, "code", output) == {"correct": 1}
    assert json.loads(output.read_text())["reward"] == 1.0


@pytest.mark.parametrize(
    ("text", "grader", "message"),
    [
        ("{", "math", r"in.jsonl, line 1: this is not JSON"),
        ("\n3", "math", r"line 2: this is not a JSON object"),
        ('{"completion": "4"}', "math", r"line 1: the math grader needs 'answer'; the row has 'completion'"),
        ('{"completion": "4", "answer": "4"}', "code", r"the code grader needs 'tests'"),
        ('{"completion": 4, "answer": "4"}', "math", r"'completion' has to be text, not int"),
        ('{"completion": "4", "tests": "assert ("}', "code", r"line 1: The tests are not valid Python"),
        ("", "math", r"holds no rows"),
        ("", "maths", r"no grader 'maths'; use math or code"),
    ],
)
def test_bad_files_are_the_users_error(tmp_path: Path, text: str, grader: Any, message: str) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        grade_file(path, grader, tmp_path / "out.jsonl")


def test_missing_file_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        grade_file(tmp_path / "none.jsonl", "math", tmp_path / "out.jsonl")
