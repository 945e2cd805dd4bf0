"""The task ``alfworld``: the games in ``$ALFWORLD_DATA``, played by the real engine in worker processes.

A start state is a game; its problem id is its number over all splits (test, selection, train) in the order of paths.
"""

from functools import partial

from onelayer.config.task import TaskConfig
from onelayer.tasks.agentic import AgenticTask
from onelayer.tasks.base import Problem, Split
from onelayer.tasks.environments.alfworld import Alfworld, Games, data_folder, import_engine, read_games
from onelayer.tasks.environments.workers import EnvironmentWorkers

MAX_STEPS = 50
SPLITS: tuple[Split, ...] = ("test", "selection", "train")


def alfworld_task(config: TaskConfig) -> AgenticTask:
    """The task, as the configuration wants it played.

    Raises:
        UserError: no games, or the engine is not installed.
    """
    # The packages look for ALFWORLD_DATA when they are imported, and make a folder of their own where it is not set.
    folder = data_folder()
    import_engine()
    found = {split: read_games(split, folder) for split in SPLITS}
    games = tuple(game for split in SPLITS for game in found[split].games)
    starts: dict[Split, list[Problem]] = {}
    for split in SPLITS:
        first = sum(len(own) for own in starts.values())
        starts[split] = [
            Problem(first + number, str(game.path.parent.relative_to(folder)), {"task_type": game.task_type})
            for number, game in enumerate(found[split].games)
        ]
    max_steps = config.max_env_steps or MAX_STEPS
    return AgenticTask(
        name="alfworld",
        starts=starts,
        pool=EnvironmentWorkers(partial(Alfworld, games, max_steps), config.env_workers, config.env_timeout),
        style="chat",
        history_length=config.history_length,
        max_steps=max_steps,
        max_prompt_length=config.max_prompt_length,
        messages=config.chat,
        notes=tuple(note for split in SPLITS for note in _notes(split, found[split])),
    )


def _notes(split: Split, games: Games) -> list[str]:
    """What was left out of a split, in sentences."""
    notes = [f"alfworld: damaged {split} game left out: {name}" for name in games.damaged]
    if games.unsolvable or games.unsupported:
        notes.append(
            f"alfworld: {games.unsolvable} unsolvable and {games.unsupported} unsupported {split} games left out"
        )
    return notes
