"""Tasks that are played in turns: their problems are start states, and an environment gives the reward."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from onelayer.errors import UserError
from onelayer.tasks.base import Problem, Prompt, Reward, Rollout, Split
from onelayer.tasks.environments.base import Info
from onelayer.tasks.environments.local import EnvironmentPool
from onelayer.tasks.environments.prompting import PromptStyle, parse_action, render_prompt


@dataclass(frozen=True)
class AgenticTask:
    """A task whose problem ``id`` is the seed of an episode. Its environments are numbered across all splits."""

    name: str
    starts: Mapping[Split, Sequence[Problem]]
    """The start states; a problem's prompt only names its start, since a turn's prompt is written as it is played."""
    pool: EnvironmentPool
    style: PromptStyle
    history_length: int
    """Past turns that a prompt shows."""
    max_steps: int
    """An episode ends after so many turns."""
    max_prompt_length: int
    """An episode whose prompt gets longer (in tokens) is over, without the reward."""
    messages: bool = False
    """Send prompts as chat messages."""
    notes: tuple[str, ...] = ()
    """What the user should know of the start states, in sentences."""
    rollout: ClassVar[Rollout] = "in_turns"

    def problems(self, split: Split) -> Sequence[Problem]:
        """The start states of a split."""
        return self.starts[split]

    @property
    def failures(self) -> Sequence[str]:
        """Faults of the environments so far, in sentences."""
        return self.pool.failures

    @property
    def reward(self) -> Reward:
        """An agentic task has none that could judge a completion by itself.

        Raises:
            UserError: always.
        """
        raise UserError(f"task '{self.name}' is played in turns: single completions of it cannot be judged")

    def prompt(self, info: Info, history: Sequence[tuple[str, str]], observation: str) -> Prompt:
        """The prompt of a turn; ``history`` has the (observation, action) of all turns before."""
        text = render_prompt(
            info["goal"],
            history,
            observation,
            info["admissible_commands"],
            history_length=self.history_length,
            style=self.style,
        )
        return [{"role": "user", "content": text}] if self.messages else text

    def action(self, completion: str) -> str | None:
        """The action in a completion; None where it has none."""
        return parse_action(completion, opened=self.style == "compact")
