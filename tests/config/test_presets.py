"""The paper's settings as presets: where their values come from, what they cost on paper, and their whole path, small."""

import json
import re
import shlex
from pathlib import Path

import pytest

from onelayer.arms.spec import spec_of
from onelayer.commands.cli import main
from onelayer.commands.cost import GPUS, Gpu, hours_of
from onelayer.commands.memory import memory_of
from onelayer.commands.reproduction.pretraining import Shape, make_model
from onelayer.config.configs import ScanConfig, TrainConfig
from onelayer.config.model import ModelConfig
from onelayer.config.sources import build, read_yaml
from onelayer.models.architectures import ARCHITECTURES, outline_model
from onelayer.models.load import wrap_model
from onelayer.tasks.benchmarks import get_training_set
from tests.conftest import character_tokenizer, save_model
from tests.support.presets import FOLDER, preset
from tests.support.problem_sets import ROWS, write_rows

# Preset -> family of its model and whether its head is tied to the embedding.
MATH_PRESETS = {
    "qwen3-1.7b-numinamath": ("qwen3", True),
    "qwen3-4b-numinamath": ("qwen3", True),
    "qwen3-8b-numinamath": ("qwen3", False),
    "qwen2.5-math-1.5b-math": ("qwen2", True),
    "deepseek-r1-7b-skywork": ("qwen2", False),
}
PRESETS = [*MATH_PRESETS, "qwen2.5-1.5b-alfworld", "qwen2.5-3b-alfworld"]
# Billions of parameters, and of those outside the embeddings, and layers, as the model cards have them.
CARDS = {
    "Qwen/Qwen3-1.7B-Base": (1.7, 1.4, 28),
    "Qwen/Qwen3-4B-Base": (4.0, 3.6, 36),
    "Qwen/Qwen3-8B-Base": (8.2, 6.95, 36),
    "Qwen/Qwen2.5-Math-1.5B": (1.54, 1.31, 28),
    "Qwen/Qwen2.5-1.5B-Instruct": (1.54, 1.31, 28),
    "Qwen/Qwen2.5-3B-Instruct": (3.09, 2.77, 36),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": (7.61, 6.53, 28),
}


