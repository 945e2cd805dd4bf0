"""What a person sees while a run goes on: bars in a terminal, a line now and then anywhere else."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from onelayer.arm import Arm
from onelayer.loop import Record


class RunProgress:
    """One bar for the whole run, counted in steps of arms, and one for each arm that trains, with its running reward."""

    def __init__(self, console: Console, total_arms: int, steps: int, done_arms: int = 0) -> None:
        self._console, self._steps = console, steps
        self._total, self._done = total_arms * steps, done_arms * steps
        self._started, self._first = time.monotonic(), self._done
        self._live = console.is_terminal
        self._bars = Progress(
            TextColumn("{task.description:<16}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not self._live,
        )
        self._whole = self._bars.add_task("[bold]all arms", total=self._total, completed=self._done, note="")
        self._arms: dict[str, TaskID] = {}
        self._smooth: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self._bars.console.print(text, highlight=False)

    def start_set(self, arms: Sequence[Arm], step: int) -> None:
        """A set of arms begins (or continues) at ``step``."""
        self._done += len(arms) * step
        self._first += len(arms) * step
        for arm in arms:
            self._arms[arm.name] = self._bars.add_task(arm.name, total=self._steps, completed=step, note="")
        self._bars.update(self._whole, completed=self._done)

    def step(self, step: int, results: Sequence[tuple[Arm, Record]]) -> None:
        """The set has done a step."""
        for arm, record in results:
            reward = float(record["reward"])
            self._smooth[arm.name] = 0.8 * self._smooth.get(arm.name, reward) + 0.2 * reward
            note = f"reward {self._smooth[arm.name]:.3f}" + (" (stopped)" if arm.stopped else "")
            self._bars.update(self._arms[arm.name], completed=step + 1, note=note)
        self._done += len(results)
        self._bars.update(self._whole, completed=self._done)
        every = max(1, self._steps // 10)
        if not self._live and ((step + 1) % every == 0 or step + 1 == self._steps):
            elapsed = time.monotonic() - self._started
            left = elapsed / max(1, self._done - self._first) * (self._total - self._done)
            rewards = {arm.name: self._smooth[arm.name] for arm, _ in results}
            alone = [reward for name, reward in rewards.items() if name != "full"]
            shown = [f"full {rewards['full']:.2f}"] if "full" in rewards else []
            shown += [f"others {min(alone):.2f} to {max(alone):.2f}"] if alone else []
            self.say(f"step {step + 1}/{self._steps}  about {left:.0f} s left  reward: {', '.join(shown)}")

    def end_set(self, arms: Sequence[Arm]) -> None:
        """The set is done: its bars go."""
        for arm in arms:
            self._bars.remove_task(self._arms.pop(arm.name))
