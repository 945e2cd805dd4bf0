"""ALFWorld's engine, where it is installed."""

import pytest

from onelayer.errors import UserError
from onelayer.tasks.environments.alfworld import import_engine

try:
    import_engine()
    installed = True
except UserError:
    installed = False

needs_engine = pytest.mark.skipif(not installed, reason="the packages of onelayer[alfworld] are not installed")
