"""Each claim of the paper against what was measured: pure functions from results to a verdict by a stated rule.

A rule never reads "not significant" as "equal": where a scan cannot tell two things apart the claim is left open.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from onelayer.commands.reproduction.rankings import GROUPS, Related, related
from onelayer.commands.reproduction.results import Result
from onelayer.judging.compare import FEWEST
from onelayer.judging.profile import StrategyProfile
from onelayer.storage.arm_names import FULL, layer_at_triple_rate, layer_left_out

Judgement = Literal["holds", "does not hold", "cannot tell"]
MATCHES_FULL = ("tied with full", "better than full")
BELOW_FULL = ("partial", "nothing", "harmful")
SIMILAR = 0.5
"""Median rank correlation from which rankings count as similar: a little under the paper's lower one, .59."""
UNRELATED = 0.2
RATE_SHIFT = 0.03
"""The most that C moved in the paper at three times the learning rate."""


@dataclass(frozen=True)
class Claim:
    """A claim, what was measured, and what that says of it by ``rule``."""

    title: str
    paper: str
    """What the paper reports, or who asked."""
    measured: tuple[str, ...]
    """A sentence for each scan or each pair."""
    judgement: Judgement
    rule: str
    scans: tuple[str, ...]
    """Names of the scans behind it."""


def all_claims(results: Mapping[str, Result]) -> list[Claim]:
    """Every claim for which there is a scan, in the order of the paper."""
    main = [result for result in results.values() if result.scan.part == "main" and result.judged]
    with_arms = [result for result in main if result.profile.strategies]
    pairs = related([result for result in results.values() if result.scan.part != "depth" and result.judged])
    claims = [
        one_layer_is_enough(main),
        middle_layers_win(main),
        *(
            rankings_agree(group, paper, [pair for pair in pairs if pair.group == group])
            for group, paper in GROUPS.items()
        ),
        *(strategy(asked, with_arms) for asked in STRATEGIES),
        vote_wins([result for result in main if result.vote]),
        rate_does_not_matter(with_arms),
        norm_does_not_predict(main),
        layers_add_up(with_arms),
        layers_are_necessary(with_arms),
    ]
    return [claim for claim in claims if claim.scans]


def majority(judgements: Collection[Judgement]) -> Judgement:
    """What more than half of the scans say; else "cannot tell"."""
    for judgement in ("holds", "does not hold"):
        if 2 * sum(each == judgement for each in judgements) > len(judgements):
            return judgement
    return "cannot tell"


def one_layer_is_enough(results: Sequence[Result]) -> Claim:
    """Is there a layer that alone matches full training?"""
    judgements: list[Judgement] = []
    told = []
    for result in results:
        matching = [row.layer for row in result.judged if row.verdict in MATCHES_FULL]
        best = max(result.judged, key=lambda row: row.contribution or 0.0)
        below = all(row.verdict in BELOW_FULL for row in result.judged)
        judgements.append("holds" if matching else "does not hold" if below else "cannot tell")
        told.append(f"{result.name}: best C {_c(best.contribution)} (layer {best.layer}), {len(matching)} match full")
    return Claim(
        "One layer alone can match full training",
        "best C 1.01 to 1.14 in seven settings, 1 to 5 layers with C >= 1",
        tuple(told),
        majority(judgements),
        "A scan says yes with a layer that is `tied with full` or `better than full`, no where every layer is below full "
        "(Holm over the layers), else it leaves it open; the claim follows more than half of the scans.",
        _names(results),
    )


def thirds(result: Result) -> dict[str, tuple[float, float]]:
    """Mean C of the lower, middle and upper third by relative depth, with its standard error.

    Layer k belongs to the third that (k + 1/2) / L lies in. The error takes layers for independent and is from the
    width of their intervals.
    """
    rows: dict[str, list[tuple[float, float]]] = {"lower": [], "middle": [], "upper": []}
    for row in result.judged:
        place = min(2, int(3 * (row.layer + 0.5) / result.profile.num_layers))
        low, high = row.ci_low, row.ci_high
        error = (high - low) / (2 * 1.96) if low is not None and high is not None else math.nan
        rows[list(rows)[place]].append((row.contribution or 0.0, error))
    return {
        name: (float(np.mean([c for c, _ in own])), math.sqrt(sum(e**2 for _, e in own)) / len(own))
        for name, own in rows.items()
        if own
    }


