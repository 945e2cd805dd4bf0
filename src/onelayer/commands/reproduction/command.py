"""``onelayer reproduce``."""

import os
from pathlib import Path
from typing import Literal

import click

from onelayer.commands.flags import SETTINGS
from onelayer.storage.screen import Screen, print_paths


@click.command(context_settings=SETTINGS)
@click.option(
    "--scale", type=click.Choice(["tiny", "gpu"]), default="tiny", show_default=True, help="size of the models"
)
@click.option("--output", required=True, metavar="DIR", help="folder for models, scans and what came of them")
@click.option("--workers", type=click.IntRange(min=1), default=None, help="scans side by side [default: processors]")
@click.option("--resume", is_flag=True, help="continue in --output")
@click.option("--page-only", is_flag=True, help="run nothing: judge what --output holds already")
def reproduce(scale: Literal["tiny", "gpu"], output: str, workers: int | None, resume: bool, page_only: bool) -> None:
    """Test the paper's claims in small: two families, three domains, three algorithms, every layer.

    Tiny models take some hours on two processors; stopped, it goes on with --resume. It writes reproduction.md with
    each claim, what was measured and what that says of it.

    Example: onelayer reproduce --scale tiny --output runs/reproduction
    """
    from onelayer.commands.reproduction.page import write_page
    from onelayer.commands.reproduction.running import run_study
    from onelayer.commands.reproduction.study import study_of

    console = Screen()
    study = study_of(scale)
    if not page_only:
        run_study(study, Path(output), workers or os.cpu_count() or 1, console, resume=resume)
    page = write_page(study, Path(output))
    print_paths(console, results=output, page=page)
