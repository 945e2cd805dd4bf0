"""The layer contribution C(k) = (S_k - S_base) / (S_full - S_base), with intervals and verdicts.

S is the mean over benchmarks of their average scores. C is the paper's definition (arXiv 2607.01232); what is added
here is what it takes to judge it: paired intervals (Fieller's), training-seed noise, correction for looking at many
layers, a "tied" that has to be shown, and a refusal where full training did not clearly beat the base.
docs/statistics.md has the mathematics and the measured coverage. Nothing here knows of files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from onelayer.errors import UserError
from onelayer.judging.contrasts import Array, AverageScores, Contrasts, Estimate, PairedScores, ratio_interval, unit
from onelayer.storage.arm_names import BASE, FULL

Verdict = Literal["better than full", "tied with full", "partial", "nothing", "harmful", "undecided"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

"""The name of the arm that trains everything."""


@dataclass(frozen=True)
class Rules:
    """The levels behind the verdicts.

    ``alpha`` is the two-sided level of every test and one minus that of every interval. An arm is tied with full only
    if its interval lies wholly above ``tie_low``, and did nothing only if it lies wholly below ``nothing_high``. Below
    ``weak_gain`` standard errors of gain a warning says so.
    """

    alpha: float = 0.05
    tie_low: float = 0.8
    nothing_high: float = 0.2
    weak_gain: float = 4.0


@dataclass(frozen=True)
class ArmContribution:
    """What one arm was worth. Intervals are (low, high); None is "not known" or, for C, "undefined: refused".

    ``p_full`` and ``p_base`` are the two-sided paired tests of C = 1 and C = 0; ``..._holm`` are adjusted for all arms
    judged together. ``flip_sd`` is the smallest training-seed standard deviation, in units of the score, at which the
    verdict would be another one; it is None where seeds were measured and where the verdict is undecided.
    """

    name: str
    layer: int | None
    depth: float | None
    score: float
    difference: float
    difference_ci: tuple[float, float] | None
    contribution: float | None
    contribution_ci: tuple[float, float] | None
    p_full: float | None
    p_base: float | None
    p_full_holm: float | None
    p_base_holm: float | None
    verdict: Verdict
    flip_sd: float | None


@dataclass(frozen=True)
class Contribution:
    """The judgement of a scan. ``refused`` is a sentence where contributions are undefined, else None.

    ``gain`` is S_full - S_base and ``gain_z`` the gain in standard errors, None where no noise was seen or is known.
    ``seed_sd`` is the pooled standard deviation between training seeds, None where no arm has two. ``meaning`` says
    in a sentence what the intervals are about.
    """

    num_layers: int
    base_score: float
    full_score: float
    gain: float
    gain_ci: tuple[float, float] | None
    gain_z: float | None
    refused: str | None
    warnings: tuple[str, ...]
    seed_sd: float | None
    meaning: str
    num_problems: int | None
    layers: tuple[ArmContribution, ...]
    others: tuple[ArmContribution, ...]


def analyse(
    scores: PairedScores | AverageScores,
    layers: Mapping[int, str],
    *,
    num_layers: int,
    others: Sequence[str] = (),
    rules: Rules | None = None,
) -> Contribution:
    """Judge every layer, and other arms, against full training and the base.

    Args:
        scores: scores of the arms ``base`` and ``full`` and of all others named here.
        layers: the arm of each scanned layer.
        num_layers: the number of decoder layers of the model; layer k lies at depth k / (num_layers - 1).
        others: arms that are no single layer (strategies, pairs). They are corrected for multiple looks among
            themselves, so that adding a strategy does not change what is said about a layer.
        rules: the levels; None is the default ones.

    Raises:
        UserError: an arm without scores or a layer outside the model.
    """
    rules = rules or Rules()
    base, full = unit(scores, BASE), unit(scores, FULL)
    for layer in layers:
        if not 0 <= layer < num_layers:
            raise UserError(f"layer {layer} does not exist in a model of {num_layers} layers (0 to {num_layers - 1})")
    gain = scores.estimate(full - base)
    refused = _refusal(gain, rules.alpha)
    ordered = sorted(layers)
    layer_arms = [(layers[k], k, k / max(1, num_layers - 1)) for k in ordered]
    other_arms = [(name, None, None) for name in others]
    gain_value, gain_se = float(gain.value), float(np.sqrt(gain.variance))
    noise = scores.seed_noise if isinstance(scores, PairedScores) else None
    with np.errstate(divide="ignore", invalid="ignore"):
        gain_z = _known(np.divide(gain_value, gain_se))
    return Contribution(
        num_layers=num_layers,
        base_score=float(scores.estimate(base).value),
        full_score=float(scores.estimate(full).value),
        gain=gain_value,
        gain_ci=_pairs(gain.interval(rules.alpha))[0],
        gain_z=gain_z,
        refused=refused,
        warnings=_warnings(scores, gain_z, refused, rules),
        seed_sd=None if noise is None else noise.sd,
        meaning=_meaning(scores),
        num_problems=scores.num_problems if isinstance(scores, PairedScores) else None,
        layers=_judge(scores, layer_arms, refused is not None, rules),
        others=_judge(scores, other_arms, refused is not None, rules),
    )


@dataclass(frozen=True)
class Additivity:
    """Arms put together against the sum of what each was worth alone: ``excess`` = d_combined - sum of d_part."""

    combined: str
    parts: tuple[str, ...]
    combined_difference: float
    sum_of_differences: float
    excess: float
    excess_ci: tuple[float, float] | None
    p_value: float | None


def additivity(scores: Contrasts, combined: str, parts: Sequence[str], alpha: float = 0.05) -> Additivity:
    """Compare an arm (two layers trained together, or deltas stitched together) with the sum of single arms.

    All differences are to the base, paired problem by problem, so the contrast is
    ``combined - sum(parts) + (len(parts) - 1) * base``.
    """
    base = unit(scores, BASE)
    together = unit(scores, combined) - base
    apart = np.sum([unit(scores, part) - base for part in parts], axis=0)
    excess = scores.estimate(together - apart)
    return Additivity(
        combined=combined,
        parts=tuple(parts),
        combined_difference=float(scores.estimate(together).value),
        sum_of_differences=float(scores.estimate(apart).value),
        excess=float(excess.value),
        excess_ci=_pairs(excess.interval(alpha))[0],
        p_value=_known(excess.p_value()),
    )


def holm(p_values: Array) -> Array:
    """Return Holm's step-down adjusted p-values (Scand. J. Statist. 6, 1979) along the last axis."""
    if p_values.shape[-1] == 0:
        return p_values
    order = np.argsort(p_values, axis=-1)
    factors = np.arange(p_values.shape[-1], 0, -1)
    stepped = np.minimum(1.0, np.maximum.accumulate(np.take_along_axis(p_values, order, axis=-1) * factors, axis=-1))
    adjusted = np.empty_like(p_values)
    np.put_along_axis(adjusted, order, stepped, axis=-1)
    return adjusted


