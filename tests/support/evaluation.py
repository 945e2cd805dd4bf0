"""A folder with a model and two benchmarks, a command line in it, and a small scan."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from onelayer.commands.cli import main
from tests.conftest import save_model

Command = Callable[[str], tuple[int, str, str]]


@pytest.fixture
def onelayer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Run a command line in a folder with a model, a benchmark of digits and one of texts."""
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "m", layers=3)
    common = {
        "kind": "benchmark",
        "description": "own",
        "source": {"hub": "nobody/own"},
        "columns": {"problem": "q", "answer": "a"},
        "prompt": "{{ problem }}=",
        "grader": "math",
        "answer_rule": "last_number",
        "max_completion_length": 12,
    }
    digits = {**common, "category": "Math", "num_samples": 8, "temperature": 1.0, "stop": ["#"]}
    Path("digits.yaml").write_text(yaml.safe_dump(digits))
    Path("greedy.yaml").write_text(yaml.safe_dump({**common, "category": "Code"}))
    for name, count in (("digits", 9), ("greedy", 5)):
        rows = [{"q": f"{i}+{i}", "a": i} for i in range(count)]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(line: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["onelayer", *shlex.split(line)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


BOTH = "--benchmarks digits.yaml,greedy.yaml --data-files digits=digits.jsonl,greedy=greedy.jsonl"


def small_scan(onelayer: Command, tmp_path: Path) -> None:
    """A scan of two layers in the folder ``scan``."""
    rows = [{"prompt": f"{i}+{i}="} for i in range(30)]
    Path("sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("digits.py").write_text(
        "def digits(prompts, completions, **columns):\n"
        "    return [sum(c.isdigit() for c in text) / 8 for text in completions]\n"
    )
    code, _, err = onelayer(
        "scan --model m --dataset sums.jsonl --reward digits.py:digits --layers 0,1 --steps 6 --train-batch-size 4 "
        "--num-generations 8 --max-completion-length 8 --learning-rate 1e-2 --selection-size 5 --test-size 10 "
        "--output scan"
    )
    assert (code, err) == (0, "")
