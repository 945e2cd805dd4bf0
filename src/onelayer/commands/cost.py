"""Rough time of a run on one GPU, from shapes alone: what ``onelayer plan`` prints before anything is loaded.

Nothing here is measured. Times are upper bounds in tokens (every prompt and completion as long as allowed) at an assumed
share of a GPU's peak, so they compare arms with each other better than they predict a clock.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table

from onelayer.arms.spec import ArmSpec
from onelayer.commands.memory import head_widths, memory_of, turns_of
from onelayer.config.configs import TrainConfig
from onelayer.models.base import BaseModel
from onelayer.models.trunk import lowest_layer
from onelayer.storage.screen import literal

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


def hours_of(base: BaseModel, spec: ArmSpec, config: TrainConfig, gpu: Gpu) -> float:
    """Hours of training one arm on one GPU. Scoring is not counted.

    A forward pass takes 2 operations for each parameter and token, a backward pass 2 for each that lies above the lowest
    trained layer and 2 for each that trains (Kaplan et al. 2020, without attention over past tokens). Decoding reads all
    weights for each token of a batch of rows, and the batch's keys and values as they grow.
    """
    length, turns = config.max_completion_length, turns_of(config)
    drawn = config.train_batch_size * config.num_generations
    rows = drawn * turns
    tokens = rows * (config.max_prompt_length + length)
    head = base.head.weight.numel()
    layer = sum(base.tensor(name).numel() for name, part in base.parts.items() if part.layer == 0)
    body, above = layer * base.num_layers, layer * (base.num_layers - lowest_layer(base, spec.rates))
    trained = spec.trained_parameters(base, spec.rates)
    forwards = (config.beta > 0) + (config.updates_per_step > 1) + config.num_iterations
    operations = 2 * tokens * (body + body * forwards + config.num_iterations * (above + trained))
    # The head sees completions only. Its backward pass computes it a second time, then the gradient of its input.
    operations += 2 * rows * length * head * (1 + forwards + 2 * config.num_iterations)
    batches = turns * -(-drawn // config.max_rows)
    grown = (config.max_prompt_length + length / 2) / (config.max_prompt_length + length)
    read = batches * length * (_cache_bytes(base, config) * grown + base.dtype.itemsize * (body + head))
    seconds = operations / (COMPUTE_SHARE * gpu.flops) + read / (BANDWIDTH_SHARE * gpu.bandwidth)
    return config.steps * seconds / 3600


def cost_table(
    base: BaseModel, specs: Iterable[ArmSpec], config: TrainConfig, scan: Sequence[ArmSpec] = ()
) -> RenderableType:
    """Peak memory of each arm, and its hours on each GPU that has as much, as a rich renderable.

    ``scan`` are arms that train side by side; a row of their own has their memory.
    """
    table = Table(title="rough cost on one GPU", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("arm", "memory", *(gpu.name for gpu in GPUS)):
        table.add_column(column, justify="left" if column == "arm" else "right", no_wrap=True)
    for spec in specs:
        peak = memory_of(base, [spec], config).peak
        hours = [_hours(hours_of(base, spec, config, gpu)) if peak < gpu.memory else "-" for gpu in GPUS]
        table.add_row(spec.name, f"{peak / 1e9:,.1f} GB", *hours)
    if scan:
        table.add_row("scan", f"{memory_of(base, scan, config).peak / 1e9:,.1f} GB", *[""] * len(GPUS))
    rows = config.train_batch_size * config.num_generations
    notes = [
        f"{config.steps} steps of {rows:,} completions, all taken as long as allowed ({config.max_prompt_length} + "
        f"{config.max_completion_length} tokens); training alone, without scoring",
        f"computed, not measured: {COMPUTE_SHARE:.0%} of the peak arithmetic and {BANDWIDTH_SHARE:.0%} of the bandwidth "
        "on the data sheet; - does not fit",
    ]
    if scan:
        notes.append("scan: full training and every layer alone, side by side")
    if turns_of(config) > 1:
        notes.append(
            f"every completion stands for an episode of {turns_of(config)} turns, each with a prompt of its own"
        )
    return Group(table, *(literal(note, "dim") for note in notes))


def _hours(hours: float) -> str:
    return f"{hours:,.0f} h" if hours >= 100 else f"{hours:.3g} h"


def _cache_bytes(base: BaseModel, config: TrainConfig) -> int:
    """Keys and values of the rows of a step that decode together."""
    _, values = head_widths(base)
    rows = min(config.max_rows, config.train_batch_size * config.num_generations)
    tokens = config.max_prompt_length + config.max_completion_length
    return rows * tokens * base.num_layers * 2 * values * base.dtype.itemsize
