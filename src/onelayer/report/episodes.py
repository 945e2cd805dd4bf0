"""Transcripts of a few episodes of tasks that are played in turns: what was seen, said and done, step by step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onelayer.errors import UserError
from onelayer.report.data import Scan
from onelayer.storage.arm_names import BASE, FULL, layer_alone
from onelayer.storage.records import read_lines

LONGEST = 1000
"""Characters of an observation or a completion that the page shows; the file has all of it."""
ENDS = {
    "success": "done",
    "failure": "failed",
    "max_steps": "out of steps",
    "too_long": "prompt too long",
    "error": "the environment failed",
}


@dataclass(frozen=True)
class Step:
    """One turn: what the environment showed, what the model wrote, what was taken as its action."""

    observation: str
    completion: str
    action: str
    valid: bool


@dataclass(frozen=True)
class Transcript:
    """One episode."""

    title: str
    steps: tuple[Step, ...]


def transcripts(scan: Scan) -> tuple[Transcript, ...]:
    """The best and the worst test episode of the base, full training and the best layer; none for other tasks.

    Raises:
        UserError: a damaged ``trajectories.jsonl``.
    """
    arms = [BASE, FULL]
    if scan.view is not None and scan.view.profile.ranking:
        arms.append(layer_alone(scan.view.profile.ranking[0]))
    found = []
    for arm in arms:
        path = scan.folder / "arms" / arm / "trajectories.jsonl"
        records = [record for record, _ in read_lines(path)] if path.exists() else []
        try:
            for rank in ("best", "worst"):
                found += [_transcript(arm, record) for record in records if record["rank"] == rank][:1]
        except (KeyError, TypeError) as error:
            raise UserError(f"{path} holds a line that is no episode ({error}); remove it") from error
    return tuple(found)


def _transcript(arm: str, record: Mapping[str, Any]) -> Transcript:
    steps = tuple(
        Step(_cut(step["observation"]), _cut(step["completion"]), _cut(step["action"]), step["valid"])
        for step in record["steps"]
    )
    end = ENDS.get(record["reason"], record["reason"])
    count = f"{len(steps)} step{'s' * (len(steps) != 1)}"
    return Transcript(f"{arm}, {record['rank']}: {record['goal']} – {end} after {count}", steps)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
