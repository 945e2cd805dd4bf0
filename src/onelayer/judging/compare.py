"""Do two profiles agree about which layers are good? Rank correlations, top-k overlap, stability.

All correlations are between contributions of the same layers. Models of different depth are compared at equal relative
depth k / (L - 1): both curves are interpolated linearly at the depths of the coarser one. Two things to keep in mind
when reading them: neighbouring layers are alike, so tests that treat layers as exchangeable are too optimistic; and
resampled scores carry the noise of the data plus that of resampling, so a real ranking is a little more stable than it
looks here.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.stats

from onelayer.errors import UserError
from onelayer.judging.contrasts import Array, PairedScores, unit
from onelayer.judging.measured import MeasuredScores
from onelayer.judging.profile import Profile

PERMUTATIONS = 9999
RESAMPLES = 1000
TOP_KS = (1, 3, 5, 10)
FEWEST = 3
"""Layers that two profiles have to share, for a correlation to mean anything."""


@dataclass(frozen=True)
class Curve:
    """Contributions of the layers of one profile, and the scores they come from where those are at hand."""

    name: str
    task: str
    num_layers: int
    layers: tuple[int, ...]
    contributions: tuple[float, ...]
    measured: MeasuredScores | None = None

    @classmethod
    def from_profile(cls, name: str, profile: Profile, measured: MeasuredScores | None = None) -> "Curve":
        """Take the contributions of a profile.

        Raises:
            UserError: the profile was refused, so it has no contributions.
        """
        if profile.refused is not None:
            raise UserError(f"{name} has no contributions to compare: {profile.refused}")
        known = sorted((row.layer, row.contribution) for row in profile.layers if row.contribution is not None)
        return cls(
            name, profile.task, profile.num_layers, tuple(k for k, _ in known), tuple(c for _, c in known), measured
        )


@dataclass(frozen=True)
class Correlation:
    """A correlation over layers with its 95 % interval and permutation p-value (two-sided).

    ``value`` is None when one curve is flat; ``ci`` is None for four points or fewer and at exactly 1 or -1.
    """

    value: float | None
    ci: tuple[float, float] | None
    p_value: float | None


@dataclass(frozen=True)
class TopK:
    """Overlap of the k best layers of two profiles. By chance k^2 / n are shared; ``p_value`` is hypergeometric."""

    k: int
    overlap: int
    expected: float
    p_value: float


@dataclass(frozen=True)
class Pair:
    """Two profiles compared, over ``points`` shared layers or, for different depths, relative depths.

    ``spearman_resampled`` is the 95 % range of Spearman's correlation when problems are resampled, None without scores
    of the problems.
    """

    first: str
    second: str
    over: Literal["layers", "relative depth"]
    points: int
    spearman: Correlation
    kendall: Correlation
    pearson: Correlation
    top: tuple[TopK, ...]
    spearman_resampled: tuple[float, float] | None


@dataclass(frozen=True)
class Stability:
    """How far a profile's ranking survives other problems: resampled rankings against its own.

    ``spearman`` is the mean correlation, ``spearman_range`` its 95 % range, ``best_stays`` the share of resamples with
    the same best layer, ``top`` the mean share of the k best layers that stay among the k best.
    """

    name: str
    spearman: float
    spearman_range: tuple[float, float]
    best_stays: float
    top: dict[int, float]


@dataclass(frozen=True)
class Comparison:
    """All profiles against each other. ``matrix`` is Spearman's correlation, in the order of ``names``."""

    names: tuple[str, ...]
    pairs: tuple[Pair, ...]
    matrix: tuple[tuple[float | None, ...], ...]
    stability: tuple[Stability, ...]
    notes: tuple[str, ...]


