"""Families beyond plain attention: sampled as the model itself would, or refused in one sentence by every command."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.cache_utils import DynamicCache

from onelayer.arms.plan import parse_plan, resolve
from onelayer.errors import UserError
from onelayer.models import admission
from onelayer.models.admission import check_decoding, check_head, check_structure
from onelayer.models.base import BaseModel, outline
from onelayer.models.finite import check_finite
from onelayer.models.load import load_base, wrap_model
from onelayer.models.logprobs import Tokens, completion_logprobs, left_pad
from onelayer.models.part import Part
from onelayer.models.trunk import lowest_layer
from onelayer.training.draws import Key, Row, Sampling
from onelayer.training.sample import Request, complete
from tests.conftest import Command, character_tokenizer, save_model

SIZES = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
LINEAR = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
MAMBA = {"mamba_chunk_size": 8, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_d_ssm": 64}
FAMILIES: dict[str, dict[str, Any]] = {
    # Short convolutions, linear attention, Mamba in every other layer, Mamba beside attention in every layer.
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"] * 2, "head_dim": 8, **LINEAR, **EXPERTS},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 4, "mamba_d_state": 8, "mamba_dt_rank": 4},
    "falcon_h1": {**MAMBA, "head_dim": 8},
    # No sdpa: attention sinks beside a sliding window and experts; ALiBi without position ids.
    "gpt_oss": {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
    "bloom": {"n_layer": 4, "n_head": 4},
}
OWN_NAMES = {"num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size"}
ALIASES = {"bloom": OWN_NAMES, "gpt2": OWN_NAMES}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "zamba2": (
        {
            "layers_block_type": ["linear_attention", "hybrid"] * 2,
            "n_mamba_heads": 4,
            "mamba_d_state": 8,
            "chunk_size": 8,
        },
        "shares tensors between its layers",
    ),
    "mamba": ({"state_size": 8}, "MambaModel takes no past_key_values"),
    "minimax": ({"num_local_experts": 4, "head_dim": 8}, "MiniMaxModel has a cache of its own"),
    "bert": ({"is_decoder": True}, "BertEncoder takes no input_ids"),
    "recurrent_gemma": ({"lru_width": 32, "attention_window_size": 8}, "scales or caps its logits"),
    "gemma2": ({"head_dim": 8, "sliding_window": 8}, "scales or caps its logits"),
}
KEY = Key(0, "train", 3)


def module_of(family: str, values: dict[str, Any]) -> nn.Module:
    """A tiny model of a family, none of whose tensors does nothing."""
    sizes = {name: value for name, value in SIZES.items() if name not in ALIASES.get(family, ())}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**sizes, **values})
    module: nn.Module = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for tensor in module.parameters():
            tensor += 0.1 * torch.randn(tensor.shape)
    return module


@pytest.fixture(scope="module")
def taken() -> Callable[[str], BaseModel]:
    made: dict[str, BaseModel] = {}

    def make(family: str) -> BaseModel:
        if family not in made:
            made[family] = wrap_model(module_of(family, FAMILIES[family]), character_tokenizer(), name=family)
            check_decoding(made[family])
        return made[family]

    return make


def rows_of(count: int) -> list[Row]:
    """Prompts of 1 to 9 tokens, each completed twice."""
    return [Row([2 + (5 * i + j) % 44 for j in range(1 + i // 2 % 9)], i // 2, i % 2) for i in range(count)]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_completions_are_those_of_whole_passes(taken: Callable[[str], BaseModel], family: str) -> None:
    base = taken(family)
    rows = rows_of(20)
    (done,) = complete(base, [Request({}, rows, KEY)], Sampling(10, temperature=0), width=9, max_rows=64)
    for row, ids, length in zip(rows[::2], done.ids[::2], done.lengths[::2], strict=True):
        written = list(row.prompt)
        for token in ids[:length].tolist():
            assert token == base.module(input_ids=torch.tensor([written]), use_cache=False).logits[0, -1].argmax()
            written.append(token)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_leave_and_share_batches_without_a_trace(taken: Callable[[str], BaseModel], family: str) -> None:
    base = taken(family)
    rows = rows_of(40)
    together, *apart = (
        complete(base, [Request({}, rows, KEY)], Sampling(12), width=9, max_rows=most)[0] for most in (64, 17)
    )
    assert together.lengths.unique().numel() > 1
    for other in apart:
        assert torch.equal(other.ids, together.ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_are_those_of_one_row_alone(taken: Callable[[str], BaseModel], family: str) -> None:
    base = taken(family)
    rows = rows_of(8)
    (done,) = complete(base, [Request({}, rows, KEY)], Sampling(6), width=9, max_rows=64)
    ids, mask = left_pad([row.prompt for row in rows], 9)
    logps, _ = completion_logprobs(base, Tokens(ids, mask, done.ids, done.mask.long()))
    for i, row in enumerate(rows):
        length = int(done.lengths[i])
        completion = done.ids[i, :length]
        whole = torch.tensor([[*row.prompt, *completion.tolist()]])
        logits = base.module(input_ids=whole, use_cache=False).logits[0, len(row.prompt) - 1 : -1]
        expected = logits.log_softmax(-1).gather(-1, completion[:, None])[:, 0]
        torch.testing.assert_close(logps[i, :length], expected, rtol=1e-3, atol=1e-3)


def test_a_cache_that_leaves_states_behind_is_noticed(
    taken: Callable[[str], BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What transformers does with the rows of convolutions: nothing."""
    base = taken("lfm2")

    def attention_only(cache: DynamicCache, indices: torch.Tensor) -> None:
        for layer in cache.layers:
            if hasattr(layer, "batch_select_indices"):
                layer.batch_select_indices(indices)
            else:  # as many rows, but whoever came first
                layer.reorder_cache(torch.arange(len(indices)).remainder(2))

    monkeypatch.setattr(admission, "select_rows", attention_only)
    with pytest.raises(UserError, match="gives other hidden states token by token than in one pass"):
        check_decoding(base)