@pytest.mark.parametrize("name", PRESETS)
def test_every_value_says_where_it_comes_from(name: str) -> None:
    lines = [line for line in (FOLDER / f"{name}.yaml").read_text().splitlines() if line and not line.startswith("#")]
    assert len(lines) == len(read_yaml(FOLDER / f"{name}.yaml"))
    for line in lines:
        assert len(re.findall(r"\[(?:paper|recipe default|chosen here)\]", line)) == 1, line
    named = {line.split(":")[0] for line in lines}
    # What moves C(k) is never left to a default.
    assert named >= {
        "loss_type",
        "epsilon",
        "lr_scheduler_type",
        "warmup_steps",
        "weight_decay",
        "adam_epsilon",
        "max_grad_norm",
        "beta",
        "temperature",
    }
    build(ScanConfig, [(name, read_yaml(FOLDER / f"{name}.yaml"))])


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("qwen3")])
def test_what_the_paper_states_for_qwen3(name: str) -> None:
    config = preset(name)
    assert (config.learning_rate, config.train_batch_size, config.mini_batch_size) == (5e-6, 512, 128)
    assert (config.num_generations, config.max_completion_length) == (4, 3072)
    assert (config.beta, config.epsilon, config.train_size) == (0.001, 0.2, 50000)
    # Four epochs, "about 391 steps".
    assert config.steps == -(-4 * 50000 // 512)
    assert config.benchmarks is not None
    assert set(config.benchmarks.split(",")) == {"math500", "gsm8k", "olympiadbench", "amc"}


@pytest.mark.parametrize("name", list(CARDS))
def test_shipped_numbers_give_the_parameters_of_the_model_cards(name: str) -> None:
    base = outline_model(ModelConfig(model=name, dtype="bfloat16"))
    total, inside, layers = CARDS[name]
    embeddings = sum(base.tensor(n).numel() for n, part in base.parts.items() if part.module in ("embed", "head"))
    for billions, count in ((total, base.num_parameters), (inside, base.num_parameters - embeddings)):
        last_digit = 0.1 if billions == round(billions, 1) else 0.01
        assert abs(count / 1e9 - billions) < last_digit
    assert base.num_layers == layers
    assert base.tensor(next(iter(base.parts))).is_meta


def test_presets_use_models_that_need_no_download() -> None:
    assert {preset(name).model for name in PRESETS} == set(ARCHITECTURES)


def test_memory_by_hand() -> None:
    config = preset("qwen3-1.7b-numinamath")
    base = outline_model(config)
    full, last = (memory_of(base, [spec_of(base, plan, 0)], config) for plan in ("all", "27"))
    assert full.weights == 2 * 1_720_574_976
    assert full.arms == 14 * 1_720_574_976  # master 4, copy 2, moments 8
    assert last.arms == 14 * 50_336_000
    assert full.trunks == last.trunks == 0  # 512 rows of 4,096 tokens are over any limit
    # 64 rows of 4,096 tokens: keys and values of 8 heads of 128 in 28 layers, two bytes each; 64 rows of logits, and three
    # distributions in doubles of the 3 rows that 4 MiB hold.
    drawn = 151936 * 4 * 64 + 3 * 2**22
    assert full.sampling == last.sampling == 64 * 4096 * 28 * 2 * 1024 * 2 + drawn
    # 28 trained layers against one, beside the same logits and what passes on the way down; gradients of 4 bytes.
    rows = min(config.micro_batch_size, config.micro_batch_tokens // 4096)
    frozen, trained = 2 * 2048 + 4 * 2048 + 3 * 6144 + 2048 + 1024, 4 * 2048 + 2 * 2048 + 1024 + 6144
    passing, logits = 2 * rows * 4096 * (3 * 6144 + 2 * 2048), 4 * 220 * 151936  # 128 MiB of logits
    assert last.update == 4 * 50_336_000 + passing + 2 * logits + 2 * rows * 4096 * (frozen + trained)
    assert full.update == 4 * 1_720_574_976 + passing + 3 * logits + 28 * 2 * rows * 4096 * (frozen + trained)
    assert last.peak == int(1.08 * (last.weights + last.arms + max(last.sampling, last.update)))
    # Side by side arms keep their own masters and moments, and are updated one after the other.
    both_arms = memory_of(base, [spec_of(base, plan, 0) for plan in ("all", "27")], config)
    assert both_arms.arms == full.arms + last.arms and both_arms.update == full.update


def test_time_grows_with_depth_of_training_and_falls_with_the_gpu() -> None:
    config = preset("qwen3-1.7b-numinamath")
    base = outline_model(config)
    hours = [hours_of(base, spec_of(base, plan, 0), config, GPUS[1]) for plan in ("27", "14", "0", "all")]
    assert hours == sorted(hours)
    # With arithmetic for nothing only reading remains, and the arms differ in nothing.
    free = Gpu("free", 1e12, 1e30, 1e12)
    assert hours_of(base, spec_of(base, "27", 0), config, free) == pytest.approx(
        hours_of(base, spec_of(base, "all", 0), config, free)
    )
    double = config.model_copy(update={"steps": 2 * config.steps})
    assert hours_of(base, spec_of(base, "all", 0), double, GPUS[1]) == pytest.approx(2 * hours[-1])


def run(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.setattr("sys.argv", ["onelayer", *shlex.split(line)])
    main()


@pytest.mark.parametrize("name", PRESETS)
def test_plan_prints_memory_and_cost_without_weights(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", None)
    run(monkeypatch, f"plan --preset {name}")
    out = capsys.readouterr().out
    assert "rough cost on one GPU" in out
    assert re.search(r"full +[\d.]+ GB", out)
    assert re.search(r"layer-00 +[\d.]+ GB", out)
    assert re.search(r"scan +[\d.]+ GB", out)
    assert "…" not in out
    assert "computed, not measured" in out


@pytest.mark.parametrize("name", list(MATH_PRESETS))
def test_the_whole_path_of_a_preset_on_a_small_model(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, tied = MATH_PRESETS[name]
    monkeypatch.chdir(tmp_path)
    task = preset(name).task
    assert task is not None
    # Few characters, so that a random model now and then writes the answer, which has one digit, and rewards vary.
    digits = "12" if task == "skywork_or1" else next(c for c in ROWS[task][1] if c.isdigit())
    save_model(tmp_path / "m", family, tied=tied, layers=2, tokenizer=character_tokenizer(f"{digits} "))
    settings = json.loads((tmp_path / "m/tokenizer_config.json").read_text())
    settings["chat_template"] = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    (tmp_path / "m/tokenizer_config.json").write_text(json.dumps(settings))
    files = {task: 24, **dict.fromkeys(get_training_set(task).benchmarks, 2)}
    for each, count in files.items():
        row, _ = ROWS[each]
        text = json.dumps(row).replace("?", "NUMBER?")
        rows = [json.loads(text.replace("NUMBER", f" {i} and {each}")) for i in range(count)]
        if each == "skywork_or1":
            # One digit, as in the other rows: a random model writes it now and then, so that rewards vary.
            rows = [row | {"reward_model": {"ground_truth": '["1"]'}} for row in rows]
        write_rows(tmp_path / f"{each}.jsonl", rows)
    listed = ",".join(f"{each}={each}.jsonl" for each in files)
    small = (
        "--model m --dtype float32 --train-batch-size 8 --mini-batch-size 4 --num-generations 4 --steps 2 "
        "--max-prompt-length 120 --max-completion-length 6 --selection-size 4 --learning-rate 1e-2 --max-rows 512 "
        f"--eval-num-samples 2 --eval-steps 2 --micro-batch-size 32 --data-files {listed}"
    )
    run(monkeypatch, f"scan --preset {name} {small} --output run")
    arms = {path.name for path in (tmp_path / "run/arms").iterdir()}
    assert arms == {"base", "full", "layer-00", "layer-01"}
    assert (tmp_path / "run/report.html").exists()
    described = json.loads((tmp_path / "run/task.json").read_text())
    assert [row["name"] for row in described["benchmarks"]] == get_training_set(task).benchmarks
    assert all(r"\boxed{}" in row["prompt"] and row["num_samples"] == 2 for row in described["benchmarks"])
    assert described["training"]["train"] == 20
    assert described["training"]["ngram"] == 13
    records = [json.loads(line) for line in (tmp_path / "run/arms/full/metrics.jsonl").read_text().splitlines()]
    assert len(records) == 2
    assert ("kl" in records[0]) == (preset(name).beta > 0)
    assert any(record["frac_reward_zero_std"] < 1 and record["grad_norm"] > 0 for record in records)


def test_memory_counts_the_prepacked_weights_where_they_are_used() -> None:
    network = make_model("qwen3", character_tokenizer(), Shape(layers=2, width=512))
    base = wrap_model(network, character_tokenizer(), name="wide")
    config = TrainConfig(model="wide", task="arithmetic", device="cpu", beta=0.0)
    full, one, divergence = (
        memory_of(base, [spec_of(base, plan, 0)], config.model_copy(update={"beta": beta}))
        for plan, beta in (("all", 0.0), ("1", 0.0), ("all", 0.1))
    )
    # Queries, keys, values and output, and three of the gated product; the head is small.
    second = 4 * 2 * (2 * 512 * 512 + 2 * 512 * 256 + 3 * 512 * 1536)
    assert full.weights == 4 * base.num_parameters
    assert one.weights == divergence.weights == full.weights + second
    # Without them in training they are made when the base is scored.
    assert full.sampling == one.sampling + second
