"""The engine that a configuration names."""

from collections.abc import Iterator
from contextlib import contextmanager

from onelayer.config.configs import TrainConfig
from onelayer.engines.versions import check_versions
from onelayer.runs.engine import Engine, Local


@contextmanager
def joined(config: TrainConfig) -> Iterator[Engine]:
    """The engine of a configuration, for as long as a command runs.

    Raises:
        UserError: an engine that is not installed, or not as it was tested.
    """
    if config.engine == "local":
        yield Local()
    elif config.engine == "ray":
        from onelayer.engines.ray.engine import RayEngine

        with RayEngine(config) as ray:
            yield ray
    else:
        check_versions("trl", ("trl", "accelerate"))
        from onelayer.engines.trl.engine import TrlEngine

        with TrlEngine(config) as trl:
            yield trl
