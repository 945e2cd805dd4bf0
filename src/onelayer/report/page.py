"""The report of one or several scans: one HTML page that needs no network, with the pictures and numbers beside it."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from onelayer.errors import UserError
from onelayer.judging.compare import Comparison
from onelayer.judging.recommend import Recommendation
from onelayer.report import figures, tables, wording
from onelayer.report.comparison import heat_map, overlay, pairs_table, stability_table
from onelayer.report.curves import curves
from onelayer.report.data import Scan, View, layer_change, read_scan
from onelayer.report.episodes import Transcript, transcripts
from onelayer.report.figures import Picture
from onelayer.report.pictures import write_pictures
from onelayer.report.tables import Table
from onelayer.storage.files import make_folder, write_text
from onelayer.training.guards import sentences
from onelayer.version import __version__

NOT_SHOWN = ("config", "versions", "arms", "sets", "code", "checksum")
"""Keys of the manifest that the page shows elsewhere, or that tell a reader nothing."""
REFRESH_SECONDS = 20
"""How often the page of a running scan loads itself again."""


@dataclass(frozen=True)
class ReportFiles:
    """Where a report was written: the page, and PNG, SVG and CSV of the profile once its scan is done."""

    html: Path
    pictures: tuple[Path, ...]


@dataclass(frozen=True)
class Tile:
    """A number worth a glance."""

    label: str
    value: str
    note: str


@dataclass(frozen=True)
class Section:
    """All that the page says about one scan. What is None or empty is not shown."""

    name: str
    headline: str
    about: str
    progress: str | None
    """How far the scan is, while it runs."""
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    tiles: tuple[Tile, ...] = ()
    contribution: Picture | None = None
    ranking: Table | None = None
    recommended: Recommendation | None = None
    strategies: Picture | None = None
    strategy_table: Table | None = None
    pairs: Table | None = None
    guards: Table | None = None
    change: Picture | None = None
    curves: tuple[Picture, ...] = ()
    transcripts: tuple[Transcript, ...] = ()
    commands: tuple[str, ...] = ()
    facts: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = ()


def _tiles(view: View) -> list[Tile]:
    """The scores of base and full, the gain, and how many layers reach it."""
    decimals, profile = wording.score_decimals(view), view.profile
    note = f"95 % interval {wording.interval(profile.gain_ci, decimals)}" if profile.gain_ci else "no interval"
    tiles = [
        Tile("Base score", wording.number(view.base.score, decimals), "before training"),
        Tile("Full training", wording.number(view.full.score, decimals), "all parameters"),
        Tile("Gain", wording.number(view.full.difference, decimals, signed=True), note),
    ]
    if profile.refused is None and view.layers:
        good = f"{wording.as_good_as_full(view)} of {len(view.layers)}"
        tiles.append(Tile("As good as full", good, "layers tied with or better"))
    return tiles


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted keys with their value as text."""
    pairs: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            pairs += _flat(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            pairs.append((f"{prefix}{key}", text))
    return pairs


def _commands(scan: Scan) -> list[str]:
    """How to get the same numbers again; nothing for scores that were measured elsewhere without a command."""
    folder = shlex.quote(scan.folder.name)
    recorded = (scan.view.profile.model_extra or {}).get("command") if scan.view else None
    if recorded:
        return [recorded if isinstance(recorded, str) else shlex.join(recorded)]
    if scan.manifest is None:
        return []
    again = shlex.quote(f"{scan.folder.name}-again")
    return [f"onelayer scan --config {folder}/config.yaml --output {again}", f"onelayer report {folder}"]


def _facts(scan: Scan) -> list[tuple[str, tuple[tuple[str, str], ...]]]:
    """What identifies the run: what was scored, on what it ran, every setting, the versions."""
    values = scan.view.profile.model_dump() if scan.view else {}
    keys = ("model", "task", "algorithm", "num_layers", "seeds", "seed_sd", "num_problems", "num_samples")
    known = {key: values[key] for key in keys if values.get(key) is not None}
    manifest = scan.manifest.model_dump(exclude_unset=True) if scan.manifest else {}
    pinned = {key: value for key, value in manifest.items() if key not in NOT_SHOWN}
    groups = [
        ("Scan", known | pinned),
        ("Settings (config.yaml)", scan.settings),
        ("Versions", values.get("versions") or manifest.get("versions", {})),
    ]
    return [(name, tuple(_flat(group))) for name, group in groups if group]


def make_section(scan: Scan) -> Section:
    """Everything the page says about one scan."""
    view = scan.view
    num_layers = view.profile.num_layers if view else (scan.manifest.num_layers if scan.manifest else 1)
    section = Section(
        name=scan.folder.name,
        headline="The scan is running; contributions are known once full training and a layer are scored.",
        about=scan.name,
        progress=wording.progress(scan) if scan.running else None,
        curves=tuple(curves(scan.arms, num_layers, scan.settings)),
        transcripts=transcripts(scan),
        commands=tuple(_commands(scan)),
        facts=tuple(_facts(scan)),
        ranking=tables.scored_so_far(scan),
        guards=tables.guards(scan),
        warnings=tuple(dict.fromkeys(text for arm in scan.arms for row in arm.metrics for text in sentences(row))),
    )
    if view is None:
        return section
    profile = view.profile
    return replace(
        section,
        headline=wording.headline(view),
        about=f"{profile.model} · {profile.task} · {profile.algorithm} · {profile.num_layers} layers",
        warnings=tuple(dict.fromkeys((*profile.warnings, *section.warnings))),
        notes=tuple(profile.notes),
        tiles=tuple(_tiles(view)),
        contribution=figures.contribution(view) if view.layers else None,
        ranking=tables.ranking(view) if view.layers else None,
        recommended=profile.recommended,
        change=figures.change(view, layer_change(scan)),
        strategies=figures.strategies(view) if view.strategies else None,
        strategy_table=tables.strategies(view) if view.strategies else None,
        pairs=tables.pairs(view) if profile.pairs else None,
    )


def _plotly(figure: Any) -> Markup:
    """A figure as JSON that is safe inside a script element: <, >, & and quotes are written as escapes."""
    return htmlsafe_json_dumps(json.loads(figure.to_json()))


@dataclass(frozen=True)
class Overview:
    """What stands above the sections of several scans."""

    headline: str
    about: str
    overlay: Picture
    heat_map: Picture | None
    tables: tuple[Table, ...]


def make_overview(scans: Sequence[Scan], comparison: Comparison | None) -> Overview:
    """Everything the page says about several scans together."""
    headline, tables_shown = f"{len(scans)} profiles side by side", []
    if comparison is not None:
        tables_shown = [pairs_table(comparison), stability_table(comparison)]
        if len(comparison.pairs) == 1:
            pair = comparison.pairs[0]
            headline = f"{pair.first} and {pair.second}: {wording.correlation('Spearman', pair.spearman)}."
    return Overview(
        headline=headline,
        about=" / ".join(dict.fromkeys(scan.name for scan in scans)),
        overlay=overlay(scans),
        heat_map=heat_map(comparison) if comparison is not None and len(comparison.names) > 2 else None,
        tables=tuple(table for table in tables_shown if table is not None),
    )


def render(scans: Sequence[Scan], comparison: Comparison | None = None) -> str:
    """The whole page as text."""
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("onelayer.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["plotly"] = _plotly
    assets = files("onelayer.report") / "templates"
    return environment.get_template("page.html.j2").render(
        title=" / ".join(dict.fromkeys(scan.name for scan in scans)),
        sections=[make_section(scan) for scan in scans],
        overview=make_overview(scans, comparison) if len(scans) > 1 else None,
        refresh=REFRESH_SECONDS if any(scan.running for scan in scans) else None,
        style=Markup((assets / "style.css").read_text(encoding="utf-8")),
        script=Markup((assets / "page.js").read_text(encoding="utf-8")),
        plotly_js=Markup(get_plotlyjs()),
        version=__version__,
        zip=zip,
    )


def write_report(
    folders: Sequence[Path], output: Path | None = None, comparison: Comparison | None = None
) -> ReportFiles:
    """Write report.html for scan folders and, for a single finished scan, its pictures and numbers beside it.

    Args:
        folders: scan folders, finished or still running, or folders with only a profile.json.
        output: the folder to write to; for a single scan it may be left out and is then the scan's own folder.
        comparison: how far the profiles agree, shown above them.

    Raises:
        UserError: no folder, several without an output, one that is no scan, a damaged file.
    """
    if not folders:
        raise UserError("A report needs at least one scan folder")
    if output is None and len(folders) > 1:
        raise UserError(f"A report on {len(folders)} scans needs a folder to be written to; give --output DIR")
    target = folders[0] if output is None else output
    scans = [read_scan(folder) for folder in folders]
    page = render(scans, comparison)
    make_folder(target)
    html = target / "report.html"
    write_text(html, page)
    only = scans[0].view if len(scans) == 1 and not scans[0].running else None
    return ReportFiles(html, () if only is None else write_pictures(only, target))
