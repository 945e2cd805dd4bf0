"""LISA arms: only what is active trains, as in the authors' code, whatever the schedule of the run."""

import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

from onelayer.arms.arm import OptimizerSettings
from onelayer.arms.delta_files import read_delta_for, write_delta
from onelayer.arms.lisa import LisaArm, create_lisa_arm
from onelayer.arms.plan import Lisa, parse_plan, resolve
from onelayer.arms.spec import spec_of
from onelayer.errors import RunStopped, UserError
from onelayer.models.base import BaseModel
from onelayer.report.plan_table import plan_table
from tests.support.lora import run, settings

IDS = torch.arange(2, 12)[None]


def lisa_arm(base: BaseModel, plan: str = "lisa:1/2@0", **options: float) -> LisaArm:
    (item,) = parse_plan(plan, base.num_layers)
    assert item.lisa
    rates = resolve([item], base.parts, base.tied_head)
    return create_lisa_arm(base, rates, item.lisa, OptimizerSettings(**options), plan=plan)  # type: ignore[arg-type]


def backward(base: BaseModel, arm: LisaArm, scale: float = 1.0) -> None:
    with arm.worn_by(base):
        loss = base.module(input_ids=IDS).logits.float().logsumexp(-1).sum()
    (scale * loss).backward()
    arm.collect_gradients()


def test_layers_are_drawn_by_seed_and_period() -> None:
    schedule = Lisa(2, 20, 0)
    drawn = [schedule.active(28, update) for update in range(4000)]
    assert all(drawn[update] == drawn[update - update % 20] for update in range(4000))
    periods = drawn[::20]
    assert len(set(periods)) > 100
    assert all(len(set(layers)) == 2 and layers == tuple(sorted(layers)) for layers in periods)
    counts = Counter(layer for layers in periods for layer in layers)
    # 400 draws over 28 layers: 14.3 each, with a standard deviation of 3.6.
    assert counts.keys() == set(range(28))
    assert max(counts.values()) < 28
    assert [Lisa(2, 20, 1).active(28, update) for update in range(0, 4000, 20)] != periods
    assert Lisa(4, 1, 3).active(4, 7) == (0, 1, 2, 3)


