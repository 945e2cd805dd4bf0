"""The documentation: it builds without a warning, its links lead somewhere, and it names what the code writes."""

import contextlib
import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import click
import pyarrow.parquet as pq
import pytest

from onelayer.commands.cli import cli
from onelayer.config.algorithm import ALGORITHM_SETTINGS
from onelayer.config.configs import ScanConfig
from onelayer.judging.contribution import Verdict
from onelayer.report import pictures
from onelayer.training.guards import GUARDS
from tests.conftest import Command

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("src/**/*.md")])
SOURCE = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "src").rglob("*.py")))


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    """What stands under a heading of the second level."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"there is no section '{heading}'"
    return found[1]


def named(text: str) -> set[str]:
    """Everything between single backticks."""
    return set(re.findall(r"`([^`\n]+)`", text))


def first_column(text: str) -> set[str]:
    """What the first cells of a table's rows name."""
    cells = re.findall(r"^\| ([^|]*) \|", text, re.MULTILINE)
    return {name for cell in cells for name in named(cell)}


# --- links and the site


OF_A_USER = {"reward.py", "json.py", "program.py", "onelayer_verl.py", "test_number_grader.py"}
"""Files that pages speak of and that are not this project's."""


def lookup(name: str) -> Any:
    """What a dotted name stands for.

    Raises:
        AttributeError: nothing of that name.
    """
    parts = name.split(".")
    found = importlib.import_module(parts[0])
    for count, part in enumerate(parts[1:], start=2):
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(".".join(parts[:count]))
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("path", [*PAGES, ROOT / "docs/pictures/architecture.svg"], ids=lambda path: path.name)
def test_the_code_that_a_page_names_is_there(path: Path) -> None:
    """Files by the end of their path, and dotted names of the package."""
    text = path.read_text(encoding="utf-8")
    folders = ("src", "tests", "docs", "examples", "benchmarks", "scripts")
    files = [f"/{file.relative_to(ROOT).as_posix()}" for folder in folders for file in (ROOT / folder).rglob("*.py")]
    named_files = set(re.findall(r"(?<![\w/.-])(?:\.\./)*([\w./-]*\w\.py)\b", text))
    for name in named_files:
        assert Path(name).name in OF_A_USER or any(file.endswith(f"/{name}") for file in files), name
    for name in set(re.findall(r"`(onelayer(?:\.[a-z_A-Z]\w*)+)", text)):
        lookup(name)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_to_files(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)\s#:]+)(?:#[^)]*)?\)", text)
    assert [link for link in links if not (path.parent / link).exists()] == []


def built(tmp_path: Path) -> Path:
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("material") is None:
        pytest.skip("building the documentation needs mkdocs-material: pip install 'onelayer[docs]'")
    site = tmp_path / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return site


def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    site = built(tmp_path)
    commands, options = ((site / f"{name}.html").read_text(encoding="utf-8") for name in ("commands", "options"))
    for name in cli.commands:
        assert f'id="onelayer-{name}"' in commands
    for name in ScanConfig.model_fields:
        assert f"<code>--{name.replace('_', '-')}</code>" in options
    for path in site.rglob("*.html"):
        loaded = re.findall(r"<(?:script|img|iframe)[^>]* src=\"?([^\s\">]+)", path.read_text(encoding="utf-8"))
        loaded += re.findall(r"<link[^>]* href=\"?([^\s\">]+)", path.read_text(encoding="utf-8"))
        assert [url for url in loaded if url.startswith(("http", "//"))] == [], path.name
    for example in ("task", "grader", "algorithm", "family"):
        shown = (site / "extending" / f"{example}.html").read_text(encoding="utf-8")
        assert "tests/test_" in shown and "8&lt;" not in shown


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_have_the_options_that_are_shown(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"\bonelayer ((?:export )?[a-z-]+\b[^`\n]*)", text):
        words = re.split(r"\s&&\s|\s#|\bonelayer\b", line)[0].split()
        command: click.Command | None = cli.commands.get(words[0])
        if isinstance(command, click.Group):
            command = command.commands.get(words[1]) if len(words) > 1 else None
        if command is None:
            continue  # a sentence
        known = {name for option in command.params for name in option.opts}
        shown = [word.partition("=")[0].strip(",;.)") for word in words if word.startswith("--")]
        unknown = [flag for flag in shown if flag != "--help" and not {flag, flag.replace("-", "_")} & known]
        assert [flag for flag in unknown if f"--{flag[2:].replace('_', '-')}" not in known] == [], line


