"""What a run would find on this machine: versions, devices, threads, the sandbox, the folder for results.

:func:`examine` looks, :func:`render` writes it down for a bug report. Nothing is changed, nothing is kept, and nothing is
looked up in a network. Of names and paths only the output folder is told, as it was typed.
"""

import fcntl
import os
import platform
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import psutil
from packaging.requirements import Requirement

from onelayer.storage.files import why
from onelayer.version import __version__

ENVIRONMENT = (
    *("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES"),
    *("HF_HUB_OFFLINE", "HF_HOME", "ALFWORLD_DATA"),
)
"""Variables that a run reads; of the last two only whether they are set."""
PATHS = ("HF_HOME", "ALFWORLD_DATA")
GIGA = 10**9


def examine(output: Path) -> dict[str, Any]:
    """Look at everything. ``output`` is where results would go; it need not exist."""
    found = {
        "onelayer": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        **_packages(),
        "devices": _devices(),
        "threads": _threads(),
        "sandbox": _sandbox(),
        "output": _output(output),
        "environment": {name: _variable(name) for name in ENVIRONMENT},
    }
    return {**found, "advice": _advice(found)}


def _packages() -> dict[str, dict[str, Any]]:
    """Versions of what is required, by package, and of what each extra needs, by extra and package."""
    try:
        lines = requires("onelayer") or []
    except PackageNotFoundError:
        lines = []  # run from a folder of sources; said as advice
    needed: dict[str, Any] = {}
    extras: dict[str, dict[str, Any]] = {}
    for requirement in map(Requirement, lines):
        if requirement.name == "onelayer":
            continue  # an extra that stands for others
        found = _version(requirement.name)
        fits = found is not None and requirement.specifier.contains(found, prereleases=True)
        entry = {"version": found, "wanted": str(requirement.specifier), "fits": fits}
        if requirement.marker is None:
            needed[requirement.name] = entry
            continue
        for extra in _extras(requirement):
            extras.setdefault(extra, {})[requirement.name] = entry
    return {"packages": needed, "extras": extras}


def _extras(requirement: Requirement) -> list[str]:
    """The extras that bring a requirement: those that its marker names."""
    marker = str(requirement.marker)
    return [piece.split('"')[1] for piece in marker.split(" and ") if piece.startswith("extra ==")]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _devices() -> list[dict[str, Any]]:
    """The processor, and what torch finds besides; an entry with ``error`` where torch cannot be loaded."""
    memory = psutil.virtual_memory()
    cpu: dict[str, Any] = {
        "device": "cpu",
        "name": _processor(),
        "memory_gb": round(memory.total / GIGA, 1),
        "free_gb": round(memory.available / GIGA, 1),
    }
    try:
        import torch
    except (ImportError, OSError) as error:
        return [cpu | {"error": f"torch cannot be loaded: {' '.join(str(error).split())}"}]
    cpu["capability"] = torch.backends.cpu.get_cpu_capability()
    devices = [cpu]
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        devices.append(
            {"device": f"cuda:{number}", "name": about.name, "memory_gb": round(about.total_memory / GIGA, 1)}
            | {"capability": f"{about.major}.{about.minor}", "cuda": torch.version.cuda}
        )
    if torch.backends.mps.is_available():
        devices.append({"device": "mps", "name": platform.processor()})
    return devices


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(named), platform.processor() or platform.machine())


