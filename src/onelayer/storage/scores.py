"""Stored scores of an arm: ``scores.parquet``, and means per problem.

A score belongs to a (benchmark, problem, sample). Samples are averaged per problem.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from onelayer.errors import UserError
from onelayer.storage.doors import require_file
from onelayer.storage.files import why

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


def _table(scores: ArmScores) -> pa.Table:
    columns = {name: getattr(scores, name) for name in SCHEMA.names}
    if scores.reason is None:
        return pa.table(columns, schema=SCHEMA)
    return pa.table({**columns, REASON.name: scores.reason}, schema=SCHEMA.append(REASON))
