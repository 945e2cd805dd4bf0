"""The way to the terminal: text comes from anywhere, and all of it is shown as it is, none of it obeyed.

Names of models and folders, errors of libraries and what a model wrote hold brackets, which rich would take for markup,
and control characters, which a terminal would take for commands: colours, the title, a cursor that goes back over what
was said. :class:`Screen`, :func:`echo` and :func:`echo_own` are the only things in the package that print. What they get
is literal, a line each, and what cannot be printed is shown by its escape, as Python writes it (``\\x1b``).
"""

import sys
from collections.abc import Iterable
from io import TextIOWrapper
from typing import Any

import click
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text


def visible(text: str, keep: str = "") -> str:
    """A text in one line in which every character can be seen; those in ``keep`` stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def literal(text: str, style: str = "") -> Text:
    """A text that came from anywhere, in a style of ours."""
    return Text(visible(text), style=style)


class Screen(Console):
    """rich's console for text from anywhere: no markup, no emoji codes, nothing that steers a terminal."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Text of a line, a cell or a title: literal, whatever the caller says of markup."""
        return super().render_str(visible(text), **{**options, "markup": False, "emoji": False})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What anything else turns into, for text that did not come through :meth:`render_str`."""
        for segment in super().render(renderable, options):
            shown = segment.text if segment.control else visible(segment.text, keep="\n")
            yield segment if shown == segment.text else Segment(shown, segment.style)


def print_paths(console: Console, **paths: object) -> None:
    """Say where things are: a line each, after an empty one, the paths below each other and never broken."""
    width = max(map(len, paths)) + 1
    console.print()
    for name, path in paths.items():
        console.print(literal(f"{f'{name}:':<{width}} {path}"), soft_wrap=True)


def echo(*lines: str, err: bool = False) -> None:
    """Print lines without a console: plain text, whatever the terminal."""
    for line in lines:
        click.echo(visible(line), err=err)


def echo_own(text: str) -> None:
    """Print a page of this package's own text, with its line breaks: a help, a script for a shell."""
    click.echo(visible(text, keep="\n"))


def accept_every_character() -> None:
    """Have what an output's encoding cannot write be shown by its escape, not end the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
