"""Presets by name."""

from importlib import resources
from pathlib import Path

from onelayer.config.configs import TrainConfig
from onelayer.config.sources import build, read_yaml

FOLDER = Path(str(resources.files("onelayer") / "presets"))


def preset(name: str) -> TrainConfig:
    return build(TrainConfig, [(name, read_yaml(FOLDER / f"{name}.yaml"))])
