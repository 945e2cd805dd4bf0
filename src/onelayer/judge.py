"""From the stored scores of a scan folder to ``profile.json`` and ``report.html``."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from onelayer.config import read_yaml
from onelayer.contribution import analyse
from onelayer.errors import UserError
from onelayer.files import write_json
from onelayer.plan import parse_plan
from onelayer.profile import Profile, build_profile
from onelayer.recommend import Candidate, recommend
from onelayer.report.html import ReportFiles, write_report
from onelayer.scores import read_scan
from onelayer.setup import ranking_of_profile

Records = dict[str, list[dict[str, Any]]]
"""Arm name without its seed suffix -> the ``arm.json`` of each of its seeds."""


def judge_scan(folder: Path) -> tuple[Profile, ReportFiles]:
    """Analyse the stored scores of a scan and write its profile and report anew.

    Raises:
        UserError: the folder holds no finished scan, or files in it are damaged.
    """
    manifest = _read_manifest(folder)
    config = read_yaml(folder / "config.yaml")
    measured = read_scan(folder)
    records = _read_records(folder)
    num_layers = manifest["num_layers"]
    contribution = analyse(measured.scores, measured.layers, num_layers=num_layers, others=measured.others)
    plans = {name: records[name][0]["plan"] for name in measured.others}
    selection = {
        name: float(np.mean([record["selection_score"] for record in seeds])) for name, seeds in records.items()
    }
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
        task=config["task"] or config["dataset"],
        algorithm=config["algorithm"],
        versions=manifest["versions"],
        recommended=recommended,
        plans=plans,
        selection_scores=selection,
        partial=len(measured.layers) < num_layers,
        stopped={name: stop for name, seeds in records.items() for r in seeds if (stop := r.get("stopped"))},
        trained_parameters={n: seeds[0]["trained_parameters"] for n, seeds in records.items() if n != "base"},
    )
    write_json(folder / "profile.json", profile.model_dump())
    return profile, write_report([folder])


def _layers(plan: str, num_layers: int) -> tuple[int, ...]:
    """The layers that a plan touches."""
    items = parse_plan(plan, num_layers, ranking_of_profile)
    touched: set[int] = set()
    for item in items:
        named = set(range(num_layers)) if item.everything else set(item.layers or ())
        touched = touched | named if item.multiplier > 0 or item.module else touched - named
    return tuple(sorted(touched))


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{folder} is not the folder of a scan: it has no manifest.json") from error
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    return manifest


def _read_records(folder: Path) -> Records:
    records: Records = defaultdict(list)
    for path in sorted(folder.glob("arms/*/arm.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        records[record["arm"]].append(record)
    return dict(records)