def _judge(
    scores: Contrasts, arms: Sequence[tuple[str, int | None, float | None]], refused: bool, rules: Rules
) -> tuple[ArmContribution, ...]:
    if not arms:
        return ()
    base, full = unit(scores, BASE), unit(scores, FULL)
    picks = np.array([unit(scores, name) for name, _, _ in arms])
    own, difference, gain = (scores.estimate(weights) for weights in (picks, picks - base, full - base))
    marks = np.array([0.0, rules.nothing_high, rules.tie_low, 1.0])
    tests = scores.estimate(picks - base - marks[:, None, None] * (full - base))
    p_base, p_full = tests.p_value()[[0, 3]]
    p_base_holm, p_full_holm = holm(p_base), holm(p_full)
    verdicts = _verdicts(tests, rules)
    difference_ci = _pairs(difference.interval(rules.alpha))
    contribution_ci = _pairs(ratio_interval(scores, picks - base, full - base, rules.alpha))
    seeds_measured = isinstance(scores, PairedScores) and scores.seed_noise is not None
    flips = np.full(len(arms), np.nan) if refused or seeds_measured else _flip_sds(tests, gain, rules)
    return tuple(
        ArmContribution(
            name=name,
            layer=layer,
            depth=depth,
            score=float(own.value[i]),
            difference=float(difference.value[i]),
            difference_ci=difference_ci[i],
            contribution=None if refused else float(difference.value[i] / gain.value),
            contribution_ci=None if refused else contribution_ci[i],
            p_full=_known(p_full[i]),
            p_base=_known(p_base[i]),
            p_full_holm=_known(p_full_holm[i]),
            p_base_holm=_known(p_base_holm[i]),
            verdict="undecided" if refused else VERDICTS[verdicts[i]],
            flip_sd=_known(flips[i]),
        )
        for i, (name, layer, depth) in enumerate(arms)
    )


