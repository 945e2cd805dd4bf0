"""A layer plan for verl's FSDP workers, written by ``onelayer export verl``, which fills in RATES; needs torch and verl.

``actor_rollout_ref.model.external_lib`` names this module, so every worker imports it before it builds the model. Built,
the actor keeps exactly the tensors of the plan trainable, before FSDP wraps it; the optimizer gets those alone, each at
its rate; and the first update that has a gradient must move all of them and nothing else. Not run on GPUs by onelayer.
"""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

RATES: dict[str, float] = {}
"""Learning-rate multiplier of every parameter that trains, by its name in the transformers model."""
WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")


def plain_name(name: str) -> str:
    """A parameter's original name, without what wrappers put into it."""
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def freeze(module: nn.Module, rates: Mapping[str, float]) -> None:
    """Freeze everything but the tensors of the plan.

    Raises:
        RuntimeError: a tensor that the model does not have, or one that is not float32.
    """
    parameters = dict(module.named_parameters())
    if missing := [name for name in rates if name not in parameters]:
        raise RuntimeError(f"the plan trains {len(missing)} tensors that this model lacks, the first is {missing[0]}")
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in rates)
        if name in rates and parameter.dtype != torch.float32:
            raise RuntimeError(
                f"{name} is {parameter.dtype}: leave fsdp_config.model_dtype at float32, else it hardly moves"
            )
    # Checkpointing made the embeddings' output require a gradient: the backward pass would run through all frozen layers.
    disable = getattr(module, "disable_input_require_grads", None)
    if disable is not None:
        disable()


def groups(module: nn.Module, rates: Mapping[str, float], learning_rate: float) -> list[dict[str, Any]]:
    """Parameter groups of the wrapped model: the plan's tensors, one group for each multiplier.

    Raises:
        RuntimeError: the wrapped model no longer has them one by one.
    """
    parameters = {plain_name(name): parameter for name, parameter in module.named_parameters()}
    if missing := [name for name in rates if name not in parameters]:
        raise RuntimeError(
            f"the wrapped model has no parameter {missing[0]} of its own: set strategy=fsdp2, or use_orig_params=True"
        )
    by_rate: dict[float, list[nn.Parameter]] = {}
    for name, multiplier in rates.items():
        by_rate.setdefault(multiplier, []).append(parameters[name])
    return [{"params": params, "lr": learning_rate * multiplier} for multiplier, params in by_rate.items()]


def bits(module: nn.Module) -> dict[str, int]:
    """A sum over the bits of every parameter (of this process's part of it), by its original name."""
    return {plain_name(name): _bits(parameter.detach()) for name, parameter in module.named_parameters()}


def _bits(tensor: Tensor) -> int:
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    width = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[local.element_size()]
    values = local.contiguous().view(width)
    rows = values.flatten(1).sum(1, dtype=torch.int64) if values.dim() > 1 else values.flatten().to(torch.int64)
    # Weighted by row: equal steps up and down would cancel in a plain sum.
    return int((rows * (torch.arange(len(rows), device=rows.device) * 2 * -7046029254386353131 + 1)).sum())


def check(before: Mapping[str, int], after: Mapping[str, int], rates: Iterable[str]) -> None:
    """After an update: the plan's tensors have moved, and no other has. Every process has to call it.

    Raises:
        RuntimeError: something else has trained than what the plan says.
    """
    changed = {name for name in before if before[name] != after[name]}
    if moved := sorted(changed - set(rates)):
        raise RuntimeError(f"{len(moved)} frozen tensors have moved, the first is {moved[0]}")
    names = list(rates)
    flags = torch.tensor([name in changed for name in names], dtype=torch.float32)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # Of a sharded tensor a process sees its part only.
        flags = flags.to("cuda" if torch.distributed.get_backend() == "nccl" else "cpu")
        torch.distributed.all_reduce(flags)
    still = [name for name, flag in zip(names, flags.tolist(), strict=True) if not flag]
    if still:
        raise RuntimeError(f"{len(still)} of {len(names)} trained tensors did not move, the first is {still[0]}")


def install(engine: type[Any], rates: Mapping[str, float], build_optimizer: Any) -> None:
    """Put the plan into verl's engine: around building the model, building the optimizer, and the first update.

    Args:
        engine: ``verl.workers.engine.fsdp.transformer_impl.FSDPEngine``.
        rates: the plan.
        build_optimizer: ``verl.workers.config.optimizer.build_optimizer``.
    """
    built, stepped = engine._build_module, engine.optimizer_step

    def trains(self: Any) -> bool:
        return not self.engine_config.forward_only and self.model_config.model_type == "language_model"

    @functools.wraps(built)
    def build_module(self: Any) -> nn.Module:
        module: nn.Module = built(self)
        if trains(self):
            freeze(module, rates)
        return module

    optimized = engine._build_optimizer

    @functools.wraps(optimized)
    def make_optimizer(self: Any, module: nn.Module) -> Any:
        if not trains(self):
            return optimized(self, module)
        return build_optimizer(groups(module, rates, self.optimizer_config.lr), self.optimizer_config)

    @functools.wraps(stepped)
    def step(self: Any) -> Any:
        if not trains(self) or getattr(self, "_plan_checked", False):
            return stepped(self)
        before = bits(self.module)
        norm = stepped(self)
        if float(norm) > 0 and max(group["lr"] for group in self.optimizer.param_groups) > 0:
            check(before, bits(self.module), rates)
            self._plan_checked = True
        return norm

    engine._build_module, engine._build_optimizer, engine.optimizer_step = build_module, make_optimizer, step


if RATES:
    from verl.workers.config.optimizer import build_optimizer as _build_optimizer
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngine as _Engine

    install(_Engine, RATES, _build_optimizer)
