"""The examples in docs/extending: each diff applies to this source tree, and what it adds trains."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DIFFS = sorted((ROOT / "docs" / "extending").glob("*.diff"))
AGAIN = "make it again: apply it with `git apply --3way`, put it right, and write `git diff` over the file"


def test_there_is_an_example_of_each_kind() -> None:
    assert [path.stem for path in DIFFS] == ["algorithm", "family", "grader", "task"]


def added_tests(diff: str) -> list[str]:
    return re.findall(r"^\+\+\+ b/(tests/test_\w+\.py)$", diff, re.MULTILINE)


@pytest.mark.parametrize("diff", DIFFS, ids=lambda path: path.stem)
def test_an_example_applies_and_trains(diff: Path, tmp_path: Path) -> None:
    if shutil.which("git") is None:
        pytest.skip("applying a diff needs git")
    copy = tmp_path / "onelayer"
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (copy / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "conftest.py", copy / "tests")
    shutil.copy(ROOT / "pyproject.toml", copy)
    # The folder may lie in another repository, whose root git would take paths from.
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path)}
    applied = subprocess.run(["git", "apply", str(diff)], cwd=copy, env=environment, capture_output=True, text=True)
    assert applied.returncode == 0, f"{applied.stderr}{diff.name} does not fit the code any more; {AGAIN}"

    tests = added_tests(diff.read_text(encoding="utf-8"))
    assert tests, f"{diff.name} has no test"
    ruff = shutil.which("ruff", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if ruff:
        linted = subprocess.run([ruff, "check", "--no-cache", "."], cwd=copy, capture_output=True, text=True)
        assert linted.returncode == 0, linted.stdout
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider", *tests],
        cwd=copy,
        env={**environment, "PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "skipped" not in ran.stdout
