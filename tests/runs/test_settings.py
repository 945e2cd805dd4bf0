"""What a scan's own ``config.yaml`` has to say, for a report and for scores on benchmarks."""

from pathlib import Path

import pytest

from onelayer.errors import UserError
from onelayer.runs.run_folder import read_settings

WHOLE = "model: m\nalgorithm: grpo\ntask: arithmetic\ndataset: null\n"


def test_settings_of_a_scan(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(WHOLE)
    assert read_settings(tmp_path)["search"] == "none"
    (tmp_path / "config.yaml").write_text("model: m\nalgorithm: grpo\ntask: null\ndataset: d.jsonl\n")
    assert read_settings(tmp_path)["dataset"] == "d.jsonl"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "does not say the model"),
        (WHOLE.replace("model: m", "model: 1"), "does not say the model"),
        (WHOLE.replace("algorithm: grpo", ""), "does not say the algorithm"),
        (WHOLE.replace("arithmetic", "null"), "does not say the dataset"),
        (WHOLE.replace("arithmetic", "[a]"), "does not say the task"),
        (f"{WHOLE}search: [halving]\n", "'search' that is no word"),
        ("- model", "is not a mapping"),
    ],
)
def test_damaged_settings_are_one_sentence(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(UserError, match=said):
        read_settings(tmp_path)
