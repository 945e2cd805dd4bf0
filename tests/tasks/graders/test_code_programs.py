"""What right programs rely on: how they stand in a completion, the names and files they find, how output is compared."""

import json
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from onelayer.errors import UserError
from onelayer.tasks.benchmarks import get_benchmark, get_training_set
from onelayer.tasks.graders.code_sandbox import grade_code
from onelayer.tasks.graders.code_tests import CallTests, ScriptTests, extract_code, parse_tests, same_output
from onelayer.tasks.graders.grade_file import grade_file
from onelayer.tasks.graders.protection import Limits
from onelayer.tasks.graders.sandbox import Sandbox


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(workers=1) as sandbox:
        yield sandbox


# Where the program stands -------------------------------------------------------------------------------------------
CODE = "if 1:\n    print(2)\n"


def indented(columns: int) -> str:
    return "".join(" " * columns + line + "\n" for line in CODE.splitlines())


@pytest.mark.parametrize(
    "text",
    [
        f"```python\n{CODE}```",
        f"~~~py\n{CODE}~~~\nbye",
        f"`````python\n{CODE}`````",
        f"1. First\n\n   ```python\n{indented(3)}   ```\n2. Then",
        f"- a\n  1. b\n\n     ```python3\n{indented(5)}     ```",
        f"- ```python\n{indented(2)}  ```",
        f"12) ~~~ python title=x\n{indented(4)}    ~~~",
        "> ```python\n" + "".join(f"> {line}\n" for line in CODE.splitlines()) + "> ```\n",
        f"```{{.python .numberLines}}\n{CODE}```",
        f"```Python3.11\n{CODE}```",
        f"```python\n{CODE}",
        f"```\n{CODE}```",
        f"Use `x`.\n```bash\npip install x\n```\n```python\n{CODE}```\nIt prints\n```\n2\n```",
        f"```python\n{CODE}```\n```python\n```",
        f"{CODE}```\n",
        f"```x``` is inline\n```python\n{CODE}```",
    ],
)
def test_a_program_is_found_in_its_block(text: str) -> None:
    assert extract_code(text).strip() == CODE.strip()


def test_a_fence_ends_only_at_its_like() -> None:
    inner = "s = '''\n```\n~~~\n    ```\n'''\n"
    assert extract_code(f"````python\n{inner}````\nend") == inner
    assert extract_code(f"~~~~python\n{inner}~~~~~\nend") == inner
    docstring = 'def f():\n    """\n    ```\n    example\n    ```\n    """\n'
    assert extract_code(f"```python\n{docstring}```") == docstring
    assert extract_code("```python\r\nx = 1\r\n```\r\nbye") == "x = 1\r\n"


HARD = ("```\n", "- ", "``` ", "`" * 7 + "\n", "> ", "~~~x\n", "1. ", "\t", "```python\n" + "a\n", " \n", "9")


@pytest.mark.parametrize("part", HARD)
def test_twice_the_text_takes_twice_the_time(part: str) -> None:
    def seconds(count: int) -> float:
        text = part * count
        best = float("inf")
        for _ in range(3):
            started = time.process_time()
            extract_code(text)
            extract_code("```" + text)
            same_output(text + "x", text + "y")
            same_output(text + "1.", text + "1.0")
            best = min(best, time.process_time() - started)
        return best

    assert seconds(40_000) < 3.5 * seconds(20_000) + 0.01


# Outputs ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("printed", "expected", "tolerance", "same"),
    [
        ("0.3333", "0.33330", 0.0, True),
        ("0.33333333", "0.33333334", 0.0, False),
        ("0.33333333", "0.33333334", 1e-6, True),
        ("0.3334", "0.3333", 1e-6, False),
        ("2.9999999", "3", 1e-6, True),
        ("3", "2.9999999", 1e-6, True),
        ("1000001", "1000000", 1e-3, False),  # whole numbers are compared exactly
        ("1000000.5", "1000000", 1e-6, False),  # nor may a float be far from one
        ("9007199254740992.0", "9007199254740993", 1e-6, False),
        ("1000000.5", "1000000.0", 1e-6, True),
        ("1e400", "1e401", 1e-6, False),
        ("inf", "1e400", 1e-6, False),
        ("Infinity", "inf", 0.0, True),
        ("nan", "nan", 0.0, True),
        ("sNaN", "1", 1e-6, False),
        ("1e-7", "0.0", 1e-6, True),
        ("yes 1.0", "yes 1", 1e-6, False),
        ("1_000", "1000", 0.0, False),
        ("1 2", "1  2", 0.0, True),
        ("1 2", "1 2 3", 0.0, False),
        ("1\n\n2", "1\n2", 0.0, False),
        ("1 \r\n2\r\n", "1\n2", 0.0, True),
        ("a\u2028b", "a\nb", 0.0, False),
    ],
)
def test_numbers_agree_by_value_and_as_far_as_allowed(
    printed: str, expected: str, tolerance: float, same: bool
) -> None:
    assert same_output(printed, expected, tolerance) is same
    assert same_output(printed.encode(), expected.encode(), tolerance) is same


