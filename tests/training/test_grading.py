"""What a grader could not judge is counted, shown and stored apart from what is wrong, from the grader to the report."""

import json
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onelayer.commands.cli import main
from onelayer.errors import RunStopped, UserError
from onelayer.judging.measured import read_measured
from onelayer.storage.scores import ArmScores, join_scores, read_scores, write_scores
from onelayer.tasks import registry
from onelayer.tasks.base import Problem
from onelayer.tasks.graders.grade import FAILURES, REASONS, UNGRADED, Grade, Reason, failure_sentence, grade_of
from onelayer.training.grading import failure_shares, grade_all, grade_texts, rewards_of
from tests.conftest import DigitTask, save_model

PROBLEMS = [Problem(i, "p", {"answer": "a"}) for i in range(4)]
TEXTS = ["a", "b", "c", "d"]


class Scripted:
    """A task whose grader gives these reasons, call after call."""

    name = "scripted"

    def __init__(self, *calls: Sequence[Reason]) -> None:
        self.calls = list(calls)
        self.asked: list[list[str]] = []

    def problems(self, split: str) -> list[Problem]:
        return PROBLEMS

    def grade(self, prompts: list[Any], completions: list[str], answer: list[str]) -> list[Grade]:
        self.asked.append(completions)
        return [grade_of(reason, detail="as told") for reason in self.calls.pop(0)]

    def reward(self, **columns: Any) -> list[float | None]:
        raise AssertionError("the grades have the rewards")


# The functions --------------------------------------------------------------------------------------------------------
def test_every_reason_is_a_verdict_or_a_failure() -> None:
    assert set(FAILURES) >= UNGRADED
    assert [reason for reason in REASONS if reason not in FAILURES] == [
        *("correct", "wrong", "no_answer", "error", "exited"),
    ]


def test_shares_by_hand() -> None:
    grades = grade_texts(Scripted(["timeout", "correct", "not_graded", "timeout"]), PROBLEMS, TEXTS)
    assert np.array_equal(rewards_of(grades).numpy(), [0.0, 1.0, np.nan, 0.0], equal_nan=True)
    assert failure_shares(grades) == {
        "grader/timeout": 0.5,
        "grader/crash": 0.0,
        "grader/invalid_test": 0.0,
        "grader/not_graded": 0.25,
    }


def test_a_plain_reward_has_no_reasons() -> None:
    class Plain(Scripted):
        grade = None  # type: ignore[assignment]

        def reward(self, **columns: Any) -> list[float | None]:
            return [0.25, None, 1, np.float32(2)]  # type: ignore[list-item]

    grades = grade_texts(Plain(), PROBLEMS, TEXTS)
    assert [(grade.reward, grade.reason) for grade in grades] == [(0.25, None), (None, None), (1, None), (2.0, None)]
    assert failure_shares(grades) == {}
    with pytest.raises(UserError, match="None for problem 1"):
        grade_all(Plain(), PROBLEMS, TEXTS)


def test_the_sentence_says_which_and_what_they_count_as() -> None:
    assert failure_sentence({"correct": 3, "wrong": 1997, "error": 4}, 2004) is None
    assert failure_sentence({"not_graded": 1, "wrong": 5, "timeout": 1200}, 2000) == (
        "the grader came to no verdict on 1,201 of 2,000 completions: 1200 timeout (reward 0), 1 not_graded (no reward)"
    )


def test_what_a_batch_left_out_is_graded_again_while_that_helps() -> None:
    task = Scripted(["not_graded", "wrong", "not_graded", "correct"], ["timeout", "not_graded"], ["correct"])
    assert [grade.reason for grade in grade_all(task, PROBLEMS, TEXTS)] == ["timeout", "wrong", "correct", "correct"]
    assert task.asked == [TEXTS, ["a", "c"], ["c"]]
    stuck = Scripted(["not_graded", "wrong", "not_graded", "correct"], ["not_graded", "not_graded"])
    with pytest.raises(RunStopped, match=r"2 of 4 completions.*of problem 0: not_graded, as told"):
        grade_all(stuck, PROBLEMS, TEXTS)
    with pytest.raises(RunStopped, match=r"1 of 4 completions.*of problem 3: invalid_test"):
        grade_all(Scripted(["wrong", "wrong", "wrong", "invalid_test"]), PROBLEMS, TEXTS)


