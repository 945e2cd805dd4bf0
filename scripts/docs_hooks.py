"""What `mkdocs build` does besides: pages about commands and options from the code, and links that leave docs/.

GitHub and the site show the same pages. A page may link to a file of the repository that lies outside of docs/: the site
then gets a copy of that file under source/, and the link leads there. A line ``<!-- generated: NAME -->`` stands for what
is made here: the commands from click, the options from the configurations' fields.
"""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

from onelayer.commands.cli import cli
from onelayer.commands.flags import click_type
from onelayer.config import configs as configurations
from onelayer.config.base import Config

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = "source"
"""Where the site has copies of files from outside of docs/."""
LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(?=[)#])")
"""A relative link: no scheme, no anchor alone."""
FENCE = re.compile(r"^(```.*?^```|<!--.*?-->)", re.MULTILINE | re.DOTALL)
TITLES = {
    "ModelConfig": "Model",
    "TaskConfig": "Problems and rewards",
    "RewardConfig": "Patience with a reward",
    "EvalConfig": "Scoring",
    "EngineConfig": "Engine",
    "TrainConfig": "Training",
    "ScanConfig": "Scan",
    "BenchmarkConfig": "Benchmarks",
}


# --- links that leave docs/


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside of docs/ that pages link to, and those that these link to."""
    waiting = [file for file in files if file.is_documentation_page()]
    while waiting:
        page = waiting.pop()
        for target in outside_links(page.content_string, _in_repository(page.src_uri)):
            uri = f"{OUTSIDE}/{target}"
            if uri not in files.src_uris and (ROOT / target).is_file():
                file = File.generated(config, uri, abs_src_path=str(ROOT / target), inclusion=InclusionLevel.NOT_IN_NAV)
                files.append(file)
                if file.is_documentation_page():
                    waiting.append(file)
    return files


def outside_links(markdown: str, page: str) -> Iterator[str]:
    """Files of the repository outside of docs/ that a page links to, by their paths in the repository."""
    for link in LINK.findall(FENCE.sub("", markdown)):
        target = normpath(join(dirname(page), link))
        if not target.startswith(("docs/", "..")):
            yield target


def _in_repository(uri: str) -> str:
    """The path in the repository of a page of the site."""
    return uri.removeprefix(f"{OUTSIDE}/") if uri.startswith(f"{OUTSIDE}/") else f"docs/{uri}"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put in what is generated, and lead links to where the site has their targets."""
    own = page.file.src_uri
    for name, make in GENERATED.items():
        if (marker := f"<!-- generated: {name} -->") in markdown:
            markdown = markdown.replace(marker, make())

    def led(match: re.Match[str]) -> str:
        target = normpath(join(dirname(_in_repository(own)), match[1]))
        if not (ROOT / target).exists():
            return match[1]  # the build then says which link is broken
        uri = target.removeprefix("docs/") if target.startswith("docs/") else f"{OUTSIDE}/{target}"
        return relpath(uri, dirname(own) or ".")

    return LINK.sub(led, markdown)


# --- commands


def commands_page() -> str:
    """A section for every command."""
    return "\n\n".join(_command_section(path, command) for path, command in commands(cli, ("onelayer",)))


def commands(group: click.Group, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """All commands with their names, those of groups after their group."""
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


def _command_section(path: tuple[str, ...], command: click.Command) -> str:
    context = click.Context(command, info_name=" ".join(path))
    usage = command.get_usage(context).removeprefix("Usage: ")
    kind = config_of(command)
    shared = set(kind.model_fields) if kind else set()
    own = [p for p in command.params if isinstance(p, click.Option) and p.name not in shared]
    lines = [f"## {' '.join(path)}", f"```\n{' '.join(usage.split())}\n```", _text(command.help or "")]
    if own:
        rows = [f"| {_flags(option)} | {_said_of(option)} |" for option in own]
        lines.append("\n".join(["| option | |", "|---|---|", *rows]))
    if kind:
        links = [
            f"[{TITLES.get(each.__name__, each.__name__)}](options.md#{_anchor(each)})" for each in layers_of(kind)
        ]
        lines.append(f"And the options of {', '.join(links)}.")
    return "\n\n".join(lines)


def config_of(command: click.Command) -> type[Config] | None:
    """The configuration whose fields are options of a command: of those that fit, the one with most fields."""
    names = {parameter.name for parameter in command.params}
    fitting = [kind for kind in configurations_of_commands() if names >= kind.model_fields.keys()]
    return max(fitting, key=lambda kind: len(kind.model_fields), default=None)


def configurations_of_commands() -> list[type[Config]]:
    """All configurations, in the order in which they are defined."""
    found = [value for value in vars(configurations).values() if isinstance(value, type) and issubclass(value, Config)]
    return [kind for kind in found if kind.model_fields]


def _text(text: str) -> str:
    """The help of a command as Markdown: its examples become code."""
    paragraphs = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        kept = paragraph.startswith("\b")
        lines = [line.strip() for line in paragraph.removeprefix("\b").strip("\n").splitlines()]
        said = [line for line in lines if not line.startswith("Example: ")]
        examples = [line.removeprefix("Example: ") for line in lines if line.startswith("Example: ")]
        if said and kept and all(": " in line and "onelayer" in line for line in said):
            paragraphs.append("```\n" + "\n".join(said) + "\n```")
        elif said:
            paragraphs.append(_escaped(" ".join(said)))
        if examples:
            paragraphs.append("```\n" + "\n".join(examples) + "\n```")
    return "\n\n".join(paragraphs)


def _flags(option: click.Option) -> str:
    value = "" if option.is_flag else f" {option.make_metavar(click.Context(cli))}"
    return f"`{'`, `'.join(option.opts)}{value}`".replace("|", " or ")


def _said_of(option: click.Option) -> str:
    default = f"  [default: {option.default}]" if option.show_default else ""
    return _cell(f"{option.help or ''}{default}") + (" (has to be given)" if option.required else "")


# --- options


def layers_of(kind: type[Config]) -> list[type[Config]]:
    """The configurations that one is made of, the most special first, those without fields of their own left out."""
    return [each for each in kind.__mro__ if each.__module__.startswith("onelayer") and _own_fields(each)]


def _own_fields(kind: type[Any]) -> list[str]:
    return [name for name in vars(kind).get("__annotations__", {}) if name in getattr(kind, "model_fields", {})]


def _anchor(kind: type[Config]) -> str:
    return TITLES.get(kind.__name__, kind.__name__).lower().replace(" ", "-")


def options_page() -> str:
    """A table for every configuration, with the commands that take its options."""
    users: dict[type[Config], list[str]] = {}
    for path, command in commands(cli, ("onelayer",)):
        if kind := config_of(command):
            for each in layers_of(kind):
                users.setdefault(each, []).append(" ".join(path))
    return "\n\n".join(_options_section(kind, names) for kind, names in users.items())


def _options_section(kind: type[Config], names: list[str]) -> str:
    links = ", ".join(f"[`{name}`](commands.md#{name.replace(' ', '-')})" for name in names)
    rows = [_option_row(kind, name) for name in _own_fields(kind)]
    head = ["| option | value | default | |", "|---|---|---|---|"]
    title = TITLES.get(kind.__name__, kind.__name__)
    return "\n\n".join([f"## {title}", f"{_escaped(kind.__doc__ or '')}", f"Taken by {links}.", "\n".join(head + rows)])


def _option_row(kind: type[Any], name: str) -> str:
    field = kind.model_fields[name]
    parameter, is_flag = click_type(field.annotation)
    if is_flag:
        value = "flag"
    elif isinstance(parameter, click.Choice):
        value = ", ".join(f"`{choice}`" for choice in parameter.choices)
    else:
        value = {int: "integer", float: "number", str: "text"}[parameter]
        limits = [
            f"{sign} {bound:g}"
            for limit in field.metadata
            for attribute, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤"))
            if (bound := getattr(limit, attribute, None)) is not None
        ]
        value = " ".join([value, ", ".join(limits)]).strip()
    default = "" if field.default is None or field.default is False or field.default == "" else f"`{field.default}`"
    place = f'<a id="{_anchor(kind)}-{name}"></a>'
    return f"| {place}`--{name.replace('_', '-')}` | {value} | {default} | {_cell(field.description or '')} |"


def _escaped(text: str) -> str:
    return re.sub(r"([*_<>~`\[\]])", r"\\\1", " ".join(text.split()))


def _cell(text: str) -> str:
    return _escaped(text).replace("|", "\\|")


GENERATED = {"commands": commands_page, "options": options_page}
