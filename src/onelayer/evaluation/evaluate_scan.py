"""``onelayer eval --scan``: the base and every arm of a scan on benchmarks, and the layers judged on them.

The output has the form of a scan's folder, so that whatever reads a scan reads it too. With benchmarks of several
categories the score is the mean of category averages, and C(k) is the paper's C_all.
"""

from collections.abc import Mapping
from pathlib import Path

import yaml
from rich.console import Console

from onelayer.config.configs import BenchmarkConfig
from onelayer.errors import UserError
from onelayer.evaluation.evaluate_model import evaluate_model
from onelayer.evaluation.results import SCORES
from onelayer.judging.measured import UNJUDGED
from onelayer.judging.profile import Profile
from onelayer.models.base import BaseModel
from onelayer.report import terminal
from onelayer.report.judge_scan import judge_scan
from onelayer.runs.inputs import load_model
from onelayer.runs.run_folder import read_settings
from onelayer.storage.arm_names import BASE, FULL, in_order
from onelayer.storage.arm_record import ARM, ArmRecord, records_of
from onelayer.storage.files import (
    checksum,
    make_folder,
    remove_leftovers,
    write_text,
)
from onelayer.storage.lock import locked, require_free
from onelayer.storage.manifest import Manifest
from onelayer.storage.screen import literal, print_paths


def evaluate_scan(config: BenchmarkConfig, output: Path, console: Console) -> Profile:
    """Score all finished arms of ``config.scan`` and write scores, profile and report to ``output``.

    Raises:
        UserError: the folder holds no finished scan, or a benchmark, its data or the output folder is wrong.
        RunStopped: a grader failed on completions, or the disk or the memory is full.
    """
    assert config.scan is not None
    scan = Path(config.scan)
    manifest = Manifest.read(scan)
    settings = read_settings(scan)
    arms = _finished_arms(scan)
    base = load_model(config.model_copy(update={"model": config.model or settings["model"]}))
    if base.hash != manifest.base_hash:
        raise UserError(f"the scan '{scan}' was made on another base than '{base.name}': their tensors differ")
    require_free(output, resume=config.resume)
    with locked(make_folder(output)) as left_behind:
        remove_leftovers(output)
        if left_behind:
            console.print(literal(left_behind, "yellow"))
        categories = _score_arms(config, scan, arms, base, output, console)
        several = categories if len(set(categories.values())) > 1 else None
        manifest.changed(scan=str(scan), categories=several).write(output)
        about = {**settings, "task": ", ".join(categories), "dataset": None}
        write_text(output / "config.yaml", yaml.safe_dump(about, sort_keys=False))
        profile, files = judge_scan(output)
    console.print(terminal.render(profile))
    if several:
        console.print(
            f"The score is the mean of the averages of {', '.join(sorted(set(several.values())))}: C is C_all."
        )
    print_paths(console, results=output, report=files.html)
    return profile


def _score_arms(
    config: BenchmarkConfig,
    scan: Path,
    arms: Mapping[str, ArmRecord],
    base: BaseModel,
    output: Path,
    console: Console,
) -> dict[str, str]:
    """Score the base and every arm, each in a folder of its own, and return the benchmarks' categories."""
    categories: dict[str, str] = {}
    for name, record in arms.items():
        folder = output / "arms" / name
        console.print(literal(name, "bold"))
        of_arm = {"scan": None, "model": base.name, "resume": config.resume and folder.is_dir()}
        of_arm["delta"] = None if name == BASE else str(scan / "arms" / name)
        results = evaluate_model(config.model_copy(update=of_arm), folder, console, base)
        categories |= {row.entry["name"]: row.entry["category"] for row in results.scored}
        average = sum(row.entry["avg_at_k"]["value"] for row in results.scored) / len(results.scored)
        record.changed(score=average, sha256={SCORES: checksum(folder / SCORES)}).write(folder / ARM)
    return categories


def _finished_arms(scan: Path) -> dict[str, ArmRecord]:
    """The records of all arms that are results, the base first.

    Raises:
        UserError: there are none.
    """
    judged = {name: record for name, record in records_of(scan).items() if record.kind not in UNJUDGED}
    if missing := [name for name in (BASE, FULL) if name not in judged]:
        raise UserError(f"{scan} has no finished arm '{missing[0]}' (arms/{missing[0]}/arm.json)")
    return {name: judged[name] for name in in_order(judged)}
