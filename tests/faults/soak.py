"""Scans in a loop in one process: what a leak would show in memory, file handles, threads and processes."""

import contextlib
import io
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.faults.scenarios import SCENARIOS

WARM_UP = 0.2
"""Share of the samples that is left out: caches fill while the first scans run."""


@dataclass(frozen=True)
class Sample:
    """What the process holds after a scan."""

    minutes: float
    scans: int
    memory: float
    """Resident set in MiB."""
    handles: int
    threads: int
    processes: int


def soak(work: Path, minutes: float, say: Callable[[str], object]) -> list[Sample]:
    """Scan again and again for so many minutes; a sample after every scan, a line every twentieth of the time."""
    from onelayer.commands.cli import main

    process, began = psutil.Process(), time.monotonic()
    samples: list[Sample] = []
    next_line = 0.0
    while (passed := (time.monotonic() - began) / 60) < minutes or not samples:
        for name in ("scan", "household"):
            output = work / f"soak-{len(samples)}-{name}"
            sys.argv = ["onelayer", *SCENARIOS[name].argv(output)]
            with contextlib.chdir(work), contextlib.redirect_stdout(io.StringIO()):
                main()
            shutil.rmtree(output)
        children = len(process.children(recursive=True))
        memory = process.memory_info().rss / 2**20
        samples.append(Sample(passed, len(samples) + 1, memory, process.num_fds(), process.num_threads(), children))
        if passed >= next_line:
            last = samples[-1]
            say(
                f"{last.minutes:6.1f} min  {last.scans:4d} rounds  {last.memory:8.1f} MiB  {last.handles:3d} handles  "
                f"{last.threads:2d} threads  {last.processes:2d} processes"
            )
            next_line += minutes / 20
    return samples


def verdict(samples: list[Sample]) -> str:
    """The growth between the first and the last third after the warm-up, in a sentence."""
    steady = samples[int(len(samples) * WARM_UP) :]
    third = max(1, len(steady) // 3)
    first, last = steady[:third], steady[-third:]

    def change(name: str) -> str:
        before, after = (statistics.median(getattr(sample, name) for sample in part) for part in (first, last))
        return f"{name} {before:.1f} to {after:.1f}"

    names = ("memory", "handles", "threads", "processes")
    return f"{len(samples)} rounds; medians of the first and the last third: " + ", ".join(map(change, names))
