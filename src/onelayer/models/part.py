"""Where a tensor belongs in a decoder: its layer, and the kind of module."""

from dataclasses import dataclass

MODULES = ("attn", "mlp", "norm")
OUTER = ("embed", "final_norm", "head")


@dataclass(frozen=True)
class Part:
    """Where a tensor belongs: ``layer`` is None outside the decoder layers; ``module`` is one of MODULES or OUTER, or
    ``other`` for a tensor inside a layer that is none of the three."""

    layer: int | None
    module: str