def middle_layers_win(results: Sequence[Result]) -> Claim:
    """Is the mean C of the middle third the highest?"""
    judgements: list[Judgement] = []
    told = []
    for result in results:
        means = thirds(result)
        others = {name: value for name, value in means.items() if name != "middle"}
        rival = max(others, key=lambda name: others[name][0])
        (middle, middle_error), (other, other_error) = means["middle"], means[rival]
        clear = abs(middle - other) > 2 * math.hypot(middle_error, other_error)
        judgements.append("cannot tell" if not clear else "holds" if middle > other else "does not hold")
        shown = ", ".join(f"{name} third {_c(value)}" for name, (value, _) in means.items())
        told.append(f"{result.name}: mean C of the {shown}")
    return Claim(
        "The middle layers contribute most",
        "best layers at .37 to .59 of the depth; mean C of the thirds of Qwen3-1.7B .83 / .94 / .40",
        tuple(told),
        majority(judgements),
        "A scan says yes or no where the middle third differs from the better of the others by two standard errors.",
        _names(results),
    )


def rankings_agree(group: str, paper: str, pairs: Sequence[Related]) -> Claim:
    """Do rankings agree that differ in one thing?"""
    values = [pair.correlation.value for pair in pairs if pair.correlation.value is not None]
    median = float(np.median(values)) if values else math.nan
    judgement: Judgement = "holds" if median >= SIMILAR else "does not hold" if median <= UNRELATED else "cannot tell"
    told = (
        [f"median Spearman {median:.2f} over {len(values)} pairs, from {min(values):.2f} to {max(values):.2f}"]
        if values
        else []
    )
    return Claim(
        f"Rankings agree: other {group}",
        paper,
        tuple(told),
        judgement,
        f"Yes from a median of {SIMILAR:g} on, no up to {UNRELATED:g}.",
        tuple(dict.fromkeys(name for pair in pairs for name in (pair.first, pair.second))) if values else (),
    )


@dataclass(frozen=True)
class _Strategy:
    """A strategy of the paper's section 4: an arm's name without its k, and what it should be beside full training."""

    arm: str
    title: str
    paper: str
    good: Collection[str]
    """Verdicts that say yes."""
    bad: Collection[str]
    """Verdicts that say no."""


STRATEGIES = (
    _Strategy(
        "only-best",
        "Only the best k layers match or beat full training",
        "above full on all three Qwen3 models",
        MATCHES_FULL,
        BELOW_FULL,
    ),
    _Strategy(
        "boost-best",
        "Boosting the best k layers beats full training",
        "above full on all three Qwen3 models",
        ("better than full",),
        BELOW_FULL,
    ),
    _Strategy(
        "mid",
        "The middle k layers, without a profile, match or beat full training",
        "above full on all three Qwen3 models",
        MATCHES_FULL,
        BELOW_FULL,
    ),
    _Strategy(
        "only-worst",
        "Only the worst k layers fall below full training",
        "below full everywhere",
        BELOW_FULL,
        MATCHES_FULL,
    ),
    _Strategy(
        "boost-worst",
        "Boosting the worst k layers falls below full training",
        "below full everywhere",
        BELOW_FULL,
        MATCHES_FULL,
    ),
)


def strategy(asked: _Strategy, results: Sequence[Result]) -> Claim:
    """One strategy beside full training."""
    judgements: list[Judgement] = []
    told = []
    for result in results:
        for arm in result.profile.strategies:
            if arm.name.rpartition("-")[0] == asked.arm:
                good, bad = arm.verdict in asked.good, arm.verdict in asked.bad
                judgements.append("holds" if good else "does not hold" if bad else "cannot tell")
                told.append(f"{result.name} {arm.name} ({arm.plan}): C {_c(arm.contribution)}, `{arm.verdict}`")
    return Claim(
        asked.title,
        asked.paper,
        tuple(told),
        majority(judgements),
        f"Yes with {_listed(asked.good)}, no with {_listed(asked.bad)}.",
        _names(results) if told else (),
    )


def vote_wins(results: Sequence[Result]) -> Claim:
    """Does the majority of single-layer models beat full training, the best voter, and as many samples of full?"""
    judgements: list[Judgement] = []
    told = []
    for result in results:
        assert result.vote is not None
        rivals = [row for row in result.vote["differences"] if row["other"].startswith((FULL, "self-consistency"))]
        better = [row["ci"][0] > 0 for row in rivals]
        worse = [row["ci"][1] < 0 for row in rivals]
        judgements.append("holds" if all(better) else "does not hold" if any(worse) else "cannot tell")
        scores = {row["name"]: row["score"] for row in result.vote["scores"]}
        overlap = result.vote["jaccard"]
        shown = ", ".join(
            f"{row['other']} {scores.get(row['other'], math.nan):.3f} ({row['difference']:+.3f})" for row in rivals
        )
        jaccard = "" if overlap is None else f", mean Jaccard {overlap:.2f}"
        told.append(f"{result.name}: vote {result.vote['scores'][0]['score']:.3f}, {shown}{jaccard}")
    return Claim(
        "A vote of single-layer models beats full training and self-consistency",
        "33.6 against 26.9 (full) and 31.3 (self-consistency) on OlympiadBench; Jaccard .34",
        tuple(told),
        majority(judgements),
        "Yes where the 95 % intervals of the vote's lead over both are above 0, no where one is below.",
        _names(results),
    )


