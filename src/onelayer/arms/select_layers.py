"""``select_layers(model, plan)``: a plan on any transformers model, for training loops of one's own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from onelayer.arms.arm import Bits, FrozenCheck
from onelayer.arms.plan import parse_plan, resolve
from onelayer.errors import RunStopped, UserError
from onelayer.judging.profile import ranking_of_profile
from onelayer.models.base import BaseModel, outline


@dataclass(frozen=True)
class Selection:
    """What of a model trains, by a plan."""

    rates: Mapping[str, float]
    """Name -> learning-rate multiplier of each parameter that trains, in the model's order."""
    base: BaseModel = field(repr=False)
    _frozen: FrozenCheck = field(repr=False)
    _start: Bits = field(repr=False)

    @property
    def num_parameters(self) -> int:
        """How many parameters train."""
        return sum(self.base.tensor(name).numel() for name in self.rates)

    def groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Parameter groups for an optimizer, one for each multiplier."""
        by_rate: dict[float, list[Any]] = {}
        for name, multiplier in self.rates.items():
            by_rate.setdefault(multiplier, []).append(self.base.tensor(name))
        return [{"params": params, "lr": learning_rate * multiplier} for multiplier, params in by_rate.items()]

    def check(self) -> None:
        """After some updates: every selected tensor has moved, and no other has.

        Raises:
            RunStopped: the training loop does not train what was selected.
        """
        self._frozen()
        changed = set(self._start.changed())
        if still := [name for name in self.rates if name not in changed]:
            raise RunStopped(
                f"{len(still)} of {len(self.rates)} selected tensors did not move, the first is {still[0]}"
            )


def select_layers(model: nn.Module, plan: str) -> Selection:
    """Freeze a transformers causal LM but for what a plan says, by place and never by name.

    Build the optimizer afterwards, from :meth:`Selection.groups`. Whether the model is in training mode stays as it is.

    Args:
        model: any decoder-only causal LM of transformers, in memory.
        plan: for example ``"14"``, ``"mid:5"``, ``"all,9-13*2"`` or ``"best:5@profile.json"``.

    Raises:
        UserError: a plan that does not fit, LoRA or LISA, or a model without one list of decoder layers.
    """
    training = model.training
    base = outline(
        model, name=str(getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__)
    )
    model.train(training)
    items = parse_plan(plan, base.num_layers, ranking_of_profile)
    if items[0].rank or items[0].lisa:
        raise UserError(f"plan '{plan}' trains more than the model's own tensors; use onelayer.train, or peft")
    rates = resolve(items, base.parts, base.tied_head)
    for name in rates:
        base.tensor(name).requires_grad_(True)
    frozen = FrozenCheck(base, [name for name in base.parts if name not in rates])
    return Selection(rates, base, frozen, Bits(base, rates))
