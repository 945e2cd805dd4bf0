"""What is printed: text from anywhere is shown as it is, and steers neither rich nor the terminal."""

import ast
import io
import logging
import re
import shlex
import sys
from pathlib import Path

import pytest
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

import onelayer as package
from onelayer.runs.progress import RunProgress
from onelayer.storage.screen import Screen, accept_every_character, echo, literal, print_paths, visible
from tests.conftest import Command, save_model

EVIL = "[/bold]x\x1b[31m"
"""A closing tag that closes nothing, and a red that stays."""
SHOWN = "[/bold]x\\x1b[31m"
STEERING = {
    "\x1b]0;title\x07": "\\x1b]0;title\\x07",
    "\x9b31m": "\\x9b31m",
    "\x7f": "\\x7f",
    "a\rb": "a\\rb",
    "a\nb": "a\\nb",
    "a\x08b": "a\\x08b",
    "\u202eabc": "\\u202eabc",
    "a\u200bb": "a\\u200bb",
    "\u2028": "\\u2028",
    "\udcff": "\\udcff",
    "\U000e0041": "\\U000e0041",
    ":smile:": ":smile:",
    "[red]a[/red]": "[red]a[/red]",
    "[/]": "[/]",
    "\\[a]": "\\[a]",
    "café 数学 🙂": "café 数学 🙂",
}


PRINTS = ("print", "click.echo", "click.secho", "Console", "rich.print", "sys.stdout.write", "sys.stderr.write")


def screen(width: int = 200, terminal: bool = True) -> tuple[Screen, io.StringIO]:
    buffer = io.StringIO()
    return Screen(
        file=buffer, width=width, force_terminal=terminal, color_system="truecolor" if terminal else None
    ), buffer


def without_styles(text: str) -> str:
    """What is left when the styles that rich itself writes are taken away."""
    return re.sub(r"\x1b\[[\d;]*m", "", text)


@pytest.mark.parametrize("text", STEERING)
def test_text_is_shown_and_not_obeyed(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert visible(text) == STEERING[text]
    console, buffer = screen()
    table = Table(title=f"title {text}", box=SIMPLE_HEAD)
    table.add_column(f"head {text}")
    table.add_row(f"cell {text}")
    table.add_row(literal(f"styled {text}", "red"))
    console.print(f"line {text}", style="bold")
    console.print(table)
    console.print(literal(f"literal {text}", "yellow"))
    print_paths(console, results=f"path {text}")
    echo(f"echo {text}")
    echo(f"error {text}", err=True)
    out, err = capsys.readouterr()
    found = without_styles(buffer.getvalue())
    for kind in ("line", "title", "head", "cell", "styled", "literal", "path"):
        assert f"{kind} {STEERING[text]}" in found, kind
    assert (out, err) == (f"echo {STEERING[text]}\n", f"error {STEERING[text]}\n")
    assert all(line.isprintable() for line in found.splitlines())


def test_a_text_of_richs_own_kind_cannot_steer_either() -> None:
    console, buffer = screen()
    for text in ("\x1b]0;title\x07", "\x9b31m", "\u202eabc", "a\x7f"):
        console.print(Text(text))
    assert all(line.isprintable() for line in without_styles(buffer.getvalue()).splitlines())


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_shows_names_and_notes_as_they_are(terminal: bool) -> None:
    console, buffer = screen(terminal=terminal)
    with RunProgress(console, 4) as progress:
        progress.expect([EVIL])
        progress.start_set([EVIL], 0)
        progress.note(EVIL)
        progress.say(EVIL, "yellow", head=EVIL)
        progress.step(0, [(EVIL, {"reward": 0.5, "stopped": EVIL})])
        progress.end_set([EVIL])
    found = re.sub(r"\x1b\[\??[\d;]*[A-Za-z]", "", buffer.getvalue())
    assert f"{SHOWN}{SHOWN}" in found and "\x1b" not in found


def test_commands_say_names_of_models_and_folders_as_they_are(onelayer: Command, tmp_path: Path) -> None:
    (tmp_path / EVIL).mkdir(parents=True)
    save_model(tmp_path / EVIL / "model")
    evil, run = shlex.quote(f"./{EVIL}/model"), shlex.quote(f"{EVIL}/run")
    own = "--task arithmetic --steps 1 --train-batch-size 2 --num-generations 2 --max-completion-length 2"
    lines = [
        (f"train --model {evil} {own} --layers 0 --output {run}", 0),
        (f"train --model {evil} {own} --layers 0 --output {run}", 2),
        (f"plan --model {evil} --task arithmetic", 0),
        (f"merge {run}/arms/layer-00 --output {shlex.quote(f'{EVIL}/merged')}", 0),
        (f"report {run}", 2),
        (f"train --model {evil} --task {shlex.quote(EVIL)}", 2),
        (f"plan --{shlex.quote(EVIL)}", 2),
        (f"doctor --output {shlex.quote(EVIL)}", 0),
        (f"doctor --json --output {shlex.quote(EVIL)}", 0),
    ]
    for line, expected in lines:
        code, out, err = onelayer(line)
        assert code == expected, (line, err)
        assert all(text.isprintable() for text in (out + err).splitlines()), line
        joined = "".join((out + err).split())
        assert "[/bold]x\\x1b[31m" in joined or "[/bold]x\\u001b[31m" in joined, line


def test_what_is_logged_is_one_visible_line(onelayer: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from onelayer.commands import cli as commands

    def log(**options: object) -> None:
        logging.getLogger("onelayer.sandbox").info("a %s\nb", EVIL)

    monkeypatch.setattr(commands.doctor, "callback", log)
    assert onelayer("doctor")[1] == f"a {SHOWN}\\nb\n"


def test_names_beyond_the_encoding_of_the_output_end_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(buffer, encoding="ascii", errors="strict"))
    accept_every_character()
    Screen(width=80).print("modèle 数", literal("数", "red"))
    sys.stdout.flush()
    assert buffer.getvalue() == b"mod\\xe8le \\u6570 \\u6570\n"


def test_only_the_screen_prints() -> None:
    """Everything else goes through it: no console of rich's own, no markup, no print, no click.echo."""
    folder = Path(package.__file__).parent
    others = {"tasks/graders/math_worker.py"}  # answers to the process that started it
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder).as_posix()
        if name == "storage/screen.py" or name in others:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in PRINTS, f"{name}:{node.lineno}"
                if called == "TextColumn":
                    assert any(word.arg == "markup" for word in node.keywords), f"{name}:{node.lineno}"
            if isinstance(node, ast.ImportFrom):
                assert node.module != "rich.markup", f"{name}:{node.lineno}"
