"""``--engine ray``: the built-in loop in the workers of a Ray cluster; this process decides, writes and shows."""

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from onelayer.arms.spec import ArmSpec
from onelayer.config.configs import TrainConfig
from onelayer.engines.ray.cluster import Size, connected, machines
from onelayer.engines.ray.worker import ArmWorker, Greeting
from onelayer.engines.ray.workers import Workers
from onelayer.engines.versions import check_versions
from onelayer.errors import UserError
from onelayer.models.base import BaseModel
from onelayer.models.load import load_base
from onelayer.models.source import checkpoint_dtype
from onelayer.runs.events import Said
from onelayer.runs.inputs import load_model
from onelayer.runs.manifest import build_manifest, pinned, short
from onelayer.runs.run import Runner
from onelayer.storage.manifest import Manifest
from onelayer.tasks.base import Split, Task
from onelayer.training.loop import Training
from onelayer.training.prompts import EncodedSplit

log = logging.getLogger(__name__)
OVERHEAD = 2**30
"""Bytes of a worker besides twice the model: Python, libraries, what arms and batches take of a small one."""
PASSED_ON = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "ALFWORLD_DATA")
"""Variables that workers get from the command, wherever they are."""
WHERE = ("device", "hardware", "threads")
"""Keys of the manifest that say where arms are trained; all others have to be the same there and here."""
SHOWN_DIFFERENCES = 4


class RayEngine:
    """A cluster and this run's workers on it. Use it as a context manager, so that they end with the command.

    Raises:
        UserError: Ray is missing or was not tested, or there is no cluster at the address.
    """

    def __init__(self, config: TrainConfig) -> None:
        check_versions("ray", ("ray",))
        self.config = config
        self.manifest: dict[str, Any] = {}
        """What the run's manifest says of where arms are trained."""
        self._open = ExitStack()
        self._cluster: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def load(self, config: TrainConfig) -> BaseModel:
        """The base for this process, which trains nothing: on the CPU, in the type that it has in the workers.

        Raises:
            UserError: no such model, or no cluster at the address.
        """
        if not self._gpus:
            return load_model(config.model_copy(update={"device": "cpu"}))
        dtype = None if config.dtype == "auto" else getattr(torch, config.dtype)
        return load_base(
            config.model,
            revision=config.revision,
            dtype=dtype or checkpoint_dtype(config.model, config.revision, config.trust_remote_code),
            device="cpu",
            trust_remote_code=config.trust_remote_code,
        )

    def leads(self, base: BaseModel, task: Task, data: dict[Split, EncodedSplit], specs: Sequence[ArmSpec]) -> bool:
        """Start the workers, each of which loads what this process has loaded.

        Raises:
            UserError: too little room, or a machine that has another model, code or data.
        """
        here = build_manifest(base, data, self.config, [])
        cluster = self._connect()
        cpus = self.config.cpus_per_worker or self.config.threads or 1
        size = Size(cpus, self._gpus, 2 * base.num_parameters * base.dtype.itemsize + OVERHEAD)
        count = self._count(size, len(specs) * getattr(self.config, "seeds", 1))
        self.workers = Workers(size, partial(self._make, size), partial(check_greeting, here=here))
        self._open.callback(self._end_workers)
        self.workers.start(count)
        self.workers.wait_for_all()
        greetings = [handle.greeting for handle in self.workers.handles if handle.greeting is not None]
        self.manifest = {key: getattr(greetings[0].manifest, key) for key in WHERE}
        # On a CPU those on one machine share what is free.
        sharing = Counter(greeting.node for greeting in greetings)
        self._free = min(g.free if size.gpus else g.free // sharing[g.node] for g in greetings)
        _tell(greetings)
        many = "s" * (count > 1)
        log.info("%d Ray worker%s%s with %s, on %s", count, many, ", each" if count > 1 else "", size, cluster)
        return True

    def runner(self, training: Training, data: Mapping[Split, EncodedSplit]) -> Runner:
        """The workers, each with a training of its own."""
        from onelayer.engines.ray.run import RayRunner

        return RayRunner(self.workers, self._free)

    @property
    def _gpus(self) -> int:
        """GPUs of a worker."""
        config = self.config
        if config.gpus_per_worker is not None:
            return config.gpus_per_worker
        if config.device != "auto":
            return int(config.device == "cuda")
        if config.address is None and "RAY_ADDRESS" not in os.environ and self._cluster is None:
            return int(torch.cuda.is_available())  # a cluster on this machine will have what the machine has
        self._connect()
        return int(any(machine.total.get("GPU") for machine in machines()))

    def _connect(self) -> str:
        if self._cluster is None:
            self._cluster = self._open.enter_context(connected(self.config.address))
        return self._cluster

    def _count(self, size: Size, arms: int) -> int:
        """How many workers to start: as many as were asked for, or as there is room for and work."""
        room = sum(size.fits(machine.free) for machine in machines())
        if room < max(1, self.config.workers):
            wanted = f"{self.config.workers} workers take" if self.config.workers > 1 else "a worker takes"
            which = " each" if self.config.workers > 1 else ""
            shown = "; ".join(str(machine) for machine in machines()[:8])
            raise UserError(f"{wanted} {size}{which}, and the Ray cluster has room for {room or 'none'}: {shown}")
        return self.config.workers or min(room, arms)

    def _make(self, size: Size) -> Any:
        import ray

        passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        config = self.config.model_copy(update={"device": "cuda" if size.gpus else "cpu"})
        actor = ray.remote(ArmWorker).options(
            num_cpus=size.cpus,
            num_gpus=size.gpus,
            memory=size.memory,
            max_restarts=0,
            max_task_retries=0,
            runtime_env={"env_vars": passed} if passed and self._cluster != "a cluster on this machine" else None,
        )
        return actor.remote(config, str(Path.cwd()), size.cpus)

    def _end_workers(self) -> None:
        for handle in list(self.workers.handles):
            self.workers.drop(handle)


def check_greeting(greeting: Greeting, here: Manifest) -> None:
    """A worker computes with what this process has, or not at all.

    Args:
        greeting: what the worker says.
        here: this process's manifest.

    Raises:
        UserError: with the first differences.
    """
    was, now = pinned(greeting.manifest), pinned(here)
    keys = [key for key in sorted(was.keys() | now.keys()) if key.partition(".")[0] not in (*WHERE, "config")]
    if differing := [key for key in keys if was.get(key) != now.get(key)]:
        shown = [f"{key} is {short(was.get(key))} there and {short(now.get(key))} here" for key in differing]
        more = f"; and {len(shown) - SHOWN_DIFFERENCES} more" if len(shown) > SHOWN_DIFFERENCES else ""
        raise UserError(
            f"the machine {greeting.host} of the Ray cluster does not have what this one has: "
            f"{'; '.join(shown[:SHOWN_DIFFERENCES])}{more}"
        )


def _tell(greetings: Sequence[Greeting]) -> None:
    """Pass on what workers said while they loaded, each sentence once, and how they differ."""
    said: dict[Said, None] = dict.fromkeys(each for greeting in greetings for each in greeting.said)
    for each in said:
        log.log(logging.WARNING if each.warns else logging.INFO, "%s", each.text)
    kinds = sorted({str(greeting.manifest.hardware) for greeting in greetings})
    if len(kinds) > 1:
        log.warning(
            "the workers have different hardware (%s): the last bits of an arm depend on which of them trains it",
            ", ".join(kinds),
        )
