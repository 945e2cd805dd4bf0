"""Weighted sums of arm scores ("contrasts") with their standard errors: the one idea behind every interval here.

Each question about a scan is a weighted sum of arms. The gain is ``full - base``. "Is C(k) equal to c?" asks whether
``layer - c * full - (1 - c) * base`` is zero. "Do two layers together beat the sum of each?" asks about
``pair - first - second + base``. All arms of a contrast are kept together problem by problem, so what makes a problem
easy or hard for every arm cancels.

Two kinds of scores answer such questions: :class:`PairedScores` (a score per training seed and problem) and
:class:`AverageScores` (one average per arm, with a standard deviation that somebody states).
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

from onelayer.errors import UserError
from onelayer.storage.arm_names import BASE

Array = NDArray[np.float64]

"""The name of the one arm that was never trained."""


@dataclass(frozen=True)
class Estimate:
    """Estimated contrasts, elementwise over any shape. The variance is NaN where nothing is known about noise.

    ``welch`` is the sum of (variance component)^2 / (its degrees of freedom), the denominator of Satterthwaite's
    formula (Biometrics Bulletin 2, 1946). ``seed_factor`` is the sum of weight^2 / seeds over the trained arms: a
    training seed with standard deviation s adds ``seed_factor * s**2`` to the variance.
    """

    value: Array
    variance: Array
    welch: Array
    seed_factor: Array

    @property
    def df(self) -> Array:
        """Satterthwaite's degrees of freedom, infinite for a known variance."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.welch > 0, self.variance**2 / self.welch, np.inf)

    def p_value(self) -> Array:
        """Two-sided p-value of "the contrast is zero" by Student's t. Without variance: 1 for zero, else 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(self.value == 0, 0.0, np.abs(self.value) / np.sqrt(self.variance))
        p: Array = np.where(np.isnan(self.variance), np.nan, 2 * stdtr(self.df, -t))
        return p

    def interval(self, alpha: float = 0.05) -> tuple[Array, Array]:
        """Student's two-sided interval at level 1 - alpha; NaN where the variance is not known."""
        half = stdtrit(self.df, 1 - alpha / 2) * np.sqrt(self.variance)
        return self.value - half, self.value + half

    def with_seed_sd(self, seed_sd: ArrayLike) -> "Estimate":
        """Return the same contrast if training seeds had this (known) standard deviation on top, broadcasting."""
        return replace(self, variance=self.variance + self.seed_factor * np.square(seed_sd))


class Contrasts(Protocol):
    """Scores of named arms that can estimate weighted sums of them."""

    @property
    def names(self) -> tuple[str, ...]:
        """The arms, in the order of the weights."""

    def estimate(self, weights: ArrayLike) -> Estimate:
        """Estimate contrasts. ``weights`` has shape (..., arms); the result has shape (...)."""


def unit(scores: Contrasts, name: str) -> Array:
    """Return the weights, shape (arms,), that pick one arm."""
    if name not in scores.names:
        raise UserError(f"there are no scores of the arm '{name}'; there are {', '.join(scores.names)}")
    return np.array([float(other == name) for other in scores.names])


@dataclass(frozen=True)
class SeedNoise:
    """The variance that another training seed adds to an arm's score, pooled over all arms with several seeds.

    ``between`` is the mean variance, between the seeds of an arm, of the arm's score. ``within`` is what seeds would
    differ by anyway, because problems are few: the seed x problem residual mean square over the number of problems.
    """

    between: float
    between_df: int
    within: float
    within_welch: float

    @property
    def variance(self) -> float:
        """``max(0, between - within)``."""
        return max(0.0, self.between - self.within)

    @property
    def sd(self) -> float:
        """The seed standard deviation, in units of the score."""
        return float(np.sqrt(self.variance))


