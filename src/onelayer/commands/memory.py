"""Peak memory of a run from shapes alone: what ``onelayer plan`` prints before anything is loaded.

``benchmarks/memory.py`` compares it with what runs take. Counted are tensors; Python, libraries and a GPU's context come
on top.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from onelayer.arms.spec import ArmSpec
from onelayer.config.configs import TrainConfig
from onelayer.models.base import BaseModel
from onelayer.models.logprobs import tokens_at_once
from onelayer.models.prepacked import prepackable
from onelayer.models.trunk import kept_layer, lowest_layer
from onelayer.training.draws import PICKED_BYTES

FRAGMENTATION = 0.08
"""Freed memory that is not used again, as a share: with it the runs of the benchmark lie around the prediction."""


@dataclass(frozen=True)
class Memory:
    """Bytes at the fullest moment of a run, by what they are for."""

    weights: int
    """Of the base; on a CPU the large ones twice (``prepacked.py``)."""
    arms: int
    """Masters, forward copies and optimizer moments of all arms that train side by side."""
    trunks: int
    """Hidden states that the arms keep from sampling for their updates."""
    sampling: int
    """Keys and values of the rows that decode together, and the distributions that tokens are drawn from."""
    update: int
    """Of one arm at a time: gradients, activations of a micro-batch from its lowest layer up, and logits of a chunk."""

    @property
    def peak(self) -> int:
        """Sampling and updating take turns; allocators keep some of what one of them has freed."""
        live = self.weights + self.arms + self.trunks + max(self.sampling, self.update)
        return int(live * (1 + FRAGMENTATION))


def memory_of(base: BaseModel, specs: Sequence[ArmSpec], config: TrainConfig) -> Memory:
    """Memory of arms that train side by side, every prompt and completion as long as allowed.

    Scoring is taken to fill batches of ``max_rows``.
    """
    size = base.dtype.itemsize
    shape: Any = base.module.config
    tokens = config.max_prompt_length + config.max_completion_length
    heads, values = head_widths(base)
    drawn = config.train_batch_size * config.num_generations * turns_of(config)
    kept = [kept_layer(base, lowest_layer(base, spec.rates), drawn, tokens, config.trunk_bytes) for spec in specs]
    trained = [spec.trained_parameters(base, spec.rates) for spec in specs]
    vocabulary = base.head.out_features
    on_cpu = "cpu" in (config.device, base.device.type)
    second = sum(linear.weight.nbytes for linear in prepackable(base.module)) if on_cpu else 0
    # Arms that wear all tensors of their own leave the base's unused until the base itself is scored.
    in_training = config.beta > 0 or any(len(spec.rates) < len(base.parts) for spec in specs)
    return Memory(
        weights=size * base.num_parameters + (second if in_training else 0),
        arms=sum(trained) * (4 + 8 + (0 if size == 4 else size)),
        trunks=sum(drawn * tokens * shape.hidden_size * size for layer in kept if layer is not None),
        sampling=config.max_rows * tokens * base.num_layers * 2 * values * size
        # Logits in fp32; of some rows also in doubles, their mass, and its sum.
        + vocabulary * 4 * config.max_rows
        + 3 * min(max(PICKED_BYTES, 8 * vocabulary), 8 * vocabulary * config.max_rows)
        + (0 if in_training else second),
        update=max(
            4 * count + _update(base, spec, config, heads, values) for count, spec in zip(trained, specs, strict=True)
        ),
    )


def turns_of(config: TrainConfig) -> int:
    """Turns of an episode at most; 1 for tasks with single answers."""
    return config.max_env_steps or 1


def head_widths(base: BaseModel) -> tuple[int, int]:
    """Elements of a token's queries, and of its keys (or values), in one layer."""
    shape: Any = base.module.config
    head_dim = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    return shape.num_attention_heads * head_dim, shape.num_key_value_heads * head_dim


def _update(base: BaseModel, spec: ArmSpec, config: TrainConfig, queries: int, values: int) -> int:
    """Activations of a micro-batch and logits of a chunk, in bytes."""
    shape: Any = base.module.config
    size = base.dtype.itemsize
    hidden, inner = shape.hidden_size, shape.intermediate_size
    longest = config.max_prompt_length + config.max_completion_length
    rows = max(1, min(config.micro_batch_size, config.micro_batch_tokens // longest))
    tokens = rows * longest
    # Kept for the backward pass of a layer whose weights are frozen, in elements a token: the inputs of both norms,
    # queries, output of attention, keys and values repeated for all heads, three vectors of the gated product; Qwen3
    # norms queries and keys before. A layer that trains also keeps the inputs of its products and of its norms' weights.
    frozen = 2 * hidden + 4 * queries + 3 * inner
    if any("q_norm" in name for name in base.parts):
        frozen += queries + values
    trained = 4 * hidden + 2 * queries + values + inner
    lowest = lowest_layer(base, spec.rates)
    training = {base.parts[name].layer for name in spec.rates} - {None}
    kept = frozen * (base.num_layers - lowest) + trained * len(training)
    if config.gradient_checkpointing:
        # The inputs of the layers, and one of them whole at a time.
        kept = hidden * (base.num_layers - lowest) + frozen + (trained if training else 0)
    # On the way down: the gradients of the widest vectors of a layer.
    passing = 3 * inner + 2 * hidden
    vocabulary = base.head.out_features
    chunk = min(tokens_at_once(config.logprob_chunk, vocabulary), rows * config.max_completion_length)
    # A head that trains has its logits again on the way down, beside their gradient.
    head_trains = any(base.parts[name].module in ("head", "embed") for name in spec.rates)
    logits: int = 4 * (3 if head_trains else 2) * chunk * vocabulary
    return int(size * tokens * (kept + passing)) + logits
