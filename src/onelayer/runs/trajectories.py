"""``trajectories.jsonl``: a few episodes of an arm's evaluation, the best and the worst, to be read by people.

One JSON object a line: ``rank`` (best or worst), ``problem``, ``sample``, ``goal``, ``task_type``, ``reward``,
``reason`` (why the episode ended) and ``steps``, each with ``prompt``, ``observation``, ``completion``, ``action``,
``valid`` and ``reward``.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onelayer.storage.files import write_text
from onelayer.training.episode import Episode

SHOWN = 3
"""Episodes of each kind."""


def chosen(episodes: Sequence[Episode], count: int = SHOWN) -> list[tuple[str, Episode]]:
    """The best and the worst episodes by reward: the shortest of the best first, the longest of the worst first.

    No episode is both: of fewer than ``2 * count`` the better half is best.
    """
    ordered = sorted(episodes, key=lambda e: (-e.total, len(e.turns), e.start.id, e.sample))
    half = min(count, (len(ordered) + 1) // 2)
    worst = ordered[max(half, len(ordered) - count) :]
    return [("best", episode) for episode in ordered[:half]] + [("worst", episode) for episode in reversed(worst)]


def as_record(rank: str, episode: Episode) -> dict[str, Any]:
    """One line of the file."""
    return {
        "rank": rank,
        "problem": episode.start.id,
        "sample": episode.sample,
        "goal": episode.info["goal"],
        "task_type": episode.info["task_type"],
        "reward": episode.total,
        "reason": episode.reason,
        "steps": [
            {
                "prompt": turn.prompt,
                "observation": turn.observation,
                "completion": turn.completion,
                "action": turn.action,
                "valid": turn.valid,
                "reward": turn.reward,
            }
            for turn in episode.turns
        ],
    }


def trajectory_rows(episodes: Sequence[Episode]) -> list[dict[str, Any]]:
    """The lines of an arm's file."""
    return [as_record(rank, episode) for rank, episode in chosen(episodes)]


def write_trajectories(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the file of an arm."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