def test_positions_that_padding_moves_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    base = wrap_model(module_of("gpt2", {"n_layer": 4, "n_head": 4, "n_embd": 32}), character_tokenizer(), name="gpt2")
    check_decoding(base)
    own = base.decoder.forward
    monkeypatch.setattr(base.decoder, "forward", lambda position_ids=None, **kwargs: own(**kwargs))
    monkeypatch.setattr("onelayer.models.admission.check_structure", lambda base: None)
    with pytest.raises(UserError, match="gives other hidden states"):
        check_decoding(base)


@pytest.mark.parametrize("family", REFUSED)
def test_a_refusal_is_one_sentence_and_the_same_for_all_commands(
    onelayer: Command, tmp_path: Path, family: str
) -> None:
    values, why = REFUSED[family]
    module_of(family, values).save_pretrained(tmp_path / family)
    character_tokenizer().save_pretrained(tmp_path / family)
    said = []
    for command in ("plan", "train --steps 1 --output run", "eval --benchmarks gsm8k --output eval"):
        code, _, err = onelayer(f"{command} --model {family}")
        assert code == 2, err
        said.append([line for line in err.splitlines() if line.startswith("error:")])
    assert why in said[0][0]
    assert said == [said[0]] * 3 and len(said[0]) == 1
    assert not (tmp_path / "run").exists() and not (tmp_path / "eval").exists()


def test_plans_are_refused_without_a_small_model_to_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large ones are only looked at."""
    for family in ("zamba2", "mamba", "minimax", "bert"):
        base = outline(module_of(family, REFUSED[family][0]), name=family)
        with pytest.raises(UserError, match=REFUSED[family][1]):
            check_structure(base)


def test_the_norm_of_an_embedding_belongs_to_it(taken: Callable[[str], BaseModel]) -> None:
    base = taken("bloom")
    assert base.parts["transformer.word_embeddings_layernorm.weight"] == Part(None, "embed")
    assert base.parts["transformer.ln_f.weight"] == Part(None, "final_norm")
    assert lowest_layer(base, resolve(parse_plan("embed", 4), base.parts, base.tied_head)) == 0
    assert taken("lfm2").parts["model.embedding_norm.weight"] == Part(None, "final_norm")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "place", ["model.embed_tokens.weight", "model.layers.2.mlp.up_proj.weight", "model.norm.weight"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_tensor_that_is_not_finite_is_named(
    model_folder: Callable[..., Path], tmp_path: Path, value: float, place: str, dtype: torch.dtype
) -> None:
    module = AutoModelForCausalLM.from_pretrained(model_folder(), dtype=dtype)
    with torch.no_grad():
        module.get_parameter(place).view(-1)[3] = value
    module.save_pretrained(tmp_path / "damaged")
    character_tokenizer().save_pretrained(tmp_path / "damaged")
    what = "NaN" if value != value else "infinite"
    with pytest.raises(UserError, match=rf"is damaged: 1 of [\d,]+ elements of {place} are {what}$"):
        load_base(str(tmp_path / "damaged"))


def test_large_finite_values_are_no_damage() -> None:
    most = torch.finfo(torch.float32).max
    check_finite({"w": torch.tensor([most, most])}, "model 'm'")
    with pytest.raises(UserError, match="2 of 3 elements of w are infinite"):
        check_finite({"w": torch.tensor([torch.inf, 1.0, -torch.inf])[[0, 1, 0]]}, "model 'm'")


def test_logits_that_are_not_finite_are_not_called_scaled(tmp_path: Path) -> None:
    base = load_base(str(save_model(tmp_path, tied=False)))
    with torch.no_grad():
        base.tensor("model.layers.1.mlp.up_proj.weight").fill_(1e30)
        base.tensor("model.layers.1.mlp.gate_proj.weight").fill_(1e30)
    with pytest.raises(UserError, match=r"not finite, though its weights are: first in model.layers.1.mlp") as error:
        check_head(base)
    assert "scales" not in str(error.value)
