"""A delta from anybody: what it has to be before it is put on a base."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import onelayer as package
from onelayer.arms.delta_files import DELTA, read_delta_for, read_delta_header, write_delta
from onelayer.arms.spec import create_arm, spec_of
from onelayer.config.configs import TrainConfig
from onelayer.errors import UserError
from onelayer.models.base import BaseModel, parts_of
from onelayer.models.load import load_base
from onelayer.storage.files import checksum, write_sealed
from tests.conftest import Command, save_model

BaseOf = Callable[..., BaseModel]
HONEST = ("1", "1.attn", "0,2.mlp*0.5", "all", "embed", "head", "final_norm", "all,1*0", "lora:2@1", "lora:2@1.attn")


def written(base: BaseModel, plan: str, path: Path, change: Callable[[dict[str, Tensor]], None] | None = None) -> Path:
    """The delta of an arm of the plan, whose tensors may be changed before they are written."""
    config = TrainConfig(model="m", task="arithmetic", layers=plan, steps=1)
    delta = {name: tensor.clone() for name, tensor in create_arm(base, spec_of(base, plan, 0), config).delta().items()}
    if change:
        change(delta)
    write_delta(path, delta, base, plan)
    return path


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("plan", [*HONEST, "lisa:1/2@0", "last:1.norm", "random:2@3"])
def test_what_arms_write_is_read(base_of: BaseOf, tmp_path: Path, plan: str, tied: bool) -> None:
    base = base_of(tied=tied)
    if tied and plan == "head":
        plan = "embed,head"
    path = written(base, plan, tmp_path / DELTA)
    assert read_delta_for(base, path).keys() == spec_of(base, plan, 0).rates.keys()
    assert package.read_delta(base.module, path).keys() == spec_of(base, plan, 0).rates.keys()


def drop(name: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda delta: delta.__delitem__(name)


def put(name: str, tensor: Tensor) -> Callable[[dict[str, Tensor]], None]:
    return lambda delta: delta.__setitem__(name, tensor)


UP, OTHER = "model.layers.1.mlp.up_proj.weight", "model.layers.2.mlp.up_proj.weight"
NAN, INFINITE = torch.zeros(48, 32), torch.zeros(48, 32)
NAN[47, 31], INFINITE[0, 0] = torch.nan, -torch.inf


@pytest.mark.parametrize(
    ("plan", "change", "sentence"),
    [
        ("1", drop(UP), f"tensor '{UP}' is not in it and belongs to its plan '1'"),
        ("1", put(OTHER, torch.zeros(48, 32)), f"tensor '{OTHER}' is in it and does not belong to its plan '1'"),
        ("1.attn", put(UP, torch.zeros(48, 32)), f"tensor '{UP}' is in it and does not belong to"),
        ("1", put("lm_head.weight", torch.zeros(50, 32)), "the base has no tensor 'lm_head.weight' that could be trained"),
        ("1", put("model.layers.9.mlp.up_proj.weight", torch.zeros(48, 32)), "the base has no tensor 'model.layers.9"),
        ("1", put(UP, torch.zeros(32, 48)), rf"tensor '{UP}' has the shape \[32, 48\], and the base's \[48, 32\]"),
        ("1", put(UP, torch.zeros(48 * 32)), rf"tensor '{UP}' has the shape \[1536\]"),
        ("1", put(UP, torch.zeros(0)), rf"tensor '{UP}' has the shape \[0\]"),
        ("1", put(UP, torch.zeros(48, 32, dtype=torch.bfloat16)), f"tensor '{UP}' is of type BF16, and deltas are float32"),
        ("1", put(UP, torch.zeros(48, 32, dtype=torch.float64)), f"tensor '{UP}' is of type F64"),
        ("1", put(UP, torch.zeros(48, 32, dtype=torch.int32)), f"tensor '{UP}' is of type I32"),
        ("1", put(UP, NAN), f"is damaged: 1 of 1,536 elements of {UP} are NaN"),
        ("1", put(UP, INFINITE), f"is damaged: 1 of 1,536 elements of {UP} are infinite"),
        ("lora:2@1", drop(UP), f"tensor '{UP}' is not in it"),
        ("lora:2@1", put("model.layers.1.input_layernorm.weight", torch.zeros(32)), "input_layernorm.weight' is in it and"),
        ("lisa:1/2@0", put("model.norm.weight", torch.zeros(32)), "'model.norm.weight' is in it and does not belong"),
        ("embed", put("model.norm.weight", torch.zeros(32)), "'model.norm.weight' is in it and does not belong"),
        ("1", dict.clear, "holds no tensors"),
    ],
)  # fmt: skip
def test_what_is_not_its_plans_is_refused(
    base: BaseModel, tmp_path: Path, plan: str, change: Callable[[dict[str, Tensor]], None], sentence: str
) -> None:
    path = written(base, plan, tmp_path / "given.safetensors", change)
    for read in (lambda: read_delta_for(base, path), lambda: package.read_delta(base.module, path)):
        with pytest.raises(UserError, match=sentence):
            read()
    before = base.module.state_dict()[UP].clone()
    with pytest.raises(UserError):
        package.load_delta(base.module, path)
    assert torch.equal(base.module.state_dict()[UP], before)


@pytest.mark.parametrize("plan", ["9", "nonsense", "", "1.convolution", "lora:0", "all*0", "1" * 5000])
def test_a_plan_that_the_base_cannot_have_is_refused(base: BaseModel, tmp_path: Path, plan: str) -> None:
    write_delta(tmp_path / DELTA, {UP: base.tensor(UP)}, base, plan)
    with pytest.raises(UserError, match="names a plan that its base cannot have"):
        read_delta_for(base, tmp_path / DELTA)


def test_layers_that_a_profile_chose_are_whole(base: BaseModel, tmp_path: Path) -> None:
    """The profile may have changed, or be gone: which layers they were is seen from the delta."""
    whole = {name: base.tensor(name).clone() for name, part in base.parts.items() if part.layer in (1, 3)}
    path = tmp_path / DELTA
    write_delta(path, whole, base, "best:2@gone/profile.json")
    assert read_delta_for(base, path).keys() == whole.keys()
    write_delta(path, whole | {"model.norm.weight": base.tensor("model.norm.weight")}, base, "best:2@gone/profile.json")
    read_delta_for(base, path)
    write_delta(path, {name: value for name, value in whole.items() if name != UP}, base, "best:2@gone/profile.json")
    with pytest.raises(UserError, match=f"tensor '{UP}' is not in it"):
        read_delta_for(base, path)
    write_delta(path, {name: base.tensor(name) for name in base.parts}, base, "boost:2@gone/profile.json")
    assert read_delta_for(base, path).keys() == base.parts.keys()


def test_a_stitched_delta_has_the_tensors_of_its_layers(base: BaseModel, tmp_path: Path) -> None:
    whole = {name: base.tensor(name).clone() for name, part in base.parts.items() if part.layer in (0, 3)}
    write_delta(tmp_path / DELTA, whole, base, "stitched-00-03")
    write_sealed(tmp_path / "arm.json", {"kind": "stitched", "plan": "0,3", "base_hash": base.hash})
    assert read_delta_for(base, tmp_path / DELTA).keys() == whole.keys()
    write_delta(tmp_path / DELTA, whole, base, "stitched-00-02")
    with pytest.raises(UserError, match=r"says that its plan is '0,2', and the arm\.json beside it '0,3'"):
        read_delta_for(base, tmp_path / DELTA)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"plan": "2"}, "says that its plan is '1', and the arm.json beside it '2'"),
        ({"base_hash": "0" * 64}, "says that its base_hash is"),
        ({"plan": 5}, "has a 'plan' that is 5"),
        ({"sha256": {DELTA: "0" * 64}}, "is not what was written: its checksum differs"),
    ],
)
def test_a_delta_and_its_record_have_to_agree(
    base: BaseModel, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    path = written(base, "1", tmp_path / DELTA)
    record = {"plan": "1", "base_hash": base.hash, "sha256": {DELTA: checksum(path)}}
    write_sealed(tmp_path / "arm.json", record)
    read_delta_for(base, path)
    write_sealed(tmp_path / "arm.json", record | changes)
    with pytest.raises(UserError, match=sentence):
        read_delta_for(base, path)


HEADERS = {
    "no text": b"\xff",
    "no object": b"[]",
    "nested": b"[" * 100_000,
    "lacks keys": b'{"base_model": "m"}',
    "plan is a list": json.dumps({"base_model": "m", "revision": None, "base_hash": "x", "plan": ["1"]}).encode(),
    "hash is a number": json.dumps({"base_model": "m", "revision": None, "base_hash": 1, "plan": "1"}).encode(),
    "base is an object": json.dumps({"base_model": {}, "revision": None, "base_hash": "x", "plan": "1"}).encode(),
}


@pytest.mark.parametrize("text", HEADERS)
def test_a_header_that_is_none_is_a_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / DELTA
    save_file({"x": torch.zeros(1)}, path, metadata={"onelayer": HEADERS[text].decode("latin-1")})
    with pytest.raises(UserError, match="is no delta: its header does not hold base_model, revision, base_hash, plan"):
        read_delta_header(path)


F32: dict[str, Any] = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "header",
    [
        {"a": F32 | {"data_offsets": [0, 2**62]}},
        {"a": F32 | {"shape": [2**62]}},
        {"a": F32 | {"shape": [2**40, 2**40]}},
        {"a": F32, "b": F32},
        {"a": F32, "b": F32 | {"data_offsets": [4, 12]}},
        {"a": F32 | {"data_offsets": [8, 0]}},
        {"a": F32 | {"data_offsets": [-8, 0]}},
        {"a": F32 | {"dtype": "F99"}},
        {"a": F32 | {"shape": "2"}},
        {"a": []},
        [],
    ],
)
def test_a_table_of_tensors_that_lies_is_a_sentence(tmp_path: Path, header: Any) -> None:
    text = json.dumps(header).encode()
    for length in (len(text), 2**40, 2**64 - 1):
        (tmp_path / DELTA).write_bytes(struct.pack("<Q", length) + text + bytes(16))
        with pytest.raises(UserError, match="cannot be read"):
            read_delta_header(tmp_path / DELTA)


def test_parts_are_found_without_a_change_to_the_model(base_of: BaseOf) -> None:
    for tied in (True, False):
        base = base_of("llama", tied=tied)
        base.module.requires_grad_(True)
        base.module.train()
        assert parts_of(base.module, "m") == (base.parts, tied)
        assert base.module.training and base.head.weight.requires_grad


def test_commands_refuse_it_in_a_sentence(onelayer: Command, tmp_path: Path) -> None:
    save_model(tmp_path / "m")
    base = load_base("m")
    good = written(base, "1", tmp_path / "good.safetensors")
    assert onelayer("merge good.safetensors --output merged")[0] == 0
    assert load_file(good)[UP].shape == (48, 32)
    written(base, "1", tmp_path / "bad.safetensors", put(UP, NAN))
    for line in ("merge bad.safetensors --output no", "eval --delta bad.safetensors --benchmarks gsm8k --output no"):
        code, _, err = onelayer(line)
        assert (code, err.count("\n"), f"elements of {UP} are NaN" in err) == (2, 1, True), err
    assert not (tmp_path / "no").exists()