@pytest.mark.parametrize("printed", ["1 ", "1\n", "1.0 ", "\U0001f600 ", " ", "x"])
def test_comparing_outputs_takes_little_memory(printed: str) -> None:
    text = (printed * (1 << 20))[: 1 << 20]
    expected = "1 " * (1 << 19)
    tracemalloc.start()
    same_output(text.encode(), expected, 1e-6)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * (len(text.encode()) + len(expected))


def test_no_more_of_an_output_is_read_than_a_program_may_write() -> None:
    with Sandbox(workers=1, limits=Limits(file_bytes=1000)) as sandbox:
        program = "import os\nos.write(1, b'7' * 1000)\nos.lseek(1, 0, 0)\nprint(7)"
        execution = sandbox.pool.map(lambda w, _: sandbox.run_script(w, program, "", 5.0), [None], None)[0]
        assert execution is not None
        assert len(execution.output) <= 1000


def test_the_tolerance_of_a_set_reaches_its_scripts(tmp_path: Path) -> None:
    content = {
        "kind": "benchmark",
        "description": "d",
        "category": "Code",
        "source": {"hub": "nobody/x"},
        "columns": {"problem": "q", "tests": "t"},
        "prompt": "{{ problem }}",
        "grader": "code",
    }
    path = tmp_path / "own.yaml"
    tests = {"tests": [{"input": "", "output": "0.3333333333"}]}
    for tolerance, reward in ((None, 0.0), (0.0, 0.0), (1e-6, 1.0)):
        path.write_text(yaml.safe_dump(content | ({} if tolerance is None else {"float_tolerance": tolerance})))
        benchmark = get_benchmark(str(path))
        assert benchmark.grade(["print(0.33333333)"], [tests])[0].reward == reward
        assert benchmark.settings(chat=False, file=None)["float_tolerance"] == (tolerance or 0.0)
    for wrong in (-1, 1, "much", float("nan")):
        path.write_text(yaml.safe_dump(content | {"float_tolerance": wrong}))
        with pytest.raises(UserError, match="float_tolerance"):
            get_benchmark(str(path))
    assert get_benchmark("livecodebench").float_tolerance == 0.0
    assert get_training_set("deepcoder").float_tolerance == 1e-6


