"""Tasks: one file each. ``get_task`` finds them by name."""

from collections.abc import Callable

from onelayer.config import did_you_mean
from onelayer.errors import UserError
from onelayer.tasks.base import Task


def _arithmetic() -> Task:
    from onelayer.tasks.arithmetic import ArithmeticTask

    return ArithmeticTask()


TASKS: dict[str, Callable[[], Task]] = {"arithmetic": _arithmetic}


def get_task(name: str) -> Task:
    """The bundled task of that name.

    Raises:
        UserError: there is none.
    """
    if name not in TASKS:
        from onelayer.tasks.benchmarks import names

        raise UserError(f"there is no task '{name}'{did_you_mean(name, [*sorted(TASKS), *names('training')])}")
    return TASKS[name]()
