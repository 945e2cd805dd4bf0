"""Reward functions from files: what scripts do in them works, what they answer is read right, what fails names the line."""

import json
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from onelayer.config.configs import TrainConfig
from onelayer.errors import GuardTripped, UserError
from onelayer.runs.manifest import _reward_hash
from onelayer.tasks.dataset import DatasetTask
from onelayer.tasks.reward_call import Told, metrics_of
from onelayer.tasks.reward_file import load_reward, source_files
from onelayer.training.grading import grade_all, grade_texts, rewards_of
from onelayer.training.reward_deadline import Patience
from tests.conftest import Command, save_model

ROWS = [{"prompt": f"{i}=", "answer": str(i)} for i in range(8)]
TEXTS = ["a", "bb", "ccc"]
IDS = [[1], [1, 2], [1, 2, 3]]
Make = Callable[..., DatasetTask]


@pytest.fixture(autouse=True)
def modules() -> Iterator[None]:
    """What a reward file brings into the process is gone after a test."""
    before, path = set(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith("/tmp"):
            del sys.modules[name]
    sys.path[:] = path


@pytest.fixture
def task(tmp_path: Path) -> Make:
    """Make a task of a reward file's text and of rows."""

    def make(code: str, rows: list[dict[str, Any]] = ROWS, file: str = "own_reward.py", **kwargs: Any) -> DatasetTask:
        (tmp_path / file).write_text(textwrap.dedent(code))
        return DatasetTask("d", rows, load_reward(f"{tmp_path / file}:rew"), kwargs.get("column", "prompt"), 1, 1)

    return make


def rewards(task: DatasetTask, texts: list[str] = TEXTS, **kwargs: Any) -> list[float | None]:
    problems = [*task.problems("train")][: len(texts)]
    return [grade.reward for grade in grade_texts(task, problems, texts, ids=IDS[: len(texts)], **kwargs)]


# What scripts do ------------------------------------------------------------------------------------------------------
def test_dataclasses_with_postponed_annotations(task: Make) -> None:
    own = task(
        """
        from __future__ import annotations
        import copy, pickle, typing
        from dataclasses import dataclass, replace

        @dataclass(frozen=True)
        class Verdict:
            value: float

        def rew(completions, **kw):
            verdicts = [pickle.loads(pickle.dumps(Verdict(float(len(c))))) for c in completions]
            assert typing.get_type_hints(Verdict) == {"value": float}
            return [replace(copy.deepcopy(v)).value for v in verdicts]
        """
    )
    assert rewards(own) == [1, 2, 3]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_pool_of_processes(task: Make, tmp_path: Path, method: str) -> None:
    (tmp_path / "rules_of_pool.py").write_text("def one(text):\n    return float(len(text))\n")
    own = task(
        f"""
        import multiprocessing
        from dataclasses import dataclass
        from rules_of_pool import one

        @dataclass
        class Score:
            value: float

        def score(text):
            return Score(one(text))

        def rew(completions, **kw):
            with multiprocessing.get_context("{method}").Pool(1) as pool:
                return [each.value for each in pool.map_async(score, completions).get(60)]
        """
    )
    assert rewards(own) == [1, 2, 3]


def test_a_helper_and_a_table_beside_the_file(task: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rules_beside").mkdir()
    (tmp_path / "rules_beside" / "__init__.py").write_text("from .lengths import one\n")
    (tmp_path / "rules_beside" / "lengths.py").write_text("def one(text):\n    return len(text)\n")
    (tmp_path / "later_rules.py").write_text("BONUS = 1\n")
    (tmp_path / "table.json").write_text("[10]")
    own = task(
        """
        import json
        from pathlib import Path
        from rules_beside import one

        TABLE = json.loads((Path(__file__).parent / "table.json").read_text())

        def rew(completions, **kw):
            from later_rules import BONUS  # while it is called
            return [TABLE[0] * one(c) + BONUS for c in completions]
        """
    )
    assert rewards(own) == [11, 21, 31]
    monkeypatch.chdir(tmp_path)
    assert load_reward("own_reward.py:rew")(completions=["x"]) == [11]  # a relative path


def test_equal_names_in_two_folders_are_two_files(tmp_path: Path) -> None:
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "twin_reward.py").write_text(
            "from twin_rules import N\ndef rew(completions, **kw):\n    return [N]\n"
        )
        (folder / "twin_rules.py").write_text(f"N = {number}\n")
    one, two = (load_reward(f"{tmp_path}/{number}/twin_reward.py:rew") for number in (1, 2))
    assert (one(completions=[""]), two(completions=[""])) == ([1], [2])


@pytest.mark.parametrize("name", ["json", "random", "pytest", "v1.2 of-mine"])
def test_a_file_takes_no_other_modules_place(task: Make, name: str) -> None:
    had = sys.modules.get(name)
    own = task(
        "import pickle\nclass A: ...\ndef rew(completions, **kw):\n    return [len(c) for c in completions]",
        file=f"{name}.py",
    )
    assert rewards(own) == [1, 2, 3]
    assert had is None or sys.modules[name] is had


def test_a_resumed_run_compares_the_helpers_too(task: Make, tmp_path: Path) -> None:
    (tmp_path / "first_helper.py").write_text(
        "import second_helper\ntry:\n    import broken_helper\nexcept SyntaxError: ...\n"
    )
    (tmp_path / "second_helper.py").write_text("X = 1\n")
    (tmp_path / "unrelated.py").write_text("syntax error\n")
    (tmp_path / "broken_helper.py").write_text("syntax error\n")
    (tmp_path / "json").mkdir()  # data beside a file that imports a module of this name
    (tmp_path / "json" / "convert.py").write_text("X = 1\n")
    task("def rew(completions, **kw):\n    import first_helper, json, torch\n    return [0.0 for _ in completions]\n")
    spec = f"{tmp_path}/own_reward.py:rew"
    names = ["own_reward.py", "first_helper.py", "broken_helper.py", "second_helper.py"]
    assert [path.name for path in source_files(spec)] == names
    config = TrainConfig(model="m", dataset="d", reward=spec)
    before = _reward_hash(config)
    (tmp_path / "unrelated.py").write_text("1\n")
    assert _reward_hash(config) == before
    (tmp_path / "second_helper.py").write_text("X = 2\n")
    assert _reward_hash(config) != before


@pytest.mark.parametrize(
    "code",
    [
        "import functools\ndef f(n, completions, **kw): return [n * len(c) for c in completions]\n"
        "rew = functools.partial(f, 1)",
        "class R:\n    def __call__(self, completions, **kw): return [len(c) for c in completions]\nrew = R()",
        "class R:\n    async def __call__(self, completions, **kw): return [len(c) for c in completions]\nrew = R()",
        "rew = lambda prompts, completions, answer: [len(c) for c in completions]",
        "def rew(completions, **kw):\n    yield from (len(c) for c in completions)",
        "def rew(completions, **kw): return map(len, completions)",
        "def rew(completions, **kw): return {0: 0} and tuple(len(c) for c in completions)",
    ],
)
def test_whatever_can_be_called(task: Make, code: str) -> None:
    assert rewards(task(code)) == [1, 2, 3]


# async ----------------------------------------------------------------------------------------------------------------
def test_an_async_function_keeps_its_loop_between_calls(task: Make) -> None:
    own = task(
        """
        import asyncio
        LOCK, LOOPS = asyncio.Lock(), set()

        async def one(text):
            async with LOCK:  # belongs to the loop of its first use
                await asyncio.sleep(0.001)
                return float(len(text))

        async def rew(prompts, completions, answer, **kw):
            LOOPS.add(id(asyncio.get_running_loop()))
            assert len(LOOPS) == 1
            return await asyncio.gather(*map(one, completions))
        """
    )
    assert rewards(own) == rewards(own) == [1, 2, 3]


def test_an_async_function_inside_of_a_running_loop(task: Make) -> None:
    import asyncio

    own = task("async def rew(completions, **kw):\n    return [len(c) for c in completions]")

    async def notebook() -> list[float | None]:
        return rewards(own)

    assert asyncio.run(notebook()) == [1, 2, 3]


@pytest.mark.parametrize(
    "code",
    [
        "import asyncio\nasync def rew(completions, **kw): await asyncio.sleep(60)",
        "import time\nasync def rew(completions, **kw): time.sleep(2)",
        "import time\nfrom concurrent.futures import ProcessPoolExecutor\nPOOL = ProcessPoolExecutor(1)\n"
        "def rew(completions, **kw): return POOL.submit(time.sleep, 60).result()",
    ],
)
def test_the_deadline_holds_for_async_and_for_pools(task: Make, code: str) -> None:
    started = time.monotonic()
    with pytest.raises(GuardTripped, match=r"has not returned after 0.2 s"):
        rewards(task(code), patience=Patience(timeout=0.2))
    assert time.monotonic() - started < 2


def test_what_a_reward_leaves_running_does_not_hold_up_the_end(tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text(
        "import time\nfrom concurrent.futures import ThreadPoolExecutor\n"
        "def rew(completions, **kw): ThreadPoolExecutor().submit(time.sleep, 60).result()\n"
    )
    script = textwrap.dedent(
        f"""
        from onelayer.training import reward_deadline as patience
        from onelayer.tasks.reward_file import load_reward
        patience.LAST_WAIT = 0.2
        reward = load_reward({str(tmp_path / "stuck.py")!r} + ":rew")
        patience.Patience(timeout=0.1).call("d", lambda: reward(completions=["a"]))
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 1
    assert "has not returned after 0.1 s" in done.stderr


# Answers --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("np.array([1, 0, 2.5])", [1, 0, 2.5]),
        ("np.array([[1], [0], [2]])", [1, 0, 2]),
        ("[np.float32(1), np.int64(2), np.bool_(True)]", [1, 2, 1]),
        ("[np.array(1.0), np.array([2.0]), np.float16(0.5)]", [1, 2, 0.5]),
        ("torch.tensor([1.0, 2.0, 3.0], requires_grad=True)", [1, 2, 3]),
        ("[torch.tensor(1), torch.tensor([2.0]), torch.tensor(True)]", [1, 2, 1]),
        ("[True, False, 3]", [1, 0, 3]),
        ("[Decimal('0.5'), Fraction(1, 4), 10**20]", [0.5, 0.25, 1e20]),
        ("[None, math.nan, np.nan]", [None, None, None]),
        ("[torch.tensor(float('nan')), Decimal('NaN'), 1]", [None, None, 1]),
        ("(1, 2, 3)", [1, 2, 3]),
        ("range(3)", [0, 1, 2]),
    ],
)
def test_numbers_of_every_kind(task: Make, answer: str, expected: list[float | None]) -> None:
    imports = "import math, torch, numpy as np\nfrom decimal import Decimal\nfrom fractions import Fraction\n"
    own = task(f"{imports}def rew(**kw): return {answer}")
    found = rewards(own)
    assert found == expected
    assert {type(reward) for reward in found} <= {float, type(None)}


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ("[1, 2]", "returned 2 rewards for 3 completions"),
        ("[]", "returned 0 rewards for 3"),
        ("[[1, 2, 3]]", "returned 1 rewards for 3"),
        ("None", "returned no list of rewards for 3"),
        ("1.0", "returned no list of rewards for 3"),
        ("torch.tensor(1.0)", "returned no list of rewards for 3"),
        ("'123'", "returned no list of rewards for 3"),
        ("b'123'", "returned no list of rewards for 3"),
        ("{0: 1, 1: 1, 2: 1}", "returned no list of rewards for 3"),
        ("{0, 1, 2}", "returned no list of rewards for 3"),
        ("[1, float('inf'), 1]", "'inf' for problem"),
        ("[1, 10**400, 1]", "it is no number: int too large"),
        ("[1, 10**5000, 1]", "returned 'int' for problem .*: it is no number"),
        ("[1, '1.0', 1]", "'1.0' for problem"),
        ("[1, [2], 1]", "it is no number"),
        ("[1, 1j, 1]", "it is no number"),
        ("[1, np.array([1, 2]), 1]", "it is no number"),
        ("[1, __import__('decimal').Decimal('sNaN'), 1]", "it is no number"),
    ],
)
def test_what_is_no_list_of_numbers_is_a_sentence(task: Make, answer: str, sentence: str) -> None:
    own = task(f"import torch, numpy as np\ndef rew(**kw): return {answer}")
    with pytest.raises(UserError, match=sentence):
        rewards(own)


def test_what_is_not_scored_is_counted_and_has_no_score(task: Make) -> None:
    own = task("def rew(completions, **kw): return [None, float('nan'), 1.0]")
    problems = [*own.problems("train")][:3]
    assert rewards_of(grade_texts(own, problems, TEXTS)).isnan().tolist() == [True, True, False]
    with pytest.raises(UserError, match="is None for problem"):
        grade_all(own, problems, TEXTS)


# What it is told ------------------------------------------------------------------------------------------------------
def test_tokens_and_the_run_are_told(task: Make) -> None:
    own = task(
        """
        def rew(prompts, completions, completion_ids, trainer_state, log_metric, log_extra, answer):
            assert trainer_state.global_step == 3 and trainer_state.max_steps == 9
            log_extra("length", [len(ids) for ids in completion_ids])
            for ids in completion_ids:
                log_metric("length", len(ids))
            return [len(ids) for ids in completion_ids]
        """
    )
    told = Told(3, 9)
    assert rewards(own, told=told) == rewards(own, told=told) == [1, 2, 3]
    assert metrics_of(told.numbers) == {"reward/length": 2.0}
    with pytest.raises(UserError, match=r"log_metric of 'x' got nan"):
        rewards(task("def rew(log_metric, **kw): log_metric('x', float('nan'))"))


def test_a_reward_changes_only_its_own_copies(task: Make) -> None:
    rows = [{"prompt": [{"role": "user", "content": f"{i}"}], "tests": [i]} for i in range(8)]
    own = task(
        """
        def rew(prompts, completions, tests, **kw):
            for prompt, case in zip(prompts, tests):
                prompt.append({"role": "assistant", "content": "x"})
                prompt[0]["content"] += "!"
                case.clear()
            return [0.0 for _ in completions]
        """,
        rows,
    )
    before = json.dumps([[p.prompt, dict(p.columns)] for p in own.problems("train")])
    assert rewards(own) == [0, 0, 0]
    assert json.dumps([[p.prompt, dict(p.columns)] for p in own.problems("train")]) == before


def test_columns_named_as_what_a_reward_gets_are_left_out_and_named(task: Make) -> None:
    names = ("prompts", "completions", "completion", "completion_ids", "trainer_state", "log_metric")
    own = task(
        """
        def rew(prompts, completions, completion_ids, other, **kw):
            assert prompts[0].endswith("=") and completions == ["a", "bb", "ccc"] and completion_ids[2] == [1, 2, 3]
            assert "completion" not in kw and callable(kw["log_metric"])
            return other
        """,
        [{**row, **dict.fromkeys(names, "from the file"), "other": 1} for row in ROWS],
    )
    assert rewards(own) == [1, 1, 1]
    assert len(own.notes) == 1
    assert [name for name in names if f"'{name}'" not in own.notes[0]] == []
    prompts = [{"prompts": row["prompt"], "answer": "1"} for row in ROWS]
    plain = task("def rew(prompts, completions, **kw): return [len(p) for p in prompts]", prompts, column="prompts")
    assert rewards(plain) == [2, 2, 2]
    assert plain.notes == ()


# Failures -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("def rew(**kw):\n    return 1 / 0", r"raised ZeroDivisionError: division by zero \(.*own_reward.py, line 2\)"),
        (
            "import json\ndef rew(**kw):\n\n    json.loads('{')",
            r"raised JSONDecodeError: .* \(.*own_reward.py, line 4\)",
        ),
        (
            "async def rew(**kw):\n    raise ValueError('two\\nlines')",
            r"ValueError: two lines \(.*own_reward.py, line 2\)",
        ),
        (
            "def rew(completions, **kw):\n    return (1 / 0 for c in completions)",
            r"ZeroDivisionError.*own_reward.py, line 2",
        ),
        (
            "def rew(completions, **kw):\n    yield 1\n    raise TypeError('no')",
            r"TypeError: no \(.*own_reward.py, line 3",
        ),
        ("def rew(**kw):\n    raise SystemExit(0)", r"raised SystemExit: 0 \(.*own_reward.py, line 2\)"),
        ("async def rew(**kw):\n    exit(3)", r"raised SystemExit: 3 \(.*own_reward.py, line 2\)"),
        ("import asyncio\nasync def rew(**kw):\n    raise asyncio.CancelledError", r"raised CancelledError"),
        ("def rew(completions, level):\n    pass", r"raised TypeError: .*(answer|level)"),
        (
            "import multiprocessing\ndef one(n):\n    return 1 / n\ndef rew(**kw):\n"
            "    with multiprocessing.get_context('fork').Pool(1) as pool:\n        return pool.map(one, [0])",
            r"ZeroDivisionError: division by zero \(.*own_reward.py, line 3\)",
        ),
    ],
)
def test_an_exception_names_the_line_of_the_users_file(task: Make, code: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        rewards(task(code))
    assert "\n" not in str(caught.value)


def test_an_exception_in_a_helper_names_the_helper(task: Make, tmp_path: Path) -> None:
    (tmp_path / "failing_rules.py").write_text("def one(text):\n    return {}[text]\n")
    with pytest.raises(UserError, match=r"raised KeyError: 'a' \(.*failing_rules.py, line 2\)"):
        rewards(
            task("from failing_rules import one\ndef rew(completions, **kw):\n    return [one(c) for c in completions]")
        )


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("x = 1\ny = 1 / 0\n", r"importing .* raised ZeroDivisionError: division by zero \(.*broken.py, line 2\)"),
        ("def rew(:\n", r"raised SyntaxError: .*broken.py, line 1"),
        ("import sys\nsys.exit()\n", r"raised SystemExit \(.*broken.py, line 2\)"),
        ("import no_such_module_at_all\n", r"raised ModuleNotFoundError: .*broken.py, line 1"),
        ("class rew:\n    pass\n", "is a class; name a function"),
        ("rew = 3\n", "has no function 'rew'"),
    ],
)
def test_a_file_that_cannot_be_used_is_a_sentence(tmp_path: Path, code: str, sentence: str) -> None:
    (tmp_path / "broken.py").write_text(code)
    with pytest.raises(UserError, match=sentence):
        load_reward(f"{tmp_path}/broken.py:rew")
    assert "broken" not in sys.modules or "rew" in vars(sys.modules["broken"])


def test_training_with_an_own_reward_logs_what_it_says(onelayer: Command, tmp_path: Path) -> None:
    save_model(tmp_path / "m", layers=2)
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row | {"completions": "x"}) + "\n" for row in ROWS))
    (tmp_path / "told.py").write_text(
        "import numpy as np\nSTEPS = []\n"
        "async def rew(completions, completion_ids, trainer_state, log_metric, **kw):\n"
        "    STEPS.append(trainer_state.global_step)\n"
        "    log_metric('tokens', sum(map(len, completion_ids)))\n"
        "    found = np.array([float(len(ids) % 3) for ids in completion_ids])\n"
        "    found[0] = np.nan if trainer_state.global_step == 1 else 0\n"
        "    return found\n"
    )
    code, out, err = onelayer(
        "train --model m --dataset d.jsonl --reward told.py:rew --selection-size 2 --test-size 2 --steps 2 "
        "--num-generations 4 --train-batch-size 2 --max-completion-length 6 --output run"
    )
    assert (code, err) == (0, "")
    assert "left out of the reward's: 'completions'" in " ".join(out.split())
    records = [json.loads(line) for line in (tmp_path / "run/arms/full/metrics.jsonl").read_text().splitlines()]
    assert all(8 <= record["reward/tokens"] <= 48 for record in records)
    assert [record.get("frac_reward_none") for record in records] == [None, 1 / 8]
    assert sys.modules["told"].STEPS == [2, 2, 0, 1, 2, 2]  # base and arm are scored twice each
