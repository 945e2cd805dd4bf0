"""A data set and a reward of one's own."""

import json
from pathlib import Path

import pytest


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set and a reward of one's own."""
    rows = [{"prompt": f"{i}+{j}=", "answer": str(i + j), "level": i} for i in range(8) for j in range(8)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "reward.py").write_text(
        "def digits(prompts, completions, answer, **kwargs):\n"
        "    assert set(kwargs) == {'level', 'completion_ids', 'trainer_state', 'log_extra', 'log_metric'}\n"
        "    assert len(prompts) == len(answer)\n"
        "    kwargs['log_metric']('tokens', sum(map(len, kwargs['completion_ids'])) / len(completions))\n"
        "    return [sum(c.isdigit() for c in text) / 6 for text in completions]\n"
        "def short(prompts, completions, **kwargs):\n    return [1.0]\n"
        "def crash(prompts, completions, **kwargs):\n    raise KeyError('answer')\n"
    )
    return tmp_path


OWN = (
    "--dataset sums.jsonl --reward reward.py:digits --selection-size 4 --test-size 20 --steps 12 --train-batch-size 4 "
    "--num-generations 4 --max-completion-length 6 --learning_rate 1e-2 --eval-steps 6"
)
