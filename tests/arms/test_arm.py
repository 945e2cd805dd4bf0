from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from onelayer.arms.arm import Arm, FrozenCheck, OptimizerSettings
from onelayer.arms.delta_files import as_weights, merge, read_delta_for, write_delta
from onelayer.arms.plan import parse_plan, resolve
from onelayer.errors import RunStopped, UserError
from onelayer.models.base import BaseModel


def make_arm(base: BaseModel, plan: str = "2", **settings: float | str) -> Arm:
    rates = resolve(parse_plan(plan, base.num_layers), base.parts, base.tied_head)
    return Arm.create(base, rates, OptimizerSettings(**settings), name="arm", plan=plan)  # type: ignore[arg-type]


def backward(base: BaseModel, arm: Arm, scale: float = 1.0) -> None:
    with arm.worn_by(base):
        loss = base.module(input_ids=torch.arange(2, 12)[None]).logits.float().logsumexp(-1).sum()
        (scale * loss).backward()
    arm.collect_gradients()


def test_an_arm_owns_what_it_trains_and_nothing_else(base: BaseModel) -> None:
    arm = make_arm(base, "1.mlp")
    assert list(arm.masters) == [f"model.layers.1.mlp.{n}_proj.weight" for n in ("gate", "up", "down")]
    assert arm.num_parameters == 3 * 32 * 48
    assert all(torch.equal(master, base.tensor(name)) for name, master in arm.masters.items())


def test_an_update_is_clipped_adamw(base: BaseModel) -> None:
    arm = make_arm(base, "0,2*3", learning_rate=1e-3, weight_decay=0.1, max_grad_norm=0.5)
    backward(base, arm)
    gradients = {name: master.grad.clone() for name, master in arm.masters.items() if master.grad is not None}
    norm = sum(gradient.square().sum() for gradient in gradients.values()) ** 0.5
    result = arm.update()
    assert result["grad_norm"] == pytest.approx(float(norm), rel=1e-5)
    assert norm > 0.5
    for name, gradient in gradients.items():
        start = base.tensor(name).double()
        clipped = gradient.double() * 0.5 / (float(norm) + 1e-6)
        rate = 1e-3 * (3 if ".2." in name else 1)
        # Adam's first step: both moments are bias-corrected to the gradient itself.
        expected = start * (1 - rate * 0.1) - rate * clipped / (clipped.abs() + 1e-8)
        assert torch.allclose(arm.masters[name].double(), expected, atol=1e-7)


def test_gradients_of_micro_batches_are_summed_in_fp32(base_of: Callable[..., BaseModel]) -> None:
    base = base_of(dtype=torch.bfloat16)
    arm = make_arm(base, "all")
    for scale in (1.0, 2.0**-9):  # the second is lost when it is added to the first in bfloat16
        backward(base, arm, scale)
    once = make_arm(base, "all")
    backward(base, once)
    name = "model.norm.weight"
    whole, single = arm.masters[name].grad, once.masters[name].grad
    assert whole is not None and single is not None and whole.dtype == torch.float32
    assert torch.allclose(whole, single * (1 + 2.0**-9), rtol=2e-3)
    assert not torch.equal(whole, single)
    assert all(weight.grad is None and weight.dtype == torch.bfloat16 for weight in arm.weights.values())


def test_small_steps_survive_a_bfloat16_base(base_of: Callable[..., BaseModel]) -> None:
    base = base_of(dtype=torch.bfloat16)
    arm = make_arm(base, "2", learning_rate=5e-6)
    for _ in range(3):
        backward(base, arm)
        arm.update()
    arm.check_moved(base)
    name = "model.layers.2.mlp.up_proj.weight"
    moved = arm.masters[name] != base.tensor(name).float()
    seen = arm.weights[name] != base.tensor(name)
    assert moved.float().mean() > 0.99
    assert seen.float().mean() < 0.2


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("constant", [0.5, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1, 1, 0.853553, 0.5, 0.146447]),
    ],
)
def test_schedules_by_hand(shape: str, expected: list[float]) -> None:
    settings = OptimizerSettings(learning_rate=1.0, lr_scheduler_type=shape, warmup_steps=2, total_updates=6)
    assert [settings.rate_at(update) for update in range(6)] == pytest.approx(expected, abs=1e-6)


