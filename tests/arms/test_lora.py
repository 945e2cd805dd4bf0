"""LoRA arms: their numbers are peft's, their bytes do not depend on their schedule, and a merged delta is all they leave."""

import io
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

from onelayer.arms.arm import Arm, OptimizerSettings
from onelayer.arms.delta_files import as_weights, merge, read_delta_for, write_delta
from onelayer.arms.lora import LoraArm, create_lora_arm, initial_a, linear_parts
from onelayer.arms.plan import parse_plan, ranks_of, resolve
from onelayer.arms.spec import create_arm, spec_of
from onelayer.errors import RunStopped, UserError
from onelayer.models.base import BaseModel
from onelayer.report.plan_table import plan_table
from onelayer.runs.inputs import load_splits
from onelayer.training.loop import Training, run_steps
from tests.conftest import DigitTask
from tests.support.lora import run, settings

IDS = torch.arange(2, 12)[None]


def lora_arm(base: BaseModel, plan: str = "lora:4", **settings: float) -> LoraArm:
    items = parse_plan(plan, base.num_layers)
    parts = linear_parts(base)
    rates = resolve(items, parts, tied_head=False)
    return create_lora_arm(base, rates, ranks_of(items, parts, rates), OptimizerSettings(**settings), plan=plan)  # type: ignore[arg-type]


def backward(base: BaseModel, arm: Arm) -> None:
    with arm.worn_by(base):
        base.module(input_ids=IDS).logits.float().logsumexp(-1).sum().backward()
    arm.collect_gradients()


def trained(base: BaseModel, plan: str = "lora:4", updates: int = 3) -> LoraArm:
    arm = lora_arm(base, plan, learning_rate=1e-2)
    for _ in range(updates):
        backward(base, arm)
        arm.update()
    return arm