def _threads() -> dict[str, Any]:
    """Processors of the machine, those that this process may use, and the threads that torch would take."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        import torch
    except (ImportError, OSError):
        return {"processors": os.cpu_count(), "usable": usable, "torch": None}
    return {"processors": os.cpu_count(), "usable": usable, "torch": torch.get_num_threads()}


def _sandbox() -> dict[str, Any]:
    """How the code grader confines programs here: each protection is attacked once."""
    from onelayer.tasks.graders.probes import probe
    from onelayer.tasks.graders.sandbox import Sandbox

    try:
        with Sandbox(workers=1) as sandbox:
            held = probe(sandbox)
            mode, refused = sandbox.mode, sandbox.refused_mode
    except OSError as error:
        return {"mode": None, "error": why(error), "protected": [], "not_protected": []}
    return {
        "mode": mode,
        "why_no_namespaces": refused or None,
        "protected": [name for name, holds in held.items() if holds],
        "not_protected": [name for name, holds in held.items() if not holds],
    }


def _output(folder: Path) -> dict[str, Any]:
    """The file system under a folder that may not exist yet: its type, room, and whether files and locks can be made."""
    found: dict[str, Any] = {"folder": str(folder)}
    place = folder.absolute()
    while not place.is_dir() and place != place.parent:
        place = place.parent
    place = place.resolve()
    mounts = [disk for disk in psutil.disk_partitions(all=True) if place.is_relative_to(disk.mountpoint)]
    kind = max(mounts, key=lambda disk: len(disk.mountpoint), default=None)
    found["file_system"] = kind.fstype if kind else None
    found["free_gb"] = round(psutil.disk_usage(str(place)).free / GIGA, 1)
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            found["writable"], found["why_not_writable"] = True, None
            found["locks"] = _locks(file.fileno())
    except OSError as error:
        found["writable"], found["why_not_writable"], found["locks"] = False, why(error), None
    return found


def _locks(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _variable(name: str) -> str | None:
    value = os.environ.get(name)
    return "set" if value and name in PATHS else value


def _advice(found: Mapping[str, Any]) -> list[str]:
    """What is likely to get in the way of a run, in sentences."""
    said = []
    if not found["packages"]:
        said.append("onelayer itself is not installed here, so what it needs is not known: pip install -e .")
    for name, entry in found["packages"].items():
        if entry["version"] is None:
            said.append(f"{name} is missing: pip install '{name}{entry['wanted']}'")
        elif not entry["fits"]:
            said.append(f"{name} {entry['version']} does not fit: pip install '{name}{entry['wanted']}'")
    for extra, entries in found["extras"].items():
        for name, entry in entries.items():
            if entry["version"] is not None and not entry["fits"]:
                said.append(f"{name} {entry['version']} does not fit extra {extra}: pip install 'onelayer[{extra}]'")
    said += [entry["error"] for entry in found["devices"] if "error" in entry]
    threads, environment = found["threads"]["torch"], found["environment"]
    on_cpu = [entry["device"] for entry in found["devices"]] == ["cpu"]
    if on_cpu and (threads or 1) > 1 and environment["OMP_WAIT_POLICY"] is None:
        said.append(
            f"models of 20 million parameters or more take {threads} threads here, which wait by spinning: beside other "
            "busy processes set OMP_WAIT_POLICY=PASSIVE"
        )
    sandbox, output = found["sandbox"], found["output"]
    if sandbox["mode"] is None:
        said.append(f"the code grader cannot run here: {sandbox['error']}")
    elif sandbox["not_protected"]:
        said.append(
            f"programs that are graded are not kept from: {', '.join(sandbox['not_protected'])}; on Linux as root or with "
            "user namespaces allowed they are, and --require-sandbox refuses to run without"
        )
    if not output["writable"]:
        said.append(f"output '{output['folder']}' cannot be written to: {output['why_not_writable']}")
    elif not output["locks"]:
        said.append(f"the file system of output '{output['folder']}' has no locks: two runs there could collide")
    return said


def render(found: Mapping[str, Any]) -> list[str]:
    """The same as lines of text for people, ready to be pasted."""
    lines = [f"onelayer {found['onelayer']}, Python {found['python']}, {found['system']}", "", "packages"]
    lines += [f"  {name:<24}{_state(entry)}" for name, entry in found["packages"].items()]
    lines += ["", "extras"]
    for extra, entries in found["extras"].items():
        complete = all(entry["fits"] for entry in entries.values())
        shown = ", ".join(f"{name} {_state(entry)}" for name, entry in entries.items())
        lines.append(f"  {extra:<24}{'yes' if complete else 'no'}: {shown}")
    lines += ["", "devices"]
    for entry in found["devices"]:
        more = [f"{entry['memory_gb']:g} GB"] if "memory_gb" in entry else []
        more += [f"{entry['free_gb']:g} GB free"] if "free_gb" in entry else []
        more += [str(entry[key]) for key in ("capability", "error") if entry.get(key)]
        more += [f"CUDA {entry['cuda']}"] if "cuda" in entry else []
        lines.append(f"  {entry['device']:<24}{', '.join([entry['name'], *more])}")
    threads = found["threads"]
    lines += ["", "threads"]
    lines.append(
        f"  {'processors':<24}{threads['processors']}, of which this process may use {threads['usable']}; "
        f"torch takes {threads['torch'] or 'none'}"
    )
    lines += [f"  {name:<24}{value or 'not set'}" for name, value in found["environment"].items()]
    sandbox = found["sandbox"]
    lines += ["", "sandbox of the code grader"]
    lines.append(f"  {'mode':<24}{sandbox['mode'] or 'none'}")
    if sandbox.get("why_no_namespaces"):
        lines.append(f"  {'no namespaces':<24}{sandbox['why_no_namespaces']}")
    lines.append(f"  {'protected':<24}{', '.join(sandbox['protected']) or 'nothing'}")
    lines.append(f"  {'not protected':<24}{', '.join(sandbox['not_protected']) or 'nothing'}")
    output = found["output"]
    lines += ["", "output", f"  {'folder':<24}{output['folder']}"]
    lines.append(f"  {'file system':<24}{output['file_system'] or 'unknown'}, {output['free_gb']:g} GB free")
    can = [word for key, word in (("writable", "written to"), ("locks", "locked")) if output[key]]
    lines.append(f"  {'can be':<24}{', '.join(can) or 'neither written to nor locked'}")
    lines += ["", "advice"]
    lines += [f"  {sentence}" for sentence in found["advice"]] or ["  none"]
    return lines


def _state(entry: Mapping[str, Any]) -> str:
    if entry["version"] is None:
        return "not installed"
    return str(entry["version"]) + ("" if entry["fits"] else f" (wanted {entry['wanted']})")
