"""What trains the arms of a run: the built-in loop, or TRL with accelerate for models that need many GPUs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from onelayer.config import TrainConfig
from onelayer.model import BaseModel
from onelayer.prompts import EncodedSplit
from onelayer.run import Run
from onelayer.specs import ArmSpec
from onelayer.tasks.base import Split, Task


class Engine(Protocol):
    """What a command needs of an engine."""

    def leads(self, base: BaseModel, task: Task, data: dict[Split, EncodedSplit], specs: Sequence[ArmSpec]) -> bool:
        """Whether this process is to go on with the command; False after it has helped the one that does.

        Raises:
            UserError: one of the arms is none that this engine trains.
        """
        ...

    @property
    def make_run(self) -> Callable[..., Run]:
        """Makes the run, with the arguments of `onelayer.run.Run`."""
        ...


class Local:
    """The built-in loop, in one process."""

    make_run = Run

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
    else:
        from onelayer.engines.together import Together

        with Together(config) as together:
            yield together
