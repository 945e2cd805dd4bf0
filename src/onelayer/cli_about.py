"""The commands about the tool itself: what it finds on this machine, and completion in a shell."""

import json
from pathlib import Path

import click

from onelayer.options import RUNS, SETTINGS
from onelayer.screen import echo, echo_own


@click.command(context_settings=SETTINGS)
@click.option("--output", default=str(RUNS), show_default=True, metavar="DIR", help="folder where results would go")
@click.option("--json", "as_json", is_flag=True, help="the same as one JSON object")
def doctor(output: str, as_json: bool) -> None:
    """Say what a run would find here: versions, devices, threads, the sandbox, the disk. For bug reports.

    Changes nothing and sends nothing. Takes some seconds, in which the sandbox is attacked to see what it keeps out.

    Example: onelayer doctor --json > doctor.json
    """
    from onelayer.doctor import examine, render

    found = examine(Path(output))
    if as_json:
        echo_own(json.dumps(found, indent=2))  # in ASCII: what cannot be printed is an escape of JSON
    else:
        echo(*render(found))


@click.command(context_settings=SETTINGS)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes commands, options, tasks and presets in a shell.

    \b
    bash: onelayer completion bash > ~/.local/share/bash-completion/completions/onelayer
    zsh:  onelayer completion zsh > ~/.zfunc/_onelayer      (with fpath+=~/.zfunc before compinit in ~/.zshrc)
    fish: onelayer completion fish > ~/.config/fish/completions/onelayer.fish
    Example: onelayer completion bash
    """
    from click.shell_completion import get_completion_class

    from onelayer.cli import cli

    kind = get_completion_class(shell)
    assert kind is not None
    echo_own(kind(cli, {}, "onelayer", "_ONELAYER_COMPLETE").source())