def scores(count: int, reason: list[str | None] | None) -> ArmScores:
    numbers = np.arange(count)
    return ArmScores(["b"] * count, numbers, 0 * numbers, 0.0 * numbers, numbers, numbers > 99, reason)


def test_stored_scores_have_the_reason_where_it_is_known(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    for reason in (["timeout", None], None):
        write_scores(path, scores(2, reason))
        assert read_scores(path).reason == reason
    joined = join_scores([scores(1, None), scores(2, ["crash", "wrong"])])
    assert joined.reason == [None, "crash", "wrong"]
    assert joined.reasons == {"crash": 1, "wrong": 1}
    assert join_scores([scores(1, None)] * 2).reason is None


# The whole way --------------------------------------------------------------------------------------------------------
class Graded(DigitTask):
    """Digits, with a grader that gives up on some letters."""

    def grade(self, prompts: list[Any], completions: list[str], answer: list[str]) -> list[Grade]:
        def reason(text: str) -> Reason:
            return "timeout" if "t" in text else "crash" if "c" in text else "correct" if "7" in text else "wrong"

        return [grade_of(reason(text)) for text in completions]

    def reward(self, prompts: list[Any], completions: list[str], answer: list[str]) -> list[float | None]:
        return [grade.reward for grade in self.grade(prompts, completions, answer)]


def test_a_scan_counts_failures_in_training_and_in_its_scores(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(registry.TASKS, "arithmetic", lambda config: Graded())
    save_model(tmp_path / "m", layers=2)
    line = (
        "scan --model m --task arithmetic --steps 4 --train-batch-size 4 --num-generations 8 --max-completion-length 8 "
        "--learning-rate 1e-3 --eval-num-samples 4 --eval-temperature 1 --output run"
    )
    monkeypatch.setattr("sys.argv", ["onelayer", *shlex.split(line)])
    main()
    said = " ".join(capsys.readouterr().out.split())

    records = {
        arm: [json.loads(row) for row in Path(f"run/arms/{arm}/metrics.jsonl").read_text().splitlines()]
        for arm in ("full", "layer-00", "layer-01")
    }
    assert all({f"grader/{reason}" for reason in FAILURES} <= row.keys() for rows in records.values() for row in rows)
    shares = {arm: rows[0]["grader/timeout"] for arm, rows in records.items()}
    assert all(0 < share < 1 and (share * 32).is_integer() for share in shares.values())
    timeouts, crashes = (round(32 * records["full"][0][f"grader/{reason}"]) for reason in ("timeout", "crash"))
    crashed = f", {crashes} crash (reward 0)" if crashes else ""
    sentence = f"no verdict on {timeouts + crashes} of 32 completions: {timeouts} timeout (reward 0){crashed}"
    assert f"full, step 1: the grader came to {sentence}" in said
    assert said.count("metrics.jsonl counts all that follow") == 1, "once a run, not once a step or arm"

    together: Counter[str] = Counter()
    for arm in ("base", "full", "layer-00", "layer-01"):
        stored = read_scores(Path(f"run/arms/{arm}/scores.parquet"))
        record = json.loads(Path(f"run/arms/{arm}/arm.json").read_text())
        assert record["reasons"] == stored.reasons == dict(Counter(stored.reason))
        assert sum(stored.reasons.values()) == 24
        assert {stored.reason[i] for i in np.flatnonzero(stored.reward)} <= {"correct"}  # type: ignore[index]
        assert f"{arm}, test problems: the grader came to no verdict on" in said
        together.update(stored.reasons)
    (note,) = read_measured(Path("run")).notes
    assert f"of 96 completions: {together['timeout']} timeout" in note
    assert json.loads(Path("run/profile.json").read_text())["notes"] == [note]
    assert note in Path("run/report.html").read_text()
