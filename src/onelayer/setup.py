"""What every command starts with: the model on its device, the task, its problems as tokens, the manifest."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from onelayer.arm import Arm, OptimizerSettings
from onelayer.config import ModelConfig, TaskConfig, TrainConfig
from onelayer.errors import UserError
from onelayer.folder import WHERE_AND_WHEN
from onelayer.model import BaseModel, load_base
from onelayer.plan import Item, parse_plan, resolve
from onelayer.profile import Profile
from onelayer.prompts import EncodedSplit, encode_split
from onelayer.sample import MIN_ROWS
from onelayer.tasks import get_task
from onelayer.tasks.base import Split, Task
from onelayer.tasks.dataset import DatasetTask, load_reward, load_rows
from onelayer.update import updates_per_step

BYTES_PER_TRAINED = 18
"""A trained parameter with a bfloat16 base: fp32 master 4, bfloat16 copy 2, Adam 8, fp32 gradient 4."""
TINY_MODEL = 20_000_000
"""Under this many parameters a second CPU thread costs more than it gives."""
SPLITS: tuple[Split, ...] = ("train", "selection", "test")


@dataclass(frozen=True)
class ArmSpec:
    """An arm before it exists: what it trains, under which name and seed."""

    name: str
    plan: str
    kind: str
    """``full``, ``layer`` or ``strategy``."""
    seed: int
    rates: Mapping[str, float]
    """Tensor name -> learning-rate multiplier, in the model's order."""
    layer: int | None = None


def load_task(config: TaskConfig) -> Task:
    """The bundled task, or the user's own problems and reward."""
    if config.task is not None:
        return get_task(config.task)
    assert config.dataset is not None and config.reward is not None
    reward = load_reward(config.reward)
    rows = load_rows(config.dataset)
    return DatasetTask(
        Path(config.dataset).stem, rows, reward, config.prompt_column, config.selection_size, config.test_size
    )


def load_model(config: ModelConfig) -> BaseModel:
    """The base model on its device; also settles the number of CPU threads.

    Raises:
        UserError: a device that is not there, or a model that cannot be loaded.
    """
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device '{config.device}' is not there: {str(error).splitlines()[0]}") from error
    base = load_base(
        config.model,
        revision=config.revision,
        dtype=None if config.dtype == "auto" else getattr(torch, config.dtype),
        device=device,
        trust_remote_code=config.trust_remote_code,
    )
    if config.threads:
        torch.set_num_threads(config.threads)
    elif "OMP_NUM_THREADS" not in os.environ and base.num_parameters < TINY_MODEL:
        torch.set_num_threads(1)
    return base


def load_splits(base: BaseModel, task: Task, config: TrainConfig) -> dict[Split, EncodedSplit]:
    """The problems of all splits that fit.

    Raises:
        UserError: a split without problems, or a model whose context is shorter than prompt and completion.
    """
    longest = config.max_prompt_length + config.max_completion_length
    data = {split: encode_split(base, task, split, config.max_prompt_length) for split in SPLITS}
    needed = max(split.width for split in data.values()) + config.max_completion_length
    if needed > base.max_length:
        raise UserError(
            f"model '{base.name}' has a context of {base.max_length} tokens, and the longest prompt with "
            f"max_completion_length {config.max_completion_length} takes {needed} (at most {longest}); lower one of them"
        )
    return data


def spec_of(base: BaseModel, plan: str, seed: int, *, name: str | None = None) -> ArmSpec:
    """The arm of a plan: ``full``, ``layer-NN`` or a name made from the plan."""
    items = parse_plan(plan, base.num_layers, ranking_of_profile)
    rates = resolve(items, base.parts, base.tied_head)
    kind, layer = _kind(base, items, rates)
    default = "full" if kind == "full" else f"layer-{layer:02d}" if kind == "layer" else _slug(plan)
    return ArmSpec(name or default, plan, kind, seed, rates, layer)


