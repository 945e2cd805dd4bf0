"""Command-line options made from a configuration's fields, and configurations made from them."""

import types
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import click
from click.shell_completion import CompletionItem

from onelayer.config.base import Config
from onelayer.config.sources import build, preset_names, preset_path, read_yaml
from onelayer.tasks.registry import TASKS, require_known

# Underscores and hyphens in option names are the same, since the field writes learning_rate and shells --learning-rate.
SETTINGS = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 120,
    "token_normalize_func": lambda name: name.replace("-", "_"),
}

RUNS = Path("runs")
"""Where results go that no --output names a folder for."""

C = TypeVar("C", bound=Config)
F = TypeVar("F", bound=Callable[..., Any])


def config_options(kind: type[Config]) -> Callable[[F], F]:
    """Decorate a command with ``--config``, ``--preset`` and one option per field of a configuration."""

    def decorate(function: F) -> F:
        for name, field in reversed(kind.model_fields.items()):
            unset = field.default is None or field.default is False or field.default == ""
            default = "" if unset else f"  [default: {field.default}]"
            parameter, is_flag = click_type(field.annotation)
            option = name.replace("_", "-")
            # What a preset or the default switches on can be switched off.
            function = click.option(
                f"--{option}/--no-{option}" if is_flag else f"--{option}",
                name,
                type=parameter,
                is_flag=is_flag,
                default=None,
                metavar=None if is_flag or isinstance(parameter, click.Choice) else _metavar(parameter),
                help=f"{field.description}{default}",
                shell_complete=COMPLETIONS.get(name),
            )(function)
        function = click.option(
            "--preset",
            default=None,
            metavar="NAME",
            help="bundled settings to start from",
            shell_complete=_complete_preset,
        )(function)
        return click.option(
            "--config",
            "config_file",
            default=None,
            metavar="FILE.yaml",
            help="settings from a file",
            shell_complete=_complete_file,
        )(function)

    return decorate


def build_config(
    kind: type[C], flags: dict[str, Any], config_file: str | None, preset: str | None, default_task: str | None = None
) -> C:
    """A configuration from the preset, the file and the flags, the later wins.

    A bundled task brings the preset of its own name. ``default_task`` is taken when nothing names a task, a data set or
    a preset.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    from_file = read_yaml(Path(config_file)) if config_file else {}
    own = {**from_file, **given}
    if own.get("task") is not None:
        require_known(str(own["task"]))
    if preset is None and own.get("dataset") is None:
        preset = own.get("task") or default_task
        if preset not in TASKS:
            preset = None  # a training set has none of its own name
    sources: list[tuple[str, Mapping[str, Any]]] = []
    if preset is not None:
        sources.append((f"preset {preset}", read_yaml(preset_path(preset))))
    sources += [(f"configuration '{config_file}'", from_file), ("command line", given)]
    return build(kind, sources)


def default_output(*words: str) -> Path:
    """The folder for results where none is named: a new one, called by some words and the time."""
    return RUNS / "-".join([*words, f"{datetime.now():%Y%m%d-%H%M%S}"])


def _complete_preset(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in preset_names() if name.startswith(incomplete)]


def _complete_task(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from onelayer.tasks.benchmarks import names

    known = [*TASKS, *names("training")]
    return [CompletionItem(name) for name in known if name.startswith(incomplete)] or [
        CompletionItem(incomplete, type="file")
    ]


def _complete_file(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(incomplete, type="file")]


def _complete_folder(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(incomplete, type="dir")]


COMPLETIONS = {
    "task": _complete_task,
    "dataset": _complete_file,
    "reward": _complete_file,
    "engine_options": _complete_file,
    "delta": _complete_folder,
    "scan": _complete_folder,
    "harness_tasks": _complete_folder,
    "output": _complete_folder,
}
"""What a shell completes the value of an option with; choices complete themselves."""


def click_type(annotation: Any) -> tuple[Any, bool]:
    """click's type of a field, and whether it is a flag."""
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(kind for kind in get_args(annotation) if kind is not type(None))
    if get_origin(annotation) is Literal:
        return click.Choice(list(get_args(annotation))), False
    return annotation, annotation is bool


def _metavar(parameter: Any) -> str:
    return {int: "N", float: "X", str: "TEXT"}[parameter]
