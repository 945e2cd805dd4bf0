"""The file of a delta: written by a run, read again for its base, merged into a checkpoint, copied to be shared.

It holds the trained tensors in fp32 under their original names, and one entry of metadata that says which base they
belong to; see docs/deltas.md.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from onelayer.arms.plan import parse_plan, resolve
from onelayer.errors import UserError
from onelayer.models.base import BaseModel, is_base, parts_of
from onelayer.models.finite import check_finite
from onelayer.models.part import Part
from onelayer.models.stored_types import keep_types
from onelayer.storage.arm_record import ARM, ArmRecord
from onelayer.storage.doors import require_file
from onelayer.storage.files import atomic_folder, atomic_path, checksum, empty_folder
from onelayer.storage.lines import parse_json

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
        UserError: no such file, a damaged one, a delta that belongs to another base, or one that is not its plan's.
    """
    header = read_delta_header(path)
    if not is_base(base.module, header["base_hash"], base.hash):
        raise other_base(path, header, f"'{base.name}'")
    return read_tensors(path, header, base.module)


def read_delta_header(path: Path) -> dict[str, Any]:
    """What a delta says of itself: ``base_model``, ``revision``, ``base_hash`` and ``plan``.

    Raises:
        UserError: no such file, a damaged one, safetensors that are no delta, tensors that are not float32, or an
            ``arm.json`` beside it that says something else.
    """
    try:
        require_file(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            types = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        raise UserError(f"delta '{path}' cannot be read: {error}") from error
    if "onelayer" not in metadata:
        raise UserError(f"'{path}' is no delta: its header does not say which base it belongs to")
    header = _header(path, metadata["onelayer"])
    if not types:
        raise UserError(f"delta '{path}' holds no tensors")
    if other := [name for name, kind in types.items() if kind != "F32"]:
        raise UserError(
            f"delta '{path}': tensor '{other[0]}' is of type {types[other[0]]}, and deltas are float32 (F32)"
        )
    _check_record(path, header)
    return header


def _header(path: Path, text: str) -> dict[str, Any]:
    try:
        header = parse_json(text)
    except ValueError:
        header = None
    kinds = {"base_model": str, "revision": str | None, "base_hash": str, "plan": str}
    if not isinstance(header, dict) or not all(key in header and isinstance(header[key], kinds[key]) for key in kinds):
        raise UserError(f"'{path}' is no delta: its header does not hold {', '.join(kinds)} as text")
    return header


def _check_record(path: Path, header: Mapping[str, Any]) -> None:
    """Compare what a delta says of itself with the ``arm.json`` beside it.

    Raises:
        UserError: they differ, or the record is damaged.
    """
    if path.name != DELTA or not (path.parent / ARM).exists():
        return
    record = ArmRecord.read(path.parent / ARM)
    for key, value, recorded in (
        ("base_hash", header["base_hash"], record.base_hash),
        ("plan", _plan(header), record.plan),
    ):
        if recorded not in (None, value):
            raise UserError(
                f"delta '{path}' says that its {key} is '{value}', and the arm.json beside it '{recorded}': one of them "
                "belongs to another arm"
            )


def _plan(header: Mapping[str, Any]) -> str:
    """The plan of a delta; that of one which was stitched are its layers."""
    stitched = re.fullmatch(r"stitched((?:-\d+)+)", header["plan"])
    return ",".join(str(int(layer)) for layer in stitched[1].split("-")[1:]) if stitched else header["plan"]


def read_tensors(path: Path, header: Mapping[str, Any], module: nn.Module) -> dict[str, Tensor]:
    """The tensors of a delta, after all of it was looked at: names, shapes and values.

    Args:
        path: the file.
        header: what :func:`read_delta_header` gave.
        module: the base, with the hash that the header names.

    Raises:
        UserError: the tensors are not exactly those of the plan, one has another shape, or is not finite; the file is
            not what ``arm.json`` has the checksum of.
    """
    _check_sum(path)
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        _check_names(path, _plan(header), names, module)
        own = dict(module.named_parameters())
        for name in names:
            shape, right = list(file.get_slice(name).get_shape()), list(own[name].shape)
            if shape != right:
                raise UserError(f"delta '{path}': tensor '{name}' has the shape {shape}, and the base's {right}")
        tensors = {name: file.get_tensor(name) for name in names}
    check_finite(tensors, f"delta '{path}'")
    return tensors


def _check_sum(path: Path) -> None:
    if path.name != DELTA or not (path.parent / ARM).exists():
        return
    if ArmRecord.read(path.parent / ARM).sha256.get(DELTA, "") not in ("", checksum(path)):
        raise UserError(f"delta '{path}' is not what was written: its checksum differs from the one in arm.json")


def _check_names(path: Path, plan: str, names: list[str], module: nn.Module) -> None:
    """Compare the names of a delta with those that its plan trains on the base.

    Which layers ``best:5@profile.json`` meant is not known any more; there the base must have all tensors, and of each
    kind of module in a layer all are there or none.
    """
    parts, tied = parts_of(module, "the base")
    if unknown := [name for name in names if name not in parts]:
        raise UserError(f"delta '{path}': the base has no tensor '{unknown[0]}' that could be trained")
    try:
        layers = 1 + max(part.layer for part in parts.values() if part.layer is not None)
        items = parse_plan(plan, layers, lambda source, kind: range(layers))
        if items[0].rank:
            linear = {f"{place}.weight" for place, child in module.named_modules() if isinstance(child, nn.Linear)}
            parts = {name: part for name, part in parts.items() if part.layer is not None and name in linear}
        expected = set(_whole(parts, names) if _RANKED.search(plan) else resolve(items, parts, tied))
    except UserError as error:
        raise UserError(f"delta '{path}' names a plan that its base cannot have: {error}") from error
    for wrong, what in (
        (set(names) - expected, "is in it and does not belong to"),
        (expected - set(names), "is not in it and belongs to"),
    ):
        if wrong:
            raise UserError(f"delta '{path}': tensor '{min(wrong)}' {what} its plan '{plan}'")


_RANKED = re.compile(r"\b(best|worst):\d+@")


def _whole(parts: Mapping[str, Part], names: list[str]) -> list[str]:
    """All tensors of those modules of which one is named."""
    touched = {parts[name] for name in names if name in parts}
    return [name for name, part in parts.items() if part in touched]


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
        if (path.parent / ARM).is_file():
            shutil.copyfile(path.parent / ARM, folder / ARM)
        (folder / "README.md").write_text(card, encoding="utf-8")
