"""Which layers to train: the smallest set that is tied with the best arm of a scan.

"Tied" has to be shown, as in a verdict: the paired test against the best arm does not reject, and the interval of
(S_arm - S_base) / (S_best - S_base) lies wholly above 0.8. The best arm is found on the same test problems it is
compared on, so its score is somewhat too high, which makes ties rarer, never more frequent. Between sets of one size
the selection problems decide, where their scores are known.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onelayer.judging.contrasts import Contrasts, unit
from onelayer.judging.contribution import Contribution, Rules
from onelayer.storage.arm_names import BASE, FULL


@dataclass(frozen=True)
class Recommendation:
    """What to train: an arm of the scan, its plan, the layers that it trains, and why, in one sentence."""

    arm: str
    plan: str
    layers: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class Candidate:
    """An arm that could be recommended: its plan and the layers it trains."""

    plan: str
    layers: tuple[int, ...]


def recommend(
    scores: Contrasts,
    contribution: Contribution,
    *,
    strategies: Mapping[str, Candidate] | None = None,
    selection_scores: Mapping[str, float] | None = None,
    rules: Rules | None = None,
) -> Recommendation | None:
    """Choose among full training, the single layers and the strategies of a scan.

    Args:
        scores: the scores of all arms.
        contribution: the judgement of the same scores.
        strategies: arms that train several layers; an arm that is not named here is not recommended.
        selection_scores: arm name -> score on the selection problems, to choose between tied sets of one size.
        rules: the levels; None is the default ones.

    Returns:
        The recommendation, or None where the scan was refused: then nothing is known to be worth training.
    """
    if contribution.refused is not None:
        return None
    rules = rules or Rules()
    candidates = {FULL: Candidate("all", tuple(range(contribution.num_layers)))}
    candidates |= {a.name: Candidate(str(a.layer), (a.layer,)) for a in contribution.layers if a.layer is not None}
    candidates |= strategies or {}
    values = {name: float(scores.estimate(unit(scores, name)).value) for name in candidates}
    best = max(candidates, key=lambda name: (values[name], -len(candidates[name].layers)))
    tied = [name for name in candidates if name == best or tied_with(scores, name, best, rules)]
    smallest = min(len(candidates[name].layers) for name in tied)
    equals = [name for name in tied if len(candidates[name].layers) == smallest]
    chosen_on = values
    if selection_scores is not None and all(name in selection_scores for name in equals):
        chosen_on = dict(selection_scores)
    arm = max(equals, key=lambda name: chosen_on[name])
    basis = "test" if chosen_on is values else "selection"
    chosen = candidates[arm]
    reason = f"Of {len(candidates)} arms {_describe(best, candidates[best])} scores highest ({values[best]:.3g})"
    if np.isnan(scores.estimate(unit(scores, FULL) - unit(scores, BASE)).variance):
        reason += "; without intervals it is not known whether that is more than luck, nor what is tied with it"
    elif len(equals) > 1:
        reason += (
            f"; {len(equals)} sets of {_count(smallest)} are tied for the best, and of these "
            f"{_describe(arm, chosen)} does best on the {basis} problems"
        )
    elif arm != best:
        reason += f"; {_describe(arm, chosen)} ({values[arm]:.3g}) is the smallest set that is tied with it"
    elif smallest == contribution.num_layers:
        reason += ", and no smaller set is tied with it"
    else:
        others = "single layer" if smallest == 1 else f"set of at most {smallest} layers"
        reason += f", and no other {others} is tied with it"
    return Recommendation(arm, chosen.plan, chosen.layers, reason + ".")


def tied_with(scores: Contrasts, name: str, best: str, rules: Rules) -> bool:
    """Whether an arm is shown to be tied with the best one; see the module's docstring."""
    base, own, other = (unit(scores, arm) for arm in (BASE, name, best))
    same = scores.estimate(own - other).p_value() >= rules.alpha
    above = scores.estimate(own - base - rules.tie_low * (other - base))
    return bool(same and above.p_value() < rules.alpha and above.value > 0)


def _describe(name: str, candidate: Candidate) -> str:
    if name == FULL:
        return "full training"
    return f"layer {candidate.plan} alone" if len(candidate.layers) == 1 else f"'{candidate.plan}'"


def _count(layers: int) -> str:
    return "one layer" if layers == 1 else f"{layers} layers"
