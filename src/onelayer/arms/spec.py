"""Which arms a run has: what each trains, under which name, from which seed."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from onelayer.arms.arm import Arm, OptimizerSettings
from onelayer.arms.lisa import create_lisa_arm
from onelayer.arms.lora import create_lora_arm, linear_parts, pair_parameters
from onelayer.arms.plan import Item, Lisa, parse_plan, ranks_of, resolve
from onelayer.config.configs import TrainConfig
from onelayer.judging.profile import ranking_of_profile
from onelayer.models.base import BaseModel
from onelayer.models.trunk import trunk_layer
from onelayer.storage.arm_names import FULL, layer_alone, with_seed


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
        total_updates=config.steps * config.updates_per_step,
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
