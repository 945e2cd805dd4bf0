"""The sentences and numbers of a report: plain text, the same in the page and in the terminal."""

from onelayer.judging.compare import Correlation
from onelayer.report.data import Scan, View

UNKNOWN = "–"


def number(value: float | None, decimals: int, signed: bool = False) -> str:
    """A number with fixed decimals, or a dash where it is unknown."""
    if value is None:
        return UNKNOWN
    return f"{value:+.{decimals}f}" if signed else f"{value:.{decimals}f}"


def percent(value: float | None, decimals: int = 1) -> str:
    """A share as a percentage, or a dash where it is unknown."""
    return UNKNOWN if value is None else f"{100 * value:.{decimals}f}\N{NO-BREAK SPACE}%"


def score_decimals(view: View) -> int:
    """Three decimals for scores that are shares, one for scores in percent."""
    scores = [row.score for row in (view.base, view.full, *view.layers) if row.score is not None]
    return 3 if max(scores) <= 1.0 else 1


def interval(ends: tuple[float, float] | None, decimals: int = 2) -> str:
    """``0.88 to 1.07``, or a dash where there is no interval."""
    return UNKNOWN if ends is None else f"{ends[0]:.{decimals}f} to {ends[1]:.{decimals}f}"


def plus_minus(value: float | None, ends: tuple[float, float] | None, decimals: int) -> str:
    """``+0.465 ± 0.040``: a difference with half the width of its interval, which is symmetric."""
    text = number(value, decimals, signed=True)
    return text if ends is None else f"{text} ± {(ends[1] - ends[0]) / 2:.{decimals}f}"


def count(n: int, singular: str) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{n:,} {singular}" if n == 1 else f"{n:,} {singular}s"


def headline(view: View) -> str:
    """The result in one sentence with its uncertainty."""
    if view.profile.refused:
        return view.profile.refused
    best = next((row for row in view.ranked if row.contribution is not None), None)
    if best is None or best.contribution is None:
        return "No layer has been judged yet."
    if best.contribution_ci:
        low, high = best.contribution_ci
        uncertainty = f"95\N{NO-BREAK SPACE}% interval {100 * low:.0f} to {100 * high:.0f}\N{NO-BREAK SPACE}%"
    else:
        uncertainty = "no interval known"
    return (
        f"{best.name.capitalize()} alone reaches {percent(best.contribution, 0)} of the gain of full training "
        f"({uncertainty}): {best.verdict}, and the best of {count(len(view.layers), 'layer')}."
    )


def basis(view: View) -> str:
    """How many runs, problems and samples the scores rest on."""
    profile = view.profile
    parts = []
    if profile.seeds:
        arms = 1 + len(view.layers) + len(view.strategies)
        most = "up to " if profile.seeds > 1 else ""
        parts.append(f"{count(arms, 'trained arm')} with {most}{count(profile.seeds, 'training seed')} each")
    if profile.num_problems:
        parts.append(count(profile.num_problems, "test problem"))
        if profile.num_samples:
            parts[-1] += f" with {count(profile.num_samples, 'sample')} each"
    return "; ".join(parts) + "." if parts else "How many runs, problems and samples it rests on is not recorded."


def bars(view: View) -> str:
    """What the interval bars mean."""
    quantity = "the difference to the base" if view.profile.refused else "C"
    known = any(row.difference_ci or row.contribution_ci for row in view.layers)
    kind = f"Bars are 95 % intervals of {quantity}." if known else "There are no bars."
    return f"{kind} {view.profile.meaning or ''}".strip()


def as_good_as_full(view: View) -> int:
    """How many layers are better than or tied with full training."""
    return sum(row.verdict in ("better than full", "tied with full") for row in view.layers)


def whole(value: float | None) -> str:
    """A count with separators."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """Seconds as a person reads them."""
    if seconds is None:
        return UNKNOWN
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def correlation(kind: str, found: Correlation) -> str:
    """A correlation with its interval and permutation p-value."""
    if found.value is None:
        return f"No {kind} correlation: one side is the same everywhere"
    text = f"{kind} correlation {found.value:+.2f}"
    if found.ci:
        text += f" (95 % interval {found.ci[0]:+.2f} to {found.ci[1]:+.2f})"
    return text if found.p_value is None else f"{text}, permutation p = {found.p_value:.3g}"


def progress(scan: Scan) -> str:
    """How far a scan is that is not done."""
    step = max((arm.metrics[-1]["step"] + 1 for arm in scan.arms if arm.metrics), default=0)
    planned = len(scan.manifest.arms) if scan.manifest else 0
    done = f"{planned - len(scan.waiting)} of {count(planned, 'arm')} are done"
    return f"{done}; the furthest has trained {count(step, 'step')}."