class PairedScores:
    """Scores of all arms on the same problems.

    Args:
        arms: per arm an array (seeds, problems), or (problems,) for one seed: the mean over the samples of a problem.
            Samples are never resampled, their noise is already part of the spread between problems. The arm ``base``
            is not trained: its rows, if several, are repeated evaluations and are averaged.
        benchmarks: the benchmark of each problem, shape (problems,). None is one benchmark.
        weights: the weight of each benchmark in the score, summing to one. None is equal weights: the score is
            the mean over the benchmarks of their averages.
        problems: what the problems are, to recognise the same ones in another scan; None is their positions.

    Raises:
        UserError: an arm with other problems than the rest, a score that is not finite, fewer than two problems in
            a benchmark.
    """

    def __init__(
        self,
        arms: Mapping[str, ArrayLike],
        benchmarks: Sequence[str] | None = None,
        weights: Mapping[str, float] | None = None,
        problems: Sequence[Hashable] | None = None,
    ):
        self._scores = {name: np.atleast_2d(np.asarray(scores, dtype=np.float64)) for name, scores in arms.items()}
        self._names = tuple(self._scores)
        self.num_problems = next(iter(self._scores.values())).shape[1]
        for name, scores in self._scores.items():
            if scores.shape[1] != self.num_problems:
                raise UserError(
                    f"the arm '{name}' has scores of {scores.shape[1]} problems where '{self._names[0]}' has "
                    f"{self.num_problems}; all arms have to be scored on the same problems"
                )
            if not np.isfinite(scores).all():
                raise UserError(f"the arm '{name}' has a score that is not a finite number")
        self.problems = tuple(range(self.num_problems) if problems is None else problems)
        self._strata = _strata(benchmarks, weights, self.num_problems)
        self.num_seeds = {name: scores.shape[0] for name, scores in self._scores.items()}
        self._means = np.array([scores.mean(axis=0) for scores in self._scores.values()])
        self._inverse_seeds = np.array([0.0 if n == BASE else 1 / self.num_seeds[n] for n in self._names])
        self.seed_noise = self._pooled_seed_noise()

    @property
    def names(self) -> tuple[str, ...]:
        """The arms, in the order of the weights."""
        return self._names

    def estimate(self, weights: ArrayLike) -> Estimate:
        """Estimate contrasts from the spread over problems and, where there are several seeds, over seeds.

        ``weights`` has shape (..., arms). Problems of different benchmarks are strata; the variance is the sum of the
        strata's and of the seeds' components, with Satterthwaite's degrees of freedom.
        """
        weights = np.asarray(weights, dtype=np.float64)
        per_problem = weights @ self._means
        value = np.zeros(weights.shape[:-1])
        variance, welch = np.zeros_like(value), np.zeros_like(value)
        for columns, weight in self._strata:
            scores = per_problem[..., columns]
            component = weight**2 * scores.var(axis=-1, ddof=1) / columns.size
            value = value + weight * scores.mean(axis=-1)
            variance = variance + component
            welch = welch + component**2 / (columns.size - 1)
        seed_factor = weights**2 @ self._inverse_seeds
        noise = self.seed_noise
        if noise is not None and noise.variance > 0:
            variance = variance + seed_factor * noise.variance
            welch = welch + seed_factor**2 * (noise.between**2 / noise.between_df + noise.within_welch)
        return Estimate(value, variance, welch, seed_factor)

    def resampled(self, draws: int, generator: np.random.Generator) -> Array:
        """Return the arms' scores when problems are drawn again with replacement within benchmarks: (draws, arms)."""
        scores = np.zeros((draws, len(self._names)))
        for columns, weight in self._strata:
            counts = generator.multinomial(columns.size, np.full(columns.size, 1 / columns.size), size=draws)
            scores += weight * counts @ self._means[:, columns].T / columns.size
        return scores

    def _pooled_seed_noise(self) -> SeedNoise | None:
        repeated = [scores for name, scores in self._scores.items() if name != BASE and scores.shape[0] > 1]
        if not repeated:
            return None
        df = sum(scores.shape[0] - 1 for scores in repeated)
        seed_means = [sum(w * s[:, columns].mean(axis=1) for columns, w in self._strata) for s in repeated]
        between = float(sum(np.square(means - means.mean()).sum() for means in seed_means)) / df
        within, within_welch = 0.0, 0.0
        for columns, weight in self._strata:
            squares = sum(float(np.square(_residuals(scores[:, columns])).sum()) for scores in repeated)
            stratum_df = df * (columns.size - 1)
            component = weight**2 * squares / stratum_df / columns.size
            within += component
            within_welch += component**2 / stratum_df
        return SeedNoise(between, df, within, within_welch)


