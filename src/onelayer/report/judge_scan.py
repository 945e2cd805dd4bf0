"""From the stored scores of a scan folder to ``profile.json`` and ``report.html``."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from onelayer.arms.plan import parse_plan
from onelayer.errors import UserError
from onelayer.judging.compare import FEWEST, correlate
from onelayer.judging.contribution import Contribution, additivity, analyse
from onelayer.judging.measured import UNJUDGED, read_measured
from onelayer.judging.profile import Profile, build_profile, ranking_of_profile
from onelayer.judging.recommend import Candidate, recommend
from onelayer.report.page import ReportFiles, write_report
from onelayer.runs.run_folder import read_settings
from onelayer.storage.arm_names import BASE, FULL
from onelayer.storage.arm_record import ARM, ArmRecord, records_of
from onelayer.storage.manifest import Manifest
from onelayer.storage.records import norm_by_layer

Records = dict[str, list[ArmRecord]]
"""Arm name without its seed suffix -> the ``arm.json`` of each of its seeds."""


def judge_scan(folder: Path) -> tuple[Profile, ReportFiles]:
    """Analyse the stored scores of a scan and write its profile and report anew.

    Raises:
        UserError: the folder holds no finished scan, or files in it are damaged.
    """
    manifest = Manifest.read(folder)
    config = read_settings(folder)
    measured = read_measured(folder, manifest.categories)
    records = _by_arm(folder)
    engines = _engines(folder, records, mixed=bool(config.get("mix_engines")))
    if len(_kinds(engines)) > 1:
        which = ", ".join(f"{name} by {engine}" for name, engine in sorted(engines.items()))
        note = f"Arms were trained by different engines, whose updates differ in rounding and maybe in more: {which}."
        measured = replace(measured, notes=(*measured.notes, note))
    num_layers = manifest.num_layers
    contribution = analyse(measured.scores, measured.layers, num_layers=num_layers, others=measured.others)
    plans = {name: records[name][0].plan or "" for name in measured.others}
    selection = {
        name: float(np.mean([record.selection_score for record in seeds]))
        for name, seeds in records.items()
        if seeds[0].kind not in UNJUDGED
    }
    pairs = [name for name in measured.others if records[name][0].kind in ("pair", "stitched")]
    additive = [
        additivity(measured.scores, name, [measured.layers[layer] for layer in _layers(plans[name], num_layers)])
        for name in pairs
        if all(layer in measured.layers for layer in _layers(plans[name], num_layers))
    ]
    recommended = recommend(
        measured.scores,
        contribution,
        strategies={name: Candidate(plan, _layers(plan, num_layers)) for name, plan in plans.items()},
        selection_scores=selection,
    )
    profile = build_profile(
        contribution,
        measured,
        model=config["model"],
        task=config.get("task") or config["dataset"],
        algorithm=config["algorithm"],
        versions=manifest.versions,
        recommended=recommended,
        plans=plans,
        selection_scores=selection,
        pairs=tuple(additive),
        engines=engines,
        partial=len(measured.layers) < num_layers,
        search=config["search"],
        dropped={name: r[0].dropped_at for name, r in records.items() if r[0].kind == "dropped"},
        predictors=_predictors(contribution, records),
        stopped={name: r.stopped for name, seeds in records.items() for r in seeds if r.stopped},
        trained_parameters={
            n: seeds[0].trained_parameters for n, seeds in records.items() if n in selection and n != BASE
        },
    )
    profile.save(folder / "profile.json")
    return profile, write_report([folder])


def _engines(folder: Path, records: Records, *, mixed: bool) -> dict[str, str]:
    """Which engine trained each arm.

    Raises:
        UserError: several, where the scan was not told to mix them.
    """
    engines = {
        name: "+".join(sorted({record.engine for record in seeds if record.engine}))
        for name, seeds in records.items()
        if any(record.engine for record in seeds)
    }
    if len(_kinds(engines)) > 1 and not mixed:
        shown = ", ".join(f"{name} by {engine}" for name, engine in sorted(engines.items())[:4])
        raise UserError(
            f"{folder}: arms were trained by different engines ({shown}, ...), so that C(k) would compare engines; "
            "add --mix-engines to the scan where that is meant"
        )
    return engines


def _kinds(engines: Mapping[str, str]) -> set[str]:
    return {engine for joined in engines.values() for engine in joined.split("+")}


def _predictors(contribution: Contribution, records: Records) -> dict[str, dict[str, Any]]:
    """Rank correlation with C of what costs nothing extra, from the full arm's first seed: reported, never relied on.

    ``change_norm`` is the norm of each layer's change under full training, ``first_gradient_norm`` that of its first
    gradient. The paper found the former to say nothing.
    """
    judged = [(row.layer, row.contribution) for row in contribution.layers if row.contribution is not None]
    predictors = {}
    full = records[FULL][0]
    for name, of_tensors in (("change_norm", full.change_norms), ("first_gradient_norm", full.first_gradient_norms)):
        norms = norm_by_layer(of_tensors)
        shared = [(norms[layer], c) for layer, c in judged if layer is not None and layer in norms]
        if len(shared) >= FEWEST:
            x, y = (np.array(column) for column in zip(*shared, strict=True))
            predictors[name] = vars(correlate(x, y, "spearman"))
    return predictors


def _layers(plan: str, num_layers: int) -> tuple[int, ...]:
    """The layers that a plan touches."""
    items = parse_plan(plan, num_layers, ranking_of_profile)
    touched: set[int] = set()
    for item in items:
        named = set(range(num_layers)) if item.everything else set(item.layers or ())
        touched = touched | named if item.multiplier > 0 or item.module else touched - named
    return tuple(sorted(touched))


def _by_arm(folder: Path) -> Records:
    records: Records = defaultdict(list)
    for run, record in records_of(folder).items():
        if record.arm is None:
            raise UserError(f"{folder / 'arms' / run / ARM} has no 'arm'; restore it")
        records[record.arm].append(record)
    return dict(records)
