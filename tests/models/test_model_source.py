"""What a model's name and its files may say: a true sentence for each wrong one, and no code from elsewhere."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import errors

from onelayer.errors import UserError
from onelayer.models.load import load_base
from onelayer.models.source import model_path, read_config, reading
from tests.conftest import Command

HUB_KERNELS = [
    {"_attn_implementation": "someone/kernel"},
    {"attn_implementation": "kernels-community/flash-attn2"},
    {"attn_implementation": "someone/kernel@v2:attention"},
    {"_attn_implementation_internal": "someone/kernel"},
    {"attn_implementation": "paged|someone/kernel"},
    {"attn_implementation": {"": "sdpa", "text_config": "someone/kernel"}},
    {"text_config": {"_attn_implementation": "someone/kernel"}},
    {"per_layer_config": [{}, {"attn_implementation": "someone/kernel"}]},
    {"_experts_implementation": "someone/experts"},
]
PLAIN = [
    {"_attn_implementation": "flash_attention_2"},
    {"attn_implementation": "eager"},
    {"attn_implementation": None},
    {"_attn_implementation_autoset": True},
    {"experts_implementation": "sonicmoe"},
    {"use_kernels": False},
]


@pytest.fixture
def stating(model_folder: Callable[..., Path], tmp_path: Path) -> Callable[..., str]:
    """A model folder whose config.json says more."""

    def make(**values: Any) -> str:
        folder = tmp_path / f"model-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(model_folder(), folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **values}))
        return str(folder)

    return make


@pytest.mark.parametrize("stated", HUB_KERNELS, ids=str)
def test_a_kernel_of_the_hub_is_refused_before_anything_is_loaded(
    stating: Callable[..., str], stated: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(*args: object, **kwargs: object) -> None:
        raise AssertionError("transformers was asked for the model")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", reached)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", reached)
    with pytest.raises(UserError, match=r"in its config.json names '.*(someone|kernels-community)/"):
        load_base(stating(**stated))


@pytest.mark.parametrize("stated", PLAIN, ids=str)
def test_what_transformers_has_itself_is_computed_with_torchs_own(
    stating: Callable[..., str], stated: dict[str, Any]
) -> None:
    base = load_base(stating(**stated))
    assert base.module.config._attn_implementation == "sdpa"
    assert base.module.config._experts_implementation != "sonicmoe"


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"use_kernels": True}, "use_kernels in its config.json puts other code"),
        ({"fusion_config": {"patch_embeddings": True}}, "fusion_config in its config.json puts other code"),
        ({"compression_config": {"bits": 4}}, "quantised"),
        ({"text_config": {"quantization_config": {"quant_method": "awq"}}}, "quantised"),
        ({"auto_map": {"AutoConfig": "x.Y"}, "model_type": "own"}, "--trust-remote-code"),
        ({"model_type": ["qwen3"]}, "cannot be loaded"),
    ],
    ids=str,
)
def test_other_things_that_a_configuration_may_not_ask_for(
    stating: Callable[..., str], stated: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        read_config(stating(**stated))
    assert "\n" not in str(error.value)


def test_plan_train_and_eval_refuse_a_kernel_alike(stating: Callable[..., str], onelayer: Command) -> None:
    folder = stating(_attn_implementation="someone/kernel")
    said = set()
    for command in ("plan", "train --steps 1 --output run", "eval --benchmarks gsm8k --output eval"):
        code, _, err = onelayer(f"{command} --model {folder}")
        assert code == 2
        said.add(err)
    assert len(said) == 1
    assert "someone/kernel" in said.pop()


def test_an_adapter_is_no_model(stating: Callable[..., str]) -> None:
    folder = stating()
    (Path(folder) / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/else"}')
    with pytest.raises(UserError, match="is an adapter"):
        load_base(folder)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["pytorch_model.bin"], r"as a pickle \(pytorch_model.bin\)"),
        (["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"], r"as a pickle \(pytorch_model-00001"),
        (["model.pt"], r"as a pickle \(model.pt\)"),
        (["model-q4.gguf"], "no weights: .*only model-q4.gguf"),
        (["other.safetensors"], "no weights: .*only other.safetensors"),
        ([], "no weights: it has neither model.safetensors nor model.safetensors.index.json$"),
    ],
)
def test_weights_that_are_not_read(stating: Callable[..., str], files: list[str], message: str) -> None:
    folder = Path(stating())
    (folder / "model.safetensors").unlink()
    for file in files:
        (folder / file).write_bytes(b"\x80\x04.")
    with pytest.raises(UserError, match=message):
        load_base(str(folder))


def test_a_name_that_leads_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("gpt2", "someone/nothing"):
        assert model_path(name) == name  # may be on the hub
        with pytest.raises(UserError, match="no model of that name was downloaded before, and HF_HUB_OFFLINE") as error:
            load_base(name)
        assert f"no model folder '{name}' here" in str(error.value)
    for name in ("./gpt2", "~/nowhere", "runs/a/model", "/nowhere", "two words"):
        with pytest.raises(UserError, match="there is no model folder"):
            model_path(name)
    (tmp_path / "weights.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="is a file; give the folder"):
        model_path("weights.safetensors")


def test_what_the_hub_answers_becomes_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def said(kind: type[Exception]) -> str:
        # Their makers want an HTTP response.
        error = kind.__new__(kind)
        with pytest.raises(UserError) as caught, reading("someone/x"):
            raise OSError("We couldn't ...") from error
        return str(caught.value)

    assert "gated" in said(errors.GatedRepoError)
    assert "the hub has no model of that name" in said(errors.RepositoryNotFoundError)
    assert "no such revision" in said(errors.RevisionNotFoundError)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert "the hub cannot be reached" in said(errors.LocalEntryNotFoundError)
    assert said(ValueError) == "model 'someone/x' cannot be loaded: We couldn't ..."


def test_kernels_that_transformers_would_fetch_for_a_family_are_not_fetched() -> None:
    assert os.environ["USE_HUB_KERNELS"] == "NO"
