"""What trains the arms of a run, as its commands see it: the built-in loop in this process, or something of engines/."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from onelayer.arms.spec import ArmSpec
from onelayer.config.configs import TrainConfig
from onelayer.models.base import BaseModel
from onelayer.runs.inputs import load_model
from onelayer.runs.local import LocalRunner
from onelayer.runs.run import Runner
from onelayer.tasks.base import Split, Task
from onelayer.training.loop import Training
from onelayer.training.prompts import EncodedSplit


class Engine(Protocol):
    """What a command needs of an engine."""

    @property
    def manifest(self) -> Mapping[str, Any]:
        """What the run's manifest says of where arms are trained, if that is not this process."""

    def load(self, config: TrainConfig) -> BaseModel:
        """The base, as this process needs it.

        Raises:
            UserError: a model that cannot be loaded.
        """

    def leads(self, base: BaseModel, task: Task, data: dict[Split, EncodedSplit], specs: Sequence[ArmSpec]) -> bool:
        """Whether this process is to go on with the command; False after it has helped the one that does.

        ``specs`` are the arms that are known so far, of one seed.

        Raises:
            UserError: one of the arms is none that this engine trains, or there is nothing to train them with.
        """

    def runner(self, training: Training, data: Mapping[Split, EncodedSplit]) -> Runner:
        """The way in which this engine runs sets of arms, once it leads."""


class Local:
    """The built-in loop, in one process."""

    manifest: Mapping[str, Any] = {}

    def load(self, config: TrainConfig) -> BaseModel:
        """The base on the device that trains."""
        return load_model(config)

    def leads(self, base: BaseModel, task: Task, data: dict[Split, EncodedSplit], specs: Sequence[ArmSpec]) -> bool:
        """There is no other process."""
        return True

    def runner(self, training: Training, data: Mapping[Split, EncodedSplit]) -> Runner:
        """The built-in loop."""
        return LocalRunner(training, data)
