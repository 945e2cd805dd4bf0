"""ALFWorld's engine, where it is installed."""

from typing import Any

import pytest

from onelayer.errors import UserError
from onelayer.tasks.environments.alfworld import import_engine


def _installed() -> bool:
    try:
        import_engine()
    except UserError:
        return False
    return True


installed = _installed()
needs_engine = pytest.mark.skipif(not installed, reason="the packages of onelayer[alfworld] are not installed")


def write_games(*arguments: Any, **options: Any) -> Any:
    """Write new games; the module that does it cannot be imported without the engine."""
    from onelayer.tasks.environments import alfworld_games

    return alfworld_games.write_games(*arguments, **options)
