"""The short version of the fault suite (``python -m tests.faults`` is the full one), in a process of its own."""

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.faults.scenarios import compared_bytes, outcome, torn
from tests.faults.table import Row, merged, table
from tests.faults.tasks import Task, run

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(sys.platform != "linux", reason="the faults are injected through /proc and audit hooks")
def test_nothing_is_lost() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", "--short"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (total,) = re.findall(r"^\| \*\*all\*\* \| \| (\d+) \| (\d+) \| [\d,]+ \| nothing \|$", done.stdout, re.MULTILINE)
    assert total[0] == total[1]
    assert int(total[0]) >= 5


def test_what_differs_is_seen(tmp_path: Path) -> None:
    """The suite's own eyes: a flipped bit, a file too many, a time that may differ, a torn file."""
    arm = tmp_path / "arms/full"
    arm.mkdir(parents=True)
    (arm / "delta.safetensors").write_bytes(b"1234")
    (arm / "arm.json").write_text('{"seconds": 1, "score": 0.5}')
    before = outcome(tmp_path)
    assert compared_bytes(before) == 4
    (arm / "arm.json").write_text('{"seconds": 2, "score": 0.5}')
    assert outcome(tmp_path) == before
    (arm / "delta.safetensors").write_bytes(b"1235")
    assert outcome(tmp_path) != before
    assert torn(tmp_path)[0].startswith("arms/full/delta.safetensors")
    (arm / "delta.safetensors").write_bytes(b"1234")
    (arm / ".x.1.tmp").touch()
    assert outcome(tmp_path) != before
    assert table([Row("f", "c", 2, 1, 10, ["x differs"])]).splitlines()[-1] == "| **all** | | 2 | 1 | 10 | 1 |"


def test_a_stopped_suite_goes_on(tmp_path: Path) -> None:
    tasks, row = [Task("kills", "train", (1,))], Row("f", "train", 1, 1, 10)
    (tmp_path / "rows-0").write_text(json.dumps([asdict(row)]))
    for number in (0, 1):
        (tmp_path / f"taken-{number}").touch()
    assert run(tasks, tmp_path, 0, 0, print) == [row]
    assert (tmp_path / "taken-0").exists() and not (tmp_path / "taken-1").exists()
    with pytest.raises(RuntimeError, match="other options"):
        run(tasks, tmp_path, 1, 0, print)
    assert merged([row, row]) == [Row("f", "train", 2, 2, 20)]