def test_a_chosen_tensor_that_does_not_move_stops_the_run(base: BaseModel) -> None:
    arm = make_arm(base, "1,2", learning_rate=1e-3)
    arm.check_moved(base)  # nothing was done yet
    backward(base, arm)
    arm.update()
    arm.check_moved(base)
    name = "model.layers.1.mlp.up_proj.weight"
    with torch.no_grad():
        arm.masters[name].copy_(base.tensor(name))
    with pytest.raises(RunStopped, match=r"1 of 22 trained tensors did not move.*layers\.1\.mlp\.up_proj"):
        arm.check_moved(base)


def test_a_frozen_tensor_that_moves_stops_the_run(base: BaseModel) -> None:
    check = FrozenCheck(base)
    check()
    with torch.no_grad():
        base.tensor("model.layers.3.mlp.up_proj.weight")[0, 0] += 1e-7
    with pytest.raises(RunStopped, match=r"1 frozen tensors.*layers\.3\.mlp\.up_proj"):
        check()


def test_an_update_with_a_gradient_that_is_not_finite_is_skipped_and_counted(base: BaseModel) -> None:
    arm = make_arm(base)
    before = {name: master.detach().clone() for name, master in arm.masters.items()}
    backward(base, arm, scale=float("inf"))
    assert arm.update() == {}
    assert arm.skipped == 1
    assert all(torch.equal(master, before[name]) for name, master in arm.masters.items())
    assert all(master.grad is None for master in arm.masters.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_restored_arm_goes_on_bit_for_bit(base_of: Callable[..., BaseModel], dtype: torch.dtype) -> None:
    base = base_of(dtype=dtype)
    arm = make_arm(base, "1,3.norm*2", learning_rate=1e-3)
    for _ in range(2):
        backward(base, arm)
        arm.update()
    copy = make_arm(base, "1,3.norm*2", learning_rate=1e-3)
    copy.load_state({key: value.clone() for key, value in arm.state().items()}, arm.counters())
    for each in (arm, copy):
        backward(base, each)
        each.update()
    assert arm.counters() == copy.counters()
    assert all(torch.equal(arm.state()[key], value) for key, value in copy.state().items())
    assert all(torch.equal(arm.weights[name], weight) for name, weight in copy.weights.items())


@pytest.mark.parametrize(
    ("family", "tied", "plan"), [("qwen3", True, "all"), ("qwen2", False, "1,head"), ("llama", True, "2")]
)
def test_merged_checkpoint_gives_the_same_logits(
    base_of: Callable[..., BaseModel], tmp_path: Path, family: str, tied: bool, plan: str
) -> None:
    base = base_of(family, tied=tied)
    arm = make_arm(base, plan, learning_rate=1e-2)
    backward(base, arm)
    arm.update()
    write_delta(tmp_path / "delta.safetensors", arm.delta(), base, arm.plan)
    delta = read_delta_for(base, tmp_path / "delta.safetensors")
    assert delta.keys() == arm.masters.keys()
    before = base.hash
    merge(delta, base, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    AutoTokenizer.from_pretrained(tmp_path / "merged")
    ids = torch.arange(2, 12)[None]
    with torch.no_grad(), base.wearing(as_weights(delta, base)):
        assert torch.equal(base.module(input_ids=ids).logits, merged(input_ids=ids).logits)
    assert base.hash == before
    FrozenCheck(base)()
    with pytest.raises(UserError, match="not an empty folder"):
        merge(delta, base, tmp_path / "merged")


def test_a_delta_of_another_base_is_refused(base_of: Callable[..., BaseModel], tmp_path: Path) -> None:
    base = base_of()
    write_delta(tmp_path / "delta.safetensors", make_arm(base).delta(), base, "1")
    with pytest.raises(UserError, match="another base"):
        read_delta_for(base_of(layers=3), tmp_path / "delta.safetensors")
    with pytest.raises(UserError, match="cannot be read"):
        read_delta_for(base, tmp_path / "nothing.safetensors")
    (tmp_path / "torn.safetensors").write_bytes((tmp_path / "delta.safetensors").read_bytes()[:100])
    with pytest.raises(UserError, match="cannot be read"):
        read_delta_for(base, tmp_path / "torn.safetensors")
