"""The commands that make something of scores and deltas that are there: judged, compared, put together."""

import dataclasses
from pathlib import Path
from typing import Any

import click

from onelayer.commands.flags import SETTINGS
from onelayer.storage.lock import locked
from onelayer.storage.screen import Screen, echo, print_paths


@click.command(context_settings=SETTINGS)
@click.argument("folders", nargs=-1, required=True, type=click.Path(), metavar="DIR...")
@click.option("--output", default=None, metavar="DIR", help="folder for a report on several scans")
def report(folders: tuple[str, ...], output: str | None) -> None:
    """Write profile.json and report.html again from the stored scores.

    Example: onelayer report runs/a
    """
    from onelayer.report import terminal
    from onelayer.report.judge_scan import judge_scan
    from onelayer.report.page import write_report

    console = Screen()
    for folder in folders:
        profile, files = judge_scan(Path(folder))
        console.print(terminal.render(profile))
        console.print(f"report: {files.html}", soft_wrap=True)
    if len(folders) > 1:
        files = write_report([Path(folder) for folder in folders], Path(output) if output else None)
        console.print(f"report on all: {files.html}", soft_wrap=True)


@click.command(context_settings=SETTINGS)
@click.argument("scores", type=click.Path(), metavar="SCORES.csv")
@click.option("--output", required=True, metavar="DIR", help="new folder for profile.json and report.html")
@click.option("--num-layers", type=int, default=None, help="layers of the model [default: highest in the file + 1]")
@click.option("--score-sd", type=float, default=None, help="standard deviation of an average, for files of averages")
@click.option("--score-range", nargs=2, type=float, default=None, metavar="LOW HIGH", help="possible scores")
@click.option(
    "--categories", default=None, help="Math=gsm8k,math500;Code=humaneval: judge the mean of category averages (C_all)"
)
@click.option("--model", default="measured elsewhere", help="the model's name, for the report")
@click.option("--task", default=None, help="the task's name, for the report [default: the file's]")
def contribution(scores: str, output: str, categories: str | None, **options: Any) -> None:
    """Judge scores that were measured elsewhere.

    SCORES.csv is wide (setting,layer,<benchmark>,...: one row for Base, Full and each layer) or long
    (setting,layer,seed,problem,sample,score).

    Example: onelayer contribution scores.csv --score-sd 0.4 --output runs/published
    """
    from onelayer.report import terminal
    from onelayer.report.judge_csv import judge_csv, parse_categories

    console = Screen()
    named = parse_categories(categories) if categories else None
    profile, files = judge_csv(Path(scores), Path(output), categories=named, **options)
    console.print(terminal.render(profile))
    print_paths(console, results=output, report=files.html)


@click.command(context_settings=SETTINGS)
@click.argument("folders", nargs=-1, required=True, type=click.Path(), metavar="DIR DIR...")
@click.option("--output", required=True, metavar="DIR", help="folder for the report on all")
@click.option("--across-tasks", is_flag=True, help="compare profiles of different tasks")
@click.option("--seed", type=int, default=0, help="of permutations and resamples")
def compare(folders: tuple[str, ...], output: str, across_tasks: bool, seed: int) -> None:
    """Compare profiles: rank correlations, overlap of the best layers, stability under other problems.

    Example: onelayer compare runs/a runs/b --output runs/a-and-b
    """
    from onelayer.report.compare_scans import compare_profiles
    from onelayer.report.terminal_tables import comparison_tables

    console = Screen()
    result, files = compare_profiles([Path(f) for f in folders], Path(output), across_tasks=across_tasks, seed=seed)
    console.print(comparison_tables(result))
    print_paths(console, report=files.html)


@click.command(context_settings=SETTINGS)
@click.argument("folder", type=click.Path(file_okay=False), metavar="DIR")
@click.option("--layers", default="best:3", metavar="PLAN", help="which layers' deltas [default: best:3]")
def stitch(folder: str, layers: str) -> None:
    """Put the deltas of single-layer arms into one model, without training, and score it.

    Example: onelayer stitch runs/a --layers best:3
    """
    from onelayer.commands.stitch_and_vote import FinishedScan
    from onelayer.commands.stitch_and_vote import stitch as stitch_deltas
    from onelayer.report.judge_scan import judge_scan

    scan = FinishedScan.open(Path(folder))
    with locked(Path(folder)):
        name, result = stitch_deltas(scan, layers)
        _, files = judge_scan(Path(folder))
    low, high = result.excess_ci or (None, None)
    interval = "" if low is None else f" (95 % interval {low:+.4f} to {high:+.4f})"
    echo(
        f"{name}: gain {result.combined_difference:+.4f} over the base; the single layers' gains add up to "
        f"{result.sum_of_differences:+.4f}; difference {result.excess:+.4f}{interval}"
    )
    echo(f"delta:  {Path(folder) / 'arms' / name / 'delta.safetensors'}", f"report: {files.html}")


@click.command(context_settings=SETTINGS)
@click.argument("folder", type=click.Path(file_okay=False), metavar="DIR")
@click.option("--k", default=7, help="how many of the best layers vote [default: 7]")
@click.option("--temperature", default=1.0, help="of every answer [default: 1.0]")
def vote(folder: str, k: int, temperature: float) -> None:
    """Let the best single-layer arms vote, against as many samples from full training.

    Example: onelayer vote runs/a --k 5
    """
    from onelayer.commands.stitch_and_vote import FinishedScan
    from onelayer.commands.stitch_and_vote import vote as hold_vote
    from onelayer.report.terminal_tables import vote_tables
    from onelayer.storage.files import write_json

    result = hold_vote(FinishedScan.open(Path(folder)), k, temperature)
    path = Path(folder) / "vote.json"
    write_json(path, dataclasses.asdict(result))
    console = Screen()
    console.print(vote_tables(result))
    print_paths(console, results=path)
