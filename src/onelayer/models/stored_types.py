"""The types of a checkpoint's tensors: read from the headers of its files, kept when a checkpoint is written again.

They may be several: norms or routers in float32 beside bfloat16 are common.
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from onelayer.models.finite import check_finite
from onelayer.models.source import INDEX, WEIGHTS, model_path, reading

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Types of tensors as the header of safetensors names them."""


def stored_types(name: str, revision: str | None = None) -> dict[str, torch.dtype]:
    """The type of every floating-point tensor of a model's checkpoint, by its name in the files; only headers are read.

    Raises:
        UserError: no such model, or one without safetensors.
    """
    types = {}
    with reading(name):
        for file in _weight_files(model_path(name), revision):
            with safe_open(file, framework="pt") as tensors:
                for tensor in tensors.keys():  # noqa: SIM118 - not a mapping
                    if (kind := tensors.get_slice(tensor).get_dtype()) in FLOATS:
                        types[tensor] = FLOATS[kind]
    return types


def _weight_files(path: str, revision: str | None) -> list[str]:
    from transformers.utils.hub import cached_file, get_checkpoint_shard_files

    options = {"revision": revision, "_raise_exceptions_for_missing_entries": False}
    if file := cached_file(path, WEIGHTS, **options):
        return [file]
    if index := cached_file(path, INDEX, **options):
        return list(get_checkpoint_shard_files(path, index, revision=revision)[0])
    raise FileNotFoundError(f"it has neither {WEIGHTS} nor {INDEX}, and only safetensors are read")


def widest(types: Mapping[str, torch.dtype]) -> torch.dtype:
    """A type that holds the values of all: float32 for bfloat16 beside float16, and where there are none."""
    found = list(types.values()) or [torch.float32]
    result = found[0]
    for dtype in found:
        result = torch.promote_types(result, dtype)
    return result


def keep_types(folder: Path, types: Mapping[str, torch.dtype]) -> None:
    """Store the tensors of a checkpoint that was just written in the types that they had in another one.

    Raises:
        UserError: a value is too large for its type.
    """
    size = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            metadata = stored.metadata()
            before = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a mapping
        after = {name: tensor.to(_type_of(name, tensor, types)) for name, tensor in before.items()}
        if changed := {name: after[name] for name, tensor in before.items() if after[name].dtype != tensor.dtype}:
            check_finite(changed, "the merged checkpoint, in the types of its base,")
            # Into another file: the tensors may lie in this one, mapped into memory.
            save_file(after, file.with_suffix(".part"), metadata=metadata)
            file.with_suffix(".part").replace(file)
        size += sum(tensor.nbytes for tensor in after.values())
    index = folder / INDEX
    if index.is_file():
        listed = json.loads(index.read_text(encoding="utf-8"))
        listed["metadata"] = {**listed.get("metadata", {}), "total_size": size}
        index.write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")
    config = folder / "config.json"
    stated = json.loads(config.read_text(encoding="utf-8"))
    # Of several types the configuration names the one of most tensors.
    most = Counter(types.values()).most_common(1)[0][0]
    stated["dtype"] = str(most).removeprefix("torch.")
    config.write_text(json.dumps(stated, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _type_of(name: str, tensor: torch.Tensor, types: Mapping[str, torch.dtype]) -> torch.dtype:
    """A tensor's type in the other checkpoint, where it may have a shorter or a longer name (``wte.weight``)."""
    if not tensor.is_floating_point():
        return tensor.dtype
    if name in types:
        return types[name]
    alike = {dtype for other, dtype in types.items() if name.endswith(f".{other}") or other.endswith(f".{name}")}
    if len(alike) != 1:
        alike = set(types.values())
    return alike.pop() if len(alike) == 1 else tensor.dtype
