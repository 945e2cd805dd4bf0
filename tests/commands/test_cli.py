"""The commands as a person types them: in this process, with their exit codes and sentences."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from onelayer.arms.plan import SYNTAX
from onelayer.config.configs import ScanConfig
from tests.conftest import Command, save_model
from tests.support.own_data import OWN


def test_a_scan_of_own_problems_from_start_to_report(onelayer: Command, data: Path) -> None:
    save_model(data / "llama", "llama", layers=2)
    code, out, err = onelayer(f"scan --model llama {OWN} --output run")
    assert (code, err) == (0, "")
    profile = json.loads((data / "run/profile.json").read_text())
    assert [layer["layer"] for layer in profile["layers"]] == [0, 1]
    assert profile["full_score"] > profile["base_score"]
    assert profile["task"] == "sums.jsonl"
    for arm in ("full", "layer-00", "layer-01"):
        assert {path.name for path in (data / "run/arms" / arm).iterdir()} == {
            "arm.json",
            "delta.safetensors",
            "metrics.jsonl",
            "scores.parquet",
        }
    for word in ("base", "full", "C(0) =", "report:", "run/report.html"):
        assert word in out
    assert yaml.safe_load((data / "run/config.yaml").read_text())["learning_rate"] == 0.01
    records = [json.loads(line) for line in (data / "run/arms/full/metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "eval/score" in record] == [5, 11]
    assert all(record["reward/tokens"] == record["completions/mean_length"] for record in records)

    code, out, err = onelayer("report run")
    assert (code, err) == (0, "")
    assert json.loads((data / "run/profile.json").read_text()) == profile

    # The written configuration is the whole run: from it alone come the same bytes.
    code, _, err = onelayer("scan --config run/config.yaml --output again")
    assert (code, err) == (0, "")
    for file in ("arms/layer-01/delta.safetensors", "arms/full/scores.parquet", "profile.json"):
        assert (data / "again" / file).read_bytes() == (data / "run" / file).read_bytes()

    code, out, err = onelayer("merge run/arms/layer-01 --output merged")
    assert (code, err) == (0, "")
    merged, plain = (AutoModelForCausalLM.from_pretrained(data / name) for name in ("merged", "llama"))
    changed = {
        n for (n, a), (_, b) in zip(merged.named_parameters(), plain.named_parameters(), strict=True) if (a != b).any()
    }
    assert changed == {name for name, _ in plain.named_parameters() if ".layers.1." in name}


def test_train_pauses_and_resumes(onelayer: Command, data: Path) -> None:
    save_model(data / "qwen", "qwen2", layers=3)
    line = f"train --model qwen {OWN} --layers mid:1.mlp,head*2 --output run"
    code, _, err = onelayer(line + " --stop_at 5")
    assert code == 2
    assert "tied" in err
    save_model(data / "qwen", "qwen2", layers=3, tied=False)
    assert onelayer(line + " --stop_at 5")[0] == 0
    assert not list((data / "run/arms/mid-1-mlp-head-x-2").glob("delta*"))
    code, _, err = onelayer(line + " --resume")
    assert (code, err) == (0, "")
    assert (data / "run/arms/mid-1-mlp-head-x-2/delta.safetensors").exists()
    code, _, err = onelayer(line)
    assert code == 2
    assert "already holds a run" in err


def test_trackers_get_the_metrics(onelayer: Command, data: Path) -> None:
    pytest.importorskip("tensorboard")
    save_model(data / "m", layers=2)
    assert onelayer(f"train --model m {OWN} --layers 1 --output run --report-to tensorboard")[0] == 0
    assert list((data / "run/tensorboard/layer-01").glob("events.*"))


def test_a_truncated_distribution_is_warned_of(onelayer: Command, data: Path) -> None:
    save_model(data / "m", layers=2)
    line = f"train --model m {OWN} --steps 1 --layers 1"
    assert "untruncated policy" not in onelayer(f"{line} --output a")[1]
    code, out, _ = onelayer(f"{line} --top_k 5 --output b")
    assert code == 0
    assert "untruncated policy" in out


def test_plan_prints_what_trains(onelayer: Command, data: Path) -> None:
    save_model(data / "m", layers=4)
    code, out, _ = onelayer("plan all,1-2.attn*2 --model m --task arithmetic")
    assert code == 0
    for text in ("embed", "layers 1-2 attn", "layers 1-2 mlp+norm", "layer 3", "0.0002", "tied to the embedding"):
        assert text in out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("scan --lerning-rate 1", "Did you mean '--learning_rate'"),
        ("scann", "No such command 'scann'"),
        ("scan --steps many", "not a valid integer"),
        ("scan --steps 0", "option steps = 0"),
        ("scan --loss-type mean", "dr_grpo"),
        ("scan --task arithmetik", "did you mean arithmetic"),
        ("scan --preset nothing", "no preset 'nothing'"),
        ("scan --config nothing.yaml", "cannot be read"),
        ("scan --config bad.yaml", "no option 'learning_rat'; did you mean learning_rate"),
        ("scan --config list.yaml", "not a mapping"),
        ("scan --config broken.yaml", "not YAML"),
        ("scan --layers 9", "no layer 9; its layers are 0 to 1"),
        ("scan --layers 1.mlp", "whole layers"),
        ("scan --layers ,", "empty item"),
        ("scan --layers lora:4", "whole layers"),
        ("scan --layers lisa:1/2@0", "whole layers"),
        ("train --layers 0*0", "trains nothing"),
        ("train --model nowhere/at/all", "no model folder"),
        ("train --device abacus", "device 'abacus'"),
        ("train --resume", "--resume needs --output"),
        ("train --resume --output nothing", "holds no run"),
        ("train --report-to tensorbord", "did you mean tensorboard"),
        ("train --dataset sums.jsonl", "go together"),
        ("train --task arithmetic --dataset sums.jsonl --reward reward.py:digits", "either --task or --dataset"),
        (f"train {OWN} --dataset nothing.jsonl", "is not there"),
        (f"train {OWN} --dataset cut.jsonl", "cut.jsonl', line 2: not JSON"),
        (f"train {OWN} --dataset empty.jsonl", "no rows"),
        (f"train {OWN} --dataset sums.parquet", "no parquet file"),
        (f"train {OWN} --prompt-column question", "no column 'question'; it has answer, level, prompt"),
        (f"train {OWN} --prompt-column level", "neither text nor a list of messages"),
        (f"train {OWN} --test-size 500", "too few"),
        (f"train {OWN} --reward reward.py:nothing", "no function 'nothing'"),
        (f"train {OWN} --reward nothing.py:digits", "no file"),
        (f"train {OWN} --reward broken.py:f", "raised ZeroDivisionError"),
        (f"train {OWN} --reward digits", "FILE.py:function"),
        (f"train {OWN} --reward reward.py:short", "returned 1 rewards for 20"),
        (f"train {OWN} --reward reward.py:crash", "raised KeyError: 'answer'"),
        (f"train {OWN} --max-prompt-length 2", "none of the 20 test prompts|none of the 40 train prompts"),
        (f"train {OWN} --max-completion-length 200", "context of 128 tokens"),
        (f"train {OWN} --mini-batch-size 9", "mini_batch_size is larger"),
        ("report nothing", "not the folder of a scan"),
        ("merge nothing.safetensors --output x", "cannot be read"),
        ("plan 1.attention --task arithmetic", "attn, mlp, norm"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(onelayer: Command, data: Path, line: str, message: str) -> None:
    save_model(data / "m", layers=2)
    (data / "bad.yaml").write_text("learning_rat: 1\n")
    (data / "list.yaml").write_text("- 1\n")
    (data / "broken.yaml").write_text("a: [\n")
    (data / "cut.jsonl").write_text('{"prompt": "1"}\n{"prom')
    (data / "empty.jsonl").write_text("\n")
    (data / "sums.parquet").write_text("nothing")
    (data / "broken.py").write_text("1 / 0\n")
    before = {path.name for path in data.iterdir()}
    if line.split()[0] in ("train", "scan", "plan") and "--model" not in line:
        line += " --model m"
    code, _, err = onelayer(line)
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert any(part in err for part in message.split("|"))
    assert {path.name for path in data.iterdir()} - {"runs", "__pycache__"} == before
    assert not list(data.glob("runs/*"))


def test_an_unknown_task_is_said_before_a_missing_model(onelayer: Command) -> None:
    for task, meant in (("cod", "code"), ("numinamaths", "numinamath")):
        code, _, err = onelayer(f"scan --task {task}")
        assert (code, err) == (2, f"error: there is no task '{task}'; did you mean {meant}?\n")


def test_training_that_cannot_go_on_is_exit_code_1(onelayer: Command, data: Path) -> None:
    save_model(data / "m", layers=2)
    (data / "flat.py").write_text("def one(completions, **kwargs):\n    return [1.0 for _ in completions]\n")
    code, _, err = onelayer(f"train --model m {OWN} --reward flat.py:one --stop-after 2 --output run")
    assert code == 1
    assert "same reward for 2 steps (mean reward 1)" in err


def test_messages_go_through_the_chat_template(onelayer: Command, data: Path) -> None:
    save_model(data / "m", layers=2)
    rows = [{"prompt": [{"role": "user", "content": f"{i}+1="}], "answer": str(i)} for i in range(40)]
    (data / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (data / "chat.py").write_text(
        "def reward(prompts, completions, **kwargs):\n"
        "    assert prompts[0][0]['role'] == 'user' and completions[0][0]['role'] == 'assistant'\n"
        "    return [float(len(c[0]['content']) % 2) for c in completions]\n"
    )
    line = f"train --model m {OWN} --dataset chat.jsonl --reward chat.py:reward --steps 2 --test-size 8 --output run"
    code, _, err = onelayer(line)
    assert code == 2
    assert "no chat template" in err
    tokenizer_config = json.loads((data / "m/tokenizer_config.json").read_text())
    tokenizer_config["chat_template"] = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    (data / "m/tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    code, _, err = onelayer(line)
    assert (code, err) == (0, "")


def test_the_help_of_plan_has_every_item(onelayer: Command) -> None:
    _, out, _ = onelayer("plan --help")
    assert [line for line in SYNTAX.splitlines() if line not in out] == []


def test_every_command_has_help_with_an_example(onelayer: Command) -> None:
    code, out, _ = onelayer("--help")
    assert code == 0
    commands = [line.split()[0] for line in out.split("Commands:")[1].splitlines() if line.strip()]
    assert {"scan", "train", "plan", "merge", "report"} <= set(commands)
    for command in commands:
        code, out, _ = onelayer(f"{command} --help")
        assert code == 0
        assert "Example: onelayer" in out, command
    _, out, _ = onelayer("scan --help")
    for name, field in ScanConfig.model_fields.items():
        assert f"--{name.replace('_', '-')}" in out
        assert field.description


@pytest.mark.parametrize("line", ["", "export"])
def test_a_group_without_a_command_shows_what_there_is(onelayer: Command, line: str) -> None:
    code, out, err = onelayer(line)
    assert (code, err) == (0, "") and "Commands:" in out


def test_a_bfloat16_base_works_the_same_way(onelayer: Command, data: Path) -> None:
    save_model(data / "m", layers=2)
    line = f"train --model m {OWN} --layers 1 --dtype bfloat16 --learning_rate 1e-4 --output run"
    code, _, err = onelayer(line)
    assert (code, err) == (0, "")
    from safetensors.torch import load_file

    delta: dict[str, Any] = load_file(data / "run/arms/layer-01/delta.safetensors")
    assert all(tensor.dtype == torch.float32 for tensor in delta.values())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory; a run continues"),
        (ImportError("x.so: failed to map segment from shared object"), "Python itself failed (x.so: failed to map"),
        (SystemError("error return without exception set"), "Python itself failed (error return without"),
        (OSError(24, "Too many open files", "f"), "'f': Too many open files; raise the limit"),
    ],
)
def test_a_lack_of_memory_or_handles_is_a_sentence(
    onelayer: Command, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    monkeypatch.setattr("onelayer.commands.scan.train", Mock(side_effect=error))
    code, _, err = onelayer("train --output run")
    assert (code, err.count("\n"), err.startswith(f"error: {said}")) == (1, 1, True), err
    monkeypatch.setattr("onelayer.commands.scan.train", Mock(side_effect=ImportError("No module named 'nothing'")))
    with pytest.raises(ImportError):
        onelayer("train --output run")