# What a program finds -----------------------------------------------------------------------------------------------
SUM = [{"input": "3 4\n", "output": "7\n"}]
READ = "a, b = map(int, input().split())\n"
SCRIPTS = {
    "sys.__stdout__": READ + "import sys\nprint(a + b, file=sys.__stdout__)",
    "os.write": READ + "import os\nos.write(1, str(a + b).encode())",
    "buffer": READ + "import sys\nsys.stdout.buffer.write(b'7')",
    "rewrapped": "import sys, io\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer)\n" + READ + "print(a + b)",
    "detached": "import sys, io\nsys.stdout = io.TextIOWrapper(sys.stdout.detach())\n" + READ + "print(a + b)",
    "detached and written to": "import sys\nout = sys.stdout.detach()\nout.write(b'7')",
    "closed": READ + "import sys\nprint(a + b)\nsys.stdout.close()",
    "descriptor closed": READ + "import os\nprint(a + b, flush=True)\nos.close(1)",
    "replaced by nothing": READ + "import sys\nprint(a + b)\nsys.stdout = None",
    "left open": READ + "out = open(1, 'w')\nout.write('7')",
    "left open in a cycle": READ + "import os\nout = os.fdopen(1, 'w')\nprint(a + b, file=out)\ndef f(): return out",
    "codecs": "import codecs, sys\nsys.stdout = codecs.getwriter('utf8')(sys.stdout.buffer)\nprint(7)",
    "a buffer written when flushed": (
        "import os, sys\nclass Out:\n    text = ''\n    def write(self, s): self.text += s\n"
        "    def flush(self):\n        os.write(1, self.text.encode())\n        self.text = ''\nsys.stdout = Out()\nprint(7)"
    ),
    "a buffer written at exit": (
        "import atexit, io, sys\nbuf = io.StringIO()\nsys.stdout = buf\n"
        "atexit.register(lambda: sys.__stdout__.write(buf.getvalue()))\nprint(7)"
    ),
    "__del__": READ + "class X:\n    def __del__(self): print(a + b)\nx = X()",
    "weakref.finalize": READ + "import weakref\nclass X: pass\nx = X()\nweakref.finalize(x, print, a + b)",
    "a thread": READ + "import threading\nthreading.Thread(target=lambda: print(a + b)).start()",
    "an executor left open": (
        "from concurrent.futures import ThreadPoolExecutor\npool = ThreadPoolExecutor(2)\npool.submit(lambda: print(7))"
    ),
    "sys.stdin.buffer": "import sys\nprint(sum(map(int, sys.stdin.buffer.read().split())))",
    "open(0)": "print(sum(map(int, open(0).read().split())))",
    "/dev/stdin": "with open('/dev/stdin') as f:\n    print(sum(map(int, f.read().split())))",
    "/dev/stdin as a path": "from pathlib import Path\nprint(sum(map(int, Path('/dev/stdin').read_text().split())))",
    "/proc/self/fd/0": "print(sum(map(int, open('/proc/self/fd/0', 'rb').read().split())))",
    "os.open": "import os\nprint(sum(map(int, os.read(os.open('/dev/fd/0', os.O_RDONLY), 99).split())))",
    "/dev/stdout": "open('/dev/stdout', 'w').write('7')",
    "fileinput": "import fileinput\nfor line in fileinput.input():\n    print(sum(map(int, line.split())))",
    "__file__": "import os\nprint(7 if os.path.isabs(__file__) and 'isabs' in open(__file__).read() else 0)",
    "inspect": "import inspect\ndef f(): return 7\nprint(f() if 'return 7' in inspect.getsource(f) else 0)",
    "main": "def main():\n    print(7)\nif __name__ == '__main__':\n    main()",
    "sys.exit(0)": "import sys\nprint(7)\nsys.exit(0)",
    "os._exit": "import os\nprint(7, flush=True)\nos._exit(0)",
}


@pytest.mark.parametrize("mode", ["namespaces", "plain"])
def test_scripts_read_and_print_in_every_way_of_an_interpreter(mode: Any) -> None:
    with Sandbox(workers=1, mode=mode) as sandbox:
        try:
            grades = grade_code(list(SCRIPTS.values()), [SUM] * len(SCRIPTS), sandbox=sandbox)
        except Exception:  # what a worker that does not start raises
            pytest.skip(f"no sandbox in the mode {mode} here")
    wrong = {name: grade for name, grade in zip(SCRIPTS, grades, strict=True) if grade.reason != "correct"}
    assert wrong == {}


@pytest.mark.parametrize(
    "program",
    [
        "class Solution:\n    def f(self, a: List[int], b: Optional[Dict[str, Any]] = None) -> int: return len(deque(a))",
        "def f(a):\n    h = []\n    [heapq.heappush(h, x) for x in a]\n    return len(h)",
        "def f(a): return gcd(2, 4) + bisect_left(a, 0) + Counter(a)[9] * inf if 0 else isqrt(4)",
        "@cache\ndef g(n): return n\ndef f(a): return g(reduce(lambda x, y: x + 1, a, 0))",
        "class Solution:\n    def f(self, a): return lru_cache(None)(math.floor)(2.5)",
        "def f(a):\n    d = defaultdict(list)\n    d[1] += accumulate(a)\n    return len(d[1])",
        "def g(n): return 0 if n == 0 else g(n - 1)\ndef f(a): return g(9000) + 2",
        "def f(a): return len(list(itertools.chain(a)))",
    ],
)
def test_called_programs_find_the_names_of_leetcode_and_livecodebench(sandbox: Sandbox, program: str) -> None:
    case = {"input": "[1, 2]", "output": "2", "testtype": "functional", "metadata": '{"func_name": "f"}'}
    assert grade_code([program], [[case]], sandbox=sandbox)[0].reason == "correct"


