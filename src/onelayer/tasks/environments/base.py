"""What an environment is: text in, text out, with Gymnasium's ``reset`` and ``step``.

The same seed always gives the same start state, and the same actions after it the same observations: a group of
trajectories is made by resetting several environments with one seed.
"""

from typing import NotRequired, Protocol, TypedDict


class Info(TypedDict):
    """What an environment tells beside its observation."""

    goal: str
    """The task of the episode, in words."""
    task_type: str
    """The kind of task, for scores per kind."""
    admissible_commands: list[str]
    """Every action that the environment would carry out now, sorted."""
    won: bool
    """Whether the task is done."""
    valid: bool
    """Whether the last action was among the admissible commands before it; True after a reset."""
    error: NotRequired[str]
    """Why the environment, not the agent, ended the episode; absent in a healthy episode."""


StepResult = tuple[str, float, bool, bool, Info]
"""``(observation, reward, terminated, truncated, info)``: the reward is 1.0 when the task is done and otherwise 0.0."""


class Environment(Protocol):
    """One episode at a time; `reset` starts the next."""

    max_steps: int
    """The step after which an unfinished episode is truncated."""

    def reset(self, seed: int) -> tuple[str, Info]:
        """Start the episode that belongs to this seed and return the first observation."""

    def step(self, action: str) -> StepResult:
        """Carry out one action.

        An action that is not admissible uses up its step; the info then says ``valid=False``.

        Raises:
            RuntimeError: the episode is over, or none was started.
        """

    def close(self) -> None:
        """Free what the environment holds outside this process."""
