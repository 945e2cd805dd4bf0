import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GraniteConfig, T5Config

from onelayer.arms.plan import parse_plan, resolve
from onelayer.errors import UserError
from onelayer.models.base import BaseModel, fingerprint
from onelayer.models.load import load_base, wrap_model
from onelayer.models.part import Part
from tests.conftest import FAMILIES, character_tokenizer


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_every_tensor_has_its_part(base_of: Callable[..., BaseModel], family: str, tied: bool) -> None:
    base = base_of(family, tied=tied)
    assert base.num_layers == 4
    assert base.tied_head is tied
    assert set(base.parts) == {name for name, _ in base.module.named_parameters()}
    assert base.num_parameters == sum(tensor.numel() for tensor in base.module.parameters())
    assert base.parts["model.layers.2.self_attn.q_proj.weight"] == Part(2, "attn")
    assert base.parts["model.layers.0.mlp.up_proj.weight"] == Part(0, "mlp")
    assert base.parts["model.layers.3.post_attention_layernorm.weight"] == Part(3, "norm")
    assert base.parts["model.norm.weight"] == Part(None, "final_norm")
    assert base.parts["model.embed_tokens.weight"] == Part(None, "embed")
    assert ("lm_head.weight" in base.parts) is not tied
    assert not any(part.module == "other" for part in base.parts.values())


def test_a_model_with_other_names_works_too() -> None:
    config = GPT2Config(
        vocab_size=46, n_embd=32, n_layer=3, n_head=4, n_positions=64, eos_token_id=1, bos_token_id=None
    )
    base = wrap_model(AutoModelForCausalLM.from_config(config), character_tokenizer(), name="gpt2")
    assert base.parts["transformer.h.1.attn.c_attn.weight"] == Part(1, "attn")
    assert base.parts["transformer.h.1.ln_1.weight"] == Part(1, "norm")
    assert base.parts["transformer.h.1.mlp.c_fc.bias"] == Part(1, "mlp")
    assert base.parts["transformer.wpe.weight"] == Part(None, "embed")
    assert base.parts["transformer.ln_f.weight"] == Part(None, "final_norm")
    assert resolve(parse_plan("all", 3), base.parts, base.tied_head).keys() == base.parts.keys()


@pytest.mark.parametrize("tied", [True, False])
def test_wearing_changes_the_outputs_and_leaves_no_trace(base_of: Callable[..., BaseModel], tied: bool) -> None:
    base = base_of(tied=tied)
    ids = torch.arange(2, 8)[None]
    before = base.module(input_ids=ids).logits
    doubled = {name: 2 * base.tensor(name) for name in base.parts if "layernorm" in name or "embed" in name}
    with base.wearing(doubled):
        worn = base.module(input_ids=ids).logits
        if tied:
            assert base.head.weight is doubled["model.embed_tokens.weight"]
    assert not torch.allclose(before, worn)
    assert torch.equal(before, base.module(input_ids=ids).logits)
    with pytest.raises(RuntimeError, match="boom"), base.wearing(doubled):
        raise RuntimeError("boom")
    assert torch.equal(before, base.module(input_ids=ids).logits)


def test_gradients_flow_into_what_is_worn(base: BaseModel) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    leaf = base.tensor(name).detach().clone().requires_grad_(True)
    with base.wearing({name: leaf}):
        base.module(input_ids=torch.arange(2, 8)[None]).logits.sum().backward()
    assert leaf.grad is not None and leaf.grad.abs().sum() > 0
    assert all(tensor.grad is None for tensor in base.module.parameters())


def test_the_hash_is_of_the_bits(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    one, again = (load_base(str(model_folder())) for _ in range(2))
    assert one.hash == again.hash
    with torch.no_grad():
        again.tensor("model.norm.weight")[3] += 1e-6
    changed = wrap_model(again.module, again.tokenizer, name="changed")
    assert changed.hash != one.hash


def test_a_fingerprint_sees_a_single_bit() -> None:
    tensor = torch.randn(100, generator=torch.Generator().manual_seed(0)).bfloat16()
    before = fingerprint(tensor)
    tensor.view(torch.int16)[17] ^= 1
    assert fingerprint(tensor) != before


def test_damaged_and_missing_folders(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    def damaged(change: Callable[[Path], object]) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(model_folder(), folder)
        change(folder)
        return str(folder)

    def edit_config(**values: object) -> Callable[[Path], object]:
        def change(folder: Path) -> None:
            config = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps({**config, **values}))

        return change

    def cut(folder: Path) -> None:
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])

    cases = {
        str(tmp_path / "nowhere"): "no model folder",
        "./nowhere": "no model folder",
        "bundled:nothing": "no bundled model",
        damaged(lambda folder: (folder / "config.json").unlink()): "no config.json",
        damaged(lambda folder: (folder / "config.json").write_text("{")): "cannot be loaded",
        damaged(lambda folder: (folder / "model.safetensors").unlink()): "holds no weights",
        damaged(cut): "cannot be loaded",
        damaged(edit_config(num_hidden_layers=5)): "cannot be loaded",
        damaged(edit_config(num_hidden_layers=5, layer_types=["full_attention"] * 5)): "tensors are missing",
        damaged(edit_config(quantization_config={"quant_method": "gptq", "bits": 4})): "quantised",
        damaged(edit_config(model_type="nonsense")): "cannot be loaded",
    }
    for name, message in cases.items():
        with pytest.raises(UserError, match=message) as error:
            load_base(name)
        assert "\n" not in str(error.value)


def test_models_that_cannot_be_profiled_are_refused(tmp_path: Path) -> None:
    T5Config(num_layers=2, d_model=16).save_pretrained(tmp_path / "t5")
    with pytest.raises(UserError, match="encoder-decoder"):
        load_base(str(tmp_path / "t5"))
    size = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": None, "pad_token_id": 0}
    scaled = AutoModelForCausalLM.from_config(GraniteConfig(**size, **heads, eos_token_id=1, logits_scaling=8.0))
    with pytest.raises(UserError, match="scales or caps its logits"):
        wrap_model(scaled, character_tokenizer(), name="granite")
    plain = AutoModelForCausalLM.from_config(FAMILIES["qwen3"](**size, **heads, head_dim=8, eos_token_id=None))
    tokenizer = character_tokenizer()
    tokenizer.eos_token = None
    plain.generation_config.eos_token_id = None
    with pytest.raises(UserError, match="no end-of-sequence token"):
        wrap_model(plain, tokenizer, name="endless")
    plain.config.num_hidden_layers = 3
    with pytest.raises(UserError, match="no lists of 3 decoder layers"):
        wrap_model(plain, character_tokenizer(), name="listless")
