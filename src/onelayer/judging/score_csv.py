"""Scores measured elsewhere, from a CSV file in one of two forms.

wide: ``setting,layer,<benchmark>,...`` with one row for the base, one for full training and one a layer: averages only.
long: ``setting,layer,seed,problem,sample,score`` (and ``benchmark``, if there are several): one row a scored answer.

``setting`` is ``base``, ``full``, anything with a number in ``layer``, or the name of another arm (a strategy). Case
does not matter. Every complaint names the row as a text editor counts it: the header is row 1.
"""

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from onelayer.errors import UserError
from onelayer.judging.contrasts import AverageScores, benchmark_weights
from onelayer.judging.measured import MeasuredScores, pair_arms
from onelayer.storage.arm_names import BASE, FULL, layer_alone
from onelayer.storage.lines import read_text
from onelayer.storage.scores import Key

LONG_COLUMNS = ("setting", "layer", "seed", "problem", "sample", "score")


@dataclass(frozen=True)
class Row:
    """A row of the file: its number, its cells by lower-case column name, and the arm it belongs to."""

    number: int
    cells: Mapping[str, str]
    arm: str
    layer: int | None


def read_csv(
    path: Path,
    *,
    score_sd: float | None = None,
    score_range: tuple[float, float] | None = None,
    categories: Mapping[str, str] | None = None,
) -> MeasuredScores:
    """Read scores from a wide or a long CSV file.

    Args:
        path: the file.
        score_sd: the standard deviation of an average, in the file's unit; for the wide form only.
        score_range: the lowest and highest possible score; None is 0 to 1, or 0 to 100 if most scores are above 1.
        categories: benchmark -> category, for the mean of category averages (C_all); None for the mean of benchmarks.

    Raises:
        UserError: whatever is wrong with the file, naming the row and the reason.
    """
    columns, rows = _read_rows(path)
    if {"problem", "score"} & set(columns):
        if score_sd is not None:
            raise UserError(f"{path} has a score for each problem, which says more than --score-sd; leave that out")
        return _read_long(path, columns, rows, score_range, categories)
    return _read_wide(path, columns, rows, score_sd, score_range, categories)


def _read_wide(
    path: Path,
    columns: Sequence[str],
    rows: Sequence[Row],
    score_sd: float | None,
    score_range: tuple[float, float] | None,
    categories: Mapping[str, str] | None,
) -> MeasuredScores:
    first_row: dict[str, int] = {}
    for row in rows:
        if row.arm in first_row:
            raise UserError(f"{path} row {row.number}: '{row.arm}' is already in row {first_row[row.arm]}")
        first_row[row.arm] = row.number
    _require_base_and_full(path, rows)
    benchmarks, notes = _benchmarks(path, [name for name in columns if name not in ("setting", "layer")], rows)
    table = {row.arm: {name: _number(path, row, name) for name in benchmarks} for row in rows}
    _check_range(path, [(row, name, table[row.arm][name]) for row in rows for name in benchmarks], score_range)
    weights = benchmark_weights(benchmarks, categories)
    means = {arm: math.fsum(weights[name] * scores[name] for name in benchmarks) for arm, scores in table.items()}
    return MeasuredScores(
        scores=AverageScores(means, score_sd),
        layers=_layers(rows),
        others=_others(rows),
        seeds=dict.fromkeys(means, 1),
        num_samples=None,
        notes=notes,
    )


def _read_long(
    path: Path,
    columns: Sequence[str],
    rows: Sequence[Row],
    score_range: tuple[float, float] | None,
    categories: Mapping[str, str] | None,
) -> MeasuredScores:
    if missing := [name for name in LONG_COLUMNS if name not in columns]:
        raise UserError(f"{path} lacks the column '{missing[0]}'; the long form needs {','.join(LONG_COLUMNS)}")
    _require_base_and_full(path, rows)
    first_row: dict[tuple[str, ...], int] = {}
    samples: dict[str, dict[str, dict[Key, list[float]]]] = {}
    checked = []
    for row in rows:
        benchmark, problem, seed, sample = (row.cells.get(c, "") for c in ("benchmark", "problem", "seed", "sample"))
        if not problem:
            raise UserError(f"{path} row {row.number}: no problem is named")
        identity = (row.arm, seed, benchmark, problem, sample)
        if identity in first_row:
            raise UserError(
                f"{path} row {row.number}: sample {sample or 'without number'} of problem {problem} of '{row.arm}' "
                f"(seed {seed or 'without number'}) is already in row {first_row[identity]}"
            )
        first_row[identity] = row.number
        score = _number(path, row, "score")
        checked.append((row, "score", score))
        key = (benchmark or "all", problem)
        samples.setdefault(row.arm, {}).setdefault(seed, {}).setdefault(key, []).append(score)
    _check_range(path, checked, score_range)
    means = {
        arm: [{key: math.fsum(scores) / len(scores) for key, scores in by_key.items()} for by_key in by_seed.values()]
        for arm, by_seed in samples.items()
    }
    return MeasuredScores(
        scores=pair_arms(means, categories),
        layers=_layers(rows),
        others=_others(rows),
        seeds={arm: len(seeds) for arm, seeds in means.items()},
        num_samples=max(len(s) for by_seed in samples.values() for by_key in by_seed.values() for s in by_key.values()),
    )


