"""How a command ends other than by being done, each with one plain sentence for the person who typed it."""


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
