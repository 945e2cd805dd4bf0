"""``--engine trl``: arms trained by TRL, in as many processes as accelerate has started."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from onelayer.arms.spec import ArmSpec
from onelayer.config.configs import TrainConfig
from onelayer.engines.trl.options import refuse_spec
from onelayer.engines.trl.processes import Together
from onelayer.engines.trl.run import TrlRunner
from onelayer.models.base import BaseModel
from onelayer.runs.inputs import load_model
from onelayer.runs.run import Runner
from onelayer.tasks.base import Split, Task
from onelayer.training.loop import Training
from onelayer.training.prompts import EncodedSplit


class TrlEngine:
    """The processes of a command; see `onelayer.runs.engine.Engine`. Use it as a context manager, so that the others
    end when the main one does.

    Raises:
        UserError: packages that are missing or were not tested, or another number of processes than ``num_processes``.
    """

    manifest: Mapping[str, Any] = {}
    """Every process trains with what it has loaded itself."""

    def __init__(self, config: TrainConfig) -> None:
        self.together = Together(config)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.together.end(error)

    def load(self, config: TrainConfig) -> BaseModel:
        """The base on this process's device."""
        return load_model(config)

    def leads(self, base: BaseModel, task: Task, data: dict[Split, EncodedSplit], specs: Sequence[ArmSpec]) -> bool:
        """Whether this process is the main one; the others have followed it to its end.

        Raises:
            UserError: an arm that this engine does not train.
            RunStopped: the processes have not loaded the same.
        """
        for spec in specs:
            refuse_spec(spec)
        self.together.begin(base, task, data)
        return self.together.is_main

    def runner(self, training: Training, data: Mapping[Split, EncodedSplit]) -> Runner:
        """The main process's way to run sets."""
        return TrlRunner(self.together)
