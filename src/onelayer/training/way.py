"""How a task is rolled out: what the two ways, answers and episodes, have in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

from torch import Tensor

from onelayer.config.configs import TrainConfig
from onelayer.config.sampling import EvalConfig
from onelayer.config.update import StepConfig
from onelayer.models.base import BaseModel
from onelayer.storage.scores import ArmScores
from onelayer.tasks.base import Split, Task
from onelayer.training.batch import Rollouts
from onelayer.training.draws import Key
from onelayer.training.episode import Episode
from onelayer.training.prompts import EncodedSplit
from onelayer.training.sample import Complete


class Draw(NamedTuple):
    """What one policy is to do in a step."""

    policy: Mapping[str, Tensor]
    """The tensors that it wears; none for the base itself."""
    samples: Sequence[tuple[int, int]]
    """Places of problems in the split, each with a sample number."""
    key: Key
    trunk_layer: int | None = None
    """A layer whose input is kept."""


@dataclass(frozen=True)
class Evaluated:
    """One policy's scores on a split, and its episodes where there are several turns."""

    scores: ArmScores
    episodes: Sequence[Episode] = ()


Part = TypeVar("Part")


class Way(Protocol[Part]):
    """One way of rolling problems out. ``Part`` is what came out for one policy, in one process."""

    arms_at_once: int | None
    """How many policies are scored on the test problems side by side; None is all of them."""

    def encode(self, base: BaseModel, task: Task, config: TrainConfig) -> dict[Split, EncodedSplit]:
        """The problems of all splits, as this way needs them.

        Raises:
            UserError: nothing to train or to score with, or options that do not fit.
        """

    def rows_of_episode(self, task: Task) -> int:
        """Most calls of the model for one completion of a problem."""

    def prompt_tokens(self, task: Task, width: int) -> int:
        """Most tokens of a prompt in a step whose pad width is ``width``."""

    def roll(
        self,
        base: BaseModel,
        task: Task,
        data: EncodedSplit,
        draws: Sequence[Draw],
        width: int,
        config: StepConfig,
        complete: Complete = ...,
    ) -> list[Part]:
        """Let every policy do its problems. ``complete`` writes completions; an engine can put its own there."""

    def join(self, parts: Sequence[Part]) -> Part:
        """The parts of several processes as one's."""

    def rollouts(self, task: Task, part: Part, config: StepConfig, who: str) -> Rollouts:
        """What came out, as rows for `onelayer.training.batch.to_batch`.

        Raises:
            RunStopped: nothing that can be learned from; ``who`` begins the sentence.
        """

    def evaluate(
        self,
        base: BaseModel,
        task: Task,
        data: EncodedSplit,
        policies: Sequence[Mapping[str, Tensor]],
        config: EvalConfig,
    ) -> list[Evaluated]:
        """Score policies (tensors to wear; none for the base) on the same problems with the same sampling keys.

        Raises:
            UserError: a problem without a score.
            RunStopped: what could not be judged and has no reward.
        """
