"""What trains the arms of a run: the built-in loop, here or on a Ray cluster, or TRL with accelerate."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from onelayer.config import TrainConfig
from onelayer.model import BaseModel
from onelayer.prompts import EncodedSplit
from onelayer.run import Run
from onelayer.setup import load_model
from onelayer.specs import ArmSpec
from onelayer.tasks.base import Split, Task


class Engine(Protocol):
    """What a command needs of an engine."""

    @property
    def manifest(self) -> Mapping[str, Any]:
        """What the run's manifest says of where arms are trained, if that is not this process."""
        ...

    def load(self, config: TrainConfig) -> BaseModel:
        """The base, as this process needs it.

        Raises:
            UserError: a model that cannot be loaded.
        """
        ...

    def leads(self, base: BaseModel, task: Task, data: dict[Split, EncodedSplit], specs: Sequence[ArmSpec]) -> bool:
        """Whether this process is to go on with the command; False after it has helped the one that does.

        ``specs`` are the arms that are known so far, of one seed.

        Raises:
            UserError: one of the arms is none that this engine trains, or there is nothing to train them with.
        """
        ...

    @property
    def make_run(self) -> Callable[..., Run]:
        """Makes the run, with the arguments of `onelayer.run.Run`."""
        ...


class Local:
    """The built-in loop, in one process."""

    make_run = Run
    manifest: Mapping[str, Any] = {}

    def load(self, config: TrainConfig) -> BaseModel:
        """The base on the device that trains."""
        return load_model(config)

    def leads(self, base: BaseModel, task: Task, data: dict[Split, EncodedSplit], specs: Sequence[ArmSpec]) -> bool:
        """There is no other process."""
        return True


@contextmanager
def joined(config: TrainConfig) -> Iterator[Engine]:
    """The engine of a configuration, for as long as a command runs.

    Raises:
        UserError: an engine that is not installed, or not as it was tested.
    """
    if config.engine == "local":
        yield Local()
    elif config.engine == "ray":
        from onelayer.engines.ray_engine import RayEngine

        with RayEngine(config) as ray:
            yield ray
    else:
        from onelayer.engines.together import Together

        with Together(config) as together:
            yield together
