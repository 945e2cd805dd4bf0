"""``reproduction.md``: each claim, what was measured, whether it holds; the scans with their commands; the pictures."""

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from onelayer.commands.reproduction.claims import Claim, all_claims, middle_layers_win
from onelayer.commands.reproduction.figures import draw_all
from onelayer.commands.reproduction.rankings import Related, related
from onelayer.commands.reproduction.results import Cost, Result, read_costs, read_results
from onelayer.commands.reproduction.study import Study
from onelayer.errors import UserError
from onelayer.storage.files import write_text

SHOWN_BASES, SHOWN_SCANS = Path("DIR/bases"), Path("DIR/scans")
"""What the page calls the folders of the study."""

CAPTIONS = {
    "curves": "C(k) with 95 % intervals; 1 is full training, 0 the base model.",
    "matrix": "Spearman's correlation of C(k) between scans, over their eight layers.",
    "strategies": "The further arms of the large scan, with 95 % intervals.",
    "depth": "Other depths and other lengths of pretraining, one training seed each.",
}


def write_page(study: Study, folder: Path) -> Path:
    """Judge what is done of a study and write ``reproduction.md`` with its pictures to its folder.

    Raises:
        UserError: nothing is done yet.
    """
    results = read_results(study, folder)
    if not results:
        raise UserError(f"output '{folder}' holds no finished scan of the {study.scale} reproduction")
    pictures = draw_all(results, folder / "reproduction")
    path = folder / "reproduction.md"
    claims = all_claims(results)
    text = render(
        study, results, claims, read_costs(folder), {name: p.relative_to(folder) for name, p in pictures.items()}
    )
    write_text(path, text)
    return path


def render(
    study: Study,
    results: Mapping[str, Result],
    claims: Sequence[Claim],
    costs: Mapping[str, Cost],
    pictures: Mapping[str, Path],
) -> str:
    """The page as Markdown; ``pictures`` are paths beside it."""
    missing = [scan.name for scan in study.scans if scan.name not in results]
    parts = [_head(study, results, costs, missing), _summary(claims)]
    if "curves" in pictures:
        parts.append(_picture("curves", pictures))
    parts += ["## The claims one by one", *(_claim(claim) for claim in claims)]
    ranked = [result for result in results.values() if result.curve and result.scan.part != "depth"]
    parts += ["## Rank correlations"]
    if "matrix" in pictures:
        parts.append(_picture("matrix", pictures))
    parts.append(_correlations(related(ranked)))
    if "strategies" in pictures:
        parts += ["## Strategies", _picture("strategies", pictures)]
    if "depth" in pictures:
        aside = [result for result in results.values() if result.scan.part == "depth" and result.judged]
        claim = middle_layers_win(aside)
        parts += ["## When does the middle begin to win?", _picture("depth", pictures), _listed(claim.measured)]
    parts += ["## The scans", _scans(results, costs)]
    return "\n\n".join(parts) + "\n"


def _head(study: Study, results: Mapping[str, Result], costs: Mapping[str, Cost], missing: Sequence[str]) -> str:
    versions = next(iter(results.values())).profile.versions
    seconds = sum(cost.processor for cost in costs.values())
    libraries = ", ".join(
        f"{name} {versions[name]}" for name in ("torch", "transformers", "onelayer") if name in versions
    )
    lines = [
        "# The paper in small",
        "",
        f"    onelayer reproduce --scale {study.scale} --output DIR",
        "",
        f"wrote this page: {len(results)} scans, {seconds / 3600:.1f} hours of processor time on {platform.machine()}, "
        f"Python {platform.python_version()}, {libraries}.",
        "",
        "The models are exercises of some hundred thousand parameters that were pretrained on text with a wrong habit, not "
        "language models; what holds for them need not hold for large ones, nor the other way round. Each scan takes the "
        "learning rate, of those tried, with which full training is best on the selection problems. All scores are on test "
        "problems. Verdicts and intervals are those of [the statistics](statistics.md).",
    ]
    if missing:
        lines += ["", f"**Not done yet: {', '.join(missing)}.**"]
    return "\n".join(lines)


def _summary(claims: Sequence[Claim]) -> str:
    counts = Counter(claim.judgement for claim in claims)
    rows = [f"| {claim.title} | {claim.paper} | **{claim.judgement}** |" for claim in claims]
    return "\n".join(
        [
            f"{counts['holds']} claims hold here, {counts['does not hold']} do not; for {counts['cannot tell']} these scans "
            "cannot tell.",
            "",
            "| claim | the paper | here |",
            "|---|---|---|",
            *rows,
        ]
    )


def _claim(claim: Claim) -> str:
    head = f"### {claim.title}\n\nThe paper: {claim.paper}. Here: **{claim.judgement}**."
    return "\n\n".join([head, _listed(claim.measured), f"Rule: {claim.rule}"])


def _listed(pieces: Sequence[str]) -> str:
    return "\n".join(f"- {piece}" for piece in pieces)


def _picture(name: str, pictures: Mapping[str, Path]) -> str:
    return f"![{CAPTIONS[name]}]({pictures[name].as_posix()})\n\n{CAPTIONS[name]}"


def _correlations(pairs: Sequence[Related]) -> str:
    rows = []
    for pair in pairs:
        found = pair.correlation
        value = "-" if found.value is None else f"{found.value:.2f}"
        interval = "-" if found.ci is None else f"{found.ci[0]:.2f} to {found.ci[1]:.2f}"
        rows.append(f"| {pair.group} | {pair.first} | {pair.second} | {value} | {interval} |")
    return "\n".join(["| other | ranking | ranking | Spearman | 95 % interval |", "|---|---|---|---|---|", *rows])


def _scans(results: Mapping[str, Result], costs: Mapping[str, Cost]) -> str:
    head = "| scan | rate | base | full | C by layer | processor min |\n|---|---|---|---|---|---|"
    rows, commands = [], []
    for result in results.values():
        profile = result.profile
        curve = " ".join(f"{value:.2f}" for value in result.curve.values()) or f"refused: {profile.refused}"
        cost = costs.get(result.name)
        minutes = f"{cost.processor / 60:.1f}" if cost else "-"
        scores = f"{profile.base_score:.3f} | {profile.full_score:.3f}"
        rows.append(f"| {result.name} | {result.learning_rate:g} | {scores} | {curve} | {minutes} |")
        commands.append(result.scan.command(SHOWN_BASES, SHOWN_SCANS))
    made = dict.fromkeys(result.scan.base for result in results.values() if not result.scan.base.bundled)
    making = [
        " ".join(["python -m onelayer.commands.reproduction.pretraining", *b.arguments(SHOWN_BASES / b.name)])
        for b in made
    ]
    block = "\n".join(f"    {command}" for command in [*making, *commands])
    return f"{head}\n" + "\n".join(rows) + f"\n\nThe commands behind them:\n\n{block}"