def compare(curves: Sequence[Curve], *, across_tasks: bool = False, seed: int = 0) -> Comparison:
    """Compare profiles pair by pair.

    Args:
        curves: the profiles, at least two, with different names.
        across_tasks: allow profiles of different tasks.
        seed: of permutations and resamples; the same seed gives the same numbers.

    Raises:
        UserError: fewer than two profiles, equal names, different tasks, or fewer than three layers in common.
    """
    names = tuple(curve.name for curve in curves)
    if len(names) < 2 or len(set(names)) < len(names):
        raise UserError(f"a comparison needs at least two profiles with different names, not {list(names)}")
    for curve in curves[1:]:
        if curve.task != curves[0].task and not across_tasks:
            raise UserError(
                f"{curves[0].name} is a profile of the task '{curves[0].task}' and {curve.name} of '{curve.task}'; "
                "give --across-tasks to compare them all the same"
            )
    pairs = tuple(_compare_pair(a, b, seed) for a, b in itertools.combinations(curves, 2))
    spearman = {frozenset((pair.first, pair.second)): pair.spearman.value for pair in pairs}
    return Comparison(
        names=names,
        pairs=pairs,
        matrix=tuple(tuple(1.0 if a == b else spearman[frozenset((a, b))] for b in names) for a in names),
        stability=tuple(found for curve in curves if (found := _stability(curve, seed)) is not None),
        notes=tuple(
            f"{pair.first} and {pair.second} have different numbers of layers: both are interpolated at {pair.points} "
            "relative depths."
            for pair in pairs
            if pair.over == "relative depth"
        ),
    )


def correlate(x: Array, y: Array, kind: Literal["spearman", "kendall", "pearson"], seed: int = 0) -> Correlation:
    """Correlate two curves, shape (points,).

    Intervals are Fisher's z with the variances 1 / (n - 3) for Pearson, (1 + r^2 / 2) / (n - 3) for Spearman (Bonett
    and Wright, Psychometrika 65, 2000) and .437 / (n - 4) for Kendall (Fieller, Hartley and Pearson, Biometrika 44,
    1957).
    The p-value is exact up to seven points, else from 9999 random permutations with the usual plus one.
    """
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return Correlation(None, None, None)
    statistic = {"spearman": _spearman, "kendall": _kendall, "pearson": _pearson}[kind]
    n = len(x)
    value = float(statistic(x, y[None])[0])
    return Correlation(value, _fisher_interval(value, n, kind), _permutation_p(x, y, statistic, value, seed))


def top_overlap(x: Array, y: Array, k: int) -> TopK:
    """Compare the k highest points of two curves; among equal ones the earlier is the higher."""
    overlap = len(set(_top(x, k)) & set(_top(y, k)))
    return TopK(k, overlap, k * k / len(x), float(scipy.stats.hypergeom.sf(overlap - 1, len(x), k, k)))


def _compare_pair(first: Curve, second: Curve, seed: int) -> Pair:
    mix_first, mix_second = _common_points(first, second)
    points = len(mix_first)
    x, y = mix_first @ np.array(first.contributions), mix_second @ np.array(second.contributions)
    resampled = None
    if _problems(first) is not None and _problems(second) is not None:
        # Scans scored on the same problems are resampled together, others apart.
        apart = _problems(first) != _problems(second)
        xs = _resampled_scores(first, seed) @ mix_first.T
        ys = _resampled_scores(second, seed + apart) @ mix_second.T
        low, high = np.quantile(_spearman(xs, ys), [0.025, 0.975])
        resampled = (float(low), float(high))
    return Pair(
        first=first.name,
        second=second.name,
        over="layers" if first.num_layers == second.num_layers else "relative depth",
        points=points,
        spearman=correlate(x, y, "spearman", seed),
        kendall=correlate(x, y, "kendall", seed),
        pearson=correlate(x, y, "pearson", seed),
        top=tuple(top_overlap(x, y, k) for k in TOP_KS if k < points),
        spearman_resampled=resampled,
    )


def _stability(curve: Curve, seed: int) -> Stability | None:
    if _problems(curve) is None:
        return None
    own = np.array(curve.contributions)
    draws = _resampled_scores(curve, seed)
    found = _spearman(own, draws)
    low, high = np.quantile(found, [0.025, 0.975])
    best = _top(own, 1)
    return Stability(
        name=curve.name,
        spearman=float(np.mean(found)),
        spearman_range=(float(low), float(high)),
        best_stays=float(np.mean([_top(draw, 1) == best for draw in draws])),
        top={
            k: float(np.mean([len(set(_top(draw, k)) & set(_top(own, k))) / k for draw in draws]))
            for k in TOP_KS
            if k < len(own)
        },
    )


def _problems(curve: Curve) -> tuple[object, ...] | None:
    """Return what problems the curve was scored on, None where only averages are known."""
    if curve.measured is None or not isinstance(curve.measured.scores, PairedScores):
        return None
    return curve.measured.scores.problems


