"""LISA arms (Pan et al. 2024, arXiv 2403.17919): the baseline that trains a few random layers at a time.

Embedding and head train in every update, and with them some decoder layers, drawn anew every ``interval`` updates,
uniformly and without replacement. The final norm stays frozen, as in the paper's Algorithm 1; the authors' code (LMFlow,
``DynamicLayerActivationCallback``) switches only decoder layers, so the final norm trains there too.

What happens to Adam's moments of a layer that leaves is not the same everywhere. In LMFlow one optimizer holds all layers
and skips those without a gradient: moments and step count wait, and go on when the layer comes back. That is done here.
(For the paper each period was a run of its own, the model saved and loaded in between: LMFlow issue 729.) It follows
that this arm holds masters and moments of all layers and saves none of the optimizer memory which LISA is known for. As
the embedding always trains, every backward pass goes down to it; what is saved is the weight gradients of the layers
that do not train.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from onelayer.arms.arm import Arm, OptimizerSettings, adamw, masters_and_leaves
from onelayer.arms.plan import Lisa
from onelayer.models.base import BaseModel


@dataclass
class LisaArm(Arm):
    """An arm whose layers take turns; all of them are in its masters and in its delta."""

    schedule: Lisa = field(kw_only=True)
    num_layers: int = field(kw_only=True)
    layer_of: dict[str, int | None] = field(kw_only=True)
    """Layer of each tensor; None for those that always train."""
    reached_layers: list[int] = field(default_factory=list)
    """Layers that were active in an update with a non-zero rate and gradient, in order."""

    @property
    def active_layers(self) -> tuple[int, ...]:
        """The layers that train in the coming update."""
        return self.schedule.active(self.num_layers, self.updates)

    def worn_by(self, base: BaseModel) -> AbstractContextManager[None]:
        """The base with this arm's tensors in place; only those that train in the coming update ask for a gradient.

        The others get none, so AdamW passes over them: no step, no decay, and no part in the clipped norm.
        """
        active = {None, *self.active_layers}
        for name, leaf in self.leaves.items():
            leaf.requires_grad_(self.layer_of[name] in active)
        return super().worn_by(base)

    def update(self) -> dict[str, float]:
        """Clip and step as every arm does, and remember which layers were active."""
        active = self.active_layers
        metrics = super().update()
        if metrics and metrics["learning_rate"] > 0 and metrics["grad_norm"] > 0:
            self.reached_layers = sorted({*self.reached_layers, *active})
        return metrics

    def reached(self) -> list[str]:
        """The tensors outside the layers, and those of layers that have been active."""
        layers = {None, *self.reached_layers}
        return [name for name in super().reached() if self.layer_of[name] in layers]

    def counters(self) -> dict[str, Any]:
        """Also which layers have been active."""
        return {**super().counters(), "reached_layers": self.reached_layers}

    def load_state(self, tensors: Mapping[str, Tensor], counters: Mapping[str, Any]) -> None:
        """Continue from ``state`` and ``counters``."""
        super().load_state(tensors, counters)
        self.reached_layers = list(counters["reached_layers"])


def create_lisa_arm(
    base: BaseModel,
    rates: Mapping[str, float],
    schedule: Lisa,
    settings: OptimizerSettings,
    *,
    name: str = "arm",
    plan: str = "",
    seed: int = 0,
    kind: str = "strategy",
) -> LisaArm:
    """A LISA arm at the base.

    Args:
        base: the model.
        rates: learning-rate multiplier of every tensor that may ever train.
        schedule: which layers train when.
        settings: AdamW and what surrounds it.
        name: the arm's name.
        plan: the plan it was made from.
        seed: the training seed; the choice of layers does not depend on it.
        kind: the arm's kind.
    """
    masters, leaves = masters_and_leaves(base, rates)
    return LisaArm(
        name,
        plan,
        seed,
        dict(rates),
        masters,
        leaves,
        adamw(masters, rates, settings),
        settings,
        kind=kind,
        schedule=schedule,
        num_layers=base.num_layers,
        layer_of={tensor: base.parts[tensor].layer for tensor in rates},
    )
