"""Models known by their numbers: enough to plan for them without their weights, or a network.

The numbers are those of each model's ``config.json`` on the hub. They can be checked: parameters counted from them are
those of the model cards.
"""

from typing import Any

import torch

from onelayer.config.model import ModelConfig
from onelayer.models.base import BaseModel, outline, read_config

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

    Raises:
        UserError: the model is not known here and its configuration cannot be read.
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
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(settings, dtype=dtype, trust_remote_code=config.trust_remote_code)
    return outline(module, name=config.model, revision=config.revision)
