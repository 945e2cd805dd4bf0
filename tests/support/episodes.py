"""A game that a random model can learn, as a task."""

from typing import Any

from onelayer.tasks.agentic import AgenticTask
from onelayer.tasks.base import Problem
from onelayer.tasks.environments.base import Info, StepResult
from onelayer.tasks.environments.local import LocalPool


class DigitGame:
    """Say 2 or 3 digits within 4 steps: something a random character model can learn. Faults on demand, by seed."""

    def __init__(self, faults: dict[int, Any] | None = None) -> None:
        self.max_steps = 4
        self.faults = faults or {}

    def reset(self, seed: int) -> tuple[str, Info]:
        self.seed, self.steps, self.said, self.needed = seed, 0, 0, 2 + seed % 2
        if self.faults.get(seed) == "reset":
            raise OSError("the door is locked")
        return self.observation, self.info(True)

    @property
    def observation(self) -> str:
        return f"{self.said} of {self.needed}"

    def info(self, valid: bool) -> Info:
        won = self.said == self.needed
        return {
            "goal": f"say {self.needed}",
            "task_type": f"say{self.needed}",
            "admissible_commands": list("0123456789"),
            "won": won,
            "valid": valid,
        }

    def step(self, action: str) -> StepResult:
        self.steps += 1
        fault = self.faults.get(self.seed)
        if self.steps == 2 and isinstance(fault, Exception):
            raise fault
        if self.steps == 2 and fault == "nonsense":
            return None, "much", 0, 0, {}  # type: ignore[return-value]
        valid = action.isdigit()
        self.said += valid
        info = self.info(valid)
        return self.observation, float(info["won"]), info["won"], self.steps == 4 and not info["won"], info

    def close(self) -> None:
        pass


def game(faults: dict[int, Any] | None = None, **changes: Any) -> AgenticTask:
    starts = {"test": range(5), "selection": range(5, 8), "train": range(8, 18)}
    options: dict[str, Any] = {
        "style": "compact",
        "history_length": 1,
        "max_steps": 6,
        "max_prompt_length": 80,
        **changes,
    }
    return AgenticTask(
        "digits",
        {split: [Problem(seed, str(seed)) for seed in seeds] for split, seeds in starts.items()},  # type: ignore[misc]
        LocalPool(lambda: DigitGame(faults)),
        **options,
    )
