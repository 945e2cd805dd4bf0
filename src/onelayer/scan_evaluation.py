"""``onelayer eval --scan``: the base and every arm of a scan on benchmarks, and the layers judged on them.

The output has the form of a scan's folder, so that whatever reads a scan reads it too. With benchmarks of several
categories the score is the mean of category averages, and C(k) is the paper's C_all.
"""

import json
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from onelayer.config import BenchmarkConfig
from onelayer.errors import UserError
from onelayer.evaluation import evaluate_model
from onelayer.files import write_json, write_text
from onelayer.judge import judge_scan, read_manifest
from onelayer.profile import Profile
from onelayer.report import terminal
from onelayer.scores import UNJUDGED
from onelayer.setup import load_model


def evaluate_scan(config: BenchmarkConfig, output: Path, console: Console) -> Profile:
    """Score all finished arms of ``config.scan`` and write scores, profile and report to ``output``.

    Raises:
        UserError: the folder holds no finished scan, or a benchmark, its data or the output folder is wrong.
        RunStopped: a grader failed on completions, or the disk or the memory is full.
    """
    assert config.scan is not None
    scan = Path(config.scan)
    manifest = read_manifest(scan)
    settings = yaml.safe_load((scan / "config.yaml").read_text(encoding="utf-8"))
    arms = _finished_arms(scan)
    base = load_model(config.model_copy(update={"model": config.model or settings["model"]}))
    if base.hash != manifest["base_hash"]:
        raise UserError(f"the scan '{scan}' was made on another base than '{base.name}': their tensors differ")
    if output.exists() and any(output.iterdir()) and not config.resume:
        raise UserError(
            f"output '{output}' already exists and is not an empty folder; give another one, or add --resume"
        )
    categories: dict[str, str] = {}
    for name, record in arms.items():
        folder = output / "arms" / name
        console.print(f"[bold]{name}[/]")
        of_arm = {"scan": None, "model": base.name, "resume": config.resume and folder.is_dir()}
        of_arm["delta"] = None if name == "base" else str(scan / "arms" / name)
        results = evaluate_model(config.model_copy(update=of_arm), folder, console, base)
        categories |= {row.entry["name"]: row.entry["category"] for row in results.scored}
        average = sum(row.entry["avg_at_k"]["value"] for row in results.scored) / len(results.scored)
        write_json(folder / "arm.json", {**record, "score": average})
    several = categories if len(set(categories.values())) > 1 else None
    write_json(output / "manifest.json", {**manifest, "scan": str(scan), "categories": several})
    task = ", ".join(categories)
    write_text(output / "config.yaml", yaml.safe_dump({**settings, "task": task, "dataset": None}, sort_keys=False))
    profile, files = judge_scan(output)
    console.print(terminal.render(profile))
    if several:
        console.print(
            f"The score is the mean of the averages of {', '.join(sorted(set(several.values())))}: C is C_all."
        )
    console.print(f"\nresults: {output}\nreport:  {files.html}", soft_wrap=True, highlight=False)
    return profile


def _finished_arms(scan: Path) -> dict[str, dict[str, Any]]:
    """The records of all arms that are results, the base first.

    Raises:
        UserError: there are none.
    """
    records = {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in scan.glob("arms/*/arm.json")}
    judged = {name: record for name, record in records.items() if record["kind"] not in UNJUDGED}
    if missing := [name for name in ("base", "full") if name not in judged]:
        raise UserError(f"{scan} has no finished arm '{missing[0]}' (arms/{missing[0]}/arm.json)")
    return {name: judged[name] for name in sorted(judged, key=lambda name: (name != "base", name != "full", name))}