def rate_does_not_matter(results: Sequence[Result]) -> Claim:
    """Does C stay where a layer trains at three times the rate?"""
    shifts: list[float] = []
    judgements: list[Judgement] = []
    told = []
    for result in results:
        own = []
        for arm in result.profile.strategies:
            layer = layer_at_triple_rate(arm.name)
            if layer is not None and arm.contribution is not None:
                shift = arm.contribution - result.curve[layer]
                shifts.append(shift)
                apart = _intervals_apart(arm, result, layer)
                small = abs(shift) <= RATE_SHIFT
                judgements.append("holds" if small else "does not hold" if apart else "cannot tell")
                own.append(f"layer {layer} {_c(result.curve[layer])} to {_c(arm.contribution)}")
        if own:
            told.append(f"{result.name}: {', '.join(own)}")
    return Claim(
        "Three times the learning rate moves C little",
        f"by at most {RATE_SHIFT:g}, best and worst five layers",
        tuple(told),
        majority(judgements),
        f"Per layer: yes up to {RATE_SHIFT:g}, no where in addition the two 95 % intervals do not overlap.",
        _names(results) if told else (),
    )


def _intervals_apart(arm: StrategyProfile, result: Result, layer: int) -> bool:
    row = next(row for row in result.judged if row.layer == layer)
    bounds = (arm.ci_low, arm.ci_high, row.ci_low, row.ci_high)
    if any(bound is None for bound in bounds):
        return False
    low, high, own_low, own_high = (float(bound) for bound in bounds if bound is not None)
    return low > own_high or high < own_low


def norm_does_not_predict(results: Sequence[Result]) -> Claim:
    """Is the norm of a layer's change under full training unrelated to C?"""
    found = {}
    for result in results:
        predictor = (getattr(result.profile, "predictors", None) or {}).get("change_norm")
        if predictor and predictor["value"] is not None:
            found[result.name] = (predictor["value"], predictor["p_value"])
    judgements: list[Judgement] = [
        "does not hold" if p is not None and p < 0.05 else "cannot tell" for _, p in found.values()
    ]
    return Claim(
        "The size of a layer's change under full training does not predict C",
        "the norm is about the same everywhere",
        tuple(f"{name}: Spearman {value:.2f}, p {p:.2g}" for name, (value, p) in found.items()),
        majority(judgements),
        "A scan says no where the rank correlation is significant (permutations, p < .05); with eight layers none can "
        "say that there is no relation.",
        tuple(found),
    )


def layers_add_up(results: Sequence[Result]) -> Claim:
    """Are two layers trained together worth the sum of both?"""
    judgements: list[Judgement] = []
    told = []
    for result in results:
        for pair in result.profile.pairs:
            low, high = pair.excess_ci or (-math.inf, math.inf)
            judgements.append("does not hold" if low > 0 or high < 0 else "cannot tell")
            told.append(
                f"{result.name}, {pair.combined}: {pair.excess:+.3f} ({low:+.3f} to {high:+.3f}) beyond the sum of gains"
            )
    return Claim(
        "Beyond the paper: gains of two layers add up",
        "asked by a reviewer, not reported",
        tuple(told),
        majority(judgements),
        "A pair says no where the 95 % interval of the excess leaves out 0.",
        _names(results) if told else (),
    )


def layers_are_necessary(results: Sequence[Result]) -> Claim:
    """Does full training need the best layer?"""
    judgements: list[Judgement] = []
    told = []
    for result in results:
        left_out = [(layer_left_out(arm.name), arm) for arm in result.profile.strategies]
        without = {layer: arm for layer, arm in left_out if layer is not None}
        if len(without) >= FEWEST and result.curve:
            best = max(result.curve, key=lambda layer: result.curve[layer])
            arm = without[best]
            judgements.append(
                "holds"
                if arm.verdict in BELOW_FULL
                else "does not hold"
                if arm.verdict in MATCHES_FULL
                else "cannot tell"
            )
            verdicts = Counter(str(each.verdict) for each in without.values())
            counted = ", ".join(f"{count} `{verdict}`" for verdict, count in verdicts.most_common())
            told.append(
                f"{result.name} without its best layer {best}: C {_c(arm.contribution)}, `{arm.verdict}`; all: {counted}"
            )
    return Claim(
        "Beyond the paper: the best layer is necessary, not only sufficient",
        "not reported",
        tuple(told),
        majority(judgements),
        "Yes where training all but the best layer ends below full, no where it is tied with full or better.",
        _names(results) if told else (),
    )


def _names(results: Sequence[Result]) -> tuple[str, ...]:
    return tuple(result.name for result in results)


def _listed(verdicts: Collection[str]) -> str:
    return " or ".join(f"`{verdict}`" for verdict in verdicts)


def _c(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