def _kind(base: BaseModel, items: Sequence[Item], rates: Mapping[str, float]) -> tuple[str, int | None]:
    if set(rates.values()) == {1.0}:
        if rates.keys() == base.parts.keys():
            return "full", None
        touched = {base.parts[name].layer for name in rates}
        if len(touched) == 1 and (layer := touched.pop()) is not None:
            whole = {name for name, part in base.parts.items() if part.layer == layer}
            if rates.keys() == whole:
                return "layer", layer
    return "strategy", None


def _slug(plan: str) -> str:
    text = re.sub(r"@[^,*]*/", "@", plan)
    return re.sub(r"[^A-Za-z0-9]+", "-", text.replace("*", " x ").removesuffix(".json")).strip("-").lower()


def ranking_of_profile(path: str, which: str) -> Sequence[int]:
    """The layers of a profile, best or worst first, for plans like ``best:5@profile.json``."""
    profile = Profile.load(Path(path))
    count = len(profile.layers)
    return (profile.best(count) if which == "best" else profile.worst(count)).layers


def with_seeds(specs: Sequence[ArmSpec], seeds: Sequence[int]) -> list[ArmSpec]:
    """Every arm once per training seed; seeds after the first get a suffix."""
    return [
        replace(spec, name=spec.name + (f"-seed{number}" if number else ""), seed=seed)
        for number, seed in enumerate(seeds)
        for spec in specs
    ]


def create_arm(base: BaseModel, spec: ArmSpec, config: TrainConfig) -> Arm:
    """The arm of a spec, at the base."""
    settings = OptimizerSettings(
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_steps=config.warmup_steps,
        total_updates=config.steps * updates_per_step(config),
        adam_beta1=config.adam_beta1,
        adam_beta2=config.adam_beta2,
        adam_epsilon=config.adam_epsilon,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
    )
    return Arm.create(
        base,
        spec.rates,
        settings,
        name=spec.name,
        plan=spec.plan,
        seed=spec.seed,
        layer=spec.layer,
        kind=spec.kind,
    )


def plan_sets(base: BaseModel, specs: Sequence[ArmSpec], arms_per_set: int) -> list[list[str]]:
    """Names of the arms that advance side by side: as many at once as fit into half of the memory that is free."""
    if base.device.type == "cuda":
        free = torch.cuda.mem_get_info(base.device)[0]
    else:
        free = psutil.virtual_memory().available
    sets: list[list[str]] = []
    used = 0
    for spec in specs:
        size = BYTES_PER_TRAINED * sum(base.tensor(name).numel() for name in spec.rates)
        full = len(sets[-1]) >= arms_per_set if arms_per_set and sets else used + size > free / 2
        if not sets or full:
            sets.append([])
            used = 0
        sets[-1].append(spec.name)
        used += size
    return sets


def versions() -> dict[str, str]:
    """Versions of everything that computes."""
    import platform

    names = ("onelayer", "torch", "transformers", "numpy", "tokenizers")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def build_manifest(
    base: BaseModel, data: Mapping[Split, EncodedSplit], config: TrainConfig, specs: Sequence[ArmSpec]
) -> dict[str, Any]:
    """Everything that changes a floating-point result, and which arms go together."""
    return {
        "num_layers": base.num_layers,
        "versions": versions(),
        "device": base.device.type,
        "threads": torch.get_num_threads(),
        "min_rows": MIN_ROWS,
        "base_hash": base.hash,
        "dtype": str(base.dtype).removeprefix("torch."),
        "data": {split: encoded.hash for split, encoded in data.items()},
        "config": {k: v for k, v in config.model_dump().items() if k not in WHERE_AND_WHEN},
        "arms": {spec.name: f"{spec.plan} (seed {spec.seed})" for spec in specs},
        "sets": plan_sets(base, specs, getattr(config, "arms_per_set", 0)),
    }
