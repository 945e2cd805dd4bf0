"""The manifest: everything that changes a floating-point result, pinned before a run's first step.

A run that continues, and every worker of a cluster, has to have the same one.
"""

import hashlib
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from onelayer.config.configs import TrainConfig
from onelayer.config.engine import EngineConfig
from onelayer.errors import UserError
from onelayer.models.base import BaseModel
from onelayer.models.rowwise import MIN_ROWS
from onelayer.runs.code_hash import source_hashes
from onelayer.storage.files import checksum
from onelayer.storage.manifest import Manifest
from onelayer.tasks.base import Split
from onelayer.tasks.reward_file import source_files
from onelayer.training.prompts import EncodedSplit
from onelayer.version import __version__

NO_EFFECT_ON_ARMS = (
    *("output", "resume", "report_to", "stop_at", "save_steps", "arms_per_set", "env_workers", "require_sandbox"),
    *EngineConfig.model_fields,
    *("save_total_limit", "grace_seconds", "reward_timeout", "reward_retries", "max_reward_share"),
    *("layers", "strategies", "strategy_k", "pairs", "leave_one_out", "lr_check", "sublayers", "also"),
)
"""Options that say where, when and which arms, but change no result of an arm: a run may continue with others."""
ONLY_NOTED = ("hardware", "config.max_rows")
"""Keys of the manifest that a continued run may have otherwise; it is told. Fewer rows at once are what helps a run that
the system killed for its memory."""
SHOWN_DIFFERENCES = 8


def build_manifest(
    base: BaseModel, data: Mapping[Split, EncodedSplit], config: TrainConfig, seeds: Sequence[int]
) -> Manifest:
    """Everything that changes a floating-point result. The arms, and which go together, are added as they are named."""
    return Manifest(
        num_layers=base.num_layers,
        versions=versions(),
        code=source_hashes(),
        reward=_reward_hash(config),
        hardware=hardware(base),
        device=base.device.type,
        threads=torch.get_num_threads(),
        min_rows=MIN_ROWS,
        base_hash=base.hash,
        dtype=str(base.dtype).removeprefix("torch."),
        data={split: encoded.hash for split, encoded in data.items()},
        config={k: v for k, v in config.model_dump().items() if k not in NO_EFFECT_ON_ARMS},
        seeds=list(seeds),
    )


def versions() -> dict[str, str]:
    """Versions of everything that computes."""
    names = ("torch", "transformers", "numpy", "tokenizers", "math-verify", "sympy")
    own = {"python": platform.python_version(), "onelayer": __version__}
    return own | {name: version(name) for name in names}


def hardware(base: BaseModel) -> str:
    """What decides on the last bits besides versions: the GPU, or the instructions that torch uses of the processor."""
    if base.device.type == "cuda":
        return torch.cuda.get_device_name(base.device)
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} MKL_CBWR={os.environ['MKL_CBWR']}"


def _reward_hash(config: TrainConfig) -> str | None:
    """SHA-256 of the file of an own reward function; with the files beside it that it imports, of all their hashes."""
    sums = [checksum(file) for file in source_files(config.reward)] if config.reward else [None]
    return sums[0] if len(sums) == 1 else hashlib.sha256(" ".join(map(str, sums)).encode()).hexdigest()


def check_same(path: Path, found: Manifest, manifest: Manifest) -> list[str]:
    """Compare the manifest ``found`` in the folder of a run with that of the command that is to continue it.

    Returns:
        A sentence for each difference that a run may continue with.

    Raises:
        UserError: there are others, with the first of them.
    """
    now = pinned(manifest)
    was = flat({key: getattr(found, key, None) for key in manifest.model_fields_set})
    differing = sorted(key for key in was.keys() | now.keys() if was.get(key) != now.get(key))
    if refused := [key for key in differing if key not in ONLY_NOTED]:
        shown = "; ".join(_difference(key, was, now) for key in refused[:SHOWN_DIFFERENCES])
        more = f"; and {len(refused) - SHOWN_DIFFERENCES} more" if len(refused) > SHOWN_DIFFERENCES else ""
        raise UserError(f"output '{path}' cannot be resumed, {len(refused)} settings differ: {shown}{more}")
    notes = []
    for key in differing:
        same = key == "config.max_rows" and manifest.device == "cpu"
        what = "the results are the same" if same else "the last bits of what follows may differ"
        notes.append(f"{_difference(key, was, now)}: {what}")
    return notes


def pinned(manifest: Manifest) -> dict[str, Any]:
    """What a manifest pins, with keys like ``config.beta``."""
    return flat(manifest.model_dump(exclude_unset=True))


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with keys like ``config.beta``."""
    found: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            found |= flat(item, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = item
    return found


def _difference(key: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    return f"{key} was {short(was.get(key))}, now {short(now.get(key))}"


def short(value: Any) -> str:
    """A value for a sentence; the first digits of a hash tell it apart."""
    is_hash = isinstance(value, str) and len(value) == 64
    return repr(value[:12] + "..." if is_hash else value)
