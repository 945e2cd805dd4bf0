"""Stored scores of arms: ``scores.parquet``, means per problem, and all arms of a scan on the same problems.

A score belongs to a (benchmark, problem, sample). Samples are averaged per problem, and problems of different arms are
matched by (benchmark, problem), never by their order.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from onelayer.arm_names import BASE, FULL, arm_of, in_order
from onelayer.contrasts import AverageScores, PairedScores, benchmark_weights
from onelayer.doors import require_file
from onelayer.errors import UserError
from onelayer.files import why
from onelayer.graders.grade import FAILURES, failure_sentence
from onelayer.records import read_kind

Key = tuple[str, int | str]
"""A problem: its benchmark and its id there."""

SCHEMA = pa.schema(
    [
        ("benchmark", pa.string()),
        ("problem", pa.int64()),
        ("sample", pa.int64()),
        ("reward", pa.float64()),
        ("length", pa.int64()),
        ("truncated", pa.bool_()),
    ]
)
REASON = pa.field("reason", pa.string())
"""A further column, which files may lack: why a completion got its reward, null where that is not known."""


UNJUDGED = ("rate", "dropped")
"""Kinds of arms that are no result: trials of a learning rate, and layers that a search gave up."""


@dataclass(frozen=True)
class ArmScores:
    """The scored completions of one arm and training seed: arrays of shape (completions,).

    ``length`` counts completion tokens; ``truncated`` says that the token limit cut the completion off; ``reason`` is the
    grader's, None where there was no grader.
    """

    benchmark: Sequence[str]
    problem: NDArray[np.int64]
    sample: NDArray[np.int64]
    reward: NDArray[np.float64]
    length: NDArray[np.int64]
    truncated: NDArray[np.bool_]
    reason: Sequence[str | None] | None = None

    def problem_means(self) -> dict[Key, float]:
        """Return the mean reward over the samples of each problem, in order of first appearance."""
        grouped = _table(self).group_by(["benchmark", "problem"], use_threads=False).aggregate([("reward", "mean")])
        keys = zip(grouped["benchmark"].to_pylist(), grouped["problem"].to_pylist(), strict=True)
        return dict(zip(keys, grouped["reward_mean"].to_pylist(), strict=True))

    @property
    def score(self) -> float:
        """S: the mean over benchmarks of their average score over problems."""
        benchmarks: dict[str, list[float]] = {}
        for (benchmark, _), mean in self.problem_means().items():
            benchmarks.setdefault(benchmark, []).append(mean)
        return float(np.mean([np.mean(means) for means in benchmarks.values()]))

    @property
    def truncation_rate(self) -> float:
        """The share of completions that the token limit cut off."""
        return float(np.mean(self.truncated))

    @property
    def mean_length(self) -> float:
        """The mean number of completion tokens."""
        return float(np.mean(self.length))

    @property
    def num_samples(self) -> int:
        """The largest number of samples of a problem."""
        return len(np.unique(self.sample))

    @property
    def reasons(self) -> dict[str, int]:
        """How often each reason occurs, the most frequent first; empty where none is known."""
        return dict(Counter(reason for reason in self.reason or () if reason is not None).most_common())


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


def join_scores(parts: Sequence[ArmScores]) -> ArmScores:
    """The completions of several benchmarks as one arm's."""
    if len(parts) == 1:
        return parts[0]
    arrays = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in SCHEMA.names if name != "benchmark"
    }
    reasons: list[str | None] = []
    for part in parts:
        reasons += part.reason or [None] * len(part.reward)
    benchmarks = [name for part in parts for name in part.benchmark]
    return ArmScores(benchmark=benchmarks, reason=reasons if any(reasons) else None, **arrays)


def write_scores(path: Path, scores: ArmScores) -> None:
    """Write ``scores.parquet``.

    Raises:
        ValueError: a reward that is not finite, or the same sample twice.
    """
    if not np.isfinite(scores.reward).all():
        raise ValueError("a reward is not a finite number")
    if len(set(zip(scores.benchmark, scores.problem.tolist(), scores.sample.tolist(), strict=True))) < len(
        scores.reward
    ):
        raise ValueError("a sample of a problem is scored twice")
    pq.write_table(_table(scores), path)


def read_scores(path: Path) -> ArmScores:
    """Read ``scores.parquet``.

    Raises:
        UserError: no such file, a damaged one, one without the columns, or with rows that are no scores.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; it should hold the scores of an arm")
    try:
        require_file(path)
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is damaged or not a parquet file: {why(error)}") from error
    if missing := [name for name in SCHEMA.names if name not in table.column_names]:
        raise UserError(f"{path} lacks the column '{missing[0]}'; it needs {', '.join(SCHEMA.names)}")
    schema = SCHEMA.append(REASON) if REASON.name in table.column_names else SCHEMA
    try:
        table = table.select(schema.names).cast(schema)
    except (pa.ArrowException, ValueError) as error:
        raise UserError(f"{path} has a column of the wrong type: {why(error)}") from error
    if table.num_rows == 0:
        raise UserError(f"{path} holds no scores")
    if empty := [name for name in SCHEMA.names if table[name].null_count]:
        raise UserError(f"{path} has a row without '{empty[0]}'")
    columns = {name: table[name].to_numpy() for name in SCHEMA.names if name != "benchmark"}
    for row in np.flatnonzero(~np.isfinite(columns["reward"])).tolist():
        raise UserError(f"{path} row {row + 1}: the reward is {columns['reward'][row]}, not a finite number")
    seen: dict[tuple[str, int, int], int] = {}
    benchmarks: list[str] = table["benchmark"].to_pylist()
    for row, key in enumerate(zip(benchmarks, columns["problem"].tolist(), columns["sample"].tolist(), strict=True)):
        if key in seen:
            raise UserError(
                f"{path} row {row + 1}: sample {key[2]} of problem {key[1]} of '{key[0]}' is already in row "
                f"{seen[key] + 1}"
            )
        seen[key] = row
    reasons = table[REASON.name].to_pylist() if REASON.name in table.column_names else []
    return ArmScores(benchmark=benchmarks, reason=reasons if any(reasons) else None, **columns)


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


def read_scan(folder: Path, categories: Mapping[str, str] | None = None) -> MeasuredScores:
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
    for path in sorted((folder / "arms").glob("*/arm.json")):
        record = read_kind(path)
        if record["kind"] in UNJUDGED:
            continue
        name = arm_of(path.parent.name)
        seeds.setdefault(name, []).append(read_scores(path.parent / "scores.parquet"))
        if record["kind"] == "layer":
            layers[record["layer"]] = name
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


def _table(scores: ArmScores) -> pa.Table:
    columns = {name: getattr(scores, name) for name in SCHEMA.names}
    if scores.reason is None:
        return pa.table(columns, schema=SCHEMA)
    return pa.table({**columns, REASON.name: scores.reason}, schema=SCHEMA.append(REASON))