class AverageScores:
    """One average per arm, as published tables have them.

    Args:
        means: the score of each arm.
        score_sd: the standard deviation of a score from evaluating the same checkpoint again, in the unit of the
            scores, the same for all arms and independent. None: not known, and no interval is possible.
    """

    def __init__(self, means: Mapping[str, float], score_sd: float | None = None):
        if score_sd is not None and not (np.isfinite(score_sd) and score_sd > 0):
            raise UserError(f"the standard deviation of a score has to be above zero, not {score_sd}")
        self._names = tuple(means)
        self._means = np.array([means[name] for name in self._names], dtype=np.float64)
        self._trained = np.array([float(name != BASE) for name in self._names])
        self.score_sd = score_sd

    @property
    def names(self) -> tuple[str, ...]:
        """The arms, in the order of the weights."""
        return self._names

    def estimate(self, weights: ArrayLike) -> Estimate:
        """Estimate contrasts with the stated standard deviation, as if it were known exactly."""
        weights = np.asarray(weights, dtype=np.float64)
        value = weights @ self._means
        variance = np.square(weights).sum(axis=-1) * (np.nan if self.score_sd is None else self.score_sd**2)
        return Estimate(value, variance, np.zeros_like(value), np.square(weights) @ self._trained)


def benchmark_weights(benchmarks: Iterable[str], categories: Mapping[str, str] | None = None) -> dict[str, float]:
    """Return each benchmark's weight in the score.

    Without categories all weigh the same (the paper's C). With categories (benchmark -> Math, Code, ...) the score is
    the mean of the category averages (the paper's C_all).

    Raises:
        UserError: a benchmark without a category.
    """
    names = list(dict.fromkeys(benchmarks))
    if categories is None:
        return {name: 1 / len(names) for name in names}
    for name in names:
        if name not in categories:
            raise UserError(f"the benchmark '{name}' has no category; give one of {sorted(set(categories.values()))}")
    members = [categories[name] for name in names]
    return {name: 1 / len(set(members)) / members.count(categories[name]) for name in names}


def ratio_interval(
    scores: Contrasts, numerators: ArrayLike, denominator: ArrayLike, alpha: float = 0.05
) -> tuple[Array, Array]:
    """Fieller's interval of ratios of two contrasts: all c for which "numerator - c * denominator = 0" is not rejected.

    With one stratum and one seed this is Fieller's quadratic with Student's t (J. R. Statist. Soc. B 16, 1954); with
    several components the degrees of freedom depend on c, and the ends are found by bisection. The set is an interval
    exactly when the denominator differs from zero at the same level; otherwise it is unbounded.

    Args:
        scores: the scores of the arms.
        numerators: weights, shape (ratios, arms).
        denominator: weights, shape (arms,).
        alpha: one minus the level.

    Returns:
        The lower and the upper ends, each of shape (ratios,); NaN where the set is unbounded or noise is not known.
    """
    numerators, denominator = np.asarray(numerators, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    bottom = scores.estimate(denominator)
    if not bottom.p_value() < alpha:
        nothing = np.full(len(numerators), np.nan)
        return nothing, nothing
    center = scores.estimate(numerators).value / bottom.value

    def inside(c: Array) -> NDArray[np.bool_]:
        accepted: NDArray[np.bool_] = scores.estimate(numerators - c[:, None] * denominator).p_value() >= alpha
        return accepted

    ends = []
    for direction in (-1.0, 1.0):
        step = np.full(len(numerators), 1.0)
        while (growing := inside(center + direction * step)).any():
            step[growing] *= 2
        inner, outer = center, center + direction * step
        for _ in range(60):
            middle = (inner + outer) / 2
            within = inside(middle)
            inner, outer = np.where(within, middle, inner), np.where(within, outer, middle)
        ends.append(inner)
    return ends[0], ends[1]


def _residuals(scores: Array) -> Array:
    """Return what is left of (seeds, problems) scores without the seed means and the problem means."""
    centred = scores - scores.mean(axis=1, keepdims=True)
    residuals: Array = centred - centred.mean(axis=0, keepdims=True)
    return residuals


def _strata(
    benchmarks: Sequence[str] | None, weights: Mapping[str, float] | None, num_problems: int
) -> list[tuple[NDArray[np.int64], float]]:
    """Return the problem indices and the weight of every benchmark."""
    labels = np.asarray(["all"] * num_problems if benchmarks is None else list(benchmarks))
    names = list(dict.fromkeys(labels.tolist()))
    if weights is None:
        weights = dict.fromkeys(names, 1 / len(names))
    strata = []
    for name in names:
        columns = np.flatnonzero(labels == name)
        if columns.size < 2:
            raise UserError(f"the benchmark '{name}' has {columns.size} problem; an interval needs at least two")
        strata.append((columns, float(weights[name])))
    return strata
