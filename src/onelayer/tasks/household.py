"""The task ``household``: start states of ``household-v0``, played in this process.

Problem ids are seeds of the environment in three ranges, one a split; a start state belongs to one split only. Prompts
are compact for the bundled word-level model; with ``--chat`` they are plain English for instruction-tuned models.
"""

from functools import partial

from onelayer.config.task import TaskConfig
from onelayer.tasks.agentic import AgenticTask
from onelayer.tasks.base import Problem, Split
from onelayer.tasks.environments.base import Info
from onelayer.tasks.environments.household import Household
from onelayer.tasks.environments.local import LocalPool

STARTS: dict[Split, range] = {"test": range(200), "selection": range(200, 300), "train": range(300, 4396)}
"""Seeds of each split's episodes."""
MAX_STEPS = 12


class NumberedHousehold(Household):
    """The environment with the start states of all splits: the seed says which split is played."""

    def reset(self, seed: int) -> tuple[str, Info]:
        """Start the episode of a seed; seeds beyond all ranges are training."""
        self.split = next((split for split, seeds in STARTS.items() if seed in seeds), "train")
        return super().reset(seed)


def household_task(config: TaskConfig) -> AgenticTask:
    """The task, as the configuration wants it played."""
    max_steps = config.max_env_steps or MAX_STEPS
    return AgenticTask(
        name="household",
        starts={split: [Problem(seed, f"household-v0 {seed}") for seed in seeds] for split, seeds in STARTS.items()},
        pool=LocalPool(partial(NumberedHousehold, max_steps=max_steps)),
        style="chat" if config.chat else "compact",
        history_length=config.history_length,
        max_steps=max_steps,
        max_prompt_length=config.max_prompt_length,
        messages=config.chat,
    )
