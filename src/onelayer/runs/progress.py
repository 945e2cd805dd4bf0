"""What a person sees while a run goes on: bars in a terminal, a line now and then anywhere else."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from onelayer.storage.arm_names import FULL
from onelayer.storage.screen import literal, visible
from onelayer.training.loop import Record


class RunProgress:
    """One bar for the whole run, counted in steps of arms, and one for each arm that trains, with its running reward."""

    def __init__(self, console: Console, steps: int) -> None:
        self._steps = steps
        self._expected: dict[str, int] = {}
        self._dropped = 0
        self._started, self._first = time.monotonic(), 0
        self._live = console.is_terminal
        self._bars = Progress(
            TextColumn("{task.description:<16}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeRemainingColumn(),
            console=console,
            disable=not self._live,
        )
        self._whole = self._bars.add_task("all arms", total=None, note="")
        self._arms: dict[str, TaskID] = {}
        self._sets = 0
        """Sets that train at this time."""
        self._smooth: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def say(self, text: str, style: str = "", *, head: str = "") -> None:
        """Print a line above the bars, what is said of ``head`` after it."""
        self._bars.console.print(literal(head, "bold") + literal(text, style), highlight=False)

    def note(self, text: str) -> None:
        """Say beside the first bar what goes on besides training."""
        self._bars.update(self._whole, note=visible(text))

    def expect(self, names: Sequence[str]) -> None:
        """Count these arms in."""
        for name in names:
            self._expected.setdefault(name, 0)
        self._update()

    def forget(self, name: str) -> None:
        """An arm trains no more: count out what it would still have done."""
        self._dropped += self._expected.pop(name, 0)
        self._update()

    def start_set(self, names: Sequence[str], step: int) -> None:
        """A set of arms begins (or continues) at ``step``."""
        self.note("")
        self._sets += 1
        for name in names:
            self._first += step - self._expected[name]
            self._expected[name] = step
            self._arms[name] = self._bars.add_task(name, total=self._steps, completed=step, note="")
        self._update()

    def step(self, step: int, records: Sequence[tuple[str, Record]]) -> None:
        """A set has done a step: the metrics of its arms, by name."""
        for name, record in records:
            reward = float(record["reward"])
            self._smooth[name] = 0.8 * self._smooth.get(name, reward) + 0.2 * reward
            note = f"reward {self._smooth[name]:.3f}" + (" (stopped)" if record.get("stopped") else "")
            self._bars.update(self._arms[name], completed=step + 1, note=note)
            self._expected[name] = step + 1
        self._update()
        every = max(1, self._steps // 10)
        if not self._live and ((step + 1) % every == 0 or step + 1 == self._steps):
            elapsed = time.monotonic() - self._started
            done, total = self._update()
            left = elapsed / max(1, done - self._first) * (total - done)
            rewards = {name: self._smooth[name] for name, _ in records}
            alone = [reward for name, reward in rewards.items() if name != FULL]
            shown = [f"full {rewards[FULL]:.2f}"] if FULL in rewards else []
            if len(alone) == 1:
                shown.append(f"{min(alone):.2f}")
            elif alone:
                shown.append(f"others {min(alone):.2f} to {max(alone):.2f}")
            names = list(rewards)
            which = f" of {names[0]}{f' to {names[-1]}' if names[1:] else ''}" if self._sets > 1 else ""
            self.say(f"step {step + 1}/{self._steps}{which}  about {left:.0f} s left  reward: {', '.join(shown)}")

    def _update(self) -> tuple[int, int]:
        """Steps of arms that are done and that are known to come."""
        done = self._dropped + sum(self._expected.values())
        total = self._dropped + self._steps * len(self._expected)
        self._bars.update(self._whole, completed=done, total=total)
        return done, total

    def end_set(self, names: Sequence[str]) -> None:
        """The set is done: its bars go."""
        self._sets -= 1
        for name in names:
            self._bars.remove_task(self._arms.pop(name))