def test_provided_names_are_no_answer_and_do_not_hide_a_programs_own(sandbox: Sandbox) -> None:
    search = {"fn_name": "search", "inputs": [["a", "ba"]], "outputs": [7]}
    solution = "class Solution:\n    def search(self, a, b): return 7"
    assert grade_code([solution], [search], sandbox=sandbox)[0].reason == "correct"
    gcd = {"fn_name": "gcd", "inputs": [[4, 6]], "outputs": [2]}
    assert grade_code(["x = 1"], [gcd], sandbox=sandbox)[0].reason == "error"
    own = "def gcd(a, b): return 7\ndef f(a, b): return gcd(a, b) + pow(2, 3)"
    assert grade_code([own], [{"fn_name": "f", "inputs": [[4, 6]], "outputs": [15]}], sandbox=sandbox)[0].reward == 1.0
    assert grade_code(["print(gcd(1, 2))"], [[{"input": "", "output": "1"}]], sandbox=sandbox)[0].reason == "error"


# Rows as files hold them --------------------------------------------------------------------------------------------
CALL = {"testtype": "functional", "metadata": {"func_name": "f"}}


@pytest.mark.parametrize(
    ("tests", "cases"),
    [
        ([CALL | {"input": "1\n\n2\n\n", "output": "3\n"}], (([1, 2], 3),)),
        ([CALL | {"input": "True\nNone\n'a'\n(1, 2)", "output": "False"}], (([True, None, "a", (1, 2)], False),)),
        ([CALL | {"input": '"a\u2028b"', "output": "null"}], ((["a\u2028b"], None),)),
        ([CALL | {"input": "1", "output": "1", "metadata": json.dumps(json.dumps({"func_name": "f"}))}], (([1], 1),)),
        ([CALL | {"input": "1", "output": "1", "metadata": {"metadata": {"func_name": "f"}}}], (([1], 1),)),
        ([{"input": "1", "output": "1", "metadata": "null", "fn_name": "f"}], (([1], 1),)),
        ([{"input": "1", "output": 1, "fn_name": "f"}], (([1], 1),)),
    ],
)
def test_rows_of_calls_are_read_as_they_are_written(tests: Any, cases: Any) -> None:
    found = parse_tests(tests)
    assert isinstance(found, CallTests)
    assert (found.fn_name, found.cases) == ("f", cases)


@pytest.mark.parametrize("metadata", [None, "", "null", "{}", {}, {"func_name": None}, '"null"', {"metadata": None}])
def test_rows_of_scripts_may_say_nothing_of_themselves(metadata: Any) -> None:
    assert parse_tests([{"input": None, "output": "1", "metadata": metadata}]) == ScriptTests((("", "1"),))


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        ({"inputs": None, "outputs": None}, "'inputs' has to be a list, not null"),
        ({"inputs": "ab", "outputs": "ab"}, "'inputs' has to be a list, not 'ab'"),
        ({"inputs": [1], "outputs": [1], "fn_name": "f"}, "arguments of a call have to be a list"),
        ({"inputs": [1], "outputs": [1], "fn_name": 3}, "'fn_name' has to be text"),
        ([{"input": "1", "output": None}], "has the output null"),
        ([CALL | {"input": "1", "output": "a b"}], "'a b' of a test case is neither JSON nor a Python value"),
        ([CALL | {"input": "{1, 2}", "output": "1"}], "neither JSON nor a Python value"),
        ([CALL | {"input": "1", "output": "1"}, CALL | {"input": 3, "output": "1"}], "one value a line"),
        ([{"input": "1", "output": "1", "metadata": "{"}], "metadata of a test case is not JSON"),
        ([{"input": "1", "output": "1", "metadata": [1]}], "has to be an object with names"),
        ({"test": None, "entry_point": "f"}, "'test' has to be text"),
        ({"test": "assert f(1)", "entry_point": 3}, "'entry_point' has to be text"),
        ({"test_list": "assert f(1)"}, "'test_list' has to be a list"),
        ({"test_list": [1]}, "'test_list' has to be text"),
        ({"input_output": [1]}, "'input_output' has to be an object"),
        ("assert f(1) == '\0'", "not valid Python"),
        (b"assert f(1)", "no known format"),
        ("[" * 100_000, "JSON"),
    ],
)
def test_rows_that_cannot_be_read_are_one_sentence(tests: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_tests(tests)


def test_such_rows_stop_a_file_before_anything_is_written(tmp_path: Path) -> None:
    path, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    path.write_text(json.dumps({"completion": "print(1)", "tests": {"inputs": None, "outputs": None}}))
    with pytest.raises(UserError, match="line 1: In the tests 'inputs' has to be a list"):
        grade_file(path, "code", output)
    assert not output.exists()
