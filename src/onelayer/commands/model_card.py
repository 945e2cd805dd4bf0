"""The model card of a merged checkpoint or of a delta: what it is, from what, how it was made, and what it scored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from onelayer.config.sources import read_yaml
from onelayer.evaluation.estimates import MeanEstimate, mean_over_problems
from onelayer.judging.profile import ArmProfile, Profile
from onelayer.models.source import BUNDLED_PREFIX
from onelayer.storage.arm_record import ARM, ArmRecord
from onelayer.storage.scores import ArmScores, read_scores
from onelayer.version import __version__

NORMAL_95 = 1.959964
"""Half width of a 95 % interval in standard errors."""


@dataclass(frozen=True)
class Origin:
    """What is known of a delta besides its header: nothing for one that lies alone."""

    record: ArmRecord
    """``arm.json``; nothing is set where there is none."""
    scores: ArmScores | None
    base_scores: ArmScores | None
    profile: ArmProfile | None
    """What the scan's profile says of the arm."""
    task: str | None

    @classmethod
    def of(cls, delta: Path) -> "Origin":
        """Read what lies around ``arms/<name>/delta.safetensors``.

        Raises:
            UserError: files that are there and damaged.
        """
        arm = delta.parent
        record = ArmRecord.read(arm / ARM) if (arm / ARM).is_file() else ArmRecord()
        scores = read_scores(arm / "scores.parquet") if (arm / "scores.parquet").is_file() else None
        run = arm.parent.parent
        base = run / "arms/base/scores.parquet"
        inside = arm.parent.name == "arms"
        base_scores = read_scores(base) if inside and base.is_file() else None
        profile = Profile.load(run) if inside and (run / "profile.json").is_file() else None
        config = run / "config.yaml"
        options = read_yaml(config) if inside and config.is_file() else {}
        found = _in_profile(profile, record) if profile else None
        return cls(record, scores, base_scores, found, options.get("task") or options.get("dataset"))


def _in_profile(profile: Profile, record: ArmRecord) -> ArmProfile | None:
    for layer in profile.layers:
        if record.kind == "layer" and layer.layer == record.layer:
            return layer
    return next((strategy for strategy in profile.strategies if strategy.name == record.arm), None)


def model_card(header: Mapping[str, Any], origin: Origin, *, command: str, merged: bool) -> str:
    """The text of ``README.md``: YAML for the hub, then the facts.

    Args:
        header: what the delta says of itself.
        origin: what lies around it.
        command: how the folder of the card was made.
        merged: whether it holds a whole checkpoint; else it holds the delta.
    """
    record, base = origin.record, str(header["base_model"])
    tags = ["onelayer", "reinforcement-learning", *(["trl"] if record.engine == "trl" else [])]
    front: dict[str, Any] = {"library_name": "transformers", "tags": tags}
    if "/" in base and not base.startswith((BUNDLED_PREFIX, "/", ".", "~")):
        front = {"base_model": base, **front}
    revision = f", revision `{header['revision']}`" if header.get("revision") else ""
    facts = [
        ("base model", f"`{base}`{revision}"),
        ("hash of its tensors", f"`{header['base_hash']}`"),
        ("plan", f"`{header['plan']}`"),
    ]
    if record.trained_parameters is not None:
        facts.append(("trained parameters", f"{record.trained_parameters:,}"))
    if record.model_fields_set:
        facts.append(("engine", record.engine or "local"))
    if origin.task:
        facts.append(("task", f"`{origin.task}`"))
    if origin.profile and origin.profile.contribution is not None:
        low, high = origin.profile.ci_low, origin.profile.ci_high
        interval = f", 95 % interval {low:.2f} to {high:.2f}" if low is not None and high is not None else ""
        facts.append(("layer contribution C", f"{origin.profile.contribution:.2f}{interval}: {origin.profile.verdict}"))
    elif origin.profile:
        facts.append(("layer contribution C", "undefined: full training did not clearly beat the base"))
    lines = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {base.rpartition('/')[2].removeprefix(BUNDLED_PREFIX)}, trained by plan `{header['plan']}`",
        "Some layers of a language model, trained with reinforcement learning by onelayer "
        f"{__version__}; all other tensors are the base's.",
        _table(("", ""), facts),
        *(_scores(origin) if origin.scores else []),
        "## How it was made",
        "".join(f"    {line}\n" for line in ([record.command] if record.command else []) + [command]),
        "## How to use it",
        _usage(base, merged),
    ]
    return "\n\n".join(line.rstrip("\n") for line in lines) + "\n"


def _usage(base: str, merged: bool) -> str:
    if merged:
        return '    model = transformers.AutoModelForCausalLM.from_pretrained("this folder")'
    where = f'onelayer.models.base.model_path("{base}")' if base.startswith(BUNDLED_PREFIX) else f'"{base}"'
    return (
        f"    model = transformers.AutoModelForCausalLM.from_pretrained({where})\n"
        '    onelayer.load_delta(model, "this folder")'
    )


def _scores(origin: Origin) -> list[str]:
    """Mean scores with 95 % intervals over problems, and the difference to the base on the same problems."""
    assert origin.scores is not None
    rows = []
    own = origin.scores.problem_means()
    base = origin.base_scores.problem_means() if origin.base_scores else {}
    for name in dict.fromkeys(benchmark for benchmark, _ in own):
        keys = [key for key in own if key[0] == name]
        cells = [name, f"{len(keys):,}", _interval(mean_over_problems([own[key] for key in keys]))]
        if all(key in base for key in keys):
            cells.append(_interval(mean_over_problems([base[key] for key in keys])))
            cells.append(_interval(mean_over_problems(np.array([own[key] - base[key] for key in keys])), sign="+"))
        else:
            cells += ["", ""]
        rows.append(tuple(cells))
    note = "Means over problems, with 95 % intervals for other problems of the kind. They lack the noise of training seeds."
    return ["## Scores", _table(("benchmark", "problems", "score", "base", "difference"), rows), note]


def _interval(estimate: MeanEstimate, sign: str = "") -> str:
    if estimate.standard_error is None:
        return f"{estimate.value:{sign}.3f}"
    half = NORMAL_95 * estimate.standard_error
    return f"{estimate.value:{sign}.3f} ({estimate.value - half:{sign}.3f} to {estimate.value + half:{sign}.3f})"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
