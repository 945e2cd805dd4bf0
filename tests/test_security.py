"""SECURITY.md: what it says is so, and each sentence names the test that shows it."""

import re
import socket
from pathlib import Path

import pytest
import yaml

from onelayer.config.configs import BenchmarkConfig, ScanConfig, TrainConfig
from onelayer.config.sources import preset_names, preset_path
from onelayer.report.pictures import PICTURES
from tests.conftest import Command, save_model

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
WRITTEN = {"report.html", "arm.json", "completions.jsonl", "trajectories.jsonl", *PICTURES}
"""Files of results, as the documents on them name them."""


def test_the_tests_that_are_named_are_there() -> None:
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    named = re.findall(r"`(test_\w+)`", TEXT)
    assert len(named) > 20 and set(named) <= defined, set(named) - defined


def test_every_paragraph_of_what_is_protected_names_its_tests() -> None:
    protected = TEXT.partition("## What is protected")[2].partition("## What is not protected")[0]
    for topic in (
        "Models and deltas",
        "Configurations and data",
        "Folders for results",
        "What is shown",
        "The network",
    ):
        paragraph = protected.partition(f"**{topic}.**")[2].partition("\n\n")[0]
        assert "`test_" in paragraph, topic


def test_the_files_that_are_named_are_written() -> None:
    named = re.findall(r"`([\w.]+\.(?:csv|json|jsonl|html|png|svg|parquet))`", TEXT)
    assert named and set(named) <= WRITTEN


def test_remote_code_is_off_by_default_and_in_every_preset() -> None:
    for config in (ScanConfig, TrainConfig, BenchmarkConfig):
        assert config.model_fields["trust_remote_code"].default is False
    for name in preset_names():
        assert "trust_remote_code" not in yaml.safe_load(preset_path(name).read_text(encoding="utf-8")), name


def test_unknown_keys_of_a_configuration_are_errors(onelayer: Command, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("steps: 3\ntrust_remote: true\n")
    code, _, err = onelayer("plan --config own.yaml")
    assert (code, err.count("\n"), "there is no option 'trust_remote'" in err) == (2, 1, True)


def test_a_run_on_local_files_connects_to_nothing(
    onelayer: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path / "m", layers=2)
    asked: list[object] = []

    def refuse(*arguments: object, **named: object) -> None:
        asked.append(arguments)
        raise OSError(101, "no network")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, lambda self, address: refuse(self.family, address))
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    own = "--task arithmetic --steps 1 --train-batch-size 2 --num-generations 2 --max-completion-length 2"
    code, _, err = onelayer(f"scan --model m {own} --output run")
    assert (code, err) == (0, ""), err
    assert onelayer("merge run/arms/layer-00 --output merged")[0] == 0
    assert asked == []
