"""Many environments in worker processes, in step; a process that dies or hangs costs one episode, not the run.

Episodes are numbered from 0. All episodes with the same seed are played by one process, so that what an environment
keeps of a start state (a translated ALFWorld game) is made once. Processes answer their requests in order. Where one
dies or does not answer in time, a new process brings its episodes back to where they were, by playing their actions
again, which is exact because seed and actions decide everything. The first episode that the lost one still owed an
answer is asked once more; when a second process is lost over the same request it is the one to blame: it ends with
``truncated`` and an ``error`` in its info.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from onelayer.errors import RunStopped
from onelayer.tasks.environments.base import Environment, Info, StepResult

Factory = Callable[[], Environment]
"""Makes an environment; has to be picklable (a function at the top of a module, or a `functools.partial` of one)."""
MOST_LOST = 6
"""Processes that may be lost one after the other before the first answer of a pool: then none will ever answer."""
Request = tuple[int, str, Any]
"""Episode, kind (reset, replay, step) and content (seed, seed with actions, action)."""


@dataclass
class _Episode:
    """What is needed to play an episode again."""

    seed: int
    actions: list[str] = field(default_factory=list)
    started: bool = False
    over: bool = False
    lost: str = ""
    """Why the episode was lost while another one was answered for; its next step says so."""


class _Worker:
    """A process with its environments, started when it is first needed."""

    def __init__(self, factory: Factory) -> None:
        self._factory = factory
        self._context = multiprocessing.get_context("spawn")
        self._process: BaseProcess | None = None
        self.pipe: Connection | None = None

    def send(self, requests: list[Request]) -> None:
        """Hand over requests, which are answered one by one; a process that died is noticed when answers are read."""
        if self.pipe is None:
            self.pipe, theirs = self._context.Pipe()
            self._process = self._context.Process(target=_serve, args=(self._factory, theirs), daemon=True)
            self._process.start()
            theirs.close()
        try:
            self.pipe.send(requests)
        except (BrokenPipeError, ConnectionResetError):
            return

    def poll(self, timeout: float) -> bool:
        """Wait until there is an answer, or the end of the process, to be read; False after ``timeout`` seconds."""
        return self.pipe is not None and self.pipe.poll(timeout)

    def receive(self, answered: bool, timeout: float) -> StepResult:
        """Read the next answer, or stop the process where there is none.

        Raises:
            _ProcessLost: the process died, or did not answer within ``timeout`` seconds.
        """
        if not answered or self.pipe is None:
            self.stop()
            raise _ProcessLost(f"no answer within {timeout:g} s")
        try:
            answer: StepResult = self.pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            raise _ProcessLost(f"its process ended with code {self.stop()}") from error
        return answer

    def stop(self) -> int | None:
        """End the process at once and return its exit code."""
        if self._process is None or self.pipe is None:
            return None
        self._process.join(timeout=0.1)
        self._process.kill()
        self._process.join()
        code = self._process.exitcode
        self.pipe.close()
        self._process = self.pipe = None
        return code


class _ProcessLost(Exception):
    """Why a process is gone."""


class EnvironmentWorkers:
    """Environments in ``num_workers`` processes.

    Args:
        factory: makes an environment, in the process that will run it.
        num_workers: processes.
        timeout: seconds until an answer, after which a process counts as hanging; starting it takes some of them.
    """

    def __init__(self, factory: Factory, num_workers: int, timeout: float = 60.0) -> None:
        self.timeout = timeout
        self._workers = [_Worker(factory) for _ in range(num_workers)]
        self._episodes: dict[int, _Episode] = {}
        self._worker_of: dict[int, _Worker] = {}
        self._lost: int | None = 0
        """Processes lost without any answer yet; None once there was one."""
        self.failures: list[str] = []
        """One sentence for each episode that ended in an error, over the life of the pool."""

    def reset(self, seeds: Sequence[int]) -> list[tuple[str, Info]]:
        """Start one episode per seed and return the first observations; episode i belongs to ``seeds[i]``.

        An episode that could not start has an ``error`` in its info and is over.

        Raises:
            RunStopped: one process after the other was lost, and none has ever answered.
        """
        self._episodes = {number: _Episode(seed) for number, seed in enumerate(seeds)}
        homes = {seed: self._workers[i % len(self._workers)] for i, seed in enumerate(dict.fromkeys(seeds))}
        self._worker_of = {number: homes[seed] for number, seed in enumerate(seeds)}
        results = self._ask([(number, "reset", episode.seed) for number, episode in self._episodes.items()])
        return [(results[number][0], results[number][4]) for number in range(len(seeds))]

    def step(self, actions: Mapping[int, str]) -> dict[int, StepResult]:
        """Take one action in each of some episodes that are not over.

        Raises:
            RuntimeError: an episode is over or does not exist.
        """
        for number in actions:
            if number not in self._episodes or self._episodes[number].over:
                raise RuntimeError(f"episode {number} is over or does not exist")
        return self._ask([(number, "step", action) for number, action in actions.items()])

    def close(self) -> None:
        """End all processes."""
        for worker in self._workers:
            worker.stop()

    def __enter__(self) -> "EnvironmentWorkers":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _ask(self, requests: Iterable[Request]) -> dict[int, StepResult]:
        """Send requests to their processes and gather the answers, replacing processes on the way.

        Raises:
            RunStopped: one process after the other was lost, and none has ever answered.
        """
        results: dict[int, StepResult] = {}
        pending: dict[_Worker, deque[Request]] = {}
        for request in requests:
            if self._episodes[request[0]].lost:
                self._record(results, request, failure(self._episodes[request[0]].lost))
            else:
                pending.setdefault(self._worker_of[request[0]], deque()).append(request)
        heard = dict.fromkeys(pending, time.monotonic())
        again: set[int] = set()
        for worker, queue in pending.items():
            worker.send(list(queue))
        while pending:
            patience = min(heard[worker] for worker in pending) + self.timeout - time.monotonic()
            wait([worker.pipe for worker in pending if worker.pipe], max(0.0, patience))
            for worker in list(pending):
                # Each is asked itself: bringing back the one before may have taken longer than the timeout.
                answered = worker.poll(0.0)
                if not answered and time.monotonic() < heard[worker] + self.timeout:
                    continue
                queue = pending[worker]
                request = queue.popleft()
                try:
                    self._record(results, request, worker.receive(answered, self.timeout))
                    self._lost = None
                except _ProcessLost as loss:
                    self._count(loss)
                    if request[0] in again:
                        self._record(results, request, failure(str(loss)))
                    else:
                        again.add(request[0])
                        queue.appendleft(request)
                    self._bring_back(worker)
                    for request in [r for r in queue if self._episodes[r[0]].lost]:
                        queue.remove(request)
                        self._record(results, request, failure(self._episodes[request[0]].lost))
                    if queue:
                        worker.send(list(queue))
                heard[worker] = time.monotonic()
                if not queue:
                    del pending[worker]
        return results

    def _count(self, loss: _ProcessLost) -> None:
        if self._lost is not None:
            self._lost += 1
            if self._lost == MOST_LOST:
                raise RunStopped(
                    f"{MOST_LOST} processes for environments were lost before any of them answered ({loss}); raise "
                    "env_timeout if they are slow, and in a script of your own put the call under "
                    "if __name__ == '__main__':"
                )

    def _record(self, results: dict[int, StepResult], request: Request, result: StepResult) -> None:
        number, kind, content = request
        episode = self._episodes[number]
        results[number] = result
        episode.started = True
        episode.over = result[2] or result[3]
        if kind == "step":
            episode.actions.append(content)
        if "error" in result[4]:
            self.failures.append(f"episode with seed {episode.seed}: {result[4]['error']}")

    def _bring_back(self, worker: _Worker) -> None:
        """Play the running episodes of a lost process again in a new one; those that fail at it are lost."""
        mine = [n for n, e in self._episodes.items() if self._worker_of[n] is worker and e.started]
        queue = deque(number for number in mine if not self._episodes[number].over)
        done: list[int] = []
        while queue:
            number = queue.popleft()
            episode = self._episodes[number]
            worker.send([(number, "replay", (episode.seed, list(episode.actions)))])
            try:
                result = worker.receive(worker.poll(self.timeout), self.timeout)
            except _ProcessLost as loss:
                episode.lost = f"lost while it was played again: {loss}"
                queue.extendleft(reversed(done))
                done.clear()
                continue
            if "error" in result[4]:
                episode.lost = f"lost while it was played again: {result[4]['error']}"
            done.append(number)


def failure(reason: str) -> StepResult:
    """The result of a step that the environment could not take; the reason is put on one line."""
    info: Info = {
        "goal": "",
        "task_type": "",
        "admissible_commands": [],
        "won": False,
        "valid": True,
        "error": " ".join(reason.split()),
    }
    return "", 0.0, False, True, info


def _serve(factory: Factory, pipe: Connection) -> None:
    """Answer requests until the pipe closes. Environments of episodes that are over are used again."""
    # Ctrl-C goes to every process of a terminal. The run still needs this one to finish its step, and ends it then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    playing: dict[int, Environment] = {}
    idle: list[Environment] = []
    while True:
        try:
            requests: list[Request] = pipe.recv()
        except EOFError:
            return
        for number, kind, content in requests:
            if kind != "step" and number in playing:
                idle.append(playing.pop(number))
            # Whatever an environment raises ends its own episode only; SystemExit is not an Exception.
            try:
                if kind != "step":
                    playing[number] = idle.pop() if idle else factory()
                result = take(playing[number], kind, content)
                check_result(result)
            except (Exception, SystemExit) as error:
                result = failure(f"{type(error).__name__}: {error}")
                playing.pop(number, None)
            if (result[2] or result[3]) and number in playing:
                idle.append(playing.pop(number))
            pipe.send(result)


def _end_with_parent() -> None:
    """End this process with the one that started it, even where an environment hangs."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def take(environment: Environment, kind: str, content: Any) -> StepResult:
    """Do what a request asks of an environment."""
    if kind == "reset":
        return as_step(environment.reset(content))
    if kind == "step":
        return environment.step(content)
    seed, actions = content
    result = as_step(environment.reset(seed))
    for action in actions:
        result = environment.step(action)
    return result


def as_step(start: tuple[str, Info]) -> StepResult:
    """A reset in the form of a step: no reward yet, not over."""
    observation, info = start
    return observation, 0.0, False, False, info


def check_result(result: StepResult) -> None:
    """Refuse what no environment may return.

    Raises:
        TypeError: a value has the wrong type.
    """
    observation, reward, terminated, truncated, info = result
    if not (isinstance(observation, str) and isinstance(reward, float) and isinstance(info, dict)):
        raise TypeError("the environment returned something else than (text, number, flag, flag, info)")
    if not (isinstance(terminated, bool) and isinstance(truncated, bool)):
        raise TypeError("the environment returned flags that are not True or False")
