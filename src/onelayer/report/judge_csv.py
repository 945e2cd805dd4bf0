"""Judging what was measured elsewhere: no model, no training."""

from collections.abc import Mapping
from pathlib import Path

from onelayer.errors import UserError
from onelayer.judging.contribution import analyse
from onelayer.judging.profile import Profile, build_profile
from onelayer.judging.recommend import recommend
from onelayer.judging.score_csv import read_csv
from onelayer.report.page import ReportFiles, write_report
from onelayer.report.pictures import PICTURES
from onelayer.storage.files import in_use, make_folder
from onelayer.version import __version__


def judge_csv(
    path: Path,
    output: Path,
    *,
    num_layers: int | None = None,
    score_sd: float | None = None,
    score_range: tuple[float, float] | None = None,
    categories: Mapping[str, str] | None = None,
    model: str = "measured elsewhere",
    task: str | None = None,
) -> tuple[Profile, ReportFiles]:
    """Judge the scores of a CSV file and write profile and report to a new folder.

    Args:
        path: a wide or long CSV file (see ``score_csv``).
        output: a folder that does not exist yet or is empty.
        num_layers: of the model; by default one more than the highest layer in the file.
        score_sd: standard deviation of an average, in the file's unit, for files of averages.
        score_range: lowest and highest possible score; None guesses 0 to 1 or 0 to 100.
        categories: benchmark -> category; the score is then the mean of category averages and C is the paper's C_all.
        model: the model's name, for the report.
        task: the task's name; by default the file's.

    Raises:
        UserError: whatever is wrong with the file, or an output folder that is in use.
    """
    if output.exists() and not _begun(output):
        raise in_use(output)
    measured = read_csv(path, score_sd=score_sd, score_range=score_range, categories=categories)
    highest = max(measured.layers)
    if num_layers is not None and num_layers <= highest:
        raise UserError(
            f"option num_layers = {num_layers}: the file has a layer {highest}, so it is at least {highest + 1}"
        )
    contribution = analyse(
        measured.scores, measured.layers, num_layers=num_layers or highest + 1, others=measured.others
    )
    profile = build_profile(
        contribution,
        measured,
        model=model,
        task=task or path.stem,
        algorithm="measured elsewhere",
        versions={"onelayer": __version__},
        recommended=recommend(measured.scores, contribution),
        partial=len(measured.layers) < contribution.num_layers,
    )
    make_folder(output)
    profile.save(output / "profile.json")
    return profile, write_report([output])


def _begun(output: Path) -> bool:
    """Whether a folder holds nothing, or only what is left of a judging that was killed before its last file."""
    if not output.is_dir():
        return False
    found = {path.name for path in output.iterdir() if not path.name.endswith(".tmp")}
    return found <= {"profile.json", "report.html", *PICTURES[:-1]}


def parse_categories(text: str) -> dict[str, str]:
    """Benchmark -> category, from ``Math=gsm8k,math500;Code=humaneval``.

    Raises:
        UserError: text of another form, or a benchmark in two categories.
    """
    categories: dict[str, str] = {}
    for group in text.split(";"):
        category, equals, names = group.partition("=")
        benchmarks = [name.strip() for name in names.split(",") if name.strip()]
        if not equals or not category.strip() or not benchmarks:
            raise UserError(f"option categories = '{group}': write for example Math=gsm8k,math500;Code=humaneval")
        if twice := [name for name in benchmarks if name in categories]:
            raise UserError(f"option categories: benchmark '{twice[0]}' is in two categories")
        categories |= dict.fromkeys(benchmarks, category.strip())
    return categories
