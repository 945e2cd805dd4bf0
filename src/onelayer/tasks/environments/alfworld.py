"""ALFWorld (arXiv 2010.03768): household tasks in text, played by its real engine.

Games come from ``$ALFWORLD_DATA/json_2.1.1``: the official ones (``alfworld-download``) or new ones
(``onelayer alfworld-games``, `onelayer.tasks.environments.alfworld_games`). The splits are the official ones: ``train``,
``valid_seen`` for choices and ``valid_unseen`` for reported scores. A game file is a program: the engine evaluates
expressions of its grammar, so play only files you trust.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from onelayer.errors import UserError
from onelayer.storage.doors import read_text
from onelayer.tasks.base import Split
from onelayer.tasks.environments.base import Info, StepResult

DATA_FOLDER = "json_2.1.1"
SPLIT_FOLDERS: dict[Split, str] = {"train": "train", "selection": "valid_seen", "test": "valid_unseen"}
TASK_TYPES = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)
GOAL_MARK = "Your task is to: "


@dataclass(frozen=True)
class Game:
    """One game on disk."""

    path: Path
    task_type: str


@dataclass(frozen=True)
class Games:
    """The games of a split, in the order of their paths, and what was left out."""

    games: tuple[Game, ...]
    damaged: tuple[str, ...]
    """Files that could not be used, each with the reason."""
    unsolvable: int
    """Games that their own files mark as not solvable."""
    unsupported: int
    """Games of kinds that ALFWorld leaves out: movable receptacles, sliced objects, other task types."""


def import_engine() -> ModuleType:
    """Import the engine.

    Raises:
        UserError: the packages it needs are not installed.
    """
    try:
        import alfworld  # noqa: F401
        import textworld.envs.pddl.logic  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"ALFWorld's engine is not installed ({error}); run pip install 'onelayer[alfworld]'."
        ) from error
    from onelayer.tasks.environments import alfworld_engine

    return alfworld_engine


def data_folder() -> Path:
    """Folder of all games, from the environment variable ``ALFWORLD_DATA``.

    Raises:
        UserError: the variable is not set or its folder has no games.
    """
    root = os.environ.get("ALFWORLD_DATA")
    found = Path(root) / DATA_FOLDER if root else None
    if found is None or not found.is_dir():
        problem = f"there is no folder {found}" if found else "ALFWORLD_DATA is not set"
        raise UserError(
            f"ALFWorld's games: {problem}; set ALFWORLD_DATA to the folder that holds {DATA_FOLDER}, or write games "
            "with `onelayer alfworld-games --number 100 --output DIR` and set it to DIR."
        )
    return found


def read_games(split: Split, folder: Path | None = None) -> Games:
    """Find the playable games of a split.

    Args:
        split: train, selection (``valid_seen``) or test (``valid_unseen``).
        folder: the ``json_2.1.1`` folder; by default that of ``ALFWORLD_DATA``.

    Raises:
        UserError: there is no such folder, or no playable game in it.
    """
    root = (folder or data_folder()) / SPLIT_FOLDERS[split]
    games: list[Game] = []
    damaged: list[str] = []
    unsolvable = unsupported = 0
    for path in sorted(root.glob("**/game.tw-pddl")):
        if "movable" in str(path.relative_to(root)) or "Sliced" in str(path.relative_to(root)):
            unsupported += 1
            continue
        try:
            game = load_game(path)
            task_type = _read_object(path.parent / "traj_data.json")["task_type"]
        except (OSError, ValueError, KeyError) as error:
            damaged.append(f"{path.relative_to(root)}: {type(error).__name__}: {error}")
            continue
        if task_type not in TASK_TYPES:
            unsupported += 1
        elif not game.get("solvable"):
            unsolvable += 1
        else:
            games.append(Game(path, task_type))
    if not games:
        raise UserError(
            f"ALFWorld's games: none can be played in {root} ({len(damaged)} damaged, {unsolvable} not solvable, "
            f"{unsupported} of other kinds); point ALFWORLD_DATA at a folder whose {DATA_FOLDER} has games."
        )
    return Games(tuple(games), tuple(damaged), unsolvable, unsupported)


def load_game(path: Path) -> dict[str, Any]:
    """Read a ``game.tw-pddl`` file.

    Raises:
        ValueError: it is not a JSON object, or a part is missing or no text.
    """
    game = _read_object(path)
    missing = [key for key in ("pddl_domain", "grammar", "pddl_problem") if not isinstance(game.get(key), str)]
    if missing:
        raise ValueError(f"no {', '.join(missing)}")
    return game


def _read_object(path: Path) -> dict[str, Any]:
    value = json.loads(read_text(path))
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} is no JSON object")
    return value


class Alfworld:
    """ALFWorld as an `onelayer.tasks.environments.base.Environment`; seed s plays game s, counted around.

    Observations and admissible commands are the engine's own. The first observation ends in the goal. Close it after
    use: it holds a copy of a native library.
    """

    def __init__(self, games: tuple[Game, ...], max_steps: int = 50) -> None:
        self.games = games
        self.max_steps = max_steps
        self._module = import_engine()
        self._library = self._module.borrow_library()
        self._number = -1
        self._engine: Any = None
        self._goal = ""
        self._steps = 0
        self._playing = False

    def reset(self, seed: int) -> tuple[str, Info]:
        """Start game ``seed`` (modulo the number of games).

        Raises:
            ValueError: the game's file is damaged.
        """
        number = seed % len(self.games)
        self._playing = False
        if number != self._number:
            self._number = -1
            self._engine = self._module.Engine(load_game(self.games[number].path), self._library)
            self._number = number
        observation: str = self._engine.reset()
        self._goal = observation.split(GOAL_MARK)[-1].strip()
        self._steps, self._playing = 0, True
        return observation, self._info(valid=True)

    def step(self, action: str) -> StepResult:
        """Carry out one command; one that is not admissible is answered "Nothing happens."

        Raises:
            RuntimeError: the episode is over, or none was started.
        """
        if not self._playing:
            raise RuntimeError("alfworld: call reset before step, and again after the end of an episode")
        valid = action.strip() in self._engine.admissible_commands
        observation: str = self._engine.step(action)
        self._steps += 1
        info = self._info(valid)
        truncated = self._steps >= self.max_steps and not info["won"]
        self._playing = not (info["won"] or truncated)
        return observation, float(info["won"]), info["won"], truncated, info

    def close(self) -> None:
        """Give the engine's native library back for the next environment."""
        self._playing = False
        self._module.return_library(self._library)

    def _info(self, valid: bool) -> Info:
        return {
            "goal": self._goal,
            "task_type": self.games[self._number].task_type,
            "admissible_commands": self._engine.admissible_commands,
            "won": self._engine.won,
            "valid": valid,
        }
