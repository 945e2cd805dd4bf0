"""``profile.json``: what a scan found out about the layers of a model, and which layers to choose because of it.

Two different questions need different scores. "How good is layer k?" is answered on the test problems:
``contribution``, its interval and the verdict. "Which layers should be trained next?" is a choice, and choices are
made on the selection problems: ``best`` and ``worst`` use ``selection_score`` where every layer has one. Choosing and
judging on the same problems would report the winner's luck as its merit. ``ranking`` is for display and follows the
test scores.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from onelayer.errors import UserError
from onelayer.judging.contribution import Additivity, ArmContribution, Contribution, Verdict
from onelayer.judging.measured import MeasuredScores
from onelayer.judging.recommend import Recommendation
from onelayer.storage.doors import read_bytes
from onelayer.storage.files import write_json

Interval = tuple[float, float]


class _Record(BaseModel):
    """Strict about the keys it knows, and carries the ones it does not know along."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)


class ArmProfile(_Record):
    """What was measured of one arm, in the units of the score; None is "not known" (C: undefined, see ``refused``)."""

    score: float
    contribution: float | None
    ci_low: float | None
    ci_high: float | None
    verdict: Verdict
    difference: float | None = None
    difference_ci: Interval | None = None
    p_full: float | None = None
    p_base: float | None = None
    p_full_holm: float | None = None
    p_base_holm: float | None = None
    flip_sd: float | None = None
    selection_score: float | None = None
    truncation_rate: float | None = None
    mean_length: float | None = None
    seeds: int | None = None


class LayerProfile(ArmProfile):
    """A single layer's arm. ``depth`` is layer / (num_layers - 1)."""

    layer: Annotated[int, Field(ge=0)]
    depth: float


class StrategyProfile(ArmProfile):
    """An arm that is no single layer: ``plan`` says what it trains."""

    name: str
    plan: str


@dataclass(frozen=True)
class LayerChoice:
    """Layers chosen from a profile, the first choice first. ``note`` says in a sentence what the choice rests on."""

    layers: tuple[int, ...]
    basis: Literal["selection", "test"]
    note: str


class Profile(_Record):
    """The contents of ``profile.json``. Keys that are not named here are kept and written back."""

    model: str
    task: str
    algorithm: str
    num_layers: Annotated[int, Field(ge=1)]
    base_score: float
    full_score: float
    layers: list[LayerProfile]
    ranking: list[int]
    recommended: Recommendation | None
    refused: str | None
    versions: dict[str, str]
    gain: float | None = None
    gain_ci: Interval | None = None
    gain_z: float | None = None
    seed_sd: float | None = None
    meaning: str | None = None
    warnings: list[str] = []
    notes: list[str] = []
    num_problems: int | None = None
    num_samples: int | None = None
    seeds: int | None = None
    strategies: list[StrategyProfile] = []
    pairs: list[Additivity] = []
    truncation_rate: dict[str, float] = {}
    mean_length: dict[str, float] = {}

    @model_validator(mode="after")
    def _consistent(self) -> "Profile":
        indices = [layer.layer for layer in self.layers]
        if duplicates := [k for k in indices if indices.count(k) > 1]:
            raise ValueError(f"layer {duplicates[0]} is listed twice")
        if outside := [k for k in indices if k >= self.num_layers]:
            raise ValueError(f"layer {outside[0]} does not exist in a model of {self.num_layers} layers")
        if sorted(self.ranking) != sorted(indices):
            raise ValueError("'ranking' does not list each layer once")
        return self

    def save(self, path: Path) -> None:
        """Write ``profile.json``."""
        write_json(path, self.model_dump())

    @classmethod
    def load(cls, path: Path | str) -> "Profile":
        """Read ``profile.json``; a folder means the file in it.

        Raises:
            UserError: no such file, or one that is not a valid profile, with the first reason.
        """
        path = Path(path)
        path = path / "profile.json" if path.is_dir() else path
        try:
            return cls.model_validate_json(read_bytes(path))
        except FileNotFoundError as error:
            raise UserError(f"{path} does not exist; `onelayer scan` writes it") from error
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise UserError(f"{path} is not a valid profile: {where + ': ' if where else ''}{first['msg']}") from error

    def best(self, k: int) -> LayerChoice:
        """Return the k layers with the highest score, best first, for training them. See the module's docstring.

        Raises:
            UserError: k is not between 1 and the number of layers in the profile.
        """
        return self._choose(k, "best")

    def worst(self, k: int) -> LayerChoice:
        """Return the k layers with the lowest score, worst first; the control of ``best``."""
        return self._choose(k, "worst")

    def _choose(self, k: int, which: Literal["best", "worst"]) -> LayerChoice:
        if not 1 <= k <= len(self.layers):
            raise UserError(
                f"the profile of {self.model} has {len(self.layers)} layers, so {which}:{k} is not possible; "
                f"choose 1 to {len(self.layers)}"
            )
        sign = 1 if which == "best" else -1
        chosen_on_selection = all(layer.selection_score is not None for layer in self.layers)
        scores = {
            layer.layer: layer.selection_score
            if layer.selection_score is not None and chosen_on_selection
            else layer.score
            for layer in self.layers
        }
        ordered = tuple(sorted(scores, key=lambda layer: (-sign * scores[layer], layer)))[:k]
        by = f"The {which} {k} by score on the"
        if chosen_on_selection:
            return LayerChoice(ordered, "selection", f"{by} selection problems.")
        return LayerChoice(
            ordered, "test", f"{by} test problems, for want of selection scores: judge the result on other problems."
        )


