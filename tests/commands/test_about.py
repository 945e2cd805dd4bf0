"""``onelayer doctor`` and ``onelayer completion``: what the tool says about itself and its machine."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from onelayer import __version__
from onelayer.commands import doctor
from tests.conftest import Command

ROOT = Path(__file__).resolve().parents[2]
SHELLS = {"bash": "complete -o nosort -F", "zsh": "#compdef onelayer", "fish": "complete --no-files --command onelayer"}


def test_doctor_says_what_is_here(onelayer: Command) -> None:
    code, out, err = onelayer("doctor --json --output new/runs")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["onelayer"] == __version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    for package in ("torch", "transformers", "click"):
        assert found["packages"][package] == {
            "version": importlib.metadata.version(package),
            "wanted": found["packages"][package]["wanted"],
            "fits": True,
        }
    assert {"hub", "alfworld", "harness", "trl", "wandb", "dev"} <= found["extras"].keys()
    assert set(found["extras"]["trl"]) == {"trl", "accelerate", "datasets"}
    assert found["devices"][0]["device"] == "cpu"
    assert found["threads"]["processors"] >= found["threads"]["usable"] >= 1
    protections = found["sandbox"]["protected"] + found["sandbox"]["not_protected"]
    assert {"network", "deadline", "memory"} <= set(protections)
    assert found["output"]["folder"] == "new/runs" and found["output"]["writable"] and found["output"]["locks"]
    assert not Path("new").exists(), "looking has to leave nothing behind"


def found_here(**changes: object) -> dict[str, object]:
    """What a healthy machine gives, with changes: no sandbox is started."""
    healthy = {
        "onelayer": "0.1.0",
        "python": "3.11.7",
        "system": "Linux",
        "packages": {"torch": {"version": "2.13.0", "wanted": ">=2.6", "fits": True}},
        "extras": {"trl": {"trl": {"version": None, "wanted": "<1.17,>=1.16", "fits": False}}},
        "devices": [{"device": "cpu", "name": "a processor", "memory_gb": 24.0, "free_gb": 20.0}],
        "threads": {"processors": 2, "usable": 2, "torch": 2},
        "sandbox": {"mode": "plain", "protected": ["network"], "not_protected": []},
        "output": {"folder": "runs", "file_system": "ext4", "free_gb": 1.0, "writable": True, "locks": True},
        "environment": dict.fromkeys(doctor.ENVIRONMENT) | {"OMP_WAIT_POLICY": "PASSIVE"},
    }
    found = {**healthy, **changes}
    return {**found, "advice": doctor._advice(found)}


def test_a_healthy_machine_needs_no_advice() -> None:
    found = found_here()
    assert found["advice"] == []
    text = "\n".join(doctor.render(found))
    assert "torch                   2.13.0" in text and "no: trl not installed" in text
    assert text.endswith("advice\n  none")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"packages": {}}, "onelayer itself is not installed here"),
        ({"packages": {"numpy": {"version": None, "wanted": ">=2.0", "fits": False}}}, "numpy is missing: pip install"),
        (
            {"packages": {"antlr4-python3-runtime": {"version": "4.9.3", "wanted": ">=4.13.2", "fits": False}}},
            "antlr4-python3-runtime 4.9.3 does not fit: pip install 'antlr4-python3-runtime>=4.13.2'",
        ),
        (
            {"extras": {"trl": {"trl": {"version": "1.17.0", "wanted": "<1.17,>=1.16", "fits": False}}}},
            "trl 1.17.0 does not fit extra trl: pip install 'onelayer[trl]'",
        ),
        (
            {"devices": [{"device": "cpu", "name": "x", "error": "torch cannot be loaded: no"}]},
            "torch cannot be loaded",
        ),
        ({"environment": dict.fromkeys(doctor.ENVIRONMENT)}, "OMP_WAIT_POLICY=PASSIVE"),
        ({"sandbox": {"mode": "plain", "protected": [], "not_protected": ["network"]}}, "not kept from: network"),
        (
            {"sandbox": {"mode": None, "error": "no", "protected": [], "not_protected": []}},
            "grader cannot run here: no",
        ),
        (
            {
                "output": {
                    "folder": "runs",
                    "file_system": None,
                    "free_gb": 0.0,
                    "writable": False,
                    "why_not_writable": "Read-only file system; make the disk writable",
                    "locks": None,
                }
            },
            "output 'runs' cannot be written to: Read-only file system; make the disk writable",
        ),
        (
            {"output": {"folder": "x", "file_system": "nfs", "free_gb": 0.0, "writable": True, "locks": False}},
            "has no locks",
        ),
    ],
)
def test_what_is_wrong_is_said_in_both_forms(changes: dict[str, object], sentence: str) -> None:
    found = found_here(**changes)
    assert isinstance(found["advice"], list) and len(found["advice"]) == 1
    assert sentence in found["advice"][0]
    assert found["advice"][0] in "\n".join(doctor.render(found))


def test_doctor_outlives_what_is_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def not_installed(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    def no_sandbox(**options: object) -> None:
        raise OSError(38, "no")

    monkeypatch.setattr(doctor, "requires", not_installed)
    monkeypatch.setattr("onelayer.tasks.graders.sandbox.Sandbox", no_sandbox)
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("fcntl.flock", no_locks)
    found = doctor.examine(tmp_path / "file" / "runs")
    assert found["packages"] == {} and found["threads"]["torch"] is None
    assert found["devices"][0]["error"].startswith("torch cannot be loaded: ")
    assert found["sandbox"]["mode"] is None and found["output"]["locks"] is False
    assert len(found["advice"]) >= 4
    assert "torch takes none" in "\n".join(doctor.render(found))


def no_locks(handle: int, how: int) -> None:
    raise OSError(95, "Operation not supported")


def test_a_folder_that_cannot_be_written_to_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def read_only(**options: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    assert doctor._output(tmp_path) | {"file_system": "", "free_gb": 0} == {
        "folder": str(tmp_path),
        "file_system": "",
        "free_gb": 0,
        "writable": False,
        "why_not_writable": "Read-only file system; make the disk writable",
        "locks": None,
    }


def test_paths_of_the_machine_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", "/home/somebody/cache")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert doctor._variable("HF_HOME") == "set" and doctor._variable("HF_HUB_OFFLINE") == "1"


@pytest.mark.parametrize(("shell", "registers"), SHELLS.items())
def test_completion_prints_the_script_of_a_shell(onelayer: Command, shell: str, registers: str) -> None:
    code, out, _ = onelayer(f"completion {shell}")
    assert code == 0 and registers in out and f"_ONELAYER_COMPLETE={shell}_complete" in out


def test_an_unknown_shell_is_one_sentence(onelayer: Command) -> None:
    code, _, err = onelayer("completion tcsh")
    assert code == 2 and "'bash', 'zsh', 'fish'" in err


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_options_tasks_presets_and_choices(tmp_path: Path) -> None:
    """The script as bash runs it, with ``onelayer`` on the path."""
    program = tmp_path / "onelayer"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m onelayer "$@"\n')
    program.chmod(0o755)
    lines = {
        "onelayer do": ["doctor"],
        "onelayer scan --learning": ["--learning-rate"],
        "onelayer scan --task house": ["household"],
        "onelayer train --task numi": ["numinamath"],
        "onelayer plan --preset qwen3-8": ["qwen3-8b-numinamath"],
        "onelayer scan --algorithm dr": ["dr_grpo"],
    }
    script = f'cd "{tmp_path}"\neval "$(onelayer completion bash)"\n'
    for line in lines:
        words = line.split()
        script += f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; COMPREPLY=()\n"
        script += '_onelayer_completion onelayer; echo "${COMPREPLY[*]}"\n'
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src")}
    ran = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=120)
    assert ran.stdout.splitlines() == [" ".join(found) for found in lines.values()], ran.stderr


def test_help_and_completion_do_not_wait_for_torch() -> None:
    program = (
        "import sys; sys.argv = ['onelayer', 'scan', '--help']; from onelayer.commands.cli import main; main(); "
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0 and "--learning-rate" in ran.stdout, ran.stderr
