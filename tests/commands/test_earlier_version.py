"""Finished folders of version 0.1.0, as that version wrote them, are still read by the commands that read folders."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import Command

WRITTEN = Path(__file__).parents[1] / "fixtures" / "version-0.1.0"
# What version 0.1.0 merged from scan-0/arms/layer-01 itself.
MERGED = "071d43d1fff2daac64e781c5b4899c574f0d9dd6f2f72b6739f55e7481dae630"


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folders, to run commands in: they name model and data from there."""
    folder = tmp_path / "written"
    shutil.copytree(WRITTEN, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("name", ["scan-0", "judged"])
def test_a_report_of_an_earlier_folder_says_the_same(onelayer: Command, written: Path, name: str) -> None:
    """The profile is judged anew from the records of the arms, and equals the one that is stored."""
    stored = (written / name / "profile.json").read_bytes()
    (written / name / "profile.json").unlink()
    assert onelayer(f"report {name}")[0] == 0
    assert (written / name / "profile.json").read_bytes() == stored
    assert (written / name / "report.html").is_file()


def test_an_earlier_arm_merges_to_the_same_bytes(onelayer: Command, written: Path) -> None:
    assert onelayer("merge scan-0/arms/layer-01 --output merged")[0] == 0
    assert hashlib.sha256((written / "merged" / "model.safetensors").read_bytes()).hexdigest() == MERGED


def test_earlier_scans_are_compared(onelayer: Command, written: Path) -> None:
    code, out, _ = onelayer("compare scan-0 scan-1 --output compared")
    assert code == 0
    # Version 0.1.0 printed: scan-0 - scan-1, Spearman 1, Kendall 1.
    row = next(row for row in out.splitlines() if "scan-0 - scan-1" in row and "layers" not in row)
    assert row.split("scan-0 - scan-1")[1].split()[:2] == ["1", "1"]


def test_earlier_arms_vote(onelayer: Command, written: Path) -> None:
    """The deltas are laid on the model again. Scores are sampled, so that their last digits are this machine's."""
    assert onelayer("vote scan-0 --k 2")[0] == 0
    votes = json.loads((written / "scan-0" / "vote.json").read_text())
    assert votes["voters"] == ["layer-00", "layer-02"]
    assert next(row["score"] for row in votes["scores"] if row["name"] == "full") == 1.0


def test_earlier_arms_are_judged_by_a_benchmark(onelayer: Command, written: Path) -> None:
    data = "--benchmarks sevens.yaml --data-files sevens=test.jsonl"
    assert onelayer(f"eval --scan scan-0 {data} --output again")[0] == 0
    stored, again = (json.loads((written / name / "profile.json").read_text()) for name in ("judged", "again"))
    assert again["ranking"] == stored["ranking"]
    assert again["full_score"] == stored["full_score"]
