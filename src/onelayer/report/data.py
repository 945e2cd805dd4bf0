"""What a report shows, read from a scan folder: the profile, the settings, the cost of the arms, the learning curves.

A scan that still runs has a profile of the arms scored so far, or none yet; what is missing is not shown. What is there
must have the right form: a damaged file is an error, never an empty figure.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onelayer.errors import UserError
from onelayer.judging.contribution import Verdict
from onelayer.judging.profile import ArmProfile, Profile
from onelayer.storage.arm_names import BASE, FULL, arm_of, layer_alone, parse
from onelayer.storage.arm_record import ARM, ArmRecord
from onelayer.storage.manifest import MANIFEST, Manifest
from onelayer.storage.records import check_metrics, norm_by_layer, read_lines, read_text
from onelayer.storage.yaml_text import parse_yaml

Interval = tuple[float, float]


@dataclass(frozen=True)
class Entry:
    """One arm as tables and figures show it; None is "not known".

    Scores and differences to the base are in the task's own unit, ``length`` in completion tokens, ``truncation`` is a
    share of completions and ``seconds`` is the wall-clock time of the training.
    """

    name: str
    score: float | None
    difference: float | None = None
    difference_ci: Interval | None = None
    contribution: float | None = None
    contribution_ci: Interval | None = None
    verdict: Verdict | None = None
    flip_sd: float | None = None
    truncation: float | None = None
    length: float | None = None
    layer: int | None = None
    depth: float | None = None
    plan: str | None = None
    parameters: int | None = None
    seconds: float | None = None

    @property
    def place(self) -> float:
        """The relative depth of a layer; other arms have none."""
        if self.depth is None:
            raise ValueError(f"{self.name} is no layer")
        return self.depth


@dataclass(frozen=True)
class View:
    """A profile arranged for showing; ``layers`` in the order of the model."""

    profile: Profile
    base: Entry
    full: Entry
    layers: tuple[Entry, ...]
    strategies: tuple[Entry, ...]

    @classmethod
    def of(cls, profile: Profile, records: Mapping[str, ArmRecord] | None = None) -> "View":
        """Arrange a profile; ``records`` are the arm.json of its arms by arm name, for what the arms cost."""
        records = records or {}

        def cost(arm: str) -> dict[str, Any]:
            record = records.get(arm, ArmRecord())
            return {"parameters": record.trained_parameters, "seconds": record.seconds}

        def measured(arm: ArmProfile) -> dict[str, Any]:
            return {
                "score": arm.score,
                "difference": arm.score - profile.base_score if arm.difference is None else arm.difference,
                "difference_ci": arm.difference_ci,
                "contribution": arm.contribution,
                "contribution_ci": None if arm.ci_low is None or arm.ci_high is None else (arm.ci_low, arm.ci_high),
                "verdict": arm.verdict,
                "flip_sd": arm.flip_sd,
                "truncation": arm.truncation_rate,
                "length": arm.mean_length,
            }

        def reference(name: str, score: float, **more: Any) -> Entry:
            rate, length = profile.truncation_rate.get(name), profile.mean_length.get(name)
            return Entry(name, score, truncation=rate, length=length, **more)

        gain = profile.full_score - profile.base_score
        return cls(
            profile=profile,
            base=reference(BASE, profile.base_score),
            full=reference(FULL, profile.full_score, difference=gain, difference_ci=profile.gain_ci, **cost(FULL)),
            layers=tuple(
                Entry(
                    f"layer {row.layer}",
                    layer=row.layer,
                    depth=row.depth,
                    **measured(row),
                    **cost(layer_alone(row.layer)),
                )
                for row in sorted(profile.layers, key=lambda row: row.layer)
            ),
            strategies=tuple(
                Entry(row.name, plan=row.plan, **measured(row), **cost(row.name)) for row in profile.strategies
            ),
        )

    @property
    def ranked(self) -> list[Entry]:
        """The layers, best first."""
        by_layer = {row.layer: row for row in self.layers}
        return [by_layer[layer] for layer in self.profile.ranking]


@dataclass(frozen=True)
class ArmView:
    """One training run: its name, its arm.json (None until it is done) and its rows of metrics.jsonl."""

    name: str
    layer: int | None
    """The one layer that it trains, or None: full training, a strategy."""
    seed: int
    record: ArmRecord | None
    metrics: tuple[Mapping[str, Any], ...]

    @property
    def plan(self) -> str:
        """The name without the seed."""
        return arm_of(self.name)

    def curve(self, metric: str) -> tuple[list[int], list[float]]:
        """Steps and values of a metric, where it was logged."""
        rows = [(row["step"], row[metric]) for row in self.metrics if row.get(metric) is not None]
        return [step for step, _ in rows], [value for _, value in rows]


@dataclass(frozen=True)
class Scan:
    """A scan folder, read.

    ``view`` is None while there is no profile, ``settings`` is the whole of config.yaml and empty,
    and ``manifest`` None, for a profile of scores measured elsewhere.
    """

    folder: Path
    view: View | None
    settings: Mapping[str, Any]
    manifest: Manifest | None
    arms: tuple[ArmView, ...]

    @property
    def name(self) -> str:
        """Model and task, as far as they are known, for titles and legends."""
        if self.view is not None:
            return f"{self.view.profile.model} · {self.view.profile.task}"
        known = [str(self.settings[key]) for key in ("model", "task") if self.settings.get(key)]
        return " · ".join(known) or self.folder.name

    @property
    def waiting(self) -> tuple[str, ...]:
        """The planned arms that are not done; a scan that has some still runs, or was stopped."""
        done = {arm.name for arm in self.arms if arm.record}
        return tuple(name for name in (self.manifest.arms if self.manifest else ()) if name not in done)

    @property
    def running(self) -> bool:
        """Whether the page should be looked at again later."""
        return bool(self.waiting) or self.view is None


def layer_change(scan: Scan) -> dict[int, float]:
    """Layer -> norm of its change under full training (the first seed's); empty where it was not recorded."""
    records = [arm.record for arm in scan.arms if arm.name == FULL]
    return norm_by_layer(records[0].change_norms) if records and records[0] else {}


def read_arm(folder: Path) -> ArmView:
    """Read what an arm has logged so far. The last line may be half-written while it trains and is then left out."""
    name = parse(folder.name)
    record = ArmRecord.read(folder / ARM) if (folder / ARM).exists() else None
    rows = read_lines(folder / "metrics.jsonl") if (folder / "metrics.jsonl").exists() else []
    for row, where in rows:
        check_metrics(row, where)
    return ArmView(
        name=folder.name,
        layer=name.layer,
        seed=name.seed,
        record=record,
        metrics=tuple(row for row, _ in rows),
    )


def read_scan(folder: Path) -> Scan:
    """Read a scan folder, finished or not.

    Raises:
        UserError: no scan folder, or a damaged file in it.
    """
    path, config, arms_folder = folder / "profile.json", folder / "config.yaml", folder / "arms"
    if not path.exists() and not arms_folder.is_dir():
        raise UserError(
            f"{folder} is no scan folder: it has neither profile.json nor arms/; name the --output of a scan"
        )
    arms = [read_arm(arm) for arm in sorted(arms_folder.iterdir()) if arm.is_dir()] if arms_folder.is_dir() else []
    try:
        settings = parse_yaml(read_text(config)) if config.exists() else {}
    except ValueError as error:
        raise UserError(f"{config} is not valid YAML ({error}); restore it or remove it") from error
    if not isinstance(settings, Mapping):
        raise UserError(f"{config} should hold `key: value` lines")
    records = {arm.plan: arm.record for arm in reversed(arms) if arm.record}
    manifest = Manifest.read(folder) if (folder / MANIFEST).exists() else None
    return Scan(
        folder=folder.resolve(),
        view=View.of(Profile.load(path), records) if path.exists() else None,
        settings=settings,
        manifest=manifest,
        arms=tuple(arms),
    )