@pytest.mark.parametrize(
    ("plan", "count", "ranks"),
    [
        ("lora:4", 4 * 7, {4}),
        ("lora:16@2", 7, {16}),
        ("lora:8@all.attn", 4 * 4, {8}),
        ("lora:16@mid:2.mlp", 2 * 3, {16}),
        ("lora:8,lora:2@0.mlp", 4 * 7, {2, 8}),
        ("lora:8,lora:8@1*0", 3 * 7, {8}),
    ],
)
def test_a_plan_names_linear_modules_and_ranks(base: BaseModel, plan: str, count: int, ranks: set[int]) -> None:
    spec = spec_of(base, plan, 0)
    assert spec.ranks.keys() == spec.rates.keys()
    assert len(spec.rates) == count
    assert set(spec.ranks.values()) == ranks
    assert all(name.endswith("_proj.weight") for name in spec.rates)
    assert (spec.kind, spec.layer) == ("strategy", None)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ("lora", "not understood"),
        ("lora:0", "rank of at least 1"),
        ("lora:x@2", "rank of at least 1"),
        ("lora:4@embed", "linear modules of layers"),
        ("lora:4@2.norm", "linear modules of layers"),
        ("lora:4@9", "no layer 9"),
        ("lora:4,2", "mixes LoRA"),
        ("all,lora:4@2", "mixes LoRA"),
    ],
)
def test_a_wrong_plan_is_one_sentence(base: BaseModel, plan: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        spec_of(base, plan, 0)


def test_parameters_are_those_of_a_and_b(base: BaseModel) -> None:
    # Per layer: q 32x32, k and v 16x32, o 32x32, gate and up 48x32, down 32x48.
    pairs = 64 + 48 + 48 + 64 + 80 + 80 + 80
    assert lora_arm(base, "lora:4").num_parameters == 4 * 4 * pairs
    spec = spec_of(base, "lora:4@1", 0)
    assert create_arm(base, spec, settings()).num_parameters == 4 * pairs


def test_the_table_counts_a_and_b(base: BaseModel) -> None:
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(plan_table(base, spec_of(base, "lora:4@1", 0), 1e-3))
    text = console.export_text()
    assert f"{4 * 464:,}" in text
    assert "rank 4" in text


def test_an_arm_starts_at_the_base(base: BaseModel) -> None:
    arm = lora_arm(base)
    assert all(torch.equal(weight, base.tensor(name)) for name, weight in arm.weights.items())
    name = "model.layers.1.mlp.down_proj.weight"
    a = arm.masters[f"{name}.lora_A"]
    bound = 1 / math.sqrt(48)
    assert a.shape == (4, 48)
    assert bound * 0.9 < float(a.detach().abs().max()) < bound
    assert abs(float(a.detach().mean())) < 0.2 * bound
    assert torch.equal(a, initial_a(0, name, 4, 48))
    assert not torch.equal(a, initial_a(1, name, 4, 48))
    assert torch.equal(a, lora_arm(base, "lora:4@1.mlp").masters[f"{name}.lora_A"])


@pytest.mark.parametrize("family", ["qwen3", "qwen2"])
def test_logits_and_gradients_are_those_of_peft(
    base_of: Callable[..., BaseModel], model_folder: Callable[..., Path], family: str
) -> None:
    peft = pytest.importorskip("peft")
    base = base_of(family)
    arm = trained(base)
    model = AutoModelForCausalLM.from_pretrained(model_folder(family))
    settings = peft.LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules="all-linear")
    model = peft.get_peft_model(model, settings)
    theirs = {
        name.removeprefix("base_model.model.").replace(".default.weight", "").replace(".lora_", ".weight.lora_"): tensor
        for name, tensor in model.named_parameters()
        if tensor.requires_grad
    }
    assert theirs.keys() == arm.masters.keys()
    with torch.no_grad():
        for name, tensor in theirs.items():
            tensor.copy_(arm.masters[name])
        with arm.worn_by(base):
            ours = base.module(input_ids=IDS).logits
        plain = base.module(input_ids=IDS).logits
    logits = model(input_ids=IDS).logits
    assert torch.allclose(ours, logits, atol=2e-5, rtol=1e-5)
    assert not torch.allclose(ours, plain, atol=1e-2)
    backward(base, arm)
    logits.float().logsumexp(-1).sum().backward()
    for name, tensor in theirs.items():
        gradient = arm.masters[name].grad
        assert gradient is not None and tensor.grad is not None
        assert torch.allclose(gradient, tensor.grad, atol=1e-4 * float(tensor.grad.abs().max()) + 1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_delta_is_the_policy_under_the_original_names(
    base_of: Callable[..., BaseModel], tmp_path: Path, dtype: torch.dtype
) -> None:
    base = base_of(dtype=dtype)
    arm = trained(base, "lora:4@1,lora:2@3.attn")
    arm.check_moved(base)
    write_delta(tmp_path / "delta.safetensors", arm.delta(), base, arm.plan)
    delta = read_delta_for(base, tmp_path / "delta.safetensors")
    assert list(arm.weights) == list(arm.rates)
    assert all(tensor.dtype == torch.float32 for tensor in delta.values())
    worn = as_weights(delta, base)
    assert all(torch.equal(worn[name], weight) for name, weight in arm.weights.items())
    assert all(weight.dtype == dtype for weight in arm.weights.values())
    merge(delta, base, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=dtype)
    with torch.no_grad(), arm.worn_by(base):
        assert torch.equal(base.module(input_ids=IDS).logits, merged(input_ids=IDS).logits)


def test_masters_stay_fp32_and_sum_their_micro_batches(base_of: Callable[..., BaseModel]) -> None:
    base = base_of(dtype=torch.bfloat16)
    arm = trained(base)
    backward(base, arm)
    once = {name: master.grad.clone() for name, master in arm.masters.items() if master.grad is not None}
    backward(base, arm)
    assert once.keys() == arm.masters.keys()
    for name, master in arm.masters.items():
        assert master.dtype == torch.float32 and master.grad is not None
        assert torch.allclose(master.grad, 2 * once[name])


def test_a_pair_that_does_not_move_stops_the_run(base: BaseModel) -> None:
    arm = trained(base, updates=1)
    arm.check_moved(base)
    name = "model.layers.1.mlp.up_proj.weight"
    with torch.no_grad():
        arm.masters[f"{name}.lora_B"].zero_()
    with pytest.raises(RunStopped, match=r"1 of 28 trained tensors did not move.*layers\.1\.mlp\.up_proj"):
        arm.check_moved(base)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_alone_in_a_set_and_continued_are_the_same_bytes(base_of: Callable[..., BaseModel], dtype: torch.dtype) -> None:
    base = base_of(dtype=dtype)
    config = settings(mini_batch_size=1)
    (alone,) = run(base, ["lora:4"], config)
    *_, in_a_set = run(base, ["all", "1", "lora:4@2", "lora:4"], config)
    _, continued = run(base, ["1", "lora:4"], config, pause=3)
    alone.check_moved(base)
    assert alone.updates == 8
    for other in (in_a_set, continued):
        assert all(torch.equal(alone.state()[key], value) for key, value in other.state().items())
        assert all(torch.equal(alone.delta()[name], value) for name, value in other.delta().items())
        assert alone.counters() == other.counters()


def test_a_lora_arm_learns(base: BaseModel) -> None:
    config = settings(steps=20, train_batch_size=4, learning_rate=1e-2, beta=0.0)
    data = load_splits(base, DigitTask(), config)
    training = Training(base, DigitTask(), data["train"], data["selection"], config, (0,))
    arm = create_arm(base, spec_of(base, "lora:4", 0), config)
    rewards = [results[0][1]["reward"] for _, results in run_steps(training, [arm], start=0)]
    assert sum(rewards[-4:]) / 4 > sum(rewards[:4]) / 4 + 0.1
