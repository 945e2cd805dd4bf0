"""The sdist and the wheel as a user gets them: built from the sdist, installed where no source tree is in reach, and run.

Nothing is downloaded: the build runs without isolation, and the clean environment borrows the dependencies of this one.
"""

import email
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from onelayer import __version__
from onelayer.config.sources import preset_names

ROOT = Path(__file__).resolve().parent.parent
NOT_SOURCES = ("build", "dist", "runs", "shared", "site")
"""Folders at the top that git does not keep."""
MODELS = ("qwen3-arithmetic", "qwen2.5-arithmetic", "qwen3-arithmetic-boxed", "qwen3-code", "qwen3-household")
MB = 10**6

Installed = Callable[..., str]
"""Run a program of the clean environment in an empty folder: what it printed."""


class Built(NamedTuple):
    """What is uploaded."""

    sdist: Path
    wheel: Path


def _not_sources(folder: str, names: list[str]) -> set[str]:
    """What git does not keep: some folders at the top, and some names everywhere."""
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info")(folder, names)
    return ignored | (set(NOT_SOURCES) if Path(folder) == ROOT else set())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """An sdist of a copy of this tree, and a wheel of that sdist alone."""
    work = tmp_path_factory.mktemp("build")
    source, dist = work / "source", work / "dist"
    # A copy: building leaves files behind, and what an earlier build left must not get in.
    shutil.copytree(ROOT, source, ignore=_not_sources)
    hook = f"from setuptools import build_meta; build_meta.build_sdist({str(dist)!r})"
    run(sys.executable, "-c", hook, cwd=source)
    (sdist,) = dist.iterdir()
    offline = ("--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "wheel", *offline, "--wheel-dir", dist, sdist, cwd=work)
    (wheel,) = dist.glob("*.whl")
    return Built(sdist, wheel)


def run(*command: object, cwd: Path | None = None, **environment: str) -> str:
    """Run a program that has to succeed; PYTHONPATH, which may lead to the sources, is not handed on."""
    own = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ran = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=own | environment, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, f"{command}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout


def files_below(folder: Path) -> set[Path]:
    """What is to be shipped of a folder."""
    return {
        path
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """A new environment that holds the wheel."""
    clean = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", clean)
    pip = (sys.executable, "-m", "pip", "--python", clean / "bin/python")
    run(*pip, "install", "--no-index", "--no-deps", "--disable-pip-version-check", built.wheel)
    # A path in a .pth file is searched, but its own .pth files are not read: an editable installation stays out of reach.
    (site,) = clean.glob("lib/python*/site-packages")
    paths = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    (site / "dependencies.pth").write_text("".join(f"{path}\n" for path in paths))
    empty = tmp_path_factory.mktemp("empty")

    def program(name: str, *arguments: str) -> str:
        return run(clean / "bin" / name, *arguments, cwd=empty)

    assert Path(program("python", "-c", "import onelayer; print(onelayer.__file__)").strip()).is_relative_to(site)
    return program


def wheel_files(built: Built) -> dict[str, int]:
    with zipfile.ZipFile(built.wheel) as file:
        return {entry.filename: entry.file_size for entry in file.infolist()}


def metadata(built: Built) -> Message:
    with zipfile.ZipFile(built.wheel) as file:
        (name,) = (name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(file.read(name))


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(built: Built) -> None:
    package = ROOT / "src/onelayer"
    sources = {f"onelayer/{path.relative_to(package).as_posix()}" for path in files_below(package)}
    found = {name for name in wheel_files(built) if ".dist-info/" not in name}
    assert found == sources
    for model in MODELS:
        assert {f"onelayer/bundled/{model}/{name}" for name in ("model.safetensors", "tokenizer.json")} <= found
    assert {f"onelayer/presets/{name}.yaml" for name in preset_names()} <= found
    assert {
        "onelayer/py.typed",
        "onelayer/benchmarks/gsm8k.yaml",
        "onelayer/report/templates/page.html.j2",
        "onelayer/engines/trl/accelerate/fsdp2.yaml",
    } <= found


def test_the_sdist_holds_the_tests_and_what_they_need(built: Built) -> None:
    with tarfile.open(built.sdist) as file:
        inside = {name.partition("/")[2] for name in file.getnames()}
    folders = ("tests", "docs", "examples", "benchmarks")
    wanted = {path.relative_to(ROOT).as_posix() for folder in folders for path in files_below(ROOT / folder)}
    wanted |= {
        "Makefile",
        "constraints.txt",
        "CHANGELOG.md",
        "CITATION.cff",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "LICENSE",
    }
    assert wanted <= inside
    assert not [name for name in inside if name.endswith(".pyc") or name.startswith((".venv", "shared"))]


def test_the_sizes_are_those_that_are_stated(built: Built) -> None:
    stated = re.search(r"sdist ([\d.]+) MB, wheel ([\d.]+) MB", (ROOT / "CONTRIBUTING.md").read_text())
    assert stated is not None
    for path, size in zip(built, stated.groups(), strict=True):
        assert path.stat().st_size / MB == pytest.approx(float(size), rel=0.05), f"CONTRIBUTING.md on {path.name}"
        assert path.stat().st_size < 10 * MB


def test_the_metadata_is_what_an_index_shows(built: Built) -> None:
    about = metadata(built)
    assert about["Name"] == "onelayer" and about["Version"] == __version__
    assert about["Requires-Python"] == ">=3.11" and about["License-Expression"] == "Apache-2.0"
    assert about["License-File"] == "LICENSE"
    assert about["Description-Content-Type"] == "text/markdown"
    assert str(about.get_payload()).startswith("# onelayer")
    extras = set(about.get_all("Provides-Extra", []))
    assert {"hub", "trl", "ray", "harness", "alfworld", "tensorboard", "wandb", "trackio", "dev"} <= extras


def test_one_version_everywhere() -> None:
    newest = re.search(r"^## \[(.+?)\] - (\d{4}-\d{2}-\d{2})$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert newest is not None and newest[1] == __version__ == citation["version"]
    assert newest[2] == str(citation["date-released"])


def test_the_installed_tool_knows_itself(installed: Installed) -> None:
    assert installed("onelayer", "--version") == f"onelayer, version {__version__}\n"
    said = installed("onelayer", "doctor")
    assert said.startswith(f"onelayer {__version__}, Python ") and "is not installed here" not in said


def test_the_installed_tool_plans_and_scans(installed: Installed) -> None:
    assert "layers 3-4" in installed("onelayer", "plan", "mid:2")
    small = ("--steps", "1", "--layers", "7", "--train-batch-size", "2", "--num-generations", "2")
    said = installed("onelayer", "scan", *small, "--output", "run")
    assert "layer-07" in said and "run/report.html" in said
