"""An arm: a delta on the frozen base. It owns the tensors it trains and nothing else.

Per trained parameter an arm holds an fp32 master (4 bytes), a copy in the base's type for the forward pass (2 in
bfloat16, none in float32, where the master itself is used) and Adam's two moments (8): 14 bytes with a bfloat16 base.
While it is being updated it holds an fp32 gradient as well (4), summed over micro-batches.

The masters are fp32 for every arm, the full one too: of bfloat16 weights of size 0.02, nine in ten do not move at all
under an Adam step at a learning rate of 5e-6, and C(k) would compare number formats instead of layers.
"""

import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from onelayer.errors import GuardTripped
from onelayer.models.base import BaseModel, fingerprint


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW and what surrounds it. Everything here moves C(k), so everything here is an option and is logged."""

    learning_rate: float = 5e-6
    lr_scheduler_type: str = "constant"
    warmup_steps: int = 0
    total_updates: int = 1
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0

    def rate_at(self, update: int) -> float:
        """Learning rate of an update (counted from 0): linear warm-up, then constant, linear or cosine decay to 0."""
        if update < self.warmup_steps:
            return self.learning_rate * (update + 1) / self.warmup_steps
        progress = (update - self.warmup_steps) / max(1, self.total_updates - self.warmup_steps)
        shape = {
            "constant": 1.0,
            "linear": max(0.0, 1.0 - progress),
            "cosine": 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress))),
        }
        return self.learning_rate * shape[self.lr_scheduler_type]


COUNTERS = ("updates", "num_tokens", "skipped", "guards", "warned", "stopped", "effective", "first_gradient_norms")


@dataclass
class Arm:
    """What one plan trains, from one training seed."""

    name: str
    plan: str
    seed: int
    rates: dict[str, float]
    """Learning-rate multiplier of each trained tensor, in the model's order."""
    masters: dict[str, Tensor]
    """The fp32 tensors that AdamW trains."""
    leaves: dict[str, Tensor]
    """Leaves of the forward pass in the base's type; the masters themselves when the base is float32."""
    optimizer: torch.optim.AdamW
    settings: OptimizerSettings
    updates: int = 0
    """Optimizer updates done so far."""
    num_tokens: int = 0
    """Prompt and completion tokens seen so far."""
    skipped: int = 0
    """Updates that were skipped because loss or gradient were not finite."""
    guards: dict[str, int] = field(default_factory=dict)
    """Guard -> steps in a row that crossed its threshold (see :mod:`onelayer.training.guards`)."""
    warned: list[str] = field(default_factory=list)
    """Guards that have warned: they do so once."""
    stopped: str | None = None
    """Why the arm trains no more, in a sentence; None while it does."""
    layer: int | None = None
    """The decoder layer, for an arm that trains one layer alone."""
    kind: str = "strategy"
    """As in :class:`onelayer.arms.spec.ArmSpec`."""
    trunk_layer: int = 0
    """The layer at which the arm's passes can start: below it everything is the base's own (see ``trunk``)."""
    effective: bool = False
    """Whether an update with a non-zero rate and gradient has been made."""
    first_gradient_norms: dict[str, float] = field(default_factory=dict)
    """Norm of each master's gradient in the first update, before clipping."""

    @classmethod
    def create(
        cls,
        base: BaseModel,
        rates: Mapping[str, float],
        settings: OptimizerSettings,
        *,
        name: str = "arm",
        plan: str = "",
        seed: int = 0,
        layer: int | None = None,
        kind: str = "strategy",
    ) -> "Arm":
        """An arm at the base: its masters are exact fp32 copies of the base's tensors."""
        masters, leaves = masters_and_leaves(base, rates)
        optimizer = adamw(masters, rates, settings)
        return cls(name, plan, seed, dict(rates), masters, leaves, optimizer, settings, layer=layer, kind=kind)

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """What the base wears under this arm's policy: tensors in its type, by their original names."""
        return self.leaves

    def delta(self) -> Mapping[str, Tensor]:
        """What the arm has made of the base's tensors: fp32, by their original names."""
        return self.masters

    @property
    def num_parameters(self) -> int:
        """Number of trained parameters."""
        return sum(master.numel() for master in self.masters.values())

    def worn_by(self, base: BaseModel) -> AbstractContextManager[None]:
        """The base with this arm's tensors in place: the arm's policy."""
        return base.wearing(self.weights)

    def collect_gradients(self) -> None:
        """Add the gradients of the forward copies to those of the masters, after each backward pass."""
        if self.leaves is self.masters:
            return
        for name, leaf in self.leaves.items():
            if leaf.grad is None:
                continue
            gradient = leaf.grad.to(torch.float32)
            leaf.grad = None
            master = self.masters[name]
            master.grad = gradient if master.grad is None else master.grad.add_(gradient)

    def update(self) -> dict[str, float]:
        """Clip the collected gradients to ``max_grad_norm``, step AdamW, refresh the forward copies.

        Returns:
            ``grad_norm`` before clipping and the base ``learning_rate`` of the update; nothing where the gradient is not
            finite, and the update is skipped.
        """
        gradients = [master.grad for master in self.masters.values() if master.grad is not None]
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm() if gradients else torch.zeros(())
        if not torch.isfinite(norm):
            self.skip_update()
            return {}
        if self.updates == 0:
            self.first_gradient_norms = {n: float(m.grad.norm()) for n, m in self.masters.items() if m.grad is not None}
        if self.settings.max_grad_norm > 0:
            scale = self.settings.max_grad_norm / (norm + 1e-6)
            if scale < 1:
                for gradient in gradients:
                    gradient.mul_(scale)
        rate = self.settings.rate_at(self.updates)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["multiplier"]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.leaves is not self.masters:
            with torch.no_grad():
                for name, leaf in self.leaves.items():
                    leaf.copy_(self.masters[name])
        self.updates += 1
        self.effective |= rate > 0 and bool(norm > 0)
        return {"grad_norm": float(norm), "learning_rate": rate}

    def skip_update(self) -> None:
        """Throw the collected gradients away, and count that."""
        self.optimizer.zero_grad(set_to_none=True)
        self.skipped += 1

    def reached(self) -> list[str]:
        """The tensors for which an update with a non-zero rate and gradient has been made."""
        return list(self.rates) if self.effective else []

    @torch.no_grad()
    def check_moved(self, base: BaseModel) -> None:
        """After an update with a non-zero rate and gradient every chosen tensor differs from the base's.

        Raises:
            GuardTripped: a chosen tensor is still where it started, the silent failure this project exists to prevent.
        """
        names, delta = self.reached(), self.delta()
        still = [
            name for name in names if torch.equal(delta[name], base.tensor(name).to(delta[name].device, torch.float32))
        ]
        if still:
            raise GuardTripped(
                "not_moved",
                f"arm {self.name}: {len(still)} of {len(names)} trained tensors did not move in "
                f"{self.updates} updates, the first is {still[0]}",
            )

    @torch.no_grad()
    def change_norms(self, base: BaseModel) -> dict[str, float]:
        """Euclidean norm of each tensor's change against the base; tensors that are no longer finite have none."""
        norms = {
            name: float((tensor - base.tensor(name).to(tensor.device, torch.float32)).norm())
            for name, tensor in self.delta().items()
        }
        return {name: norm for name, norm in norms.items() if math.isfinite(norm)}

    def state(self) -> dict[str, Tensor]:
        """Everything that a continued run needs, as tensors: masters, Adam's moments and step counts."""
        tensors = {f"master/{name}": master.detach() for name, master in self.masters.items()}
        for name, master in self.masters.items():
            for key, value in self.optimizer.state.get(master, {}).items():
                tensors[f"{key}/{name}"] = value
        return tensors

    def counters(self) -> dict[str, Any]:
        """Everything else that a continued run needs, as plain values."""
        return {key: getattr(self, key) for key in COUNTERS}

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor], counters: Mapping[str, Any]) -> None:
        """Continue from :meth:`state` and :meth:`counters`. The arm is bit for bit what it was."""
        for name, master in self.masters.items():
            master.copy_(tensors[f"master/{name}"])
            moments = {key: tensors.get(f"{key}/{name}") for key in ("step", "exp_avg", "exp_avg_sq")}
            if moments["step"] is not None:
                # Copies: the loaded tensors may be views of one shared buffer, which the optimizer writes in place.
                self.optimizer.state[master] = {
                    key: value.clone() for key, value in moments.items() if value is not None
                }
            if self.leaves is not self.masters:
                self.leaves[name].copy_(master)
        for key in COUNTERS:
            setattr(self, key, counters[key])


