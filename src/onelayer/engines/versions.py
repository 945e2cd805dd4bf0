"""Which versions of other packages the engines were tested with."""

from importlib.metadata import PackageNotFoundError, version

from onelayer.errors import UserError

TESTED = {"trl": ("1.16", "1.17"), "accelerate": ("1.15", "1.16"), "ray": ("2.60", "2.61")}
"""Package -> the first version that was tested and the first that was not: an engine reaches into their insides."""


def check_versions(extra: str, packages: tuple[str, ...]) -> None:
    """Refuse packages that are missing or were not tested.

    Raises:
        UserError: with the command that installs what was tested.
    """
    install = f"pip install 'onelayer[{extra}]'"
    for name in packages:
        lowest, beyond = TESTED[name]
        try:
            found = version(name)
        except PackageNotFoundError as error:
            raise UserError(f"this needs {name}, which is not installed: {install}") from error
        if not _numbers(lowest) <= _numbers(found) < _numbers(beyond):
            raise UserError(
                f"{name} {found} was not tested with onelayer, only {lowest} up to but not including {beyond}: {install}"
            )


def _numbers(text: str) -> tuple[int, ...]:
    numbers = []
    for piece in text.split(".")[:2]:
        numbers.append(int("".join(c for c in piece if c.isdigit()) or 0))
    return tuple(numbers)