# --- metrics and files


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small scan with a grader, a divergence and a pair."""
    folder = tmp_path_factory.mktemp("documented")
    line = (
        "scan --task arithmetic-boxed --layers 0,1 --steps 2 --eval-steps 1 --beta 0.01 --pairs 2 "
        "--train-batch-size 4 --num-generations 2 --max-completion-length 6"
    )
    subprocess.run(
        [sys.executable, "-m", "onelayer", *line.split(), "--output", str(folder / "run")],
        check=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return folder / "run"


def test_every_metric_that_a_run_writes_is_on_the_page_and_no_other(run: Path) -> None:
    table = first_column(section(page("training"), "metrics.jsonl")) - {"metric"}
    lines = (run / "arms/layer-00/metrics.jsonl").read_text().splitlines()
    written = {name for line in lines for name in json.loads(line)}
    assert {"kl", "eval/score", "grader/timeout", "guard/kl"} <= written
    patterns = [re.sub("<[a-z]+>", "[a-z_]+", name) for name in table]
    assert [name for name in sorted(written) if not any(re.fullmatch(p, name) for p in patterns)] == []
    # Episodes are logged by tasks in turns only: what the code names has to be on the page.
    episodes = set(re.findall(r'"(episode/\w+)"', SOURCE)) | {"episode/ended/<reason>"}
    assert episodes <= table
    # And the page names nothing that no code writes.
    for name in table - written:
        stem = re.sub("<[a-z]+>.*", "", name)
        parts = (f'"{name}"', f'f"{stem}{{', f'"{name.rpartition("/")[2]}"')
        assert any(part in SOURCE for part in parts), f"no code writes {name}"
    guards = first_column(section(page("robustness"), "Guards while training"))
    assert {guard.name for guard in GUARDS} <= guards


def test_every_key_of_the_files_of_a_run_is_on_the_page(run: Path) -> None:
    files = page("files")
    profile = json.loads((run / "profile.json").read_text())
    told = named(section(files, "profile.json"))
    assert profile.keys() - told == set()
    assert profile["layers"][0].keys() - told == set()
    assert profile["strategies"][0].keys() - told == set()
    assert profile["pairs"][0].keys() - told == set()
    assert profile["recommended"] is None or profile["recommended"].keys() - told == set()
    for arm in ("base", "full", "layer-00"):
        record = json.loads((run / f"arms/{arm}/arm.json").read_text())
        assert record.keys() - named(section(files, "arm.json")) == set()
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest.keys() - named(section(files, "manifest.json")) == set()
    columns = set(pq.read_schema(run / "arms/full/scores.parquet").names)
    assert "reason" in columns
    assert columns == first_column(section(files, "scores.parquet")) - {"column"}
    assert set(pictures.COLUMNS) == named(section(files, "contribution.csv, contribution.png, contribution.svg"))
    folder = first_column(section(page("training"), "The folder of a run"))
    inside = {path.name for path in run.iterdir() if path.name != "arms"}
    inside |= {f"arms/NAME/{path.name}" for path in run.glob("arms/full/*")}
    assert inside - folder - named(section(page("training"), "The folder of a run")) == set()


def test_verdicts_and_algorithms_are_told() -> None:
    assert first_column(section(page("report"), "The six verdicts")) == set(get_args(Verdict))
    told = first_column(section(page("training"), "What moves C(k), and where its default comes from"))
    assert ALGORITHM_SETTINGS.keys() <= told


def test_the_plans_on_the_page_are_plans(onelayer: Command, tmp_path: Path) -> None:
    table = page("choose-layers").partition("## ")[0]
    plans = [name for name in first_column(table) if "profile.json" not in name]
    assert len(plans) > 20
    for plan in plans:
        # The bundled model has 8 layers.
        small = re.sub(r"\d+-13|14|9-13", "4", plan).replace("0,4,8", "0,4").replace("head", "embed")
        assert onelayer(f"plan '{small}' --task arithmetic")[0] == 0, small
