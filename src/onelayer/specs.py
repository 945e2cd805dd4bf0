"""Which arms a run has: what each trains, under which name, from which seed."""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import psutil
import torch

from onelayer.arm import Arm, OptimizerSettings
from onelayer.arm_names import FULL, layer_alone, with_seed
from onelayer.config import TrainConfig
from onelayer.lisa import create_lisa_arm
from onelayer.lora import create_lora_arm, linear_parts, pair_parameters
from onelayer.model import BaseModel
from onelayer.plan import Item, Lisa, parse_plan, ranks_of, resolve
from onelayer.profile import ranking_of_profile
from onelayer.trunk import trunk_layer
from onelayer.update import updates_per_step

BYTES_PER_TRAINED = 18
"""A trained parameter with a bfloat16 base: fp32 master 4, bfloat16 copy 2, Adam 8, fp32 gradient 4."""


@dataclass(frozen=True)
class ArmSpec:
    """An arm before it exists: what it trains, under which name and seed."""

    name: str
    plan: str
    kind: str
    """``full``, ``layer``, ``strategy``, ``pair``, or ``rate`` (full training to choose the learning rate).

    Records know three more: ``base``, ``stitched`` (deltas put together) and ``dropped`` (given up by a search)."""
    seed: int
    rates: Mapping[str, float]
    """Tensor name -> learning-rate multiplier, in the model's order."""
    layer: int | None = None
    learning_rate: float | None = None
    """Instead of the configuration's."""
    ranks: Mapping[str, int] = field(default_factory=dict)
    """LoRA rank of each tensor; empty for an arm that trains the tensors themselves."""
    lisa: Lisa | None = None
    """Which layers train when; None for an arm that always trains all of ``rates``."""

    def trained_parameters(self, base: BaseModel, names: Iterable[str]) -> int:
        """Number of parameters that train for some tensors: their own, or those of their LoRA pairs."""
        shapes = {name: base.tensor(name).shape for name in names}
        return sum(
            pair_parameters(shape, self.ranks[name]) if name in self.ranks else shape.numel()
            for name, shape in shapes.items()
        )


def spec_of(
    base: BaseModel,
    plan: str,
    seed: int,
    *,
    name: str | None = None,
    kind: str | None = None,
    learning_rate: float | None = None,
) -> ArmSpec:
    """The arm of a plan: ``full``, ``layer-NN`` or a name made from the plan."""
    items = parse_plan(plan, base.num_layers, ranking_of_profile)
    parts = linear_parts(base) if items[0].rank else base.parts
    rates = resolve(items, parts, base.tied_head)
    found, layer = _kind(base, items, rates)
    default = FULL if found == "full" else _slug(plan) if layer is None else layer_alone(layer)
    return ArmSpec(
        name or default,
        plan,
        kind or found,
        seed,
        rates,
        layer,
        learning_rate,
        ranks=ranks_of(items, parts, rates),
        lisa=items[0].lisa,
    )


def _kind(base: BaseModel, items: Sequence[Item], rates: Mapping[str, float]) -> tuple[str, int | None]:
    if set(rates.values()) == {1.0} and not items[0].rank and not items[0].lisa:
        if rates.keys() == base.parts.keys():
            return "full", None
        touched = {base.parts[name].layer for name in rates}
        if len(touched) == 1 and (layer := touched.pop()) is not None:
            whole = {name for name, part in base.parts.items() if part.layer == layer}
            if rates.keys() == whole:
                return "layer", layer
    return "strategy", None


def _slug(plan: str) -> str:
    text = re.sub(r"@[^,*@]*/", "@", plan)
    return re.sub(r"[^A-Za-z0-9]+", "-", text.replace("*", " x ").removesuffix(".json")).strip("-").lower()


def with_seeds(specs: Sequence[ArmSpec], seeds: Sequence[int]) -> list[ArmSpec]:
    """Every arm once per training seed; seeds after the first get a suffix."""
    return [
        replace(spec, name=with_seed(spec.name, number), seed=seed)
        for number, seed in enumerate(seeds)
        for spec in specs
    ]


def optimizer_settings(spec: ArmSpec, config: TrainConfig) -> OptimizerSettings:
    """The optimizer of an arm."""
    return OptimizerSettings(
        learning_rate=spec.learning_rate or config.learning_rate,
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_steps=config.warmup_steps,
        total_updates=config.steps * updates_per_step(config),
        adam_beta1=config.adam_beta1,
        adam_beta2=config.adam_beta2,
        adam_epsilon=config.adam_epsilon,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
    )


def create_arm(base: BaseModel, spec: ArmSpec, config: TrainConfig) -> Arm:
    """The arm of a spec, at the base."""
    settings = optimizer_settings(spec, config)
    common: dict[str, Any] = {"name": spec.name, "plan": spec.plan, "seed": spec.seed, "kind": spec.kind}
    if spec.ranks:
        arm: Arm = create_lora_arm(base, spec.rates, spec.ranks, settings, **common)
    elif spec.lisa:
        arm = create_lisa_arm(base, spec.rates, spec.lisa, settings, **common)
    else:
        arm = Arm.create(base, spec.rates, settings, layer=spec.layer, **common)
    arm.trunk_layer = trunk_layer(base, spec.rates)
    return arm


def free_memory(base: BaseModel) -> int:
    """Bytes that are free where the model is."""
    if base.device.type == "cuda":
        return int(torch.cuda.mem_get_info(base.device)[0])
    return psutil.virtual_memory().available


def plan_sets(
    base: BaseModel, specs: Sequence[ArmSpec], arms_per_set: int, free: int, at_once: int = 1
) -> list[list[str]]:
    """Names of the arms that advance side by side.

    Args:
        base: the model.
        specs: all arms, in their order.
        arms_per_set: how many; 0 is as many as fit into half of the free memory.
        free: bytes that are free where a set trains.
        at_once: sets that train at the same time, each in a place of its own: unless ``arms_per_set`` says otherwise,
            there are at least so many sets, of sizes that differ by one at most.
    """
    shares = 1 if arms_per_set else min(at_once, len(specs)) or 1
    bounds = [round(len(specs) * share / shares) for share in range(shares + 1)]
    sets: list[list[str]] = []
    for first, end in itertools.pairwise(bounds):
        own: list[list[str]] = []
        used = 0
        for spec in specs[first:end]:
            size = BYTES_PER_TRAINED * sum(base.tensor(name).numel() for name in spec.rates)
            full = bool(own) and (len(own[-1]) >= arms_per_set if arms_per_set else used + size > free / 2)
            if not own or full:
                own.append([])
                used = 0
            own[-1].append(spec.name)
            used += size
        sets += own
    return sets