def _resampled_scores(curve: Curve, seed: int) -> Array:
    """Return scores of the curve's layers with problems resampled, shape (RESAMPLES, layers).

    Within one resample a contribution is an increasing function of the score, so ranks need no base and no full.
    """
    assert curve.measured is not None and isinstance(curve.measured.scores, PairedScores)
    scores = curve.measured.scores
    picks = np.array([unit(scores, curve.measured.layers[layer]) for layer in curve.layers])
    drawn: Array = scores.resampled(RESAMPLES, np.random.default_rng(seed)) @ picks.T
    return drawn


def _common_points(first: Curve, second: Curve) -> tuple[Array, Array]:
    """Return, for each curve, the matrix (points, layers) that takes its contributions to the common points."""
    if first.num_layers == second.num_layers:
        shared = sorted(set(first.layers) & set(second.layers))
        points = [np.array(shared, dtype=float)] * 2
        positions = [np.array(curve.layers, dtype=float) for curve in (first, second)]
    else:
        positions = [np.array(curve.layers) / max(1, curve.num_layers - 1) for curve in (first, second)]
        low, high = max(p.min() for p in positions), min(p.max() for p in positions)
        coarser = min(positions, key=len)
        points = [coarser[(coarser >= low) & (coarser <= high)]] * 2
    if len(points[0]) < FEWEST:
        raise UserError(
            f"{first.name} and {second.name} share {len(points[0])} layers; a comparison needs at least {FEWEST}"
        )
    mixes = [
        np.array([np.interp(at, position, row) for row in np.eye(len(position))]).T
        for at, position in zip(points, positions, strict=True)
    ]
    return mixes[0], mixes[1]


def _top(values: Array, k: int) -> list[int]:
    return [int(i) for i in np.argsort(-values, kind="stable")[:k]]


Statistic = Callable[[Array, Array], Array]
"""Correlates along the last axis, (..., points) and (draws, points) -> (draws,), and gives 0 where one side is flat."""


def _pearson(x: Array, y: Array) -> Array:
    x, y = x - x.mean(axis=-1, keepdims=True), y - y.mean(axis=-1, keepdims=True)
    scale = np.sqrt(np.square(x).sum(axis=-1) * np.square(y).sum(axis=-1))
    return _divide((x * y).sum(axis=-1), scale)


def _spearman(x: Array, y: Array) -> Array:
    return _pearson(scipy.stats.rankdata(x, axis=-1), scipy.stats.rankdata(y, axis=-1))


def _kendall(x: Array, y: Array) -> Array:
    """Return Kendall's tau-b, which accounts for ties."""
    i, j = np.triu_indices(x.shape[-1], 1)
    x, y = np.sign(x[..., i] - x[..., j]), np.sign(y[..., i] - y[..., j])
    scale = np.sqrt(np.square(x).sum(axis=-1) * np.square(y).sum(axis=-1))
    return _divide((x * y).sum(axis=-1), scale)


def _divide(numerator: Array, denominator: Array) -> Array:
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def _fisher_interval(value: float, n: int, kind: str) -> tuple[float, float] | None:
    if n <= 4 or abs(value) > 1 - 1e-12:
        return None
    variance = {
        "pearson": 1 / (n - 3),
        "spearman": (1 + value**2 / 2) / (n - 3),
        "kendall": 0.437 / (n - 4),
    }[kind]
    half = float(scipy.stats.norm.isf(0.025)) * math.sqrt(variance)
    return math.tanh(math.atanh(value) - half), math.tanh(math.atanh(value) + half)


def _permutation_p(x: Array, y: Array, statistic: Statistic, value: float, seed: int) -> float:
    exact = len(x) <= 7
    if exact:
        orders = np.array(list(itertools.permutations(range(len(x)))))
    else:
        orders = np.random.default_rng(seed).permuted(np.tile(np.arange(len(x)), (PERMUTATIONS, 1)), axis=1)
    # Rounding must not turn a permutation that gives the same correlation into a smaller one.
    extreme = int((np.abs(statistic(x, y[orders])) >= abs(value) - 1e-12).sum())
    return extreme / len(orders) if exact else (extreme + 1) / (len(orders) + 1)
