"""Judging several profiles together: no model, no training."""

from collections.abc import Sequence
from pathlib import Path

from onelayer.errors import UserError
from onelayer.judging.compare import Comparison, Curve, compare
from onelayer.judging.measured import read_measured
from onelayer.judging.profile import Profile
from onelayer.report.page import ReportFiles, write_report


def compare_profiles(
    folders: Sequence[Path], output: Path, *, across_tasks: bool, seed: int
) -> tuple[Comparison, ReportFiles]:
    """Compare the profiles of several folders; where they are scans, problems are resampled too.

    Raises:
        UserError: fewer than two folders, one without a profile, a refused profile, or different tasks.
    """
    if len(folders) < 2:
        raise UserError("a comparison takes at least two folders, each with a profile.json")
    curves = []
    for name, folder in zip(_names(folders), folders, strict=True):
        measured = read_measured(folder) if (folder / "arms").is_dir() else None
        curves.append(Curve.from_profile(name, Profile.load(folder), measured))
    comparison = compare(curves, across_tasks=across_tasks, seed=seed)
    return comparison, write_report(folders, output, comparison)


def _names(folders: Sequence[Path]) -> list[str]:
    """Short names: the folders' own, or their paths where these repeat."""
    own = [folder.resolve().name for folder in folders]
    return own if len(set(own)) == len(own) else [str(folder) for folder in folders]
