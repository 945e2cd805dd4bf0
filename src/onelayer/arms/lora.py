"""LoRA arms (Hu et al. 2021, arXiv 2106.09685): the baseline that trains a low-rank change of each linear module.

The weight W (out x in) of a chosen module stays frozen. The arm trains A (rank x in) and B (out x rank) in fp32, and the
base wears W + (alpha / rank) B A in its own type. A starts uniform in (-1/sqrt(in), 1/sqrt(in)), which is peft's
Kaiming-uniform with a = sqrt(5), and B at zero, so that the arm starts at the base. Biases stay frozen.

alpha is twice the rank: TRL's defaults, ``lora_r`` 16 and ``lora_alpha`` 32. (peft alone has 8 and 8.) Unlike TRL there is
no dropout: what samples and what is updated have to be the same policy. The learning rate is that of all other arms; LoRA
is often run at ten times the rate of full training, which is the plan ``lora:16*10``.

An adapter library adds B A x to W x; here the sum is made before the product. That is the same function of A and B, and
lets evaluation, merging and stitching know nothing of LoRA. With a bfloat16 base the sum is rounded like the masters of
every other arm are.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from onelayer.arms.arm import Arm, OptimizerSettings, adamw
from onelayer.models.base import BaseModel
from onelayer.models.part import Part

SCALE = 2.0
"""alpha / rank."""


@dataclass
class LoraArm(Arm):
    """An arm whose masters are the pairs ``NAME.lora_A`` and ``NAME.lora_B`` of each changed tensor NAME."""

    frozen: dict[str, Tensor] = field(kw_only=True)
    """The base's own tensors, W, by name; not copies."""

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """W + (alpha / rank) B A of every changed tensor in the base's type, with its graph where gradients are on."""
        return {name: self._changed(name).to(tensor.dtype) for name, tensor in self.frozen.items()}

    @torch.no_grad()
    def delta(self) -> Mapping[str, Tensor]:
        """W + (alpha / rank) B A in fp32."""
        return {name: self._changed(name) for name in self.frozen}

    def _changed(self, name: str) -> Tensor:
        product = self.masters[f"{name}.lora_B"] @ self.masters[f"{name}.lora_A"]
        return self.frozen[name].to(torch.float32) + SCALE * product


def create_lora_arm(
    base: BaseModel,
    rates: Mapping[str, float],
    ranks: Mapping[str, int],
    settings: OptimizerSettings,
    *,
    name: str = "arm",
    plan: str = "",
    seed: int = 0,
    kind: str = "strategy",
) -> LoraArm:
    """A LoRA arm at the base.

    Args:
        base: the model.
        rates: learning-rate multiplier of each changed tensor; A and B share it.
        ranks: rank of each changed tensor.
        settings: AdamW and what surrounds it.
        name: the arm's name.
        plan: the plan it was made from.
        seed: the training seed; with a tensor's name it keys the draw of A.
        kind: the arm's kind.
    """
    masters: dict[str, Tensor] = {}
    multipliers: dict[str, float] = {}
    for tensor, multiplier in rates.items():
        width_out, width_in = base.tensor(tensor).shape
        rank = ranks[tensor]
        masters[f"{tensor}.lora_A"] = initial_a(seed, tensor, rank, width_in).to(base.device)
        masters[f"{tensor}.lora_B"] = torch.zeros(width_out, rank, device=base.device)
        multipliers |= {f"{tensor}.lora_A": multiplier, f"{tensor}.lora_B": multiplier}
    for master in masters.values():
        master.requires_grad_(True)
    return LoraArm(
        name,
        plan,
        seed,
        dict(rates),
        masters,
        masters,
        adamw(masters, multipliers, settings),
        settings,
        kind=kind,
        frozen={tensor: base.tensor(tensor) for tensor in rates},
    )


def initial_a(seed: int, tensor: str, rank: int, width_in: int) -> Tensor:
    """A at the start, (rank, width_in) fp32: a function of its arguments, whatever else was drawn before."""
    digest = hashlib.blake2b(f"{seed}|lora_A|{tensor}".encode(), digest_size=16).digest()
    stream = np.random.Philox(key=np.frombuffer(digest, dtype=np.uint64))
    uniform = (stream.random_raw(rank * width_in) >> np.uint64(11)) * 2.0**-53
    bound = width_in**-0.5
    return torch.from_numpy((2 * uniform - 1) * bound).view(rank, width_in).to(torch.float32)


def linear_parts(base: BaseModel) -> dict[str, Part]:
    """The tensors that LoRA can change: the weights of the linear modules inside the decoder layers."""
    linear = {f"{path}.weight" for path, module in base.module.named_modules() if isinstance(module, nn.Linear)}
    return {name: part for name, part in base.parts.items() if part.layer is not None and name in linear}


def pair_parameters(shape: Sequence[int], rank: int) -> int:
    """Number of parameters of A and B for a weight of that shape."""
    return rank * sum(shape)
