"""The results of ``onelayer eval`` in their folder, benchmark by benchmark: what is scored is never scored again.

``results.json`` is written last and counts: it has a checksum of itself and names the benchmarks that are done, with a
checksum of their rows in ``scores.parquet`` and ``completions.jsonl``. Rows of a benchmark that it does not name, or whose
checksum differs, are those of a command that was killed, or of a damaged file, and are not used. What is used is written
anew where the bytes are not those that it stands for: a damaged bit may change no row and still be in the file. A copy,
``results.copy.json``, is for the case that ``results.json`` itself gets damaged.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from onelayer.errors import UserError
from onelayer.evaluation.estimates import BenchmarkEstimates, category_averages, estimate_benchmark
from onelayer.storage.doors import require_own
from onelayer.storage.files import (
    atomic_path,
    checksum,
    read_sealed_or_before,
    remove_leftovers,
    sealed_text,
    write_sealed,
)
from onelayer.storage.lines import numbered_lines, read_text
from onelayer.storage.lock import LOCK_FILE
from onelayer.storage.scores import ArmScores, join_scores, read_scores, write_scores

ALL_CATEGORIES = {"Math", "Code", "Reasoning", "Language"}
SCORES, COMPLETIONS, RESULTS = "scores.parquet", "completions.jsonl", "results.json"
RESULTS_COPY = "results.copy.json"
FOUND = ("sha256", "max_rows", "reasons", *BenchmarkEstimates.__dataclass_fields__)
"""Keys of a benchmark in ``results.json`` that say what came out; all others are settings."""


@dataclass(frozen=True)
class Scored:
    """One benchmark that is done."""

    scores: ArmScores
    completions: Sequence[Mapping[str, Any]]
    entry: Mapping[str, Any]
    """Its settings and estimates, as in ``results.json``."""


@dataclass
class Results:
    """What has been scored so far.

    Args:
        what: the model and everything else that all benchmarks share.
        order: the names of all benchmarks, scored or not.
        done: those that are, by name.
    """

    what: Mapping[str, Any]
    order: Sequence[str]
    done: dict[str, Scored] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What was found out of order, in sentences."""

    @property
    def scored(self) -> list[Scored]:
        """The benchmarks that are done, in their order."""
        return [self.done[name] for name in self.order if name in self.done]

    def add(
        self, name: str, scores: ArmScores, settings: Mapping[str, Any], completions: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Add the completions of a benchmark."""
        estimates = asdict(estimate_benchmark(scores))
        entry = {**settings, **estimates, "sha256": _digest(scores, completions)}
        self.done[name] = Scored(scores, completions, entry)

    def averages(self) -> dict[str, float]:
        """Mean over the benchmarks of each category; with all four of them also their mean, ``overall``."""
        entries = [each.entry for each in self.scored]
        averages = {entry["name"]: entry["avg_at_k"]["value"] for entry in entries}
        categories = category_averages(averages, {entry["name"]: entry["category"] for entry in entries})
        if categories.keys() >= ALL_CATEGORIES:
            categories["overall"] = float(np.mean([categories[name] for name in sorted(ALL_CATEGORIES)]))
        return categories

    def write(self, output: Path) -> None:
        """Write all that is done, ``results.json`` last.

        Raises:
            WriteFailed: the disk refused it; what was done before still counts.
        """
        with atomic_path(output / SCORES) as temporary:
            self._write_scores(temporary)
        with atomic_path(output / COMPLETIONS) as temporary:
            temporary.write_text(self._lines(), encoding="utf-8")
        for name in (RESULTS, RESULTS_COPY):
            write_sealed(output / name, self._record())

    def mend(self, output: Path) -> None:
        """Write the files anew whose bytes are not those that :meth:`write` would write, and note which.

        Raises:
            WriteFailed: the disk refused it.
        """
        if not self.done:
            return
        with TemporaryDirectory() as elsewhere:
            right = Path(elsewhere)
            self._write_scores(right / SCORES)
            (right / COMPLETIONS).write_text(self._lines(), encoding="utf-8")
            for name in (RESULTS, RESULTS_COPY):
                (right / name).write_text(sealed_text(self._record()), encoding="utf-8")
            wrong = [path.name for path in sorted(right.iterdir()) if not _same(output / path.name, path)]
        if wrong:
            self.write(output)
            self.notes.append(f"{' and '.join(wrong)} did not hold exactly what was done; written anew")

    def _write_scores(self, path: Path) -> None:
        write_scores(path, join_scores([each.scores for each in self.scored]))

    def _lines(self) -> str:
        return "".join(json.dumps(row) + "\n" for each in self.scored for row in each.completions)

    def _record(self) -> dict[str, Any]:
        return {**self.what, "categories": self.averages(), "benchmarks": [each.entry for each in self.scored]}

    def continue_from(self, output: Path) -> None:
        """Take over what an earlier command has done in the folder, which is locked; what is damaged is mended.

        Raises:
            UserError: the folder holds something else, or results of another model, code or version.
            WriteFailed: the disk refused to mend a file.
        """
        for name in (SCORES, COMPLETIONS, RESULTS, RESULTS_COPY):
            require_own(output / name)  # now, not after the hours of the first benchmark
        remove_leftovers(output)
        if not (output / RESULTS).exists():
            if {path.name for path in output.iterdir()} <= {LOCK_FILE, SCORES, COMPLETIONS, RESULTS_COPY}:
                return
            raise UserError(f"output '{output}' holds no results that could be continued: it has no {RESULTS}")
        stored, damage = read_sealed_or_before(output / RESULTS, output / RESULTS_COPY)
        self.notes += [damage] if damage else []
        entries = {str(entry["name"]): entry for entry in stored["benchmarks"]}
        if differing := [key for key, value in self.what.items() if stored.get(key) != value]:
            shown = "; ".join(f"{key} was {stored.get(key)!r}, now {self.what[key]!r}" for key in differing)
            raise UserError(f"output '{output}' cannot be continued: {shown}")
        if others := [name for name in entries if name not in self.order]:
            raise UserError(f"output '{output}' has scores of '{others[0]}', which is not among the benchmarks now")
        for name, entry in entries.items():
            try:
                scores, rows = _of_benchmark(read_scores(output / SCORES), name), _rows(output / COMPLETIONS, name)
            except (UserError, OSError, ValueError, KeyError, TypeError):
                scores, rows = None, []
            if scores is None or _digest(scores, rows) != entry.get("sha256"):
                self.notes.append(f"the stored scores of '{name}' are damaged; it is scored again")
            else:
                self.done[name] = Scored(scores, rows, entry)
        self.mend(output)

    def check(self, name: str, settings: Mapping[str, Any]) -> None:
        """Compare the settings of a benchmark that is done with those of now.

        Raises:
            UserError: they differ.
        """
        was = {key: value for key, value in self.done[name].entry.items() if key not in FOUND}
        now = json.loads(json.dumps({key: value for key, value in settings.items() if key not in FOUND}))
        if differing := sorted(key for key in was.keys() | now.keys() if was.get(key) != now.get(key)):
            shown = "; ".join(f"{key} was {was.get(key)!r}, now {now.get(key)!r}" for key in differing)
            raise UserError(f"benchmark '{name}' was scored with other settings: {shown}")


def _of_benchmark(scores: ArmScores, name: str) -> ArmScores | None:
    rows = [row for row, benchmark in enumerate(scores.benchmark) if benchmark == name]
    if not rows:
        return None
    arrays = {key: getattr(scores, key)[rows] for key in ("problem", "sample", "reward", "length", "truncated")}
    reasons = [scores.reason[row] for row in rows] if scores.reason else []
    return ArmScores(benchmark=[name] * len(rows), reason=reasons if any(reasons) else None, **arrays)


def _rows(path: Path, name: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for _, line in numbered_lines(read_text(path))]
    return [row for row in rows if row["benchmark"] == name]


def _same(path: Path, other: Path) -> bool:
    return path.is_file() and checksum(path) == checksum(other)


def _digest(scores: ArmScores, completions: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 of a benchmark's rows in both files."""
    columns = [getattr(scores, key).tolist() for key in ("problem", "sample", "reward", "length", "truncated")]
    content = [columns, list(scores.reason or []), list(completions)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
