"""A tiny GPT-2: learnt positions, and weights that lie the other way."""

from types import SimpleNamespace

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from onelayer.models.base import BaseModel
from onelayer.models.load import wrap_model


def gpt2() -> BaseModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=47,
        n_embd=32,
        n_layer=3,
        n_head=4,
        n_positions=64,
        bos_token_id=1,
        eos_token_id=1,
        initializer_range=0.3,
    )
    return wrap_model(GPT2LMHeadModel(config), SimpleNamespace(eos_token_id=1), name="tiny GPT-2")
