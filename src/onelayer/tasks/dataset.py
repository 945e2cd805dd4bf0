"""A task from the user's own problems and reward: ``--dataset FILE --reward FILE.py:function``."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from onelayer.errors import UserError
from onelayer.tasks.base import Problem, Prompt, Reward, Split
from onelayer.tasks.messages import as_messages, template_arguments, without_fill
from onelayer.tasks.reward_call import GIVEN, LEFT_OUT
from onelayer.tasks.sources import TABLES, is_file_name, read_file, read_hub


class DatasetTask:
    """Problems from rows, split by the hash of the prompt: equal prompts never land in two splits."""

    def __init__(
        self, name: str, rows: Sequence[dict[str, Any]], reward: Reward, prompt_column: str, selection: int, test: int
    ) -> None:
        """Split the rows.

        Raises:
            UserError: a row without a usable prompt, or fewer distinct prompts than the splits need.
        """
        self.name = name
        self.reward = reward
        groups: dict[str, list[Problem]] = {}
        names: dict[str, None] = {}
        for index, row in enumerate(rows):
            where = f"data set '{name}', row {index}"
            prompt = _prompt(row, prompt_column, where)
            names |= dict.fromkeys(key for key in row if key != prompt_column)
            columns = {key: row[key] for key in row if key not in (prompt_column, *GIVEN, *LEFT_OUT)}
            template = {} if isinstance(prompt, str) else template_arguments(row, where)
            problem = Problem(index, prompt, columns, template=template)
            groups.setdefault(_digest(problem), []).append(problem)
        self.notes = _note(names)
        """What the user should know of the columns, in sentences."""
        if len(groups) <= selection + test:
            raise UserError(
                f"data set '{name}' has {len(groups)} distinct prompts, too few for {test} test and {selection} selection "
                "problems and training; lower test_size or selection_size"
            )
        # In the order of the hashes, which has nothing to do with the order of the file.
        ordered = [groups[digest] for digest in sorted(groups)]
        # One problem a prompt in the held-out splits, so that problems are independent; training keeps repeats.
        self._splits: dict[Split, list[Problem]] = {
            "test": [group[0] for group in ordered[:test]],
            "selection": [group[0] for group in ordered[test : test + selection]],
            "train": sorted((p for group in ordered[test + selection :] for p in group), key=lambda p: p.id),
        }

    def problems(self, split: Split) -> Sequence[Problem]:
        """The problems of a split."""
        return self._splits[split]


def _prompt(row: Mapping[str, Any], column: str, where: str) -> Prompt:
    if column not in row:
        raise UserError(f"{where}: no column '{column}'; it has {', '.join(sorted(row))}")
    prompt = row[column]
    if isinstance(prompt, str) and not prompt.strip():
        raise UserError(f"{where}: column '{column}' is empty")
    found = prompt if isinstance(prompt, str) else as_messages(prompt, where)
    if found is None:
        raise UserError(f"{where}: column '{column}' is neither text nor a list of messages with role and content")
    return found


def _digest(problem: Problem) -> str:
    """Equal prompts have the same: tools and keywords of the template belong to a prompt."""
    seen = [problem.prompt, problem.template] if problem.template else problem.prompt
    return hashlib.sha256(json.dumps(seen, sort_keys=True, default=str).encode()).hexdigest()


def _note(columns: Iterable[str]) -> tuple[str, ...]:
    """What the user should know of the columns that the reward does not get."""
    taken = sorted({*GIVEN, *LEFT_OUT}.intersection(columns))
    shown = ", ".join(f"'{name}'" for name in taken)
    say = "what the reward gets under such a name is of the run, as in TRL; rename a column that it should get"
    return (f"columns left out of the reward's: {shown}; {say}",) if taken else ()


def load_rows(name: str, prompt_column: str = "prompt") -> list[dict[str, Any]]:
    """Rows of a local file (see :mod:`~onelayer.tasks.sources`), or of the train split of a data set on the hub.

    Raises:
        UserError: the file is missing or damaged, the hub has no such data set, or ``datasets`` is not installed.
    """
    if is_file_name(name):
        rows, table = read_file(Path(name).expanduser()), name.endswith(TABLES)
    else:
        rows, table = [dict(row) for row in read_hub(name)], True
    if not table:
        return rows
    chat = (prompt_column, "tools", "chat_template_kwargs")
    return [row | {column: without_fill(row[column]) for column in chat if column in row} for row in rows]
