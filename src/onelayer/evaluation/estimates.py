"""Scores of one benchmark with their standard errors: avg@k, pass@k, truncation rate. Numpy in, dataclasses out.

Standard errors are those of a mean over problems, which were drawn from more problems of their kind: the standard
deviation over problems divided by the square root of their number. The noise of sampling completions is part of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onelayer.storage.scores import ArmScores


@dataclass(frozen=True)
class MeanEstimate:
    """A mean over problems and its standard error; None where one problem leaves it unknown."""

    value: float
    standard_error: float | None


@dataclass(frozen=True)
class BenchmarkEstimates:
    """What is reported of one benchmark."""

    problems: int
    num_samples: int
    """Completions of each problem: the k of avg@k."""
    avg_at_k: MeanEstimate
    pass_at: dict[int, MeanEstimate]
    """k -> pass@k, for k = 1, 2, 4, ... and ``num_samples``."""
    truncation_rate: MeanEstimate
    mean_length: MeanEstimate


def mean_over_problems(values: Sequence[float] | NDArray[np.float64]) -> MeanEstimate:
    """The mean of (problems,) values and its standard error."""
    count = len(values)
    error = float(np.std(values, ddof=1) / np.sqrt(count)) if count > 1 else None
    return MeanEstimate(float(np.mean(values)), error)


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """The chance that at least one of k completions is right, estimated without bias from n of which c are.

    1 - C(n - c, k) / C(n, k), as a product (Chen et al. 2021, "Evaluating large language models trained on code").

    Raises:
        ValueError: k is not between 1 and ``num_samples``.
    """
    if not 1 <= k <= num_samples:
        raise ValueError(f"pass@{k} needs at least {k} completions, not {num_samples}")
    if num_samples - num_correct < k:
        return 1.0
    return 1.0 - float(np.prod(1.0 - k / np.arange(num_samples - num_correct + 1, num_samples + 1)))


def estimate_benchmark(scores: ArmScores) -> BenchmarkEstimates:
    """Estimates from the scored completions of one benchmark, with equally many for each problem.

    A completion counts as right for pass@k when its reward is 1.

    Raises:
        ValueError: the problems differ in how many completions they have.
    """
    _, first, owner = np.unique(scores.problem, return_index=True, return_inverse=True)
    problems = len(first)
    counts = np.bincount(owner, minlength=problems)
    num_samples = int(counts[0])
    if (counts != num_samples).any():
        raise ValueError("the problems differ in how many completions they have")

    def per_problem(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(owner, weights=values, minlength=problems) / num_samples

    correct = np.bincount(owner, weights=scores.reward >= 1, minlength=problems).astype(int)
    ks = sorted({2**i for i in range(num_samples.bit_length()) if 2**i <= num_samples} | {num_samples})
    return BenchmarkEstimates(
        problems=problems,
        num_samples=num_samples,
        avg_at_k=mean_over_problems(per_problem(scores.reward)),
        pass_at={k: mean_over_problems([pass_at_k(num_samples, int(c), k) for c in correct]) for k in ks},
        truncation_rate=mean_over_problems(per_problem(scores.truncated.astype(float))),
        mean_length=mean_over_problems(per_problem(scores.length.astype(float))),
    )


def category_averages(averages: dict[str, float], categories: dict[str, str]) -> dict[str, float]:
    """The mean over the benchmarks of each category (benchmark -> score, benchmark -> category)."""
    grouped: dict[str, list[float]] = {}
    for benchmark, value in averages.items():
        grouped.setdefault(categories[benchmark], []).append(value)
    return {category: float(np.mean(values)) for category, values in grouped.items()}
