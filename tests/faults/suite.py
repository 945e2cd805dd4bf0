"""The trials: each makes a command fail in one way, lets it go on, and compares what is left with an undisturbed run."""

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.faults import injections
from tests.faults.child import Child, Ended
from tests.faults.scenarios import SCENARIOS, Scenario, compared_bytes, outcome, torn
from tests.faults.table import Row

PATIENCE = 300.0
"""Seconds after which an undisturbed or continued command counts as hanging."""


@dataclass(frozen=True)
class Reference:
    """An undisturbed run of a command."""

    found: dict[str, Any]
    seconds: float


class Suite:
    """All trials in one folder."""

    def __init__(self, work: Path, say: Callable[[str], object]) -> None:
        self.work, self.say = work, say
        self.rows: dict[tuple[str, str], Row] = {}
        self._rng = random.Random(0)
        self._references: dict[str, Reference] = {}
        self._number = 0

    def begin(self, seed: str) -> None:
        """Begin with new rows, and with moments of that seed."""
        self.rows, self._rng = {}, random.Random(seed)

    def reference(self, scenario: Scenario) -> Reference:
        """The undisturbed run of a command, made when it is first needed."""
        if scenario.name not in self._references:
            output = self._new(scenario)
            ended = self._run(scenario, output)
            assert ended.code == 0, ended.output
            self._references[scenario.name] = Reference(outcome(output), ended.seconds)
            shutil.rmtree(output)
            self.say(f"{scenario.name}: undisturbed in {ended.seconds:.1f} s")
        return self._references[scenario.name]

    # --- kinds of trials

    def kills(self, scenario: Scenario, number: int) -> None:
        """Kill a command at random moments, some of them in a row, until ``number`` kills are done."""
        row = self._row("SIGKILL at a random moment", scenario)
        while row.tried < number:
            with self._trial(row, scenario) as (output, problems):
                for _ in range(min(self._rng.choice([1, 1, 2, 3]), number - row.tried)):
                    child = Child(scenario.argv(output), self.work)
                    delay = self._rng.uniform(0, 1.05 * self.reference(scenario).seconds)
                    ended = child.wait(delay)
                    if ended is None:
                        child.kill()
                        ended = child.finish(PATIENCE)
                    assert ended is not None
                    row.tried += ended.killed
                    problems += [f"torn after a kill: {name}" for name in torn(output)]
                    if left := child.orphans():
                        problems.append(f"{len(left)} processes outlived the kill")
                    if not ended.killed:
                        problems += [ended.problem] if ended.problem else []
                        break

    def signals(self, scenario: Scenario, number: int) -> None:
        """Ask a command to stop with SIGTERM or Ctrl-C at random moments."""
        row = self._row("SIGTERM or Ctrl-C at a random moment", scenario)
        misses = 0
        while row.tried < number and misses < 5 * number:
            with self._trial(row, scenario) as (output, problems):
                child = Child(scenario.argv(output), self.work)
                ended = child.wait(self._rng.uniform(0.05, self.reference(scenario).seconds))
                if ended is None:
                    child.kill(self._rng.choice([signal.SIGTERM, signal.SIGINT]))
                    ended = child.finish(60)
                    if ended is None:
                        problems.append("still runs 60 s after the signal")
                        child.kill()
                        child.finish(PATIENCE)
                    # A signal in the first moments meets a process that has not yet said what it does with it.
                    elif ended.code == 1:
                        row.tried += 1
                        problems += [ended.problem] if ended.problem else []
                        if left := child.orphans():
                            problems.append(f"{len(left)} processes outlived the signal")
                misses += row.tried == 0

    def write_points(self, scenario: Scenario, limit: int | None = None, part: int = 0, parts: int = 1) -> None:
        """Every place in the code that writes is once refused by the disk, and once killed at; or a part of them."""
        points = self._points(scenario)
        chosen = points if limit is None else self._rng.sample(points, min(limit, len(points)))
        for place, point in list(enumerate(chosen))[part::parts]:
            number = injections.ERRORS[place % len(injections.ERRORS)]
            refused = self._row("a write refused, every write point once", scenario)
            with self._trial(refused, scenario) as (output, problems):
                ended = self._run(scenario, output, injections.refuse_at(output, point, number))
                refused.tried += 1
                if ended.problem:
                    problems.append(f"{os.strerror(number)} at {point}: {ended.problem}")
                problems += [f"torn after {point}: {name}" for name in torn(output)]
            killed = self._row("SIGKILL at every write point once", scenario)
            with self._trial(killed, scenario) as (output, problems):
                ended = self._run(scenario, output, injections.kill_at(output, point))
                killed.tried += ended.killed
                problems += [f"torn after {point}: {name}" for name in torn(output)]

    def torn_states(self, scenario: Scenario, number: int) -> None:
        """Damage the newest checkpoint, or the rows of a killed eval, after a kill."""
        row = self._row("newest state cut short or one bit flipped", scenario)
        for _ in range(20 * number):
            if row.tried == number:
                return
            with self._trial(row, scenario) as (output, _problems):
                child = Child(scenario.argv(output), self.work)
                # By what is written, not by the clock: on a busy machine little is at the same moment.
                while not _damageable(output) and child.wait(0.01) is None:
                    pass
                child.wait(self.reference(scenario).seconds * self._rng.uniform(0.0, 0.3))
                child.kill()
                child.finish(PATIENCE)
                if files := _damageable(output):
                    path = self._rng.choice(files)
                    content = bytearray(path.read_bytes())
                    if self._rng.random() < 0.5:
                        content = content[: self._rng.randrange(len(content))]
                    else:
                        content[self._rng.randrange(len(content))] ^= 1 << self._rng.randrange(8)
                    path.write_bytes(content)
                    row.tried += 1

    def limits(self, scenario: Scenario) -> None:
        """A disk that is full after so many bytes a file, and few file handles."""
        for kind, name, values in (
            (resource.RLIMIT_FSIZE, "files cannot grow over a limit (a full disk)", (0, 100, 3000, 20000, 60000)),
            (resource.RLIMIT_NOFILE, "few file handles", (8, 12, 20, 40)),
        ):
            row = self._row(name, scenario)
            for value in values:
                with self._trial(row, scenario) as (output, problems):
                    ended = self._run(scenario, output, injections.limit(kind, value))
                    row.tried += 1
                    problems += [f"{value}: {ended.problem}"] if ended.problem else []
                    problems += [f"torn at {value}: {found}" for found in torn(output)]
        row = self._row("little memory", scenario)
        for megabytes in (1, 8, 30, 60):
            with self._trial(row, scenario) as (output, problems):
                ended = self._run(scenario, output, injections.little_memory(megabytes * 2**20))
                row.tried += 1
                problems += [f"{megabytes} MiB: {ended.problem}"] if ended.problem and ended.code > 0 else []
                problems += [f"torn at {megabytes} MiB: {found}" for found in torn(output)]

    def clocks(self, scenario: Scenario) -> None:
        """The clock jumps, alone and with a kill."""
        row = self._row("the clock jumps, and a kill", scenario)
        for seed in range(2):
            with self._trial(row, scenario) as (output, problems):
                child = Child(scenario.argv(output), self.work, injections.jumping_clock(seed))
                ended = child.wait(self.reference(scenario).seconds * self._rng.uniform(0.3, 1.0))
                if ended is None:
                    child.kill()
                    child.finish(PATIENCE)
                row.tried += 1
                ended = self._run(scenario, output, injections.jumping_clock(seed + 10))
                problems += [ended.problem] if ended.problem else []

    def two_at_once(self, scenario: Scenario) -> None:
        """A second process for a folder that is in use is refused, told why, and changes nothing."""
        row = self._row("a second process for one folder", scenario)
        with self._trial(row, scenario) as (output, problems):
            first = Child(scenario.argv(output), self.work)
            while not (output / "manifest.json").exists():
                first.wait(0.02)
            second = self._run(scenario, output)
            row.tried += 1
            if second.code != 2 or "is in use by process" not in second.output:
                problems.append(f"the second process: {second.code} {second.output[-200:]}")
            ended = first.finish(PATIENCE)
            problems += [] if ended and ended.code == 0 else ["the first process did not finish"]

    def stuck_workers(self, scenario: Scenario, number: int) -> None:
        """A process that the command started is stopped, so that it never answers, or killed."""
        row = self._row("a worker that hangs or is killed", scenario)
        for trial in range(5 * number):
            if row.tried == number:
                return
            with self._trial(row, scenario) as (output, problems):
                child = Child(scenario.argv(output), self.work)
                seconds = self.reference(scenario).seconds
                ended = child.wait(self._rng.uniform(0.2, 0.9) * seconds)
                workers = [] if ended else psutil.Process(child.process).children(recursive=True)
                if workers:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        self._rng.choice(workers).send_signal(signal.SIGSTOP if trial % 2 else signal.SIGKILL)
                        row.tried += 1
                ended = child.finish(PATIENCE)
                if ended is None:
                    problems.append("hangs")
                    child.kill()
                    child.finish(PATIENCE)
                elif ended.problem:
                    problems.append(ended.problem)
                child.orphans(1.0)

    def endless_reward(self, scenario: Scenario) -> None:
        """The reward function does not return: the run ends with a sentence, and goes on when it answers again."""
        row = self._row("a reward that never returns", scenario)
        slow = Scenario(scenario.name, f"{scenario.line} --reward-timeout 2")
        with self._trial(row, scenario) as (output, problems):
            child = Child(slow.argv(output), self.work)
            while not list(output.glob("state/*/step-*.json")):
                child.wait(0.02)
            (self.work / "hang").touch()
            ended = child.finish(60)
            (self.work / "hang").unlink()
            row.tried += 1
            if ended is None or ended.code != 1 or "has not returned after 2 s" not in ended.output:
                problems.append(f"no sentence about the reward: {ended}")
                child.kill()
                child.finish(PATIENCE)

    # --- what they share

    def _points(self, scenario: Scenario) -> list[str]:
        output, report = self._new(scenario), self.work / "points.txt"
        self.reference(scenario)
        ended = self._run(scenario, output, injections.list_points(output, report))
        assert ended.code == 0, ended.output
        shutil.rmtree(output)
        return report.read_text().splitlines()

    def _trial(self, row: Row, scenario: Scenario) -> "_Trial":
        return _Trial(self, row, scenario)

    def _row(self, fault: str, scenario: Scenario) -> Row:
        return self.rows.setdefault((fault, scenario.name), Row(fault, scenario.name))

    def _new(self, scenario: Scenario) -> Path:
        self._number += 1
        output = self.work / f"{scenario.name.replace(' ', '')}-{self._number}"
        if "finished" in f"{scenario.line} {scenario.begins}":
            self._finish()
        if scenario.begins == "empty":
            output.mkdir()
        elif scenario.begins == "finished":
            shutil.copytree(self.work / "finished", output)
        return output

    def _finish(self) -> None:
        """Make the finished scan that some commands work with."""
        output = self.work / "finished"
        if not output.exists():
            ended = self._run(SCENARIOS["finished"], output)
            assert ended.code == 0, ended.output

    def _run(self, scenario: Scenario, output: Path, fault: Callable[[], object] | None = None) -> Ended:
        child = Child(scenario.argv(output), self.work, fault)
        ended = child.finish(PATIENCE)
        if ended is None:
            child.kill()
            ended = child.finish(PATIENCE)
            assert ended is not None
            ended = Ended(-signal.SIGALRM, ended.output + "\nhangs", ended.seconds)
        return ended


