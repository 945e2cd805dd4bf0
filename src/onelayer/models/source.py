"""Where a model's name leads, and what its files say before any of its weights is read.

A checkpoint is data. Whatever in it would make transformers fetch or run code, other than the model's own Python files
with ``trust_remote_code``, is refused here; only safetensors are read.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from onelayer.errors import UserError
from onelayer.storage.doors import require_files

BUNDLED_PREFIX = "bundled:"
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
"""A repository on the hub; the oldest have no owner (``gpt2``)."""
PLAIN_WORD = re.compile(r"\w+(\|\w+)?")
"""An implementation that transformers has itself (``sdpa``, ``paged|eager``); a hub kernel has a slash or a colon."""
FOREIGN_CODE = ("use_kernels", "kernel_config", "fusion_config")
"""Keys of a configuration with which transformers puts other code in the place of the model's own."""
QUANTISED = ("quantization_config", "compression_config")


def model_path(name: str) -> str:
    """Where a model's name leads: a bundled folder, a local folder, or the name itself for the hub.

    Raises:
        UserError: no bundled model of that name, a path that is not a folder with a model in it, or one with a pipe.
    """
    if name.startswith(BUNDLED_PREFIX):
        bundled = resources.files("onelayer") / "bundled"
        known = sorted(entry.name for entry in bundled.iterdir() if (entry / "config.json").is_file())
        if name.removeprefix(BUNDLED_PREFIX) not in known:
            raise UserError(
                f"there is no bundled model '{name}'; there are {', '.join(BUNDLED_PREFIX + k for k in known)}"
            )
        return str(bundled / name.removeprefix(BUNDLED_PREFIX))
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"folder '{name}' holds no model: it has no config.json")
        require_files(folder)
        return str(folder)
    if folder.exists():
        raise UserError(f"model '{name}' is a file; give the folder that holds it, with config.json and tokenizer")
    if not HUB_NAME.fullmatch(name):
        raise UserError(
            f"there is no model folder '{name}'; give a folder, a hub name like Qwen/Qwen3-1.7B-Base, or {_example()}"
        )
    return name


def read_config(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The transformers configuration of a model; no weights are read.

    How attention and experts are computed is left to this machine: the model's own way where torch's is none of its.

    Raises:
        UserError: the model is not there, asks for code from elsewhere, or is of a kind that cannot be profiled layer by
            layer.
    """
    from transformers import AutoConfig, PreTrainedConfig

    path = model_path(name)
    with reading(name):
        stated, _ = PreTrainedConfig.get_config_dict(path, revision=revision)
        _check_stated(stated, name, trust_remote_code)
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
        config._attn_implementation = None
        config._experts_implementation = None
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"model '{name}' is an encoder-decoder; onelayer profiles decoder-only causal language models")
    return config


def checkpoint_dtype(name: str, revision: str | None, trust_remote_code: bool) -> torch.dtype:
    """The type that a model was saved in, as far as its configuration says; else bfloat16.

    Raises:
        UserError: as :func:`read_config`.
    """
    config = read_config(name, revision=revision, trust_remote_code=trust_remote_code)
    return config.dtype or torch.bfloat16


def check_weights(name: str, revision: str | None = None) -> None:
    """There are weights of the kind that is read, and they are the model's own.

    Raises:
        UserError: an adapter, or a folder that has no weights, or only what can run code when it is read.
    """
    from transformers.utils import find_adapter_config_file

    path = model_path(name)
    with reading(name):
        # transformers would load the model that the adapter names, wherever that is.
        if find_adapter_config_file(path, revision=revision) is not None:
            raise UserError(
                f"model '{name}' is an adapter (adapter_config.json), no model of its own; merge it into its base first"
            )
    folder = Path(path)
    if not folder.is_dir() or (folder / WEIGHTS).is_file() or (folder / INDEX).is_file():
        return
    if pickles := sorted(file.name for kind in ("*.bin", "*.pt", "*.pth", "*.ckpt") for file in folder.glob(kind)):
        raise UserError(
            f"model '{name}' has its weights as a pickle ({pickles[0]}), which can run any code when it is read, and only "
            "safetensors are; if you trust it, save it again with transformers: "
            "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW), and the tokenizer too"
        )
    others = sorted(file.name for kind in ("*.safetensors", "*.gguf", "*.onnx", "*.h5") for file in folder.glob(kind))
    beside = f", only {others[0]}" if others else ""
    raise UserError(f"folder '{name}' holds no weights: it has neither {WEIGHTS} nor {INDEX}{beside}")


def _check_stated(stated: Mapping[str, Any], name: str, trust_remote_code: bool) -> None:
    """Refuse what would make transformers fetch or run code, or leave nothing to train; at any depth."""
    for key, value in _entries(stated):
        where = f"model '{name}': {key} in its config.json"
        leaf = key.rpartition(".")[2]
        if leaf.strip("_").removesuffix("_internal").endswith("_implementation"):
            if foreign := [word for word in _strings(value) if word and not PLAIN_WORD.fullmatch(word)]:
                raise UserError(
                    f"{where} names '{foreign[0]}', code that would be fetched from the hub and run; remove that line: "
                    "onelayer computes with torch's own"
                )
        elif leaf in FOREIGN_CODE and value:
            raise UserError(f"{where} puts other code in the place of the model's own; remove that line")
        elif leaf in QUANTISED and value is not None:
            raise UserError(
                f"model '{name}' has quantised weights, which cannot be trained; use its unquantised version"
            )
    if "auto_map" in stated and not trust_remote_code and not _known(stated.get("model_type")):
        raise UserError(
            f"model '{name}' is Python code of its own (auto_map in its config.json); read it, then say "
            "--trust-remote-code to run it"
        )


def _entries(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every key at any depth as a path with dots, with its value."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield f"{path}{key}", inner
            yield from _entries(inner, f"{path}{key}.")
    elif isinstance(value, list):
        for inner in value:
            yield from _entries(inner, path)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _known(kind: object) -> bool:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return isinstance(kind, str) and kind in CONFIG_MAPPING


def _example() -> str:
    return f"{BUNDLED_PREFIX}qwen3-arithmetic"


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Whatever the loaders of transformers raise about a model's files becomes one sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a dozen types over the loaders' versions: OSError, SafetensorError, validation errors
        raise UserError(_why_not(name, error)) from error


def _why_not(name: str, error: BaseException) -> str:
    """What kept a model from being loaded. The hub's reasons lie below those of transformers."""
    from huggingface_hub import errors

    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)

    def caused(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    nowhere = f"there is no model folder '{name}' here"
    if caused(errors.GatedRepoError):
        return f"model '{name}' is gated on the hub: accept its terms there, then log in (hf auth login)"
    if caused(errors.RepositoryNotFoundError):
        return f"{nowhere}, and the hub has no model of that name, or only shows it to some; {_example()} needs neither"
    if caused(errors.RevisionNotFoundError):
        return f"model '{name}' has no such revision on the hub"
    if caused(errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) and not Path(name).exists():
        offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
        why = "HF_HUB_OFFLINE forbids to ask the hub" if offline else "the hub cannot be reached"
        return (
            f"{nowhere}, no model of that name was downloaded before, and {why}; give a folder, or {_example()}, which "
            "needs no network"
        )
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return f"model '{name}' cannot be loaded: {reason}"
