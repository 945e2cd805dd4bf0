"""New ALFWorld games, for where the 2,435 official ones cannot be downloaded.

A game is drawn from what the alfworld package carries: its PDDL domain and text grammar, its 120 rooms (receptacles
with their places, kinds of objects), its tables of what fits where, and its goals. The layout on disk is the official
one, ``json_2.1.1/<split>/<task>/trial_<number>/{game.tw-pddl,traj_data.json}``; as there, ``train`` and ``valid_seen``
share rooms and ``valid_unseen`` has rooms of its own. Every game is won by its expert plan before it is written.

What official games have and these do not: people's wordings of the goal, object positions from a physics simulation,
and distances between locations (which the domain of alfworld 0.4 does not use).
"""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from onelayer.errors import UserError
from onelayer.storage.files import atomic_folder, make_folder
from onelayer.tasks.environments.alfworld import DATA_FOLDER, TASK_TYPES, import_engine
from onelayer.tasks.environments.alfworld_rooms import (
    TREATMENTS,
    Goal,
    Receptacle,
    Scene,
    Tables,
    choose_goal,
    empty_room,
    furnish,
    load_tables,
    pddl_name,
    problem,
)

DRAWS_PER_GAME = 200
"""Rooms and goals tried for one game before giving up."""


@dataclass(frozen=True)
class GamesReport:
    """What `write_games` wrote."""

    folder: Path
    games: dict[str, int]
    """Games per split folder."""
    task_types: dict[str, int]
    receptacles: tuple[int, int]
    """Fewest and most receptacles of a game."""
    steps: tuple[int, int]
    """Fewest and most steps of an expert plan."""