def ranking_of_profile(path: str, which: str) -> Sequence[int]:
    """The layers of a profile, best or worst first, for plans like ``best:5@profile.json``."""
    profile = Profile.load(Path(path))
    count = len(profile.layers)
    return (profile.best(count) if which == "best" else profile.worst(count)).layers


def choice_notes(plan: str) -> list[str]:
    """What the choice of layers by ``best:``, ``worst:`` and ``boost:`` items rests on, one sentence each."""
    notes = []
    for match in re.finditer(r"(best|worst|boost):(\d+)@([^,*]+)", plan):
        profile = Profile.load(Path(match[3]))
        choose = profile.worst if match[1] == "worst" else profile.best
        notes.append(choose(int(match[2])).note)
    return notes


def build_profile(
    contribution: Contribution,
    measured: MeasuredScores,
    *,
    model: str,
    task: str,
    algorithm: str,
    versions: Mapping[str, str],
    recommended: Recommendation | None,
    plans: Mapping[str, str] | None = None,
    selection_scores: Mapping[str, float] | None = None,
    pairs: tuple[Additivity, ...] = (),
    **extra: Any,
) -> Profile:
    """Build a profile from the judgement of a scan.

    Args:
        contribution: the judgement.
        measured: the scores it rests on.
        model: the base model's name, as the user gave it.
        task: the task's name.
        algorithm: the algorithm's name.
        versions: package -> version.
        recommended: what to train, or None.
        plans: what the arms that are no single layer train; by default their names.
        selection_scores: arm name -> score on the selection problems at the end of training.
        pairs: results of :func:`onelayer.judging.contribution.additivity`.
        extra: further keys of ``profile.json``.
    """
    selection_scores, plans = selection_scores or {}, plans or {}

    layers = [
        LayerProfile(layer=arm.layer, depth=arm.depth, **_measures(arm, measured, selection_scores))
        for arm in contribution.layers
        if arm.layer is not None and arm.depth is not None
    ]
    return Profile(
        model=model,
        task=task,
        algorithm=algorithm,
        num_layers=contribution.num_layers,
        base_score=contribution.base_score,
        full_score=contribution.full_score,
        layers=layers,
        ranking=[layer.layer for layer in sorted(layers, key=lambda layer: (-layer.score, layer.layer))],
        recommended=recommended,
        refused=contribution.refused,
        versions=dict(versions),
        gain=contribution.gain,
        gain_ci=contribution.gain_ci,
        gain_z=contribution.gain_z,
        seed_sd=contribution.seed_sd,
        meaning=contribution.meaning,
        warnings=list(contribution.warnings),
        notes=list(measured.notes),
        num_problems=contribution.num_problems,
        num_samples=measured.num_samples,
        seeds=max(measured.seeds.values()),
        strategies=[
            StrategyProfile(
                name=arm.name, plan=plans.get(arm.name, arm.name), **_measures(arm, measured, selection_scores)
            )
            for arm in contribution.others
        ],
        pairs=list(pairs),
        truncation_rate=dict(measured.truncation_rate),
        mean_length=dict(measured.mean_length),
        **extra,
    )


def _measures(arm: ArmContribution, measured: MeasuredScores, selection_scores: Mapping[str, float]) -> dict[str, Any]:
    """What a profile says of every arm that was judged."""
    low, high = arm.contribution_ci or (None, None)
    return {
        "score": arm.score,
        "contribution": arm.contribution,
        "ci_low": low,
        "ci_high": high,
        "verdict": arm.verdict,
        "difference": arm.difference,
        "difference_ci": arm.difference_ci,
        "p_full": arm.p_full,
        "p_base": arm.p_base,
        "p_full_holm": arm.p_full_holm,
        "p_base_holm": arm.p_base_holm,
        "flip_sd": arm.flip_sd,
        "selection_score": selection_scores.get(arm.name),
        "truncation_rate": measured.truncation_rate.get(arm.name),
        "mean_length": measured.mean_length.get(arm.name),
        "seeds": measured.seeds[arm.name],
    }
