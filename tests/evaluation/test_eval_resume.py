"""An eval that is killed, or whose files get damaged: after --resume the bytes of an undisturbed run."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from onelayer.evaluation import evaluate_model as evaluate_module
from onelayer.evaluation import results as results_module
from onelayer.evaluation.results import Results
from onelayer.storage import files as files_module
from onelayer.storage.files import checksum
from onelayer.storage.lock import locked
from onelayer.storage.scores import ArmScores
from tests.conftest import Command
from tests.support.evaluation import BOTH, small_scan


def test_a_killed_eval_goes_on_where_it_was(onelayer: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert onelayer(f"eval --model m {BOTH} --output whole")[0] == 0
    whole = written(tmp_path / "whole")
    write = results_module.write_sealed

    def killed(path: Path, value: Any) -> None:
        if len(value["benchmarks"]) == 2:
            raise KeyboardInterrupt  # both files with rows are written, the one that counts is not
        write(path, value)

    monkeypatch.setattr(results_module, "write_sealed", killed)
    code, _, err = onelayer(f"eval --model m {BOTH} --output run")
    assert (code, err.lstrip()) == (1, "error: interrupted; a run continues from its last state with --resume\n")
    monkeypatch.setattr(results_module, "write_sealed", write)
    assert json.loads((tmp_path / "run/results.json").read_text())["benchmarks"][0]["name"] == "digits"
    code, _, err = onelayer(f"eval --model m {BOTH} --output run")
    assert (code, "add --resume" in err) == (2, True)
    code, _, err = onelayer(f"eval --model m {BOTH} --output run --resume --eval-seed 1")
    assert (code, "'digits' was scored with other settings: seed was 0, now 1" in err) == (2, True)
    greedy = "--benchmarks greedy.yaml --data-files greedy=greedy.jsonl"
    code, _, err = onelayer(f"eval --model m {greedy} --output run --resume")
    assert (code, "'digits', which is not among the benchmarks" in err) == (2, True)

    monkeypatch.setattr(evaluate_module, "answer", mocked := Mock(side_effect=evaluate_module.answer))
    assert onelayer(f"eval --model m {BOTH} --output run --resume")[0] == 0
    assert mocked.call_count == 1
    assert written(tmp_path / "run") == whole

    text = (tmp_path / "run/completions.jsonl").read_text()
    (tmp_path / "run/completions.jsonl").write_text(text.replace('"completion": "', '"completion": " ', 1))
    code, out, _ = onelayer(f"eval --model m {BOTH} --output run --resume")
    assert (code, "scores of 'digits' are damaged; it is scored again" in out) == (0, True)
    assert written(tmp_path / "run") == whole


def written(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_damaged_record_of_an_eval_is_read_from_its_copy(onelayer: Command, tmp_path: Path) -> None:
    assert onelayer(f"eval --model m {BOTH} --output run")[0] == 0
    whole, record = written(tmp_path / "run"), tmp_path / "run/results.json"
    text = record.read_text()
    record.write_text(text.replace('"value": 0.', '"value": 1.', 1))
    code, out, err = onelayer(f"eval --model m {BOTH} --output run --resume")
    assert (code, err, "results.json is damaged (its checksum" in out) == (0, "", True)
    assert written(tmp_path / "run") == whole
    record.write_text(text[:40])
    (tmp_path / "run/results.copy.json").write_text(text[:80])
    code, _, err = onelayer(f"eval --model m {BOTH} --output run --resume")
    assert (code, "there is no whole 'results.copy.json'" in err, err.count("\n")) == (2, True, 1)


def test_a_damaged_bit_is_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that changes no row: in a part of the parquet file that no reader needs, or the case of an exponent."""
    monkeypatch.setattr(files_module, "flush", lambda path: None)

    def scored(name: str, seed: int) -> tuple[ArmScores, list[dict[str, Any]]]:
        rng = np.random.default_rng(seed)
        problem, sample = np.repeat(np.arange(3), 2), np.tile(np.arange(2), 3)
        rewards, lengths = rng.random(6) * 1e-7, rng.integers(1, 9, 6)
        scores = ArmScores([name] * 6, problem, sample, rewards, lengths, lengths > 7, ["right"] * 6)
        return scores, [{"benchmark": name, "completion": f"\u00e9 {reward}"} for reward in rewards.tolist()]

    made = {name: scored(name, seed) for seed, name in enumerate(("a", "b"))}
    results = Results({"model": "m"}, list(made))
    for name, (scores, rows) in made.items():
        results.add(name, scores, {"name": name, "category": "Math"}, rows)
        results.write(tmp_path)
    whole = written(tmp_path)
    tried = said = 0
    for name, content in whole.items():
        for place in range(0, len(content), 31):
            (tmp_path / name).write_bytes(
                content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :]
            )
            again = Results({"model": "m"}, list(made))
            again.continue_from(tmp_path)
            tried, said = tried + 1, said + bool(again.notes)
            for left in made.keys() - again.done.keys():
                again.add(left, made[left][0], {"name": left, "category": "Math"}, made[left][1])
                again.write(tmp_path)
            assert written(tmp_path) == whole, (name, place)
    assert said == tried > 100


def test_a_scan_judged_on_benchmarks_is_mended_too(onelayer: Command, tmp_path: Path) -> None:
    """Every arm's files, whichever byte is damaged, and arm.json has the checksum of the scores beside it."""
    small_scan(onelayer, tmp_path)
    line = "eval --scan scan --benchmarks greedy.yaml --data-files greedy=greedy.jsonl --output judged"
    assert onelayer(line)[0] == 0
    paths = sorted((tmp_path / "judged").rglob("*.*"))
    whole = {path: path.read_bytes() for path in paths if path.is_file() and path.name != "report.html"}
    record = json.loads((tmp_path / "judged/arms/full/arm.json").read_text())
    assert record["sha256"] == {"scores.parquet": checksum(tmp_path / "judged/arms/full/scores.parquet")}
    for path, content in whole.items():
        if (path.parent.name == "full" and path.name != "results.copy.json") or path.name == "profile.json":
            path.write_bytes(content[:-9] + bytes([content[-9] ^ 4]) + content[-8:])
    code, out, err = onelayer(f"{line} --resume")
    assert (code, err) == (0, "")
    said = " ".join(out.split())
    assert "results.json is damaged" in said and "it is scored again" in said
    assert {path: path.read_bytes() for path in whole} == whole
    with locked(tmp_path / "judged"):
        code, _, err = onelayer(f"{line} --resume")
    assert (code, "is in use by process" in err) == (2, True)