class _Trial:
    """One folder that is disturbed inside the block; after it the command goes on, and what is left is compared."""

    def __init__(self, suite: Suite, row: Row, scenario: Scenario) -> None:
        self._suite, self._row, self._scenario = suite, row, scenario
        self._problems: list[str] = []

    def __enter__(self) -> tuple[Path, list[str]]:
        self._reference = self._suite.reference(self._scenario)
        self._before = self._row.tried
        self._output = self._suite._new(self._scenario)
        return self._output, self._problems

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            return
        suite, row, expected = self._suite, self._row, self._reference.found
        ended = suite._run(self._scenario, self._output)
        for _ in range(2):  # what has ended cannot begin anew without --resume, and a finished grade is graded again
            if ended.code == 0:
                break
            ended = suite._run(self._scenario, self._output)
        # Killed after its last file: there is nothing to repeat, and what is there is compared all the same.
        done = not self._scenario.resumes and "give a" in ended.output and "empty" in ended.output
        if ended.code != 0 and not done:
            self._problems.append(f"does not go on: {ended.output.strip()[-300:]}")
        found = outcome(self._output) if self._output.exists() else {}
        pinned = (self._output / "manifest.json").exists() and json.loads(
            (self._output / "manifest.json").read_text()
        ).get("cuts")
        if not pinned:  # with fewer rows at once, which the manifest then says, the last bits are others
            self._problems += [
                f"{name} differs"
                for name in sorted(found.keys() | expected.keys())
                if found.get(name) != expected.get(name)
            ]
        beside = self._output.parent.glob(f".{self._output.name}.*")
        self._problems += [f"{path.name} is left" for path in beside]
        row.compared += 0 if pinned else compared_bytes(found)
        if row.tried > self._before:
            good = not self._problems
            row.survived += (row.tried - self._before) * good
        if self._problems:
            row.lost += self._problems
            suite.say(f"LOST  {row.fault} ({row.command}): {'; '.join(self._problems)}")
        shutil.rmtree(self._output, ignore_errors=True)


def _damageable(output: Path) -> list[Path]:
    """Files of the newest state where there is one before it, or the rows of benchmarks that are scored already."""
    states = sorted(output.glob("state/*/step-*.json"))
    if len(states) > 1:
        return [*sorted(states[-1].with_suffix("").glob("*")), states[-1]]
    return [
        path.with_name(name)
        for path in sorted(output.rglob("results.json"))
        for name in ("scores.parquet", "completions.jsonl", "results.json", "results.copy.json")
        if path.with_name(name).exists()
    ]


def elapsed(since: float) -> str:
    """Minutes and seconds since a moment of time.monotonic()."""
    seconds = int(time.monotonic() - since)
    return f"{seconds // 60}:{seconds % 60:02d}"