def write_games(
    number: int,
    output: Path,
    seed: int = 0,
    *,
    held_out: int | None = None,
    min_receptacles: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> GamesReport:
    """Write ``number`` training games, and ``held_out`` games in each validation split.

    The six task types take turns. The same arguments write the same games; no two games have the same start.

    Args:
        number: training games, at least 1.
        output: folder for ``json_2.1.1``; setting ``ALFWORLD_DATA`` to it makes the games the ones that are played.
        seed: of everything that is drawn.
        held_out: games in each of ``valid_seen`` and ``valid_unseen``; by default an eighth of number, at least six.
        min_receptacles: least furniture of a room.
        progress: called with (written, total) after each game.

    Raises:
        UserError: numbers out of range, a package is missing, games are already there, the folder cannot be written, or
            no room fits. Nothing is written then.
        WriteFailed: the disk refused it; nothing is left then.
    """
    held_out = max(6, number // 8) if held_out is None else held_out
    if number < 1 or held_out < 0:
        raise UserError(f"alfworld-games: {number} training and {held_out} held-out games; ask for at least 1 and 0.")
    root = output / DATA_FOLDER
    if root.exists():
        raise UserError(f"alfworld-games: {root} exists already; choose an empty folder.")
    engine = import_engine()
    make_folder(output)
    with atomic_folder(root) as partial:
        return _write(engine, partial, number, output, seed, held_out, min_receptacles, progress)


def _write(
    engine: ModuleType,
    partial: Path,
    number: int,
    output: Path,
    seed: int,
    held_out: int,
    min_receptacles: int,
    progress: Callable[[int, int], None] | None,
) -> GamesReport:
    """`write_games` into the folder ``partial``, which is left behind only when it is whole."""
    tables = load_tables()
    library = engine.borrow_library()
    wanted = {"train": number, "valid_seen": held_out, "valid_unseen": held_out}
    starts: set[str] = set()
    types: Counter[str] = Counter()
    sizes: list[int] = []
    lengths: list[int] = []
    for split, count in wanted.items():
        for index in range(count):
            rng = random.Random(f"{seed}/{split}/{index}")
            task_type = TASK_TYPES[index % len(TASK_TYPES)]
            for _ in range(DRAWS_PER_GAME):
                drawn = _draw(rng, task_type, split, min_receptacles, tables)
                if drawn is None or (start := json.dumps(drawn[0], sort_keys=True)) in starts:
                    continue
                game, scene, goal, plan = drawn
                commands = _walk(engine.Engine(game, library), plan)
                if commands is not None:
                    break
            else:
                raise UserError(
                    f"alfworld-games: no room with {min_receptacles} receptacles allows {task_type}; ask for fewer."
                )
            starts.add(start)
            types[task_type] += 1
            sizes.append(len(scene.receptacles))
            lengths.append(len(commands))
            _save(
                partial / split,
                index,
                game | {"solvable": True, "walkthrough": commands},
                goal,
                scene.number,
            )
            if progress:
                progress(len(sizes), sum(wanted.values()))
    engine.return_library(library)
    return GamesReport(output, wanted, dict(types), (min(sizes), max(sizes)), (min(lengths), max(lengths)))


def _draw(
    rng: random.Random, task_type: str, split: str, min_receptacles: int, tables: Tables
) -> tuple[dict[str, Any], Scene, Goal, list[tuple[str, ...]]] | None:
    """Draw one game with its expert plan, or None where the room drawn does not allow the task."""
    constants = tables.constants
    unseen = split == "valid_unseen"
    number = rng.choice(constants.TEST_SCENE_NUMBERS if unseen else constants.TRAIN_SCENE_NUMBERS)
    scene, kinds = empty_room(rng, number, tables)
    goal = choose_goal(rng, task_type, scene, kinds, tables)
    if len(scene.receptacles) < min_receptacles or goal is None:
        return None
    furnish(rng, scene, goal, kinds, tables)
    plan = _expert_plan(rng, scene, goal, tables)
    if plan is None:
        return None
    sentence = rng.choice(tables.goals[task_type]["templates"]).format(
        obj=goal.object_target.lower(), recep=goal.parent_target.lower(), toggle=goal.toggle_target.lower()
    )
    game = {
        "pddl_domain": tables.domain,
        "grammar": tables.grammar.replace("UNKNOWN GOAL", sentence),
        "pddl_problem": problem(scene, goal, tables),
    }
    return game, scene, goal, plan


def _expert_plan(rng: random.Random, scene: Scene, goal: Goal, tables: Tables) -> list[tuple[str, ...]] | None:
    """Steps that reach the goal, a verb and ids each (``("take", object, receptacle)``); None if things are missing."""
    openable = tables.constants.OPENABLE_CLASS_SET
    opened: set[str] = set()
    plan: list[tuple[str, ...]] = []

    def reach(receptacle: Receptacle) -> None:
        plan.append(("go to", receptacle.id))
        if receptacle.kind in openable and receptacle.id not in opened:
            opened.add(receptacle.id)
            plan.append(("open", receptacle.id))

    def some(kind: str) -> Receptacle:
        return rng.choice([receptacle for receptacle in scene.receptacles if receptacle.kind == kind])

    targets = [name for name in scene.lies_in if name.split("|")[0] == goal.object_target]
    lamps = [name for name in scene.lies_in if name.split("|")[0] == goal.toggle_target]
    two = goal.task_type == "pick_two_obj_and_place"
    if len(targets) < 1 + two or (goal.toggle_target and not lamps):
        return None
    destination = some(goal.parent_target) if goal.parent_target else None
    for target in targets[: 1 + two]:
        reach(scene.lies_in[target])
        plan.append(("take", target, scene.lies_in[target].id))
        if goal.task_type in TREATMENTS:
            _, tool, verb = TREATMENTS[goal.task_type]
            place = some(tool)
            plan += [("go to", place.id), (verb, target, place.id)]
        if destination:
            reach(destination)
            plan.append(("move", target, destination.id))
    if lamps:
        plan += [("go to", scene.lies_in[lamps[0]].id), ("use", lamps[0])]
    return plan


def _walk(game: Any, plan: Iterable[tuple[str, ...]]) -> list[str] | None:
    """Play a plan in the engine and return its commands if it wins with its last step, otherwise None."""
    forms = {"take": "take {0} from {1}", "move": "move {0} to {1}"}
    forms |= {verb: verb + " {0} with {1}" for _, _, verb in TREATMENTS.values()}
    game.reset()
    commands = []
    for verb, *ids in plan:
        names = [game.entities[pddl_name(name).lower()].name for name in ids]
        command = forms.get(verb, verb + " {0}").format(*names)
        if game.won:
            return None
        # Two pieces of furniture can stand at one location: where the agent is already there, it need not go.
        if command in game.admissible_commands:
            game.step(command)
            commands.append(command)
        elif verb != "go to":
            return None
    return commands if game.won else None


def _save(folder: Path, index: int, game: dict[str, Any], goal: Goal, scene_number: int) -> None:
    parts = [goal.task_type, goal.object_target, "None", goal.parent_target or goal.toggle_target, str(scene_number)]
    digest = hashlib.sha256(game["pddl_problem"].encode()).hexdigest()[:8]
    trial = folder / "-".join(parts) / f"trial_{index:05d}_{digest}"
    trial.mkdir(parents=True)
    (trial / "game.tw-pddl").write_text(json.dumps(game))
    params = {
        "object_target": goal.object_target,
        "parent_target": goal.parent_target,
        "toggle_target": goal.toggle_target,
        "mrecep_target": "",
        "object_sliced": False,
    }
    data = {"task_id": trial.name, "task_type": goal.task_type, "pddl_params": params, "scene_num": scene_number}
    (trial / "traj_data.json").write_text(json.dumps(data, indent=1))