def masters_and_leaves(base: BaseModel, names: Iterable[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Trainable copies of the base's tensors: exact in fp32, and in its own type (the same dict for a float32 base)."""
    masters = {name: base.tensor(name).detach().to(torch.float32, copy=True) for name in names}
    leaves = masters if base.dtype == torch.float32 else {n: base.tensor(n).detach().clone() for n in masters}
    for leaf in (*masters.values(), *leaves.values()):
        leaf.requires_grad_(True)
    return masters, leaves


def adamw(
    masters: Mapping[str, Tensor], multipliers: Mapping[str, float], settings: OptimizerSettings
) -> torch.optim.AdamW:
    """The optimizer of some masters, each with its learning-rate multiplier."""
    groups: dict[float, list[Tensor]] = {}
    for name, multiplier in multipliers.items():
        groups.setdefault(multiplier, []).append(masters[name])
    return torch.optim.AdamW(
        [{"params": params, "multiplier": multiplier} for multiplier, params in groups.items()],
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        weight_decay=settings.weight_decay,
        # One tensor at a time: the other kernels differ in the last bit and hold temporary copies of everything.
        foreach=False,
    )


class Bits:
    """Remembers the bits of some of the base's tensors, to tell later which have been written to."""

    def __init__(self, base: BaseModel, names: Iterable[str]) -> None:
        self._base = base
        self._seen = {name: fingerprint(base.tensor(name)) for name in names}

    def changed(self) -> list[str]:
        """Names of the tensors whose bits are others now."""
        return [name for name, seen in self._seen.items() if fingerprint(self._base.tensor(name)) != seen]


class FrozenCheck:
    """Proves that nothing has written to frozen tensors: by default to none of the base's."""

    def __init__(self, base: BaseModel, names: Iterable[str] | None = None) -> None:
        self._bits = Bits(base, base.parts if names is None else names)

    def __call__(self) -> None:
        """Compare.

        Raises:
            GuardTripped: a frozen tensor has moved.
        """
        if moved := self._bits.changed():
            raise GuardTripped("frozen", f"{len(moved)} frozen tensors of the base have moved, the first is {moved[0]}")
