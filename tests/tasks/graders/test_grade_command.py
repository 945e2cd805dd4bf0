"""``onelayer grade`` as a person types it."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from onelayer.tasks.graders import code_sandbox
from tests.conftest import Command

PROGRAMS = [
    {"id": 7, "completion": "def f(x):\n    return x + 1\n", "tests": ["assert f(1) == 2"]},
    {"id": 8, "completion": "def f(x):\n    return x\n", "tests": ["assert f(1) == 2"]},
    {"id": 9, "completion": "raise SystemExit(0)\n", "tests": ["assert f(1) == 2"]},
]


@pytest.fixture(scope="module", autouse=True)
def sandbox() -> Any:
    """One probed sandbox for the tests here, closed after them."""
    started: list[Any] = []
    kept, code_sandbox._shared = code_sandbox._shared, started
    yield
    for each in started:
        each.close()
    code_sandbox._shared = kept


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def rewards(path: Path) -> list[tuple[float | None, str]]:
    return [
        (row["reward"], row["reason"]) for row in map(json.loads, path.read_text(encoding="utf-8").split("\n")[:-1])
    ]


def test_programs_are_run_and_the_protections_stated_first(onelayer: Command, tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", PROGRAMS)
    code, out, err = onelayer("grade in.jsonl --grader code --output out.jsonl")
    assert (code, err) == (0, "")
    assert rewards(tmp_path / "out.jsonl") == [(1.0, "correct"), (0.0, "wrong"), (0.0, "exited")]
    assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[1]).items() >= PROGRAMS[1].items()
    lines = out.splitlines()
    assert lines[0].startswith("Programs run confined by ")
    assert [line.split() for line in lines[1:4]] == [["correct", "1"], ["wrong", "1"], ["exited", "1"]]
    assert lines[-1] == "results: out.jsonl"


def test_the_file_can_be_graded_in_place(onelayer: Command, tmp_path: Path) -> None:
    rows = [
        {"completion": "first 1, then\u2028\\boxed{\\frac{1}{2}}", "answer": "0.5"},
        {"completion": "The answer is 3.", "answer": "#### 3"},
        {"completion": "nothing", "answer": 4},
    ]
    write(tmp_path / "rows.jsonl", rows)
    code, out, err = onelayer("grade rows.jsonl --grader math --output rows.jsonl")
    assert (code, err) == (0, "")
    assert rewards(tmp_path / "rows.jsonl") == [(1.0, "correct"), (1.0, "correct"), (0.0, "no_answer")]
    assert "Programs run" not in out


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", "correct"),
        ("--rule boxed", "correct"),
        ("--rule boxed --strict", "no_answer"),
        ("--rule answer_is", "wrong"),
    ],
)
def test_rule_and_strict_reach_the_math_grader(onelayer: Command, tmp_path: Path, options: str, expected: str) -> None:
    write(tmp_path / "in.jsonl", [{"completion": "The answer is 5.\n#### 3", "answer": "3"}])
    assert onelayer(f"grade in.jsonl --grader math --output out.jsonl {options}")[0] == 0
    assert rewards(tmp_path / "out.jsonl")[0][1] == expected


def test_a_required_sandbox_with_a_hole_refuses(
    onelayer: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "in.jsonl", PROGRAMS)
    line = "grade in.jsonl --grader code --output out.jsonl"
    monkeypatch.setattr(code_sandbox, "probe", lambda sandbox: {"network": True, "memory": True})
    assert onelayer(f"{line} --require-sandbox")[0] == 0
    (tmp_path / "out.jsonl").unlink()
    monkeypatch.setattr(code_sandbox, "probe", lambda sandbox: {"network": False, "memory": True})
    code, out, err = onelayer(f"{line} --require-sandbox")
    assert (code, out) == (2, "")
    assert "an attack on it succeeded (network)" in err
    assert not (tmp_path / "out.jsonl").exists()
    assert onelayer(line)[0] == 0


def test_a_hole_is_a_warning_that_names_it(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(code_sandbox, "_shared", [])
    monkeypatch.setattr(code_sandbox, "probe", lambda sandbox: {"network": False, "memory": True})
    with caplog.at_level(logging.INFO, logger="onelayer"):
        code_sandbox.shared_sandbox().close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "protected: memory; NOT protected: network." in caplog.text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nothing.jsonl --grader math", "nothing.jsonl cannot be read"),
        ("cut.jsonl --grader math", "cut.jsonl, line 2: this is not JSON"),
        ("in.jsonl --grader math", "line 1: the math grader needs 'answer'; the row has 'id', 'completion', 'tests'"),
        ("bad.jsonl --grader code", "line 1: The tests are not valid Python"),
        ("empty.jsonl --grader math", "line 2: 'answer' has to be text or a number, not \" \""),
        ("list.jsonl --grader math", "line 1: 'answer' has to be text or a number, not [\"4\"]"),
        ("in.jsonl --grader prose", "'prose' is not one of 'math', 'code'"),
        ("in.jsonl", "Missing option '--grader'"),
        ("in.jsonl --grader code --rule boxed", "are for --grader math"),
        ("in.jsonl --grader code --strict", "are for --grader math"),
        ("in.jsonl --grader math --require-sandbox", "is for --grader code"),
        ("sums.jsonl --grader math --rule box", "'box' is not one of"),
        ("sums.jsonl --grader math --output nowhere/out.jsonl", "nowhere/out.jsonl cannot be written"),
        ("sums.jsonl --grader math --output folder", "folder cannot be written"),
    ],
)
def test_wrong_input_is_one_sentence_and_nothing_is_written(
    onelayer: Command, tmp_path: Path, line: str, message: str
) -> None:
    write(tmp_path / "in.jsonl", PROGRAMS)
    write(tmp_path / "sums.jsonl", [{"completion": "4", "answer": "4"}])
    write(tmp_path / "bad.jsonl", [{"completion": "", "tests": "assert ("}])
    write(tmp_path / "empty.jsonl", [{"completion": "4", "answer": 4}, {"completion": "4", "answer": " "}])
    write(tmp_path / "list.jsonl", [{"completion": "4", "answer": ["4"]}])
    (tmp_path / "cut.jsonl").write_text('{"completion": "4", "answer": "4"}\n{"compl')
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    code, out, err = onelayer(f"grade {line}" + ("" if "--output" in line else " --output out.jsonl"))
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert sorted(tmp_path.rglob("*")) == before
