"""From a model's name, or a model in memory, to the frozen base: read, looked at, tried, its parts found."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from onelayer.errors import UserError
from onelayer.models.admission import check_decoding, check_head, check_structure
from onelayer.models.base import BaseModel, outline, tensors_hash
from onelayer.models.finite import check_finite
from onelayer.models.prepacked import prepack
from onelayer.models.source import check_weights, model_path, read_config, reading
from onelayer.models.stored_types import stored_types, widest
from onelayer.models.tokenizer import load_tokenizer


def load_base(
    name: str,
    *,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    trust_remote_code: bool = False,
) -> BaseModel:
    """Load a causal LM from a local folder, the hub, or the package (``bundled:...``).

    ``dtype`` None means float32 on a CPU, and elsewhere the type the checkpoint was saved in.

    Raises:
        UserError: the model is not there, is damaged, or is of a kind that cannot be profiled layer by layer.
    """
    config = read_config(name, revision=revision, trust_remote_code=trust_remote_code)
    check_weights(name, revision)
    if dtype is None:
        dtype = torch.float32 if torch.device(device).type == "cpu" else config.dtype or torch.bfloat16
    source: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    with reading(name):
        tokenizer = load_tokenizer(model_path(name), **source)
    # Rounded, the tensors would no longer say which checkpoint they are.
    saved = widest(stored_types(name, revision))
    rounds = torch.promote_types(saved, dtype) != dtype
    hash = tensors_hash(load_module(name, config, dtype=saved, **source)) if rounds else None
    module = load_module(name, config, dtype=dtype, **source)
    check_structure(outline(module, name=name))
    base = wrap_model(module.to(device), tokenizer, name=name, revision=revision, hash=hash)
    check_decoding(base)
    prepack(base.module)
    return base


def load_module(name: str, config: Any, *, dtype: torch.dtype, **source: Any) -> nn.Module:
    """The model of a checkpoint on the CPU in a type, all of its tensors read.

    Raises:
        UserError: tensors are missing, or cannot be read.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    with reading(name):
        module, info = AutoModelForCausalLM.from_pretrained(
            model_path(name), config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **source
        )
    if info["missing_keys"] or info["mismatched_keys"]:
        lost = sorted([*info["missing_keys"], *(str(key) for key in info["mismatched_keys"])])
        raise UserError(
            f"model '{name}' is incomplete: {len(lost)} tensors are missing or of another shape, the first is {lost[0]}"
        )
    found: nn.Module = module
    return found


def wrap_model(
    module: nn.Module, tokenizer: Any, *, name: str, revision: str | None = None, hash: str | None = None
) -> BaseModel:
    """Freeze a model that is already in memory and find its parts.

    ``hash`` is that of the checkpoint, where the model has not all of its bits.

    Raises:
        UserError: no single list of decoder layers, no plain linear head, weights that are not finite, logits that are more
            than the head's output, or no token that ends a completion.
    """
    base = outline(module, name=name, revision=revision)
    check_finite(dict(module.named_parameters()), f"model '{name}'")
    stops = _stop_tokens(module, tokenizer, name)
    base = replace(base, tokenizer=tokenizer, stop_token_ids=stops, hash=hash or tensors_hash(module))
    check_head(base)
    return base


def _stop_tokens(module: nn.Module, tokenizer: Any, name: str) -> tuple[int, ...]:
    generation = getattr(module, "generation_config", None)
    listed = getattr(generation, "eos_token_id", None)
    ids = listed if isinstance(listed, list) else [listed]
    stops = {int(token) for token in [*ids, tokenizer.eos_token_id] if token is not None}
    if not stops:
        raise UserError(
            f"model '{name}' has no end-of-sequence token, so no completion would ever end; set eos_token_id"
        )
    return tuple(sorted(stops))
