"""How a command ends other than by being done, each with one plain sentence for the person who typed it."""

import difflib


class UserError(Exception):
    """The user's input is wrong (exit code 2). The message is one sentence: what, where, what would be right."""


class RunStopped(Exception):
    """A run cannot go on and says why in one sentence (exit code 1), e.g. rewards that never vary."""


class GuardTripped(RunStopped):
    """A guard ends the run; ``guard`` is its name, under which metrics.jsonl has it."""

    def __init__(self, guard: str, sentence: str) -> None:
        super().__init__(guard, sentence)  # both, so that a copy can be made in another process
        self.guard = guard

    def __str__(self) -> str:
        return str(self.args[1])


class Paused(Exception):
    """The run stopped on purpose after ``stop_at`` steps (exit code 0)."""


def did_you_mean(word: str, known: list[str]) -> str:
    """The end of an error sentence: the nearest known word, or all of them."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
