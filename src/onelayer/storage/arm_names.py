"""What arms are called: ``base``, ``full``, ``layer-07``, ``without-07``, ``layer-07-rate-x3``, and seeds ``full-seed1``.

The name without the seed's suffix is the *arm*; a run of it from one training seed has the whole name, and its folder.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

BASE, FULL = "base", "full"
_WITHOUT, _RATE_CHECK = "without-", "-rate-x3"
_NAME = re.compile(r"(?P<arm>layer-(?P<layer>\d+)|.*?)(-seed(?P<seed>\d+))?", re.DOTALL)


class Name(NamedTuple):
    """A name taken apart."""

    arm: str
    layer: int | None
    """The decoder layer, for an arm that trains one layer alone."""
    seed: int
    """Which training seed of the run's, counted from 0."""


def parse(name: str) -> Name:
    """Take a name apart; any text is a name."""
    match = _NAME.fullmatch(name)
    assert match is not None  # the pattern matches every text
    return Name(match["arm"], int(match["layer"]) if match["layer"] else None, int(match["seed"] or 0))


def arm_of(name: str) -> str:
    """The arm of a name: without the suffix of the seed."""
    return parse(name).arm


def with_seed(arm: str, number: int) -> str:
    """The name of an arm trained from a seed; those after the first have a suffix."""
    return f"{arm}-seed{number}" if number else arm


def layer_alone(layer: int) -> str:
    """The arm that trains one layer alone."""
    return f"layer-{layer:02d}"


def module_alone(layer: int, module: str) -> str:
    """The arm that trains one module of a layer: ``attn``, ``mlp`` or ``norm``."""
    return f"{layer_alone(layer)}-{module}"


def at_triple_rate(layer: int) -> str:
    """The arm that trains one layer alone at three times the learning rate."""
    return f"{layer_alone(layer)}{_RATE_CHECK}"


def layer_at_triple_rate(arm: str) -> int | None:
    """The layer that an arm trains at three times the learning rate; None for other arms."""
    layer = parse(arm.removesuffix(_RATE_CHECK)).layer
    return layer if arm.endswith(_RATE_CHECK) else None


def all_without(layer: int) -> str:
    """The arm that trains everything but one layer."""
    return f"{_WITHOUT}{layer:02d}"


def layer_left_out(arm: str) -> int | None:
    """The layer that an arm alone leaves out; None for other arms."""
    return int(arm.removeprefix(_WITHOUT)) if arm.startswith(_WITHOUT) else None


def pair(first: int, second: int) -> str:
    """The arm that trains two layers together."""
    return f"pair-{first:02d}-{second:02d}"


def in_order(names: Iterable[str]) -> list[str]:
    """The base, full training, then all others by name."""
    return sorted(names, key=lambda name: (name != BASE, name != FULL, name))