def _read_rows(path: Path) -> tuple[list[str], list[Row]]:
    """Return the lower-case column names and the rows, with the arm of each."""
    try:
        # A stream, and not a list of lines: it ends lines where CSV does, and not inside of quotes.
        reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
        lines = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as CSV: {error}") from error
    if len(lines) < 2:
        raise UserError(f"{path} is empty; it needs a header and rows for the base, for full and for layers")
    columns = [cell.strip().lower() for cell in lines[0][1]]
    for name in ("setting", "layer"):
        if name not in columns:
            raise UserError(f"{path} lacks the column '{name}'; the header starts with setting,layer")
    if repeated := [name for name in columns if columns.count(name) > 1]:
        raise UserError(f"{path} has the column '{repeated[0]}' twice")
    rows = []
    for number, cells in lines[1:]:
        if len(cells) != len(columns):
            raise UserError(f"{path} row {number}: {len(cells)} cells where the header has {len(columns)}")
        row = dict(zip(columns, (cell.strip() for cell in cells), strict=True))
        rows.append(Row(number, row, *_arm(path, number, row["setting"], row["layer"])))
    return columns, rows


def _arm(path: Path, number: int, setting: str, layer: str) -> tuple[str, int | None]:
    """Return the arm's name and, for a single layer, its index."""
    name = setting.lower()
    if layer:
        if not re.fullmatch(r"\d+", layer):
            raise UserError(f"{path} row {number}: the layer '{layer}' is not an index such as 0 or 14")
        named = re.fullmatch(r"layer[ _-]*(\d+)", name)
        if name in (BASE, FULL) or (named and int(named[1]) != int(layer)):
            raise UserError(f"{path} row {number}: the setting '{setting}' contradicts the layer {layer}")
        return layer_alone(int(layer)), int(layer)
    if not name:
        raise UserError(f"{path} row {number}: neither a setting nor a layer is named")
    if re.match(r"layer[ _-]*\d*$", name):
        raise UserError(f"{path} row {number}: '{setting}' has no index in the column 'layer'")
    return name, None


def _require_base_and_full(path: Path, rows: Sequence[Row]) -> None:
    arms = {row.arm for row in rows}
    for name in (BASE, FULL):
        if name not in arms:
            raise UserError(f"{path} has no row whose setting is '{name}'; contributions compare with base and full")
    if not _layers(rows):
        raise UserError(f"{path} has no row with an index in the column 'layer'")


def _benchmarks(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> tuple[list[str], tuple[str, ...]]:
    """Return the columns that are benchmarks: not averages of others, and not contributions computed already."""
    if not columns:
        raise UserError(f"{path} has no column with scores; the wide form is setting,layer,<benchmark>,...")
    cells = {row.arm: row.cells for row in rows if row.arm in (BASE, FULL)}

    def is_contribution(name: str) -> bool:
        # A benchmark may be called c_eval, so the name alone does not decide: C is 0 for the base and 1 for full.
        ends = [cells[arm][name] for arm in (BASE, FULL)]
        return bool(re.fullmatch(r"c|c_.*|contribution", name)) and [_to_float(end) for end in ends] == [0.0, 1.0]

    averages = [name for name in columns if re.fullmatch(r"(.*[ _-])?(avg|average|mean|overall)", name)]
    contributions = [name for name in columns if is_contribution(name)]
    benchmarks = [name for name in columns if name not in averages and name not in contributions] or averages
    if not benchmarks:
        raise UserError(f"{path} has contributions ({', '.join(contributions)}) but no scores to compute them from")
    left_out = [name for name in columns if name not in benchmarks]
    note = f"The score is the mean of {', '.join(benchmarks)}; left out as computed from others: {', '.join(left_out)}."
    return benchmarks, (note,) if left_out else ()


def _check_range(path: Path, scores: Iterable[tuple[Row, str, float]], score_range: tuple[float, float] | None) -> None:
    scores = list(scores)
    low, high = score_range or (0.0, 100.0 if median(value for _, _, value in scores) > 1 else 1.0)
    for row, column, value in scores:
        if not low <= value <= high:
            raise UserError(
                f"{path} row {row.number}: {column} of '{row.arm}' is {value:g}, outside {low:g} to {high:g}; give "
                "--score-range if scores can be that"
            )


def _number(path: Path, row: Row, column: str) -> float:
    value = _to_float(row.cells[column])
    if value is None or not math.isfinite(value):
        raise UserError(
            f"{path} row {row.number}: {column} of '{row.arm}' is '{row.cells[column]}', which is not a finite number"
        )
    return value


def _to_float(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _layers(rows: Sequence[Row]) -> dict[int, str]:
    return {row.layer: row.arm for row in sorted(rows, key=lambda row: row.arm) if row.layer is not None}


def _others(rows: Sequence[Row]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(row.arm for row in rows if row.layer is None and row.arm not in (BASE, FULL)))
