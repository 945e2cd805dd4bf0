"""Rough memory and time of a run on one GPU, from shapes alone: what ``onelayer plan`` prints before anything is loaded.

Nothing here is measured. Times are upper bounds in tokens (every prompt and completion as long as allowed) at an assumed
share of a GPU's peak, so they compare arms with each other better than they predict a clock.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from onelayer.config import TrainConfig
from onelayer.model import BaseModel
from onelayer.specs import ArmSpec
from onelayer.update import updates_per_step

COMPUTE_SHARE, BANDWIDTH_SHARE = 0.4, 0.6
"""Assumed shares of a GPU's peak arithmetic (matrix products) and of its memory bandwidth (decoding)."""


@dataclass(frozen=True)
class Gpu:
    """A GPU by its data sheet."""

    name: str
    memory: float
    """Bytes."""
    flops: float
    """Dense bfloat16 operations a second."""
    bandwidth: float
    """Bytes a second."""


GPUS = (
    Gpu("RTX 4090", 24e9, 165e12, 1.01e12),
    Gpu("A100 80GB", 80e9, 312e12, 2.04e12),
    Gpu("H100 SXM", 80e9, 989e12, 3.35e12),
    Gpu("H200", 141e9, 989e12, 4.8e12),
)


@dataclass(frozen=True)
class Memory:
    """Bytes that an arm's run takes at its fullest, by what they are for."""

    weights: int
    arm: int
    """Masters, forward copies, optimizer moments and gradients of what trains."""
    sampling: int
    """Keys and values of the rows that decode together."""
    update: int
    """Activations of a micro-batch from the lowest trained layer up, and the logits of a chunk."""

    @property
    def peak(self) -> int:
        """Sampling and updating take turns."""
        return self.weights + self.arm + max(self.sampling, self.update)


def memory_of(base: BaseModel, spec: ArmSpec, config: TrainConfig) -> Memory:
    """Memory of training one arm with pinned lengths: every prompt and completion as long as allowed."""
    size = base.dtype.itemsize
    trained = spec.trained_parameters(base, spec.rates)
    copies = 0 if size == 4 else size
    tokens = config.max_prompt_length + config.max_completion_length
    shape: Any = base.module.config
    head_dim = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    values = shape.num_key_value_heads * head_dim
    rows = min(config.max_rows, config.train_batch_size * config.num_generations)
    # Kept for the backward pass of a layer, in elements a token: inputs of both norms and of all seven matrix products,
    # queries, keys, values and the two factors of the gated product; and both norms' inputs in fp32.
    kept = size * (7 * shape.hidden_size + 2 * shape.num_attention_heads * head_dim + 2 * values)
    kept += size * 4 * shape.intermediate_size + 4 * 2 * shape.hidden_size
    logits = 3 * 4 * config.logprob_chunk * base.head.out_features
    return Memory(
        weights=size * base.num_parameters,
        arm=trained * (4 + copies + 8 + 4),
        sampling=rows * tokens * base.num_layers * 2 * values * size,
        update=config.micro_batch_size * tokens * _layers_above(base, spec) * kept + logits,
    )


def hours_of(base: BaseModel, spec: ArmSpec, config: TrainConfig, gpu: Gpu) -> float:
    """Hours of training one arm on one GPU. Scoring is not counted.

    A forward pass takes 2 operations for each parameter and token, a backward pass 2 for each that lies above the lowest
    trained layer and 2 for each that trains (Kaplan et al. 2020, without attention over past tokens). Decoding reads all
    weights for each token of a batch of rows, and the batch's keys and values as they grow.
    """
    length, turns = config.max_completion_length, _turns(config)
    drawn = config.train_batch_size * config.num_generations
    rows = drawn * turns
    tokens = rows * (config.max_prompt_length + length)
    head = base.head.weight.numel()
    layer = sum(base.tensor(name).numel() for name, part in base.parts.items() if part.layer == 0)
    body, above = layer * base.num_layers, layer * _layers_above(base, spec)
    trained = spec.trained_parameters(base, spec.rates)
    forwards = (config.beta > 0) + (updates_per_step(config) > 1) + config.num_iterations
    operations = 2 * tokens * (body + body * forwards + config.num_iterations * (above + trained))
    # The head sees completions only. Its backward pass computes it a second time, then the gradient of its input.
    operations += 2 * rows * length * head * (1 + forwards + 2 * config.num_iterations)
    batches = turns * -(-drawn // config.max_rows)
    grown = (config.max_prompt_length + length / 2) / (config.max_prompt_length + length)
    read = batches * length * (memory_of(base, spec, config).sampling * grown + base.dtype.itemsize * (body + head))
    seconds = operations / (COMPUTE_SHARE * gpu.flops) + read / (BANDWIDTH_SHARE * gpu.bandwidth)
    return config.steps * seconds / 3600


def cost_table(base: BaseModel, specs: Iterable[ArmSpec], config: TrainConfig) -> RenderableType:
    """Peak memory of each arm, and its hours on each GPU that has as much, as a rich renderable."""
    table = Table(title="rough cost on one GPU", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("arm", "memory", *(gpu.name for gpu in GPUS)):
        table.add_column(column, justify="left" if column == "arm" else "right", no_wrap=True)
    for spec in specs:
        peak = memory_of(base, spec, config).peak
        hours = [f"{hours_of(base, spec, config, gpu):,.3g} h" if peak < gpu.memory else "-" for gpu in GPUS]
        table.add_row(spec.name, f"{peak / 1e9:,.1f} GB", *hours)
    rows = config.train_batch_size * config.num_generations
    notes = [
        f"{config.steps} steps of {rows:,} completions, all taken as long as allowed ({config.max_prompt_length} + "
        f"{config.max_completion_length} tokens); training alone, without scoring",
        f"computed, not measured: {COMPUTE_SHARE:.0%} of the peak arithmetic and {BANDWIDTH_SHARE:.0%} of the bandwidth "
        "on the data sheet; - does not fit",
    ]
    if _turns(config) > 1:
        notes.append(f"every completion stands for an episode of {_turns(config)} turns, each with a prompt of its own")
    return Group(table, *(Text(note, style="dim") for note in notes))


def _layers_above(base: BaseModel, spec: ArmSpec) -> int:
    """Layers that a backward pass goes through: from the lowest that trains to the last."""
    layers = [base.parts[name].layer for name in spec.rates]
    outer = [base.parts[name].module for name in spec.rates]
    if "embed" in outer:
        return base.num_layers
    return base.num_layers - min((layer for layer in layers if layer is not None), default=base.num_layers)


def _turns(config: TrainConfig) -> int:
    """Turns of an episode at most; 1 for tasks with single answers."""
    return config.max_env_steps or 1
