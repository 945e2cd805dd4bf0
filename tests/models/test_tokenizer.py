"""A model reads the tokens that it was trained on, whatever type of model it is."""

import random
from pathlib import Path

import pytest

from onelayer.commands.reproduction.pretraining import RECIPES, Shape, make_model, make_tokenizer
from onelayer.models.load import load_base
from tests.conftest import character_tokenizer


@pytest.mark.parametrize("architecture", ["qwen3", "qwen2.5"])
@pytest.mark.parametrize("task", sorted(RECIPES))
def test_a_loaded_tokenizer_is_the_one_that_was_saved(tmp_path: Path, architecture: str, task: str) -> None:
    tokenizer = make_tokenizer(RECIPES[task])
    make_model(architecture, tokenizer, Shape(layers=1)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_base(str(tmp_path)).tokenizer
    sample = RECIPES[task].generator(random.Random(0))
    for text in (part for _ in range(50) for part in sample()):
        ids = tokenizer.encode(text)
        assert loaded.encode(text) == ids
        assert loaded.decode(ids) == tokenizer.decode(ids)
    assert (loaded.eos_token_id, loaded.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)


def test_a_declared_class_is_left_to_transformers(tmp_path: Path) -> None:
    tokenizer = character_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(config.read_text().replace("TokenizersBackend", "Qwen2Tokenizer"))
    make_model("qwen2.5", tokenizer, Shape(layers=1)).save_pretrained(tmp_path)
    assert type(load_base(str(tmp_path)).tokenizer).__name__ == "Qwen2Tokenizer"
