"""A folder with a model and two benchmarks, a command line in it, and a small scan."""

import json
from collections.abc import Callable
from pathlib import Path

Command = Callable[[str], tuple[int, str, str]]


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
