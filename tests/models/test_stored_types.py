"""A checkpoint is one base in every type that it is loaded in, and a merge leaves every tensor in the type that it had."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from onelayer import load_delta, read_delta
from onelayer.arms.delta_files import read_delta_for, write_delta
from onelayer.arms.plan import parse_plan, resolve
from onelayer.errors import UserError
from onelayer.models.base import BaseModel, is_base, tensors_hash
from onelayer.models.load import load_base
from onelayer.models.stored_types import stored_types, widest
from tests.conftest import Command, character_tokenizer

NAME = "model.layers.1.mlp.up_proj.weight"
F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16


def kind_of(name: str, types: str) -> torch.dtype:
    """A tensor's type in a checkpoint of some types."""
    if types == "mixed":
        return F32 if "norm" in name else F16 if "q_proj" in name else BF16
    return {"float32": F32, "bfloat16": BF16, "float16": F16}[types]


@pytest.fixture
def saved(model_folder: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A checkpoint whose tensors are of some types, in one file or in several."""

    def save(types: str, *, shards: bool = False) -> Path:
        folder = tmp_path / types
        module = AutoModelForCausalLM.from_pretrained(model_folder(), dtype=F32)
        module.save_pretrained(folder, max_shard_size="20KB" if shards else "1GB")
        character_tokenizer().save_pretrained(folder)
        for file in folder.glob("*.safetensors"):
            tensors = {name: tensor.to(kind_of(name, types)) for name, tensor in load_file(file).items()}
            save_file(tensors, file, metadata={"format": "pt"})
        config = json.loads((folder / "config.json").read_text())
        config["dtype"] = "bfloat16" if types == "mixed" else types
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return save


def whole(base: BaseModel, plan: str, changed: dict[str, Tensor]) -> dict[str, Tensor]:
    """All tensors of a plan, of which some are changed."""
    names = resolve(parse_plan(plan, base.num_layers), base.parts, base.tied_head)
    return {name: base.tensor(name).detach().float().clone() for name in names} | changed


def delta_of(base: BaseModel, path: Path) -> dict[str, Tensor]:
    delta = whole(base, "1.mlp", {NAME: base.tensor(NAME).detach().float() + 0.37})
    write_delta(path / "delta.safetensors", delta, base, "1.mlp")
    return delta


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("types", ["float32", "bfloat16", "float16", "mixed"])
@pytest.mark.parametrize("trained", [F32, BF16])
def test_a_merge_leaves_every_tensor_in_its_type(
    onelayer: Command, saved: Callable[..., Path], tmp_path: Path, types: str, trained: torch.dtype
) -> None:
    folder = saved(types, shards=types in ("mixed", "float16"))
    delta = delta_of(load_base(str(folder), dtype=trained), tmp_path)
    code, _, err = onelayer("merge delta.safetensors --output merged")
    assert code == 0, err
    before, after = tensors_of(folder), tensors_of(tmp_path / "merged")
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        assert tensor.dtype == kind_of(name, types)
        assert torch.equal(tensor, delta[name].to(tensor.dtype) if name in delta else before[name])
    config = json.loads((tmp_path / "merged/config.json").read_text())
    assert config["dtype"] == json.loads((folder / "config.json").read_text())["dtype"]
    # Whoever reads it again has the same, also in a type for all.
    again = load_base(str(tmp_path / "merged"))
    assert torch.equal(again.tensor(NAME), delta[NAME].to(kind_of(NAME, types)).float())
    for index in (tmp_path / "merged").glob("*.index.json"):
        assert json.loads(index.read_text())["metadata"]["total_size"] == sum(t.nbytes for t in after.values())


@pytest.mark.parametrize("types", ["float32", "bfloat16", "float16", "mixed"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_merge_in_one_type_knows_the_base(
    onelayer: Command, saved: Callable[..., Path], tmp_path: Path, types: str, dtype: str
) -> None:
    folder = saved(types)
    delta = delta_of(load_base(str(folder)), tmp_path)
    code, _, err = onelayer(f"merge delta.safetensors --dtype {dtype} --output merged")
    assert code == 0, err
    after = tensors_of(tmp_path / "merged")
    assert {str(tensor.dtype) for tensor in after.values()} == {f"torch.{dtype}"}
    assert torch.equal(after[NAME], delta[NAME].to(getattr(torch, dtype)))
    assert json.loads((tmp_path / "merged/config.json").read_text())["dtype"] == dtype


@pytest.mark.parametrize("types", ["float32", "bfloat16", "float16", "mixed"])
def test_a_base_has_one_hash(saved: Callable[..., Path], tmp_path: Path, types: str) -> None:
    folder = saved(types)
    bases = [load_base(str(folder), dtype=dtype) for dtype in (F32, BF16, F16)]
    assert [base.dtype for base in bases] == [F32, BF16, F16]
    assert len({base.hash for base in bases}) == 1
    delta = delta_of(bases[1], tmp_path)
    for base in bases:
        assert torch.equal(read_delta_for(base, tmp_path / "delta.safetensors")[NAME], delta[NAME])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=F32)
    assert bases[0].hash == tensors_hash(model)
    load_delta(model, tmp_path)
    assert torch.equal(model.get_parameter(NAME), delta[NAME])


def test_hashes_of_a_rounded_base_are_known(saved: Callable[..., Path]) -> None:
    """Of models that were in memory in a narrower type, and as bases in other types than float32 once were hashed."""
    base = load_base(str(saved("float32")))
    rounded = AutoModelForCausalLM.from_pretrained(saved("float32"), dtype=BF16)
    for known in (tensors_hash(rounded), tensors_hash(rounded, None), tensors_hash(rounded, BF16), base.hash):
        assert is_base(base.module, known, base.hash)
    with torch.no_grad():
        base.tensor(NAME)[0, 0] += 1e-6
    assert not is_base(base.module, base.hash)


def test_an_own_model_in_a_narrower_type_is_told_what_to_do(saved: Callable[..., Path], tmp_path: Path) -> None:
    delta_of(load_base(str(saved("float32"))), tmp_path)
    narrow = AutoModelForCausalLM.from_pretrained(saved("float32"), dtype=BF16)
    with pytest.raises(UserError, match=r"or it was rounded when it was loaded: .* dtype=torch.float32"):
        load_delta(narrow, tmp_path)


def test_a_delta_that_is_not_finite_is_refused(onelayer: Command, saved: Callable[..., Path], tmp_path: Path) -> None:
    folder = saved("float16")
    base = load_base(str(folder))
    for value, message in (
        (float("nan"), f"delta 'bad.safetensors' is damaged: 1 of 1,536 elements of {NAME} are NaN"),
        (float("inf"), f"delta 'bad.safetensors' is damaged: 1 of 1,536 elements of {NAME} are infinite"),
        (1e6, f"the delta, as float16, is damaged: 1 of 1,536 elements of {NAME} are infinite"),
    ):
        tensor = base.tensor(NAME).detach().clone()
        tensor[3, 3] = value
        write_delta(tmp_path / "bad.safetensors", whole(base, "1.mlp", {NAME: tensor}), base, "1.mlp")
        code, _, err = onelayer("merge bad.safetensors --output merged")
        assert code == 2
        assert err == f"error: {message}\n"
        assert not (tmp_path / "merged").exists()
    with pytest.raises(UserError, match="are infinite"):
        read_delta(AutoModelForCausalLM.from_pretrained(folder), tmp_path / "bad.safetensors")


def test_types_by_name(saved: Callable[..., Path]) -> None:
    types = stored_types(str(saved("mixed", shards=True)))
    assert types["model.norm.weight"] == F32 and types[NAME] == BF16
    assert widest(types) == F32
    assert widest({"a": BF16, "b": F16}) == F32
    assert widest({"a": BF16}) == BF16 and widest({}) == F32


def test_a_value_that_is_too_large_for_one_of_several_types_is_refused(
    onelayer: Command, saved: Callable[..., Path], tmp_path: Path
) -> None:
    base = load_base(str(saved("mixed")))
    name = "model.layers.2.self_attn.q_proj.weight"
    tensor = base.tensor(name).detach().clone()
    tensor[0, 0] = 1e6
    write_delta(tmp_path / "large.safetensors", whole(base, "2.attn", {name: tensor}), base, "2.attn")
    code, _, err = onelayer("merge large.safetensors --output merged")
    assert code == 2
    assert f"in the types of its base, is damaged: 1 of 1,024 elements of {name} are infinite" in err
    assert not list((tmp_path / "merged").glob("*"))
