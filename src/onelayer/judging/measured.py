"""All arms of a scan on the same problems: what the statistics start from.

Problems of different arms are matched by (benchmark, problem), never by their order.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onelayer.errors import UserError
from onelayer.judging.contrasts import AverageScores, PairedScores, benchmark_weights
from onelayer.storage.arm_names import BASE, FULL, arm_of, in_order
from onelayer.storage.arm_record import records_of
from onelayer.storage.scores import ArmScores, Key, read_scores
from onelayer.tasks.graders.grade import FAILURES, failure_sentence

UNJUDGED = ("rate", "dropped")
"""Kinds of arms that are no result: trials of a learning rate, and layers that a search gave up."""


@dataclass(frozen=True)
class MeasuredScores:
    """All that the statistics need: scores by arm name, which arm is which layer, and what was read along the way.

    ``seeds`` is the number of training seeds of each arm. ``truncation_rate`` and ``mean_length`` are per arm, over all
    its seeds, where they are known. ``notes`` are sentences for the person who reads the result.
    """

    scores: PairedScores | AverageScores
    layers: Mapping[int, str]
    others: tuple[str, ...]
    seeds: Mapping[str, int]
    num_samples: int | None
    truncation_rate: Mapping[str, float] = field(default_factory=dict)
    mean_length: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def pair_arms(
    arms: Mapping[str, Sequence[Mapping[Key, float]]], categories: Mapping[str, str] | None = None
) -> PairedScores:
    """Put arms on the same problems, in sorted order.

    Args:
        arms: per arm, one mapping (benchmark, problem) -> mean score for each training seed.
        categories: benchmark -> category, for the mean of category averages (C_all); None for the mean of benchmarks.

    Raises:
        UserError: an arm and seed that lacks a problem that others have, or has one that they lack.
    """
    reference_name, (reference, *_) = next(iter(arms.items()))
    problems = sorted(reference)
    rows: dict[str, NDArray[np.float64]] = {}
    for name, seeds in arms.items():
        for number, means in enumerate(seeds):
            for key in sorted(means.keys() ^ reference.keys(), key=str):
                lacking, having = (name, reference_name) if key in reference else (reference_name, name)
                raise UserError(
                    f"'{having}' has a score of problem {key[1]} of '{key[0]}' that '{lacking}' lacks"
                    f"{f' (training {number + 1} of {len(seeds)})' if len(seeds) > 1 else ''}; all arms have to be "
                    "scored on the same problems"
                )
        rows[name] = np.array([[means[key] for key in problems] for means in seeds])
    benchmarks = [benchmark for benchmark, _ in problems]
    return PairedScores(rows, benchmarks, benchmark_weights(benchmarks, categories), problems)


def read_measured(folder: Path, categories: Mapping[str, str] | None = None) -> MeasuredScores:
    """Read the scores of all finished arms of a scan folder (``arms/<name>/arm.json`` and ``scores.parquet``).

    ``arm.json`` is written last, so an arm without it is not finished and left out. Arms that differ only by a
    ``-seed`` suffix are one arm with several training seeds.

    Raises:
        UserError: no scan there, no finished base or full arm, damaged files, arms with different problems.
    """
    if not (folder / "arms").is_dir():
        raise UserError(f"{folder} is not the folder of a scan: it has no folder 'arms'")
    layers: dict[int, str] = {}
    others: list[str] = []
    seeds: dict[str, list[ArmScores]] = {}
    for run, record in records_of(folder).items():
        if record.kind in UNJUDGED:
            continue
        name = arm_of(run)
        seeds.setdefault(name, []).append(read_scores(folder / "arms" / run / "scores.parquet"))
        if record.kind == "layer" and record.layer is not None:
            layers[record.layer] = name
        elif name not in (BASE, FULL, *others):
            others.append(name)
    if missing := [name for name in (BASE, FULL) if name not in seeds]:
        raise UserError(f"{folder} has no finished arm '{missing[0]}' (arms/{missing[0]}/arm.json)")
    ordered = {name: seeds[name] for name in in_order(seeds)}
    return MeasuredScores(
        scores=pair_arms({name: [arm.problem_means() for arm in arms] for name, arms in ordered.items()}, categories),
        layers=layers,
        others=tuple(others),
        seeds={name: len(arms) for name, arms in ordered.items()},
        num_samples=max(arm.num_samples for arms in ordered.values() for arm in arms),
        truncation_rate={n: float(np.mean([arm.truncation_rate for arm in arms])) for n, arms in ordered.items()},
        mean_length={n: float(np.mean([arm.mean_length for arm in arms])) for n, arms in ordered.items()},
        notes=_failures(ordered),
    )


def _failures(arms: Mapping[str, Sequence[ArmScores]]) -> tuple[str, ...]:
    """A sentence on the completions that a grader could not judge, with the arms that they are of; or none."""
    counts: Counter[str] = Counter()
    by_arm: Counter[str] = Counter()
    for name, seeds in arms.items():
        for scores in seeds:
            counts.update(scores.reasons)
            by_arm[name] += sum(scores.reasons.get(reason, 0) for reason in FAILURES)
    sentence = failure_sentence(counts, sum(len(scores.reward) for seeds in arms.values() for scores in seeds))
    shown = ", ".join(f"{name} {count}" for name, count in by_arm.most_common() if count)
    return (f"On the test problems {sentence}. By arm: {shown}.",) if sentence else ()
