"""Pairs of rankings of layers that differ in one thing, each with its rank correlation: pure functions on results."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onelayer.commands.reproduction.results import Result
from onelayer.commands.reproduction.study import ALGORITHMS
from onelayer.judging.compare import FEWEST, Correlation, correlate

SEED, RATE, ALGORITHM = "training seed", "learning rate", "algorithm"
DATA, FAMILY, DOMAIN = "data set", "model family", "domain"
GROUPS = {
    SEED: "not reported; it bounds what any other correlation can be",
    RATE: "C moves by at most 0.03 at three times the rate, best and worst five layers",
    ALGORITHM: "rankings are said to agree across algorithms",
    DATA: "Spearman .76, NuminaMath and DeepScaleR",
    FAMILY: "the same pattern is said to hold in all families",
    DOMAIN: "Spearman .59, NuminaMath and DeepCoder",
}
"""What two rankings can differ in -> what the paper says of it."""


@dataclass(frozen=True)
class Related:
    """Two rankings of layers and their rank correlation."""

    group: str
    first: str
    second: str
    correlation: Correlation


def related(results: Sequence[Result]) -> list[Related]:
    """All pairs of rankings that differ in one thing, and the rankings of the seeds of one scan."""
    found = []
    for result in results:
        for (a, first), (b, second) in itertools.combinations(enumerate(result.seed_scores), 2):
            names = (f"{result.name} seed {a}", f"{result.name} seed {b}")
            found.append(Related(SEED, *names, spearman(first, second)))
    for one, other in itertools.combinations(results, 2):
        group = _what_differs(one, other)
        if group is not None and one.profile.num_layers == other.profile.num_layers:
            found.append(Related(group, one.name, other.name, spearman(one.curve, other.curve)))
    return found


def _what_differs(one: Result, other: Result) -> str | None:
    a, b = one.scan, other.scan
    same_family = a.base.family == b.base.family
    if "rate" in (a.part, b.part):
        alike = a.base == b.base and a.algorithm == b.algorithm and a.part != b.part
        return RATE if alike and one.learning_rate != other.learning_rate else None
    if a.base == b.base:
        return ALGORITHM
    if same_family and a.algorithm == b.algorithm:
        return DATA if a.domain == b.domain else DOMAIN
    # Of the algorithms of a domain only the first has all its seeds.
    first = a.algorithm == b.algorithm == ALGORITHMS[a.domain][0]
    return FAMILY if first and not same_family and a.base.task == b.base.task else None


def spearman(one: Mapping[int, float], other: Mapping[int, float]) -> Correlation:
    """Rank correlation of two curves (layer -> value) over the layers that both have."""
    shared = sorted(one.keys() & other.keys())
    if len(shared) < FEWEST:
        return Correlation(None, None, None)
    x, y = (np.array([curve[layer] for layer in shared]) for curve in (one, other))
    return correlate(x, y, "spearman")