@pytest.mark.parametrize("tied", [True, False])
def test_a_plan_names_embedding_head_and_layers(base_of: Callable[..., BaseModel], tied: bool) -> None:
    base = base_of(tied=tied)
    spec = spec_of(base, "lisa:2/20@0", 0)
    assert base.parts.keys() - spec.rates.keys() == {"model.norm.weight"}
    assert (spec.kind, spec.layer, spec.name) == ("strategy", None, "lisa-2-20-0")
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(plan_table(base, spec, 1e-3))
    assert "2 of the layers at a time, drawn anew every 20 updates" in console.export_text()


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ("lisa:2", "for example lisa:2/20@0"),
        ("lisa:2/20", "for example lisa:2/20@0"),
        ("lisa:2/0@1", "for example lisa:2/20@0"),
        ("lisa:2/20@0.attn", "for example lisa:2/20@0"),
        ("lisa:5/20@0", "1 to 4"),
        ("lisa:2/20@0,2", "only it"),
        ("final_norm,lisa:2/20@0", "only it"),
        ("lisa:2/20@0,lisa:1/10@0", "only it"),
        ("lisa:2/20@0,lora:4", "mixes LoRA"),
    ],
)
def test_a_wrong_plan_is_one_sentence(base: BaseModel, plan: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        spec_of(base, plan, 0)


def leaves_of_graph(loss: torch.Tensor) -> set[int]:
    """Ids of the tensors where the backward pass of ``loss`` ends."""
    seen, waiting, found = set(), [loss.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        waiting += [following for following, _ in node.next_functions]
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_active_tensors_are_in_the_graph(base_of: Callable[..., BaseModel], dtype: torch.dtype) -> None:
    base = base_of(dtype=dtype)
    arm = lisa_arm(base)
    (layer,) = arm.active_layers
    active = {name for name, part in base.parts.items() if part.layer == layer or part.module == "embed"}
    with arm.worn_by(base):
        loss = base.module(input_ids=IDS).logits.float().logsumexp(-1).sum()
    assert leaves_of_graph(loss) == {id(arm.leaves[name]) for name in active}
    loss.backward()
    arm.collect_gradients()
    assert {name for name, master in arm.masters.items() if master.grad is not None} == active


def test_the_numbers_are_those_of_one_adamw_that_skips_frozen_layers(
    base_of: Callable[..., BaseModel], model_folder: Callable[..., Path]
) -> None:
    """The authors' callback: one optimizer over everything, ``requires_grad`` switched every so many steps."""
    base = base_of("llama", tied=False)
    options = {"learning_rate": 1e-2, "weight_decay": 0.1, "max_grad_norm": 0.5}
    arm = lisa_arm(base, "lisa:1/2@0", **options)
    model = AutoModelForCausalLM.from_pretrained(model_folder("llama", tied=False))
    model.model.norm.requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1, foreach=False)
    layers = []
    for step in range(12):
        if step % 2 == 0:
            layers.append(arm.active_layers[0])
            model.model.layers.requires_grad_(False)
            model.model.layers[layers[-1]].requires_grad_(True)
        optimizer.zero_grad()
        model(input_ids=IDS).logits.float().logsumexp(-1).sum().backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        backward(base, arm)
        assert arm.update()["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    # A layer has left and come back, so what happens to its moments shows.
    assert any(layer in layers[: i - 1] and layers[i - 1] != layer for i, layer in enumerate(layers) if i > 1)
    theirs = dict(model.named_parameters())
    for name, master in arm.masters.items():
        assert torch.allclose(master, theirs[name], atol=1e-4)
    assert arm.reached_layers == sorted(set(layers))


def test_a_tensor_that_was_never_active_keeps_its_bits(base: BaseModel) -> None:
    arm = lisa_arm(base, "lisa:1/3@0", learning_rate=1e-2, weight_decay=0.1)
    (layer,) = arm.active_layers
    for _ in range(3):
        backward(base, arm)
        arm.update()
    arm.check_moved(base)
    for name, master in arm.masters.items():
        assert torch.equal(master, base.tensor(name)) == (base.parts[name].layer not in (None, layer))
    name = f"model.layers.{layer}.mlp.up_proj.weight"
    with torch.no_grad():
        arm.masters[name].copy_(base.tensor(name))
    with pytest.raises(RunStopped, match=rf"1 of 12 trained tensors did not move.*layers\.{layer}\.mlp\.up_proj"):
        arm.check_moved(base)


def test_a_period_without_a_gradient_is_not_asked_to_move(base: BaseModel) -> None:
    arm = lisa_arm(base, "lisa:1/1@0", learning_rate=1e-2)
    first, second = (arm.schedule.active(4, update)[0] for update in range(2))
    assert first != second
    for scale in (0.0, 1.0):
        backward(base, arm, scale)
        arm.update()
    assert arm.reached_layers == [second]
    arm.check_moved(base)


def test_the_delta_holds_all_that_may_train(base: BaseModel, tmp_path: Path) -> None:
    arm = lisa_arm(base, learning_rate=1e-2)
    backward(base, arm)
    arm.update()
    write_delta(tmp_path / "delta.safetensors", arm.delta(), base, arm.plan)
    delta = read_delta_for(base, tmp_path / "delta.safetensors")
    assert delta.keys() == arm.rates.keys()
    assert all(torch.equal(delta[name], master) for name, master in arm.masters.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_alone_in_a_set_and_continued_are_the_same_bytes(base_of: Callable[..., BaseModel], dtype: torch.dtype) -> None:
    base = base_of(dtype=dtype)
    config = settings(mini_batch_size=1)  # 8 updates in periods of 3: the pause falls inside a period
    (alone,) = run(base, ["lisa:1/3@0"], config)
    *_, in_a_set = run(base, ["all", "lora:2", "lisa:2/1@5", "lisa:1/3@0"], config)
    _, continued = run(base, ["1", "lisa:1/3@0"], config, pause=2)
    alone.check_moved(base)
    assert len(alone.counters()["reached_layers"]) > 1
    for other in (in_a_set, continued):
        assert alone.state().keys() == other.state().keys()
        assert all(torch.equal(alone.state()[key], value) for key, value in other.state().items())
        assert alone.counters() == other.counters()
