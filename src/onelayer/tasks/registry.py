"""The tasks by name."""

from collections.abc import Callable

from onelayer.config.task import TaskConfig
from onelayer.errors import UserError, did_you_mean
from onelayer.tasks.base import Task


def _arithmetic(config: TaskConfig) -> Task:
    from onelayer.tasks.arithmetic import ArithmeticTask

    return ArithmeticTask()


def _arithmetic_boxed(config: TaskConfig) -> Task:
    from onelayer.tasks.arithmetic_boxed import BoxedArithmeticTask

    return BoxedArithmeticTask()


def _code(config: TaskConfig) -> Task:
    from onelayer.tasks.code import CodeTask

    return CodeTask()


def _household(config: TaskConfig) -> Task:
    from onelayer.tasks.household import household_task

    return household_task(config)


def _alfworld(config: TaskConfig) -> Task:
    from onelayer.tasks.alfworld import alfworld_task

    return alfworld_task(config)


TASKS: dict[str, Callable[[TaskConfig], Task]] = {
    "arithmetic": _arithmetic,
    "arithmetic-boxed": _arithmetic_boxed,
    "code": _code,
    "household": _household,
    "alfworld": _alfworld,
}


def get_task(name: str, config: TaskConfig) -> Task:
    """The bundled task of that name, with its options.

    Raises:
        UserError: there is none.
    """
    require_known(name)
    return TASKS[name](config)


def require_known(name: str) -> None:
    """Refuse a name that is neither a bundled task nor a training set.

    Raises:
        UserError: with the nearest names.
    """
    if name not in TASKS:
        from onelayer.tasks.benchmarks import is_training_set, names

        if not is_training_set(name):
            raise UserError(f"there is no task '{name}'{did_you_mean(name, [*sorted(TASKS), *names('training')])}")
