"""Every family of causal language models that transformers has, tiny and random: taken or refused, by all commands alike?

    python benchmarks/families.py [FAMILY...]

What is taken is sampled greedily, prompts of several lengths together, and each token compared with the one that a pass over
the row alone gives; log-probabilities too. About 2 minutes on one core. Prints a line a family, then the counts.
"""

import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from onelayer.config.configs import ModelConfig
from onelayer.errors import UserError
from onelayer.models.architectures import outline_model
from onelayer.models.base import BaseModel
from onelayer.models.load import load_base
from onelayer.models.logprobs import Tokens, completion_logprobs, left_pad
from onelayer.training.draws import Key, Row, Sampling
from onelayer.training.sample import Request, complete

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.conftest import character_tokenizer

WIDTH, VOCABULARY = 32, 48
TINY: dict[str, Any] = {
    **dict.fromkeys(
        ("hidden_size", "n_embd", "d_model", "dim", "embed_dim", "lru_width", "word_embed_proj_dim"), WIDTH
    ),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "n_inner", "dff"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), 4),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "rotary_dim", "linear_num_value_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_experts_per_tok", "index_n_heads", "linear_num_key_heads"), 2),
    **dict.fromkeys(("n_shared_experts", "first_k_dense_replace", "n_group", "topk_group", "n_groups"), 1),
    **dict.fromkeys(("mamba_n_groups", "mamba_ngroups", "eos_token_id"), 1),
    **dict.fromkeys(("head_dim", "v_head_dim", "index_head_dim", "linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("mamba_d_state", "ssm_state_size", "state_size", "mamba_chunk_size", "chunk_size"), 8),
    **dict.fromkeys(("sliding_window", "attention_window_size", "window_size", "attn_window_size"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "mamba_dt_rank"), 4),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "mamba_headdim"), 16),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "mamba_d_ssm"), 64),
    "index_topk": 64,
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": 2,
}
"""Sizes by their names in the configurations."""
OWN: dict[str, dict[str, Any]] = {
    "bamba": {"layer_types": None, "attn_layer_indices": [1, 3]},
    "cohere_compass_text": {"layer_types": ["sliding_attention"] * 4},
    "dbrx": {"attn_config": None, "ffn_config": None},
    "dots3_note": {"num_key_value_heads": 4},
    "dots3_note_text": {"num_key_value_heads": 4},
    "falcon_h1": {"layer_types": None},
    "falcon_mamba": {"layer_types": None},
    "gemma3n_text": {
        "num_kv_shared_layers": 0,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": VOCABULARY,
        "laurel_rank": 8,
        "intermediate_size": [48] * 4,
        "activation_sparsity_pattern": [0.0] * 4,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "jamba": {"layer_types": None, "attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 1},
    "mamba": {"layer_types": None},
    "mamba2": {"layer_types": None, "num_heads": 8},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 64,
        "indexer_compress_ratio": 2,
        "hc_count": 2,
        "hc_lowrank": 8,
        "ngram_vocab_size_base": 101,
        "make_ngram_vocab_size_divisible_by": 8,
        "split_ngram_parts": 2,
        "heads_per_ngram": 2,
        "ple_embed_dim": 8,
        "ple_layer_ids": [1],
    },
    "recurrent_gemma": {"layer_types": None},
    "reformer": {
        "axial_pos_shape": [8, 8],
        "axial_pos_embds_dim": [16, 16],
        "attention_head_size": 8,
        "attn_layers": ["local", "lsh"] * 2,
        "local_attn_chunk_length": 8,
        "lsh_attn_chunk_length": 8,
        "num_buckets": 4,
    },
    "zamba2": {"layer_types": None, "layers_block_type": ["linear_attention", "hybrid"] * 2, "n_mamba_heads": 4},
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 8},
}
"""What a family needs besides; None leaves a value to the family."""
OWN |= {"gemma3n": OWN["gemma3n_text"], "qwen4_exp": OWN["qwen4_exp_text"]}
LARGEST = 20_000_000
KEY = Key(0, "families", 0)


