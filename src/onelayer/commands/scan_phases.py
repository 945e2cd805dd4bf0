"""Which arms a scan trains after which: decisions from scores on the selection problems, as pure functions.

The layers' ranking that these functions take is by selection score, never by test score: what is chosen here is judged
on the test problems afterwards.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from onelayer.storage import arm_names


class Extra(NamedTuple):
    """A further arm: its name, its plan and its kind."""

    name: str
    plan: str
    kind: str = "strategy"


def default_k(num_layers: int) -> int:
    """A sixth of the layers, at least 2: the paper's 5 of 28 and 6 of 36."""
    return max(2, round(num_layers / 6))


def strategies(ranking: Sequence[int], num_layers: int, k: int) -> list[Extra]:
    """The paper's section 4 for one k: Only and Boost the best k, the worst-k controls of both, and Mid-k."""
    arms = []
    for which, layers in (("best", ranking[:k]), ("worst", ranking[-k:])):
        chosen = sorted(layers)
        arms.append(Extra(f"only-{which}-{k}", ",".join(map(str, chosen))))
        arms.append(Extra(f"boost-{which}-{k}", ",".join(["all", *(f"{layer}*2" for layer in chosen)])))
    return [*arms, Extra(f"mid-{k}", f"mid:{k}")]


def pairs(ranking: Sequence[int], count: int) -> list[Extra]:
    """Every pair of the ``count`` best layers, trained together."""
    best = sorted(ranking[:count])
    return [Extra(arm_names.pair(a, b), f"{a},{b}", "pair") for a, b in itertools.combinations(best, 2)]


def leave_one_out(layers: Sequence[int]) -> list[Extra]:
    """Everything but layer k: is k necessary, not only sufficient?"""
    return [Extra(arm_names.all_without(layer), f"all,{layer}*0") for layer in layers]


def rate_check(ranking: Sequence[int], k: int) -> list[Extra]:
    """The best and worst k layers alone at three times the learning rate (the paper's check)."""
    return [Extra(arm_names.at_triple_rate(layer), f"{layer}*3") for layer in sorted({*ranking[:k], *ranking[-k:]})]


def sublayers(layer: int) -> list[Extra]:
    """The modules of one layer, each alone."""
    return [Extra(arm_names.module_alone(layer, module), f"{layer}.{module}") for module in ("attn", "mlp", "norm")]


def rung_steps(steps: int, rungs: int) -> list[int]:
    """Steps after which half of the layers drop out: steps / 2^rungs, ..., steps / 2, without repeats."""
    return sorted({max(1, steps >> rung) for rung in range(rungs, 0, -1)} - {steps})


def survivors(scores: Mapping[int, float]) -> list[int]:
    """The better half of the layers (rounded up), ties to the lower layer; in the model's order."""
    ordered = sorted(scores, key=lambda layer: (-scores[layer], layer))
    return sorted(ordered[: -(-len(ordered) // 2)])


def coarse_layers(num_layers: int, stride: int) -> list[int]:
    """Every ``stride``-th layer, from the middle of the first stride, and never none."""
    return list(range(min(stride // 2, num_layers - 1), num_layers, stride))


def around_best(scores: Mapping[int, float], num_layers: int, stride: int) -> list[int]:
    """The layers not yet trained that lie less than a stride from the best so far."""
    best = min(scores, key=lambda layer: (-scores[layer], layer))
    near = range(max(0, best - stride + 1), min(num_layers, best + stride))
    return [layer for layer in near if layer not in scores]


def ranked(score: Callable[[int], float], layers: Sequence[int]) -> list[int]:
    """Layers by score, best first, ties to the lower layer."""
    return sorted(layers, key=lambda layer: (-score(layer), layer))
