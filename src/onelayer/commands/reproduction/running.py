"""Runs a study: base models first, then scans, several processes side by side, each resumable.

Every scan is the command a person would type, in a process of its own. What is done is known from files alone, so a
study that was stopped at any moment goes on where it was.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from onelayer.commands.reproduction.study import Base, Scan, Study
from onelayer.errors import RunStopped, UserError
from onelayer.storage.doors import append_text, open_own
from onelayer.storage.files import atomic_path, make_folder, write_json
from onelayer.storage.lock import locked, require_free
from onelayer.storage.records import read_object
from onelayer.storage.screen import literal

GRACE = 40.0
"""Seconds that scans get to end their step and save it, when the study is stopped."""


@dataclass(frozen=True)
class Places:
    """Where a study keeps what."""

    folder: Path

    @property
    def bases(self) -> Path:
        """Base models that were made."""
        return self.folder / "bases"

    @property
    def scans(self) -> Path:
        """Folders of the scans."""
        return self.folder / "scans"

    @property
    def logs(self) -> Path:
        """What every process printed."""
        return self.folder / "logs"

    @property
    def times(self) -> Path:
        """A line for every process that ended."""
        return self.folder / "times.jsonl"

    def base_is_made(self, base: Base) -> bool:
        """Whether a base model is there, whole."""
        return (self.bases / base.name).is_dir()

    def is_scanned(self, scan: Scan) -> bool:
        """Whether a scan is done, vote and all."""
        folder = self.scans / scan.name
        return (folder / "profile.json").is_file() and (not scan.voters or (folder / "vote.json").is_file())


STUDY = "study.json"
"""In the folder of a study: what it consists of."""


class Failed(Exception):
    """A process of the study ended badly; the message is its last line."""


class _Processes:
    """The processes that run now; once stopped, no further one starts."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()
        self.stopped = False

    @property
    def names(self) -> list[str]:
        """What runs now."""
        with self._lock:
            return sorted(self._running)

    def run(self, name: str, arguments: Sequence[str]) -> None:
        """Run ``python -m`` with these arguments to its end, its output into the log of that name.

        Raises:
            Failed: it did not end with 0, or the study was stopped.
        """
        log = self._places.logs / f"{name}.log"
        began = time.monotonic()
        with os.fdopen(open_own(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab") as output:
            with self._lock:
                if self.stopped:
                    raise Failed("stopped")
                # A session of its own: Ctrl-C reaches this process, which passes one signal on.
                process = self._running[name] = subprocess.Popen(
                    [sys.executable, "-m", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
                    start_new_session=True,
                )
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        with self._lock:
            del self._running[name]
            record = {"name": name, "wall": time.monotonic() - began, "processor": usage.ru_utime + usage.ru_stime}
            append_text(self._places.times, json.dumps({**record, "code": process.returncode}) + "\n")
        if process.returncode:
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise Failed(lines[-1] if lines else f"ended with {process.returncode}")

    def stop(self) -> None:
        """Ask all to save their state and end; those that do not in time are killed."""
        with self._lock:
            self.stopped = True
            running = list(self._running.values())
            for process in running:
                process.send_signal(signal.SIGTERM)
        until = time.monotonic() + GRACE
        while self.names and time.monotonic() < until:
            time.sleep(0.1)
        with self._lock:
            for process in self._running.values():
                process.kill()


def run_study(study: Study, folder: Path, workers: int, console: Console, *, resume: bool) -> None:
    """Make the base models and run the scans that are not done yet, ``workers`` at a time.

    Raises:
        UserError: the folder holds something else, or another study.
        RunStopped: some of them failed; the others are done.
    """
    _check(study, folder, resume)
    with locked(make_folder(folder)) as left_behind:
        if left_behind:
            console.print(literal(left_behind, "yellow"))
        if not resume:
            write_json(folder / STUDY, _record(study, folder))
        _run(study, folder, workers, console)


def _run(study: Study, folder: Path, workers: int, console: Console) -> None:
    places = Places(folder)
    for each in (places.bases, places.scans, places.logs):
        make_folder(each)
    processes = _Processes(places)
    bases = [base for base in study.bases if not places.base_is_made(base)]
    scans = [scan for scan in study.scans if not places.is_scanned(scan)]
    failures: list[str] = []
    with (
        Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        ) as bars,
        ThreadPoolExecutor(workers, thread_name_prefix="study") as pool,
    ):
        whole = bars.add_task("reproduction", total=len(bases) + len(scans), note="")

        def told(name: str, job: Callable[[], None]) -> Callable[[], None]:
            def run() -> None:
                if not processes.stopped:
                    bars.console.print(literal(f"{name}: begins"))
                    job()

            return run

        made: dict[Base, Future[None]] = {
            base: pool.submit(told(base.name, lambda base=base: _make(base, places, processes)))  # type: ignore[misc]
            for base in bases
        }
        jobs: dict[Future[None], str] = {job: base.name for base, job in made.items()}
        for scan in scans:
            first = made.get(scan.base)
            run = told(scan.name, lambda scan=scan, first=first: _scan(scan, first, places, processes))  # type: ignore[misc]
            jobs[pool.submit(run)] = scan.name
        try:
            waiting = set(jobs)
            while waiting:
                done, waiting = wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED)
                for job in done:
                    error = job.exception()
                    if error is not None and not isinstance(error, Failed):
                        raise error
                    if error is not None:
                        failures.append(f"{jobs[job]}: {error}")
                    ending = literal(f"failed: {error}", "red") if error else literal("done")
                    bars.console.print(literal(f"{jobs[job]}: ") + ending)
                    bars.advance(whole)
                bars.update(whole, note=", ".join(processes.names))
        except BaseException:
            processes.stop()
            raise
    if failures:
        logs = f"see {places.logs}, and go on with --resume"
        raise RunStopped(f"{len(failures)} of {len(jobs)} parts failed, {failures[0].rstrip('.')}; {logs}")


def _make(base: Base, places: Places, processes: _Processes) -> None:
    with atomic_path(places.bases / base.name) as partial:
        processes.run(base.name, ["onelayer.commands.reproduction.pretraining", *base.arguments(partial)])


def _scan(scan: Scan, base: "Future[None] | None", places: Places, processes: _Processes) -> None:
    if base is not None and base.exception() is not None:
        raise Failed(f"its base model {scan.base.name} could not be made")
    folder = places.scans / scan.name
    if not (folder / "profile.json").is_file():
        again = ["--resume"] if folder.is_dir() else []
        processes.run(scan.name, ["onelayer", *scan.arguments(places.bases, places.scans), *again])
    if scan.voters:
        processes.run(f"{scan.name}-vote", ["onelayer", "vote", str(folder), "--k", str(scan.voters)])


def _record(study: Study, folder: Path) -> dict[str, Any]:
    """What ``study.json`` says."""
    places = Places(folder)
    return {
        "scale": study.scale,
        "bases": {base.name: base.arguments(places.bases / base.name) for base in study.bases},
        "scans": {scan.name: scan.arguments(places.bases, places.scans) for scan in study.scans},
    }


def _check(study: Study, folder: Path, resume: bool) -> None:
    """Check that the folder holds nothing, or this study.

    Raises:
        UserError: it does not.
    """
    path, record = folder / STUDY, _record(study, folder)
    require_free(folder, resume=resume)
    if not resume:
        return
    if not path.is_file():
        raise UserError(f"output '{folder}' holds no reproduction that could be resumed: it has no {STUDY}")
    before = read_object(path)
    if before != record:
        changed = [key for key in record if before.get(key) != record[key]]
        raise UserError(
            f"output '{folder}' holds another study, with other {', '.join(changed)}: --resume goes on with the same "
            "--scale and version in the same place"
        )
