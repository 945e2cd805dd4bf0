"""Where a configuration's values come from, and a configuration made of them.

The later wins: the default of the field, the preset (a bundled task has one of its own name), the YAML file of
``--config``, the flags.
"""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from onelayer.config.algorithm import ALGORITHM_SETTINGS
from onelayer.config.base import Config
from onelayer.errors import UserError, did_you_mean
from onelayer.storage.doors import read_text
from onelayer.storage.yaml_text import parse_yaml

C = TypeVar("C", bound=Config)
LONGEST_VALUE = 200
"""Characters of a wrong value that a sentence repeats."""


def preset_names() -> list[str]:
    """The bundled presets, in alphabetical order."""
    return sorted(path.stem for path in _presets().glob("*.yaml"))


def preset_path(name: str) -> Path:
    """Where a bundled preset lies.

    Raises:
        UserError: no preset of that name.
    """
    if name not in preset_names():
        raise UserError(f"there is no preset '{name}'{did_you_mean(name, preset_names())}")
    return _presets() / f"{name}.yaml"


def _presets() -> Path:
    return Path(str(resources.files("onelayer") / "presets"))


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping from a YAML file.

    Raises:
        UserError: the file is missing, is not YAML (or too much of it), or is not a mapping.
    """
    try:
        loaded = parse_yaml(read_text(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"configuration '{path}' cannot be read: {error}") from error
    except ValueError as error:
        raise UserError(f"configuration '{path}' is not YAML that can be used: {error}") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise UserError(f"configuration '{path}' is not a mapping of options to values")
    return {str(key).replace("-", "_"): value for key, value in loaded.items()}


def build(kind: type[C], layers: list[tuple[str, Mapping[str, Any]]]) -> C:
    """A configuration from several sources, the later wins; each source is named for messages.

    Raises:
        UserError: an unknown key, or a value that does not fit.
    """
    merged: dict[str, Any] = {}
    for source, values in layers:
        for key in values:
            if key not in kind.model_fields:
                raise UserError(f"{source}: there is no option '{key}'{did_you_mean(key, list(kind.model_fields))}")
        # An algorithm brings its settings: only the same source or a later one changes them again.
        if "algorithm" in values and "loss_type" in kind.model_fields:
            merged.update(ALGORITHM_SETTINGS.get(str(values["algorithm"]), {}))
        merged.update(values)
    try:
        return kind(**merged)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(piece) for piece in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        given = repr(first["input"])
        shown = given if len(given) <= LONGEST_VALUE else f"{given[:LONGEST_VALUE]}..."
        raise UserError(f"option {where} = {shown}: {reason}" if where else reason) from error
