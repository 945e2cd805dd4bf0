"""Tiny models for the tests: random weights, a character-level tokenizer, saved as real model folders."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests with two threads: waiting threads sleep instead of spinning beside other processes.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import json
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from onelayer.commands.cli import main
from onelayer.models.base import BaseModel
from onelayer.models.load import load_base
from onelayer.tasks.base import Problem, Split

transformers.utils.logging.disable_progress_bar()

Command = Callable[[str], tuple[int, str, str]]
CHARACTERS = "0123456789+-=,#()*. abcdefghijklmnopqrstuvwxyz"
FAMILIES: dict[str, Any] = {"qwen3": Qwen3Config, "qwen2": Qwen2Config, "llama": LlamaConfig}


def character_tokenizer(characters: str = CHARACTERS) -> PreTrainedTokenizerFast:
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", *characters])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def save_model(
    folder: Path,
    family: str = "qwen3",
    *,
    tied: bool = True,
    layers: int = 4,
    seed: int = 0,
    context: int = 128,
    tokenizer: PreTrainedTokenizerFast | None = None,
) -> Path:
    """A model folder as one on the hub: config, safetensors, tokenizer."""
    torch.manual_seed(seed)
    tokenizer = tokenizer or character_tokenizer()
    extra = {"head_dim": 8} if family == "qwen3" else {}
    config = FAMILIES[family](
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        tie_word_embeddings=tied,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        **extra,
    )
    # Larger weights than a fresh model's: different prompts then give clearly different distributions.
    config.initializer_range = 0.2
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make (once) the folder of a tiny model: ``model_folder("llama", tied=False)``."""
    made: dict[tuple[Any, ...], Path] = {}

    def make(family: str = "qwen3", *, tied: bool = True, layers: int = 4) -> Path:
        key = (family, tied, layers)
        if key not in made:
            made[key] = save_model(tmp_path_factory.mktemp(family), family, tied=tied, layers=layers)
        return made[key]

    return make


@pytest.fixture
def base(model_folder: Callable[..., Path]) -> BaseModel:
    """A tiny Qwen3 with tied embeddings, 4 layers."""
    return load_base(str(model_folder()))


@pytest.fixture
def base_of(model_folder: Callable[..., Path]) -> Callable[..., BaseModel]:
    """Load a tiny model of any family: ``base_of("llama", tied=False, dtype=torch.bfloat16)``."""

    def load(
        family: str = "qwen3", *, tied: bool = True, layers: int = 4, dtype: torch.dtype | None = None
    ) -> BaseModel:
        return load_base(str(model_folder(family, tied=tied, layers=layers)), dtype=dtype)

    return load


@pytest.fixture
def onelayer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Run a command line in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(line: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["onelayer", *shlex.split(line)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


class DigitTask:
    """Something a random model can learn in a few steps: complete a prompt with digits. Reward: share of digits."""

    name = "digits"

    def problems(self, split: Split) -> list[Problem]:
        start, count = {"train": (0, 12), "selection": (20, 4), "test": (30, 6)}[split]
        return [Problem(i, f"{'+' * (i % 3)}{i}=", {"answer": str(i)}) for i in range(start, start + count)]

    def reward(self, prompts: list[Any], completions: list[str], answer: list[str]) -> list[float | None]:
        return [sum(c.isdigit() for c in text) / 6 for text in completions]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set and a reward of one's own."""
    rows = [{"prompt": f"{i}+{j}=", "answer": str(i + j), "level": i} for i in range(8) for j in range(8)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "reward.py").write_text(
        "def digits(prompts, completions, answer, **kwargs):\n"
        "    assert set(kwargs) == {'level', 'completion_ids', 'trainer_state', 'log_extra', 'log_metric'}\n"
        "    assert len(prompts) == len(answer)\n"
        "    kwargs['log_metric']('tokens', sum(map(len, kwargs['completion_ids'])) / len(completions))\n"
        "    return [sum(c.isdigit() for c in text) / 6 for text in completions]\n"
        "def short(prompts, completions, **kwargs):\n    return [1.0]\n"
        "def crash(prompts, completions, **kwargs):\n    raise KeyError('answer')\n"
    )
    return tmp_path
