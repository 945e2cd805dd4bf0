"""Models known by their numbers: enough to plan for them without their weights, or a network.

The numbers are those of each model's ``config.json`` on the hub. They can be checked: parameters counted from them are
those of the model cards.
"""

from typing import Any

import torch

from onelayer.config.model import ModelConfig
from onelayer.models.admission import check_decoding, check_head, check_structure
from onelayer.models.base import BaseModel, outline
from onelayer.models.source import read_config, reading

TRIED = 20_000_000
"""Models of at most so many parameters are tried with random weights when they are planned for: that takes a second."""
NOISE = 0.1
"""Standard deviation of what is added to these weights."""

_QWEN3 = {"head_dim": 128, "num_key_value_heads": 8, "vocab_size": 151936, "max_position_embeddings": 32768}
_QWEN25 = {"num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True}
_QWEN25_15B = _QWEN25 | {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "Qwen/Qwen3-1.7B-Base": (
        "qwen3",
        _QWEN3
        | {
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "tie_word_embeddings": True,
        },
    ),
    "Qwen/Qwen3-4B-Base": (
        "qwen3",
        _QWEN3
        | {
            "hidden_size": 2560,
            "intermediate_size": 9728,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "tie_word_embeddings": True,
        },
    ),
    "Qwen/Qwen3-8B-Base": (
        "qwen3",
        _QWEN3
        | {
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "tie_word_embeddings": False,
        },
    ),
    "Qwen/Qwen2.5-Math-1.5B": ("qwen2", _QWEN25_15B | {"max_position_embeddings": 4096}),
    "Qwen/Qwen2.5-1.5B-Instruct": ("qwen2", _QWEN25_15B | {"max_position_embeddings": 32768}),
    "Qwen/Qwen2.5-3B-Instruct": (
        "qwen2",
        _QWEN25
        | {
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "max_position_embeddings": 32768,
        },
    ),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": (
        "qwen2",
        {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
            "max_position_embeddings": 131072,
            "tie_word_embeddings": False,
        },
    ),
}
"""Hub name -> transformers' model type and its numbers."""


def outline_model(config: ModelConfig) -> BaseModel:
    """The model of a configuration without its weights: shapes and types only, nothing of it can run.

    The weights' type is ``config.dtype``; ``auto`` means what they would have in a run on this machine.

    What training and scoring would refuse for how the model is built is refused here too; a small model is also tried with
    random weights.

    Raises:
        UserError: the model is not known here and its configuration cannot be read, or it is of a kind that is not taken.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    if config.model in ARCHITECTURES:
        kind, numbers = ARCHITECTURES[config.model]
        settings = AutoConfig.for_model(kind, **numbers)
    else:
        settings = read_config(config.model, revision=config.revision, trust_remote_code=config.trust_remote_code)
    if config.dtype != "auto":
        dtype = getattr(torch, config.dtype)
    elif config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available()):
        dtype = torch.float32
    else:
        dtype = settings.dtype or torch.bfloat16
    trust = {"trust_remote_code": config.trust_remote_code}
    with reading(config.model), torch.device("meta"):
        module = AutoModelForCausalLM.from_config(settings, dtype=dtype, **trust)
    base = outline(module, name=config.model, revision=config.revision)
    check_structure(base)
    if base.num_parameters <= TRIED:
        with reading(config.model), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = AutoModelForCausalLM.from_config(settings, dtype=torch.float32, **trust)
            # Many kinds begin with layers that do nothing, which would hide what they do to others.
            with torch.no_grad():
                for tensor in module.parameters():
                    tensor.add_(torch.randn(tensor.shape), alpha=NOISE)
        tried = outline(module, name=config.model, revision=config.revision)
        check_head(tried)
        check_decoding(tried)
    return base
