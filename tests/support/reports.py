"""Scan folders with invented scores."""

import json
from pathlib import Path
from typing import Any

import yaml

SCRIPT = "</script><script>document.title='pwned'</script><b onclick=alert(1)>"


"""What a hostile model name could hold; it has to be shown, letter by letter."""


SCORES = [0.55, 0.70, 0.80, 0.855, 0.875, 0.79, 0.62, 0.36]


VERDICTS = ["partial"] * 3 + ["tied with full", "better than full", "undecided", "partial", "harmful"]


def invented(**changes: Any) -> dict[str, Any]:
    """A profile.json of invented scores: 8 layers, base .41, full .86."""
    layers = []
    for k, (score, verdict) in enumerate(zip(SCORES, VERDICTS, strict=True)):
        difference = score - 0.41
        measured = {"score": score, "difference": difference, "difference_ci": [difference - 0.04, difference + 0.04]}
        c = difference / 0.45
        judged = {"contribution": c, "ci_low": c - 0.09, "ci_high": c + 0.1, "verdict": verdict}
        cost = {"truncation_rate": 0.01 * k, "mean_length": 11.5 + k}
        layers.append({"layer": k, "depth": k / 7, **measured, **judged, **cost})
    strategy = {
        "name": "only-best-2",
        "plan": "3-4",
        "score": 0.88,
        "contribution": 1.04,
        "ci_low": 0.96,
        "ci_high": 1.13,
    }
    profile = {
        "model": "=sample/model",
        "task": "arithmetic",
        "algorithm": "grpo",
        "num_layers": 8,
        "base_score": 0.41,
        "full_score": 0.86,
        "layers": layers,
        "ranking": [4, 3, 2, 5, 1, 6, 0, 7],
        "recommended": {"arm": "layer-04", "plan": "4", "layers": [4], "reason": "Layer 4 alone scores highest."},
        "refused": None,
        "versions": {"onelayer": "0.1"},
        "gain_ci": [0.40, 0.50],
        "meaning": "One training seed.",
        "seeds": 1,
        "num_problems": 400,
        "num_samples": 4,
        "strategies": [{**strategy, "verdict": "tied with full"}],
        "truncation_rate": {"base": 0.25, "full": 0.02},
    }
    return profile | changes


def write_scan(folder: Path, profile: dict[str, Any] | None, waiting: tuple[str, ...] = ()) -> Path:
    """A scan folder as a scan leaves it; arms in ``waiting`` have logged steps but are not done."""
    names = ["full", *(f"layer-{k:02d}" for k in range(8)), "layer-04-seed1", "only-best-2"]
    for index, name in enumerate(names):
        arm = folder / "arms" / name
        arm.mkdir(parents=True)
        rows = [{"step": step, "reward": 0.5 + 0.004 * step - 0.01 * index} for step in range(40)]
        rows[-1]["eval/score"] = 0.6 - 0.01 * index
        (arm / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if name not in waiting:
            norms = {f"model.layers.{k}.mlp.up_proj.weight": 0.1 + 0.01 * k for k in range(8)}
            record = {"arm": name, "score": 0.7, "trained_parameters": 49_000, "seconds": 31.0, "change_norms": norms}
            (arm / "arm.json").write_text(json.dumps(record))
    settings = {"model": "sample", "task": "arithmetic", "train_batch_size": 16, "num_generations": 8, "note": SCRIPT}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / "manifest.json").write_text(json.dumps({"num_layers": 8, "arms": dict.fromkeys(names, "")}))
    if profile is not None:
        (folder / "profile.json").write_text(json.dumps(profile))
    return folder