def tiny_config(family: str) -> Any:
    """A configuration of four layers with a vocabulary of 48 tokens."""
    kind = type(CONFIG_MAPPING[family]().get_text_config(decoder=True))
    usual = kind()
    names = set(usual.to_dict()) | set(getattr(kind, "__dataclass_fields__", {}))
    alias = getattr(kind, "attribute_map", {})
    values = {alias.get(name, name): value for name, value in TINY.items() if alias.get(name, name) in names}
    for name in ("layer_types", "mlp_layer_types"):
        if listed := getattr(usual, name, None):  # one of each kind
            values[name] = (list(dict.fromkeys(listed)) * 4)[:4]
    if "qk_rope_head_dim" in names:  # latent attention: the width of a head follows from its parts
        values = {**values, "num_key_value_heads": 4}
        values.pop("head_dim", None)
    if hasattr(usual, "is_decoder"):
        values["is_decoder"] = True
    values |= OWN.get(family, {})
    return kind(**{name: value for name, value in values.items() if value is not None})


def save(family: str, folder: Path) -> None:
    """A tiny model of a family, none of whose tensors does nothing."""
    config = tiny_config(family)
    with torch.device("meta"):
        size = sum(tensor.numel() for tensor in AutoModelForCausalLM.from_config(config).parameters())
    if size > LARGEST:
        raise ValueError(f"{size:,} parameters, most of them in parts whose size is not a number of the text model")
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for tensor in module.parameters():
            tensor += 0.1 * torch.randn(tensor.shape)
    module.save_pretrained(folder)
    character_tokenizer().save_pretrained(folder)


def difference(base: BaseModel) -> tuple[int, float]:
    """Greedy tokens that differ from those of whole passes, and the most that their log-probabilities do."""
    rows = [Row([3 + (7 * i + j) % 40 for j in range(1 + i)], i, 0) for i in range(8)]
    (done,) = complete(base, [Request({}, rows, KEY)], Sampling(6, temperature=0), width=8, max_rows=64)
    ids, mask = left_pad([row.prompt for row in rows], 8)
    with torch.no_grad():
        logps, _ = completion_logprobs(base, Tokens(ids, mask, done.ids, done.mask.long()))
    wrong, most = 0, 0.0
    for i, row in enumerate(rows):
        completion = done.ids[i, : done.lengths[i]]
        whole = torch.tensor([[*row.prompt, *completion.tolist()]])
        with torch.no_grad():
            logits = base.module(input_ids=whole, use_cache=False).logits[0, len(row.prompt) - 1 : -1]  # type: ignore[operator]
        wrong += int((logits.argmax(-1) != completion).sum())
        alone = logits.log_softmax(-1).gather(-1, completion[:, None])[:, 0]
        most = max(most, float((alone - logps[i, : len(alone)]).abs().max()))
    return wrong, most


def judge(family: str) -> tuple[str, str]:
    """A verdict and what there is to say."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / family
        try:
            save(family, folder)
        except Exception as error:  # whatever a family says of sizes that it does not like
            return "not built", " ".join(f"{type(error).__name__}: {error}".split())[:120]
        said = []
        for take in (
            lambda: outline_model(ModelConfig(model=str(folder), device="cpu")),
            lambda: load_base(str(folder)),
        ):
            try:
                base = take()
                said.append("")
            except UserError as error:
                said.append(str(error).replace(f"'{folder}'", "").removeprefix("model ").strip())
        if said[0] != said[1]:
            return "NOT ALIKE", f"plan: {said[0] or 'taken'}; train: {said[1] or 'taken'}"
        if said[0]:
            return "refused", said[0]
        wrong, most = difference(base)
        cache = base.module.config._attn_implementation
        return ("taken" if wrong == 0 and most < 1e-3 else "WRONG"), f"{wrong} tokens differ, {most:.0e} ({cache})"


def main() -> None:
    """Judge all families, or those that are named."""
    warnings.filterwarnings("ignore")
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    for family in sys.argv[1:] or MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        verdict, detail = judge(family)
        counts[verdict] += 1
        print(f"{family:28} {verdict:10} {detail}", flush=True)
    print(dict(counts))


if __name__ == "__main__":
    main()