def _verdicts(tests: Estimate, rules: Rules) -> NDArray[np.int64]:
    """Return indices into VERDICTS. ``tests`` holds the contrasts of C against 0, nothing_high, tie_low, 1 on axis -2.

    The interval of C lies wholly above a mark exactly when C = mark is rejected from above, because the interval is
    the set of values that are not rejected.
    """
    value, p = np.broadcast_to(tests.value, tests.variance.shape), tests.p_value()
    worth = holm(p[..., 0, :]) < rules.alpha
    differs = holm(p[..., 3, :]) < rules.alpha
    wholly_below = (p[..., 1, :] < rules.alpha) & (value[..., 1, :] < 0)
    wholly_above = (p[..., 2, :] < rules.alpha) & (value[..., 2, :] > 0)
    above_base, above_full = value[..., 0, :] > 0, value[..., 3, :] > 0
    rules_in_order: list[tuple[NDArray[np.bool_], Verdict]] = [
        (worth & ~above_base, "harmful"),
        (differs & above_full, "better than full"),
        (differs & worth, "partial"),
        (~differs & wholly_above, "tied with full"),
        (~worth & wholly_below, "nothing"),
    ]
    chosen: NDArray[np.int64] = np.select(
        [condition for condition, _ in rules_in_order],
        [VERDICTS.index(verdict) for _, verdict in rules_in_order],
        VERDICTS.index("undecided"),
    )
    return chosen


def _flip_sds(tests: Estimate, gain: Estimate, rules: Rules) -> Array:
    """Return the seed standard deviation at which each arm's verdict changes; NaN where it is undecided already.

    More noise only ever weakens a verdict, so bisection finds the first change. All arms get the same noise, since
    Holm's correction looks at all of them. A gain that is no longer clear counts as a change.
    """
    now = _verdicts(tests, rules)
    arms = np.arange(now.size)

    def changed(seed_sd: Array) -> NDArray[np.bool_]:
        then = _verdicts(tests.with_seed_sd(seed_sd[:, None, None]), rules)[arms, arms]
        unclear = gain.with_seed_sd(seed_sd).interval(rules.alpha)[0] <= 0
        different: NDArray[np.bool_] = (then != now) | unclear
        return different

    lower, upper = np.zeros(now.size), np.full(now.size, abs(float(gain.value)))
    decided = now != VERDICTS.index("undecided")
    while (waiting := decided & ~changed(upper)).any():
        upper[waiting] *= 2
    for _ in range(40):
        middle = (lower + upper) / 2
        flipped = changed(middle)
        lower, upper = np.where(flipped, lower, middle), np.where(flipped, middle, upper)
    return np.where(decided, upper, np.nan)


def _refusal(gain: Estimate, alpha: float) -> str | None:
    low, high = (float(end) for end in gain.interval(alpha))
    if low > 0 or (np.isnan(low) and gain.value > 0):
        return None
    interval = "" if np.isnan(low) else f", {100 * (1 - alpha):g} % interval {low:.3g} to {high:.3g}"
    return (
        f"Full training did not clearly beat the base (gain {float(gain.value):.3g}{interval}), so the share of the "
        "gain that a layer recovers is undefined; train longer, or score on more problems."
    )


def _warnings(
    scores: PairedScores | AverageScores, gain_z: float | None, refused: str | None, rules: Rules
) -> tuple[str, ...]:
    warnings = []
    if refused is None and gain_z is not None and gain_z < rules.weak_gain:
        warnings.append(
            f"The gain of full training is only {gain_z:.1f} standard errors above zero (below {rules.weak_gain:g}): "
            "contributions are uncertain, and a scan that was not refused tends to overstate its gain."
        )
    if isinstance(scores, AverageScores) and scores.score_sd is None:
        warnings.append(
            "Averages alone allow no interval: every verdict is undecided; give the standard deviation of a score "
            "(--score-sd) or scores per problem."
        )
    return tuple(warnings)


def _meaning(scores: PairedScores | AverageScores) -> str:
    if isinstance(scores, AverageScores):
        if scores.score_sd is None:
            return "No intervals: there is one average per arm and nothing is known about its noise."
        return (
            f"Intervals are about evaluation noise only (standard deviation {scores.score_sd:g} of a score, as given): "
            "not about other problems and not about training again."
        )
    if scores.seed_noise is None:
        return (
            "One training seed: intervals are about these checkpoints on problems like these, not about training "
            "again; flip_sd is the seed standard deviation at which a verdict would change."
        )
    repeated = sum(seeds > 1 for name, seeds in scores.num_seeds.items() if name != BASE)
    return (
        f"Intervals are about problems and training seeds; the seed standard deviation is {scores.seed_noise.sd:.3g}, "
        f"pooled over {repeated} arms ({scores.seed_noise.between_df} degrees of freedom)."
    )


def _known(value: object) -> float | None:
    """Return a float, or None where it is not a finite number."""
    number = float(np.asarray(value))
    return number if np.isfinite(number) else None


def _pairs(interval: tuple[Array, Array]) -> list[tuple[float, float] | None]:
    """Return (low, high) per element, None where it is not known."""
    ends = np.broadcast_arrays(np.atleast_1d(interval[0]), np.atleast_1d(interval[1]))
    return [None if np.isnan(low) else (float(low), float(high)) for low, high in zip(*ends, strict=True)]
