"""A worker of a Ray cluster: holds the base once, trains one set of arms at a time, and hands its events over by steps.

It writes no files and decides nothing. Each call of :meth:`ArmWorker.go_on` takes the set one step further and returns what
there is to keep, so that whoever calls may stop between any two steps, and is never more than a step behind.
"""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from onelayer.config.configs import TrainConfig
from onelayer.errors import Paused, RunStopped, UserError
from onelayer.runs.arm_set import Job, SetAtWork, SetContext
from onelayer.runs.events import Between, Event, Said
from onelayer.runs.inputs import load_model, load_splits, load_task
from onelayer.runs.interrupt import Interrupted
from onelayer.runs.manifest import build_manifest
from onelayer.runs.scoring import Scorer, score_base
from onelayer.runs.sets import free_memory
from onelayer.storage.manifest import Manifest
from onelayer.training.loop import Training
from onelayer.training.out_of_memory import OutOfMemory, free_leftovers

SENTENCES = (UserError, RunStopped, OutOfMemory, Interrupted, Paused)
"""How a set may end: what the driver answers, or passes on. Anything else is a fault of the program."""


@dataclass(frozen=True)
class Greeting:
    """What a worker says of itself once it has loaded everything."""

    host: str
    process: int
    node: str
    """Ray's name of the machine."""
    manifest: Manifest
    """Everything here that changes a floating-point result."""
    free: int
    """Bytes that are free where the model is."""
    said: Sequence[Said]


@dataclass(frozen=True)
class Refusal:
    """What a worker says that cannot load."""

    host: str
    error: UserError | RunStopped


@dataclass(frozen=True)
class Reply:
    """What came of one call."""

    events: Sequence[Event]
    ended: bool = False
    """Nothing more will come of the set."""
    error: BaseException | None = None
    """One of ``SENTENCES``, where it ended badly."""


@dataclass
class ArmWorker:
    """See the module."""

    config: TrainConfig
    folder: str
    """Where the command runs: paths in options are seen from there, if this machine has it."""
    threads: int
    _asked: str | None = None
    _work: Iterator[Event] | None = None
    _context: SetContext | None = None

    def load(self) -> "Greeting | Refusal":
        """Load model, task and problems; what is wrong with them comes back."""
        import ray

        ray.util.register_serializer(Tensor, serializer=to_numpy, deserializer=from_numpy)
        with contextlib.suppress(OSError):
            os.chdir(self.folder)
        with _collected() as said:
            try:
                self._base = load_model(self.config)
                torch.set_num_threads(self.threads)
                self._task = load_task(self.config)
                self._data = load_splits(self._base, self._task, self.config)
                manifest = build_manifest(self._base, self._data, self.config, [])
            except (UserError, RunStopped) as error:
                return Refusal(socket.gethostname(), error)
        node = ray.get_runtime_context().get_node_id()
        return Greeting(socket.gethostname(), os.getpid(), node, manifest, free_memory(self._base), said)

    def begin_base(self, cuts: Sequence[Mapping[str, Any]]) -> None:
        """Be ready to score the base."""
        self._work = score_base(
            Scorer(self._base, self._task, self._data, self.config, "base", [dict(cut) for cut in cuts])
        )

    def begin_set(self, job: Job, seeds: tuple[int, ...], rungs: tuple[int, ...]) -> None:
        """Be ready to train a set of arms; all that may fail does so in the first :meth:`go_on`."""
        self._work = self._at_work(job, seeds, rungs)

    def go_on(self, asked: str | None = None) -> Reply:
        """Do one step, or the scoring at the end.

        Args:
            asked: why to stop instead, with the state of now handed over; None goes on.
        """
        if self._work is None:
            raise RuntimeError("a worker was asked to go on, and has nothing to do")
        self._asked = asked
        events: list[Event] = []
        with _collected() as said:
            try:
                for event in self._work:
                    if isinstance(event, Between):
                        return Reply([*said, *events])
                    events.append(event)
            except SENTENCES as error:
                # Without the frames, which hold the failed batch.
                reply = Reply([*said, *events], ended=True, error=error.with_traceback(None))
            else:
                reply = Reply([*said, *events], ended=True)
        self._work = None
        return reply

    def _at_work(self, job: Job, seeds: tuple[int, ...], rungs: tuple[int, ...]) -> Iterator[Event]:
        free_leftovers()
        if self._context is None:
            train, selection = self._data["train"], self._data["selection"]
            training = Training(self._base, self._task, train, selection, self.config, seeds, rungs)
            self._context = SetContext(training, self._data, lambda: self._asked)
        arms = SetAtWork(self._context, job)
        yield from arms.train()
        yield from arms.score()


def to_numpy(tensor: Tensor) -> Any:
    """A tensor as Ray sends it without another copy; it arrives as a view of shared memory that nobody may write to."""
    return tensor.detach().cpu().numpy()


def from_numpy(array: Any) -> Tensor:
    """The tensor again."""
    return torch.from_numpy(array)


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[Said] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(Said(record.getMessage(), warns=record.levelno >= logging.WARNING))


@contextmanager
def _collected() -> Iterator[list[Said]]:
    """Collect what the package logs inside the block, such as a reward that is tried again: a person sees it elsewhere."""
    logger, collector = logging.getLogger("onelayer"), _Collector()
    logger.addHandler(collector)
    logger.setLevel(logging.INFO)
    try:
        yield collector.said
    finally:
        logger.removeHandler(collector)
