"""The file of a delta: written by a run, read again for its base, merged into a checkpoint, copied to be shared.

It holds the trained tensors in fp32 under their original names, and one entry of metadata that says which base they
belong to; see docs/deltas.md.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from onelayer.admission import check_finite
from onelayer.errors import UserError
from onelayer.files import atomic_folder, atomic_path, empty_folder
from onelayer.model import BaseModel, is_base
from onelayer.stored_types import keep_types

DELTA = "delta.safetensors"


def delta_file(path: Path | str) -> Path:
    """The file of a delta that is named by itself or by its folder."""
    path = Path(path)
    return path / DELTA if path.is_dir() else path


def write_delta(path: Path, delta: Mapping[str, Tensor], base: BaseModel, plan: str) -> None:
    """Write a delta (fp32, original names) with what it belongs to in the header: the base, its hash and the plan."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in delta.items()}
    header = {"base_model": base.name, "revision": base.revision, "base_hash": base.hash, "plan": plan}
    # One key only: safetensors writes several in a random order, and equal deltas would differ in their bytes.
    metadata = {"onelayer": json.dumps(header)}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def read_delta_for(base: BaseModel, path: Path) -> dict[str, Tensor]:
    """Read a delta for ``base``: tensor name -> fp32 tensor. Wear it with ``base.wearing(as_weights(delta, base))``.

    Raises:
        UserError: no such file, a damaged one, or a delta that belongs to another base.
    """
    header = read_delta_header(path)
    if not is_base(base.module, header["base_hash"], base.hash):
        raise other_base(path, header, f"'{base.name}'")
    with safe_open(path, framework="pt") as file:
        delta = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    check_finite(delta, f"delta '{path}'")
    return delta


def read_delta_header(path: Path) -> dict[str, Any]:
    """What a delta says of itself: ``base_model``, ``revision``, ``base_hash`` and ``plan``.

    Raises:
        UserError: no such file, a damaged one, or safetensors that are no delta.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise UserError(f"delta '{path}' cannot be read: {error}") from error
    if "onelayer" not in metadata:
        raise UserError(f"'{path}' is no delta: its header does not say which base it belongs to")
    header: dict[str, Any] = json.loads(metadata["onelayer"])
    return header


def other_base(path: Path | str, header: Mapping[str, Any], model: str) -> UserError:
    """The error of a delta that is not of a model."""
    return UserError(
        f"delta '{path}' was trained on another base ({header['base_model']}): the hash of its tensors differs from that "
        f"of {model}"
    )


def as_weights(delta: Mapping[str, Tensor], base: BaseModel) -> dict[str, Tensor]:
    """A delta in the types of the base's own tensors and on its device, ready to be worn."""
    return {name: tensor.to(base.device, base.tensor(name).dtype) for name, tensor in delta.items()}


def merge(
    delta: Mapping[str, Tensor],
    base: BaseModel,
    output: Path,
    card: str | None = None,
    types: Mapping[str, torch.dtype] | None = None,
) -> None:
    """Write a plain Hugging Face checkpoint of the base with the delta in place, with its tokenizer.

    The folder is there whole or not at all, with ``card`` as its README.md. ``types`` are those of the base's own
    checkpoint, by names in its files; by default the tensors are written in the types that they have in memory.

    Raises:
        UserError: the output folder exists and is not empty, or a value of the delta is too large for its type.
        WriteFailed: the disk refused it.
    """
    weights = as_weights(delta, base)
    check_finite(weights, f"the delta, as {str(base.dtype).removeprefix('torch.')},")
    empty_folder(output)
    own = {name: base.tensor(name).detach().clone() for name in delta}
    try:
        with torch.no_grad():
            for name, weight in weights.items():
                base.tensor(name).copy_(weight)
        with atomic_folder(output) as folder:
            base.module.save_pretrained(folder)  # type: ignore[operator]
            if types:
                keep_types(folder, types)
            base.tokenizer.save_pretrained(folder)
            if card is not None:
                (folder / "README.md").write_text(card, encoding="utf-8")
    finally:
        with torch.no_grad():
            for name, tensor in own.items():
                base.tensor(name).copy_(tensor)


def copy_delta(path: Path, output: Path, card: str) -> None:
    """Copy a delta, and what says how it was made, to a folder of its own, with ``card`` as its README.md.

    Raises:
        UserError: the folder is there and not empty.
        WriteFailed: the disk refused it; the folder is then empty.
    """
    empty_folder(output)
    with atomic_folder(output) as folder:
        shutil.copyfile(path, folder / DELTA)
        if (path.parent / "arm.json").is_file():
            shutil.copyfile(path.parent / "arm.json", folder / "arm.json")
        (folder / "README.md").write_text(card, encoding="utf-8")
