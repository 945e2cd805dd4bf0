"""A task from the user's own problems and reward: ``--dataset FILE --reward FILE.py:function``."""

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onelayer.errors import UserError
from onelayer.tasks.base import Problem, Prompt, Reward, Split
from onelayer.tasks.sources import is_file_name, read_file, read_hub


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
        for index, row in enumerate(rows):
            prompt = _prompt(row, prompt_column, name, index)
            columns = {key: value for key, value in row.items() if key != prompt_column}
            groups.setdefault(_digest(prompt), []).append(Problem(index, prompt, columns))
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


def _prompt(row: dict[str, Any], column: str, name: str, index: int) -> Prompt:
    if column not in row:
        raise UserError(f"data set '{name}', row {index}: no column '{column}'; it has {', '.join(sorted(row))}")
    prompt = row[column]
    if isinstance(prompt, str) and prompt:
        return prompt
    if (
        isinstance(prompt, list)
        and prompt
        and all(
            isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in prompt
        )
    ):
        return [{"role": m["role"], "content": m["content"]} for m in prompt]
    raise UserError(
        f"data set '{name}', row {index}: column '{column}' is neither text nor a list of messages with role and content"
    )


def _digest(prompt: Prompt) -> str:
    return hashlib.sha256(json.dumps(prompt, sort_keys=True).encode()).hexdigest()


def load_rows(name: str) -> list[dict[str, Any]]:
    """Rows of a local file (see :mod:`~onelayer.tasks.sources`), or of the train split of a data set on the hub.

    Raises:
        UserError: the file is missing or damaged, the hub has no such data set, or ``datasets`` is not installed.
    """
    if is_file_name(name):
        return read_file(Path(name).expanduser())
    return [dict(row) for row in read_hub(name)]


def load_reward(spec: str) -> Reward:
    """The function of ``FILE.py:function``.

    Raises:
        UserError: no such file or function, or a file that raises when it is imported.
    """
    file, _, function = spec.rpartition(":")
    path = Path(file).expanduser()
    if not file or not function or path.suffix != ".py":
        raise UserError(f"reward '{spec}' is not FILE.py:function")
    if not path.is_file():
        raise UserError(f"reward '{spec}': there is no file {path}")
    module_spec = importlib.util.spec_from_file_location(f"onelayer_reward_{path.stem}", path)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:  # the user's code may raise anything
        raise UserError(f"reward '{spec}': importing {path} raised {type(error).__name__}: {error}") from error
    reward = getattr(module, function, None)
    if not callable(reward):
        raise UserError(f"reward '{spec}': {path} has no function '{function}'")
    return reward  # type: ignore[no-any-return]
