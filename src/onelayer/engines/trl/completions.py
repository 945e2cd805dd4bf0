"""What a policy wrote in a step, for people (TRL's ``log_completions``): TRL's table on the terminal, and a file a step.

TRL's own log is not used: of onelayer's rollouts it sees neither prompts nor rewards, and it counts rows that fill up.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from trl.trainer.utils import print_prompt_completions_sample

from onelayer.storage.files import atomic_path, make_folder


@dataclass(frozen=True)
class Written:
    """The training rows of a step: completions, or the turns of episodes."""

    prompt: list[str]
    completion: list[str]
    reward: list[float | None]
    """Of a turn: what its whole episode is paid. None where a grader could not judge."""
    advantage: list[float]


def write_completions(folder: Path, step: int, written: Written) -> None:
    """Write ``completions_STEP.parquet`` with TRL's columns, steps counted from 0.

    Raises:
        UserError: the folder cannot be made.
        WriteFailed: the disk refused it.
    """
    table = pa.table({"step": [step] * len(written.prompt), **asdict(written)})
    with atomic_path(make_folder(folder) / f"completions_{step:05d}.parquet") as temporary:
        pq.write_table(table, temporary)


def show_completions(step: int, written: Written, count: int | None) -> None:
    """Print a sample of ``count`` rows, all without one."""
    print_prompt_completions_sample(
        [_shown(text) for text in written.prompt],
        [_shown(text) for text in written.completion],
        {"reward": [float("nan") if reward is None else reward for reward in written.reward]},
        written.advantage,
        step,
        count,
    )


def _shown(text: str) -> str:
    """What steers a terminal is shown, not obeyed."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
