"""Environments in processes: the same episodes as without, and one lost episode for one fault."""

import os
import random
import signal
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import psutil
import pytest

from onelayer.errors import RunStopped
from onelayer.tasks.environments.base import Info, StepResult
from onelayer.tasks.environments.household import Household
from onelayer.tasks.environments.workers import EnvironmentWorkers
from onelayer.tasks.graders.pool import WorkerLost
from onelayer.tasks.graders.pool import WorkerPool as GradingPool


class Fragile:
    """Counts its steps; certain actions break it in certain ways."""

    max_steps = 9

    def __init__(self) -> None:
        self.seed = self.steps = 0

    def info(self) -> Info:
        return {"goal": "", "task_type": "", "admissible_commands": [], "won": False, "valid": True}

    def reset(self, seed: int) -> tuple[str, Info]:
        if seed == 13:
            raise ValueError("no game 13")
        self.seed, self.steps = seed, 0
        return f"game {seed} step 0", self.info()

    def step(self, action: str) -> StepResult:
        self.steps += 1
        if action == "die":
            os._exit(7)
        if action == "hang":
            time.sleep(600)
        if action == "raise":
            raise RuntimeError("broken")
        if action == "exit":
            raise SystemExit("bad problem")
        if action == "nonsense":
            return "text", "one", False, False, self.info()  # type: ignore[return-value]
        return f"game {self.seed} step {self.steps}", 0.0, False, self.steps >= self.max_steps, self.info()

    def close(self) -> None:
        pass


@pytest.fixture
def pool() -> Iterator[EnvironmentWorkers]:
    with EnvironmentWorkers(Fragile, num_workers=1, timeout=20) as one:
        yield one


def test_episodes_are_those_of_this_process() -> None:
    seeds = [3, 3, 8, 21]
    with EnvironmentWorkers(partial(Household, "train"), num_workers=2) as pool:
        for _ in range(2):  # The second round uses the same environments again.
            assert pool.reset(seeds) == [Household().reset(seed) for seed in seeds]
            local = {number: Household() for number in range(4)}
            running = {n: local[n].reset(seed)[1]["admissible_commands"] for n, seed in enumerate(seeds)}
            rng = random.Random(0)
            while running:
                actions = {number: rng.choice(commands) for number, commands in running.items()}
                results = pool.step(actions)
                assert results == {number: local[number].step(action) for number, action in actions.items()}
                running = {n: r[4]["admissible_commands"] for n, r in results.items() if not (r[2] or r[3])}
    assert pool.failures == []


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("die", "its process ended with code 7"),
        ("raise", "RuntimeError: broken"),
        ("exit", "SystemExit: bad problem"),
        ("nonsense", "TypeError"),
    ],
)
def test_a_fault_costs_its_own_episode_only(pool: EnvironmentWorkers, fault: str, reason: str) -> None:
    pool.reset([1, 2, 3])
    pool.step({0: "go", 1: "go", 2: "go"})
    results = pool.step({0: "go", 1: fault, 2: "go"})
    assert results[0][0] == "game 1 step 2"
    assert results[1][2:4] == (False, True)
    assert reason in results[1][4]["error"]
    assert results[2][0] == "game 3 step 2"
    assert pool.step({0: "go", 2: "go"})[2][0] == "game 3 step 3"
    assert len(pool.failures) == 1
    assert "seed 2" in pool.failures[0]
    with pytest.raises(RuntimeError, match="episode 1 is over"):
        pool.step({1: "go"})


def test_a_process_that_hangs_is_replaced(pool: EnvironmentWorkers) -> None:
    pool.reset([1, 2, 3])
    pool.timeout = 3
    results = pool.step({0: "hang", 1: "go"})
    assert results[0][4]["error"] == "no answer within 3 s"
    assert results[1][0] == "game 2 step 1"
    assert pool.step({2: "go"})[2][0] == "game 3 step 1"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_something_else_ends_or_stops_costs_nothing(pool: EnvironmentWorkers, number: int) -> None:
    pool.reset([1, 2, 3])
    assert pool.step({0: "go", 1: "go"})[1][0] == "game 2 step 1"
    pool.timeout = 3
    (child,) = (c for c in psutil.Process().children() if "spawn_main" in " ".join(c.cmdline()))
    child.send_signal(number)
    results = pool.step({0: "go", 1: "go", 2: "go"})
    assert [result[0] for result in results.values()] == ["game 1 step 2", "game 2 step 2", "game 3 step 1"]
    assert pool.failures == []


def test_what_a_grading_process_was_lost_over_is_tried_once_more() -> None:
    asked: list[str] = []

    class Worker:
        def close(self) -> None:
            asked.append("closed")

    def work(worker: Worker, item: str) -> str:
        asked.append(item)
        if item == "deadly" or asked.count(item) == 1:
            raise WorkerLost
        return f"{item} graded"

    pool = GradingPool(Worker, 1)
    assert pool.map(work, ["unlucky", "deadly"], lost="lost") == ["unlucky graded", "lost"]
    assert asked == ["unlucky", "closed", "unlucky", "deadly", "closed", "deadly", "closed"]
    pool.close()


def test_an_episode_that_cannot_start_says_so(pool: EnvironmentWorkers) -> None:
    starts = pool.reset([13, 4])
    assert starts[0][1]["error"] == "ValueError: no game 13"
    assert starts[1][0] == "game 4 step 0"


def test_episodes_end_by_themselves(pool: EnvironmentWorkers) -> None:
    pool.reset([1])
    results = [pool.step({0: "go"})[0] for _ in range(9)]
    assert [result[3] for result in results] == [False] * 8 + [True]
    assert pool.failures == []


def _no_start() -> None:
    os._exit(3)


class _NeverStarts:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _no_start, ()


def test_processes_that_never_start_stop_the_run() -> None:
    with (
        EnvironmentWorkers(_NeverStarts(), num_workers=1) as pool,  # type: ignore[arg-type]
        pytest.raises(RunStopped, match=r"6 processes .* \(its process ended with code 3\).*__main__"),
    ):
        pool.reset(range(50))
