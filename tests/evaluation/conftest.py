"""A command line in a folder with a model and two benchmarks."""

import json
from pathlib import Path

import pytest
import yaml

from tests.conftest import Command, character_tokenizer, save_model


@pytest.fixture
def onelayer(onelayer: Command, tmp_path: Path) -> Command:
    """Run a command line in a folder with a model, a benchmark of digits and one of texts."""
    # Few characters besides digits: a random model then writes whole numbers.
    save_model(tmp_path / "m", layers=3, tokenizer=character_tokenizer("0123456789+=# "))
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

    return onelayer
