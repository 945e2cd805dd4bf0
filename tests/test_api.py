"""The Python API: the commands as functions, plans and deltas on any transformers model, the notebook."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import onelayer
from onelayer.models.load import load_base
from tests.conftest import save_model

ROOT = Path(__file__).parent.parent
TINY: dict[str, Any] = {
    "dataset": "sums.jsonl",
    "reward": "reward.py:digits",
    "selection_size": 4,
    "test_size": 20,
    "steps": 6,
    "train_batch_size": 4,
    "num_generations": 4,
    "max_completion_length": 6,
    "learning_rate": 1e-2,
}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, problems and a reward."""
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "m", "llama", layers=3)
    rows = [{"prompt": f"{i}+{j}=", "answer": str(i + j)} for i in range(8) for j in range(8)]
    Path("sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("reward.py").write_text(
        "def digits(prompts, completions, **kwargs):\n    return [sum(c.isdigit() for c in t) / 6 for t in completions]\n"
    )
    return tmp_path


def test_scan_train_and_evaluate(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile = onelayer.scan(model="m", layers="0,2", output="scan", **TINY)
    assert [layer.layer for layer in profile.layers] == [0, 2]
    assert onelayer.Profile.load("scan") == onelayer.Profile.load(data / "scan/profile.json") == profile
    arm = onelayer.train(model="m", layers="best:1@scan/profile.json", output=data / "train", **TINY)
    assert arm.delta.is_file() and arm.folder.parent.name == "arms"
    assert arm.record["score"] == arm.score and 0 <= arm.base_score <= 1
    benchmark = {"kind": "benchmark", "description": "own", "category": "Math", "source": {"hub": "nobody/own"}}
    benchmark |= {"columns": {"problem": "prompt", "answer": "answer"}, "prompt": "{{ problem }}", "grader": "math"}
    benchmark |= {"answer_rule": "last_number", "max_completion_length": 6}
    Path("sums.yaml").write_text(yaml.safe_dump(benchmark))
    files = "sums=sums.jsonl"
    results = onelayer.evaluate(delta=arm.delta, benchmarks="sums.yaml", data_files=files, limit=5, output="eval")
    assert results.averages().keys() == {"Math"}
    assert capsys.readouterr().out == ""


def test_a_configuration_in_the_place_of_options(data: Path) -> None:
    config = onelayer.TrainConfig(model="m", layers="1", **TINY)
    arm = onelayer.train(config, output="run")
    assert arm.record["plan"] == "1" and arm.record["command"] is None
    assert onelayer.train(model="m", layers="1", output="again", **TINY).delta.read_bytes() == arm.delta.read_bytes()
    with pytest.raises(TypeError, match="either a configuration or options"):
        onelayer.train(config, steps=3)


def test_wrong_options_are_one_sentence(data: Path) -> None:
    with pytest.raises(onelayer.UserError, match="there is no option 'setps'; did you mean steps"):
        onelayer.scan(model="m", setps=3)
    with pytest.raises(AttributeError, match="no attribute 'scam'"):
        _ = onelayer.scam


def test_the_api_is_what_is_documented() -> None:
    text = (ROOT / "docs/api.md").read_text()
    for name in onelayer.__all__:
        assert name in text, name
        assert getattr(onelayer, name).__doc__, name


def test_evaluate_is_for_one_policy() -> None:
    with pytest.raises(onelayer.UserError, match="eval --scan DIR"):
        onelayer.evaluate(scan="runs/a", benchmarks="gsm8k")


def test_select_layers_trains_what_the_plan_says(data: Path) -> None:
    save_model(data / "deep", layers=12)
    model = AutoModelForCausalLM.from_pretrained(data / "deep").train()
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    selection = onelayer.select_layers(model, "1,3.attn*0.5")
    assert model.training
    expected = {name for name in before if ".layers.1." in name or ".layers.3.self_attn." in name}
    assert set(selection.rates) == expected
    assert {name for name, tensor in model.named_parameters() if tensor.requires_grad} == expected
    assert selection.num_parameters == sum(before[name].numel() for name in expected)
    assert [group["lr"] for group in selection.groups(2e-3)] == [2e-3, 1e-3]
    optimizer = torch.optim.AdamW(selection.groups(2e-3), weight_decay=0.0)
    ids = torch.arange(12)[None] + 5
    model(input_ids=ids, labels=ids).loss.backward()
    with pytest.raises(onelayer.RunStopped, match="selected tensors did not move"):
        selection.check()
    optimizer.step()
    selection.check()
    moved = {name for name, tensor in model.named_parameters() if not torch.equal(tensor, before[name])}
    assert moved == expected
    with torch.no_grad():
        model.get_parameter("model.layers.10.mlp.up_proj.weight")[0, 0] += 1
    with pytest.raises(onelayer.RunStopped, match="frozen tensors of the base have moved"):
        selection.check()
    with pytest.raises(onelayer.UserError, match="trains more than the model's own tensors"):
        onelayer.select_layers(model, "lora:4")


@pytest.fixture
def arm(data: Path) -> onelayer.TrainedArm:
    return onelayer.train(model="m", layers="1", output="run", **TINY)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_delta_in_a_model_of_any_type(arm: onelayer.TrainedArm, data: Path, dtype: torch.dtype) -> None:
    """The arm was trained in float32. A base of bfloat16 values is the same base in either type."""
    plain = AutoModelForCausalLM.from_pretrained("m", dtype=torch.bfloat16)
    plain.save_pretrained("half")
    AutoTokenizer.from_pretrained("m").save_pretrained("half")
    half = onelayer.train(model="half", layers="1", output="half-run", **TINY)
    model = AutoModelForCausalLM.from_pretrained("half", dtype=dtype)
    own = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    assert onelayer.load_delta(model, half.folder) is model
    delta = load_file(half.delta)
    for name, tensor in model.named_parameters():
        assert torch.equal(tensor, delta[name].to(dtype) if name in delta else own[name])
    with pytest.raises(onelayer.UserError, match="was trained on another base"):
        onelayer.load_delta(model, half.folder)  # it is no longer the base
    with pytest.raises(onelayer.UserError, match="was trained on another base"):
        onelayer.load_delta(AutoModelForCausalLM.from_pretrained("half", dtype=dtype), arm.delta)
    with pytest.raises(onelayer.UserError, match="cannot be read"):
        onelayer.load_delta(model, "nowhere")


def test_a_delta_worn_for_a_while(arm: onelayer.TrainedArm) -> None:
    model = AutoModelForCausalLM.from_pretrained("m")
    own = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    delta = onelayer.read_delta(model, arm.delta)
    with pytest.raises(KeyError), onelayer.wearing(model, delta):
        assert all(torch.equal(model.get_parameter(name), tensor) for name, tensor in delta.items())
        raise KeyError
    assert all(torch.equal(tensor, own[name]) for name, tensor in model.named_parameters())


def test_merged_and_delta_folders_have_a_card(data: Path) -> None:
    from click.testing import CliRunner

    from onelayer.commands.cli import cli

    onelayer.scan(model="m", layers="0,2", output="scan", **{**TINY, "steps": 25})
    merge = ["merge", "scan/arms/layer-02"]
    assert CliRunner().invoke(cli, [*merge, "--output", "whole"]).exit_code == 0
    assert CliRunner().invoke(cli, [*merge, "--output", "delta", "--delta-only"]).exit_code == 0
    whole, card = Path("whole/README.md").read_text(), Path("delta/README.md").read_text()
    assert {path.name for path in Path("delta").iterdir()} == {"README.md", "arm.json", "delta.safetensors"}
    header = yaml.safe_load(card.split("---")[1])
    assert "onelayer" in header["tags"] and "base_model" not in header  # a folder is nothing that the hub knows
    base = load_base("m")
    profile = onelayer.Profile.load("scan")
    layer = next(row for row in profile.layers if row.layer == 2)
    for text in (whole, card):
        assert f"`{base.hash}`" in text and "| plan | `2` |" in text and "| problems |" in text
        assert f"{layer.score:.3f} (" in text and f"{layer.score - profile.base_score:+.3f} (" in text
        shown = "undefined" if layer.contribution is None else f"{layer.contribution:.2f}"
        assert f"| layer contribution C | {shown}" in text
    assert "onelayer.load_delta(model" in card and "load_delta" not in whole
    loaded = onelayer.load_delta(AutoModelForCausalLM.from_pretrained("m"), "delta")
    merged = AutoModelForCausalLM.from_pretrained("whole")
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), merged.parameters(), strict=True))
    # A delta that lies alone has a card too, and a folder with something in it is left alone.
    Path("alone").mkdir()
    Path("alone/x.safetensors").write_bytes(Path("delta/delta.safetensors").read_bytes())
    assert CliRunner().invoke(cli, ["merge", "alone/x.safetensors", "--output", "b", "--delta-only"]).exit_code == 0
    assert "## Scores" not in Path("b/README.md").read_text()
    again = CliRunner().invoke(cli, [*merge, "--output", "delta", "--delta-only"])
    assert isinstance(again.exception, onelayer.UserError) and "not an empty folder" in str(again.exception)


def test_the_example_serves_many_deltas(arm: onelayer.TrainedArm) -> None:
    script = [sys.executable, str(ROOT / "examples/many_deltas.py"), "m", "1+2=", str(arm.folder)]
    done = subprocess.run(script, env=os.environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["base", str(arm.folder)]
    assert lines[0].partition(":")[2] != lines[1].partition(":")[2]


def test_the_notebook_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((ROOT / "examples/profile.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    names: dict[str, Any] = {}
    for cell in cells:
        exec(cell, names)
    out = capsys.readouterr().out
    assert "parameters train" in out and names["arm"].delta.is_file()
    assert all(not cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code")
