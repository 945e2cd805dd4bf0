"""An episode: the turns of one rollout in an environment."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from torch import Tensor

from onelayer.tasks.base import Problem, Prompt
from onelayer.tasks.environments.base import Info

Reason = Literal["success", "failure", "max_steps", "too_long", "error"]
"""Why an episode ended: the task is done, it can no longer be done, out of steps, a prompt over ``max_prompt_length``,
or a fault of the environment."""


class Turn(NamedTuple):
    """One call of the model and what came of it."""

    prompt: Prompt
    prompt_ids: Sequence[int]
    completion: str
    completion_ids: Sequence[int]
    truncated: bool
    observation: str
    """What the environment showed before the action."""
    action: str
    valid: bool
    reward: float
    trunk: Tensor | None = None
    """(prompt + completion - 1, H): input of the layer that was asked for."""


@dataclass
class Episode:
    """One episode, while it is played and after."""

    start: Problem
    sample: int
    observation: str
    info: Info
    turns: list[Turn] = field(default_factory=list)
    reason: Reason | None = None
    """None while it runs."""

    @property
    def total(self) -> float:
        """Undiscounted reward, without penalties."""
        return sum(turn.reward for turn in self.turns)

    def penalised(self, coefficient: float) -> float:
        """Undiscounted reward less the penalties for invalid actions."""
        return self.total - coefficient * sum(not turn.valid for turn in self.turns)
