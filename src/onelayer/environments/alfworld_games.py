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
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from onelayer.environments.alfworld import DATA_FOLDER, TASK_TYPES, import_engine
from onelayer.errors import UserError

DRAWS_PER_GAME = 200
"""Rooms and goals tried for one game before giving up."""
TREATMENTS = {
    "pick_clean_then_place_in_recep": ("Cleanable", "SinkBasin", "clean"),
    "pick_heat_then_place_in_recep": ("Heatable", "Microwave", "heat"),
    "pick_cool_then_place_in_recep": ("Coolable", "Fridge", "cool"),
}
"""Task type to the property an object needs, the receptacle that gives the treatment, and the command's verb."""
PROPERTIES = {"Cleanable": "cleanable", "Heatable": "heatable", "Coolable": "coolable", "Sliceable": "sliceable"}
LAMPS = ("DeskLamp", "FloorLamp")
MOST_OF_A_KIND = 3
"""Most objects of one kind in a room, as in the official games."""
STOVE_BURNERS = 4


@dataclass(frozen=True)
class Receptacle:
    """A piece of furniture: its id (``Drawer|+00.95|+00.22|-02.20``), kind, and the location it is reached from."""

    id: str
    kind: str
    location: str


@dataclass
class Scene:
    """A furnished room: where every object lies."""

    number: int
    receptacles: list[Receptacle]
    lies_in: dict[str, Receptacle] = field(default_factory=dict)
    """Object id to receptacle; the kind of an object is its id up to the first bar."""


@dataclass(frozen=True)
class Goal:
    """What is to be done, in ALFRED's terms; a kind that a task type does not use is empty."""

    task_type: str
    object_target: str
    parent_target: str = ""
    toggle_target: str = ""


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
        UserError: numbers out of range, a package is missing, games are already there, or no room fits.
    """
    held_out = max(6, number // 8) if held_out is None else held_out
    if number < 1 or held_out < 0:
        raise UserError(f"alfworld-games: {number} training and {held_out} held-out games; ask for at least 1 and 0.")
    root = output / DATA_FOLDER
    if root.exists():
        raise UserError(f"alfworld-games: {root} exists already; choose an empty folder.")
    engine = import_engine()
    tables = _tables()
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
            _save(root / split, index, game | {"solvable": True, "walkthrough": commands}, goal, scene.number)
            if progress:
                progress(len(sizes), sum(wanted.values()))
    engine.return_library(library)
    return GamesReport(output, wanted, dict(types), (min(sizes), max(sizes)), (min(lengths), max(lengths)))


@dataclass(frozen=True)
class _Tables:
    """The parts of the alfworld package that games are made of."""

    constants: Any
    goals: Any
    domain: str
    grammar: str
    layouts: Path

    @property
    def furniture(self) -> frozenset[str]:
        """Kinds of receptacles that cannot be carried."""
        return frozenset(self.constants.RECEPTACLES) - frozenset(self.constants.MOVABLE_RECEPTACLES)

    def holds(self, kind: str) -> list[str]:
        """Kinds of objects that a kind of receptacle can hold, sorted; cut food is left out, as in ALFWorld."""
        return sorted(o for o in self.constants.VAL_RECEPTACLE_OBJECTS.get(kind, ()) if not o.endswith("Sliced"))


@lru_cache(maxsize=1)
def _tables() -> _Tables:
    import alfworld.gen
    import alfworld.info
    from alfworld.gen import constants, goal_library

    return _Tables(
        constants=constants,
        goals=goal_library.gdict,
        domain=Path(alfworld.info.ALFRED_PDDL_PATH).read_text(),
        grammar=Path(alfworld.info.ALFRED_TWL2_PATH).read_text(),
        layouts=Path(alfworld.gen.__file__).parent / "layouts",
    )


def _draw(
    rng: random.Random, task_type: str, split: str, min_receptacles: int, tables: _Tables
) -> tuple[dict[str, Any], Scene, Goal, list[tuple[str, ...]]] | None:
    """Draw one game with its expert plan, or None where the room drawn does not allow the task."""
    constants = tables.constants
    unseen = split == "valid_unseen"
    number = rng.choice(constants.TEST_SCENE_NUMBERS if unseen else constants.TRAIN_SCENE_NUMBERS)
    scene, kinds = _empty_room(rng, number, tables)
    goal = _choose_goal(rng, task_type, scene, kinds, tables)
    if len(scene.receptacles) < min_receptacles or goal is None:
        return None
    _furnish(rng, scene, goal, kinds, tables)
    plan = _expert_plan(rng, scene, goal, tables)
    if plan is None:
        return None
    sentence = rng.choice(tables.goals[task_type]["templates"]).format(
        obj=goal.object_target.lower(), recep=goal.parent_target.lower(), toggle=goal.toggle_target.lower()
    )
    game = {
        "pddl_domain": tables.domain,
        "grammar": tables.grammar.replace("UNKNOWN GOAL", sentence),
        "pddl_problem": _problem(scene, goal, tables),
    }
    return game, scene, goal, plan


def _empty_room(rng: random.Random, number: int, tables: _Tables) -> tuple[Scene, list[str]]:
    """A room of the package with its receptacles, and the kinds of objects it may have."""
    kinds = sorted(json.loads((tables.layouts / f"FloorPlan{number}-objects.json").read_text()))
    placed = json.loads((tables.layouts / f"FloorPlan{number}-openable.json").read_text())
    receptacles = []
    for name, (x, z, rotation, horizon) in sorted(placed.items()):
        parts = name.split("|")
        kind = parts[0] if parts[-1] != f"{parts[0]}Basin" else parts[-1]
        if kind in tables.furniture:
            location = f"loc|{round(x / 0.25)}|{round(z / 0.25)}|{rotation // 90}|{horizon}"
            receptacles.append(Receptacle(name, kind, location))
    known = {receptacle.kind for receptacle in receptacles}
    # The package gives places only for what a robot has to reach; the rest of the room's furniture gets a place here.
    for kind in sorted(set(kinds) & tables.furniture - known):
        for count in range(STOVE_BURNERS if kind == "StoveBurner" else 1):
            location = f"loc|{20 + len(receptacles)}|{count}|0|30"
            receptacles.append(Receptacle(f"{kind}{_position(rng)}", kind, location))
    return Scene(number, receptacles), [kind for kind in kinds if kind not in tables.furniture]


def _position(rng: random.Random) -> str:
    """Coordinates as they stand in ids: ``|+01.23|+00.90|-02.34``."""
    return "".join(f"|{rng.uniform(-3, 3):+06.2f}" for _ in range(3))


def _choose_goal(rng: random.Random, task_type: str, scene: Scene, kinds: list[str], tables: _Tables) -> Goal | None:
    """A goal that this room allows, or None."""
    furniture = sorted({receptacle.kind for receptacle in scene.receptacles})
    homes = {kind: [f for f in furniture if kind in tables.holds(f)] for kind in kinds}
    if task_type == "look_at_obj_in_light":
        lamps = [lamp for lamp in LAMPS if lamp in kinds]
        options = [kind for kind in kinds if homes[kind]]
        if not lamps or not options:
            return None
        return Goal(task_type, rng.choice(options), toggle_target=rng.choice(lamps))
    if task_type in TREATMENTS:
        needed, tool, _ = TREATMENTS[task_type]
        if tool not in furniture:
            return None
        kinds = [kind for kind in kinds if kind in tables.constants.VAL_ACTION_OBJECTS[needed]]
    # An object that fits in one kind of receptacle only has nowhere else to start.
    pairs = [(kind, home) for kind in kinds if len(homes[kind]) > 1 for home in homes[kind]]
    return Goal(task_type, *rng.choice(pairs)) if pairs else None


def _furnish(rng: random.Random, scene: Scene, goal: Goal, kinds: list[str], tables: _Tables) -> None:
    """Put objects into the room: up to three of a kind, targets never at their goal."""
    least = {goal.object_target: 2 if goal.task_type == "pick_two_obj_and_place" else 1, goal.toggle_target: 1}
    for kind in kinds:
        homes = [receptacle for receptacle in scene.receptacles if kind in tables.holds(receptacle.kind)]
        if kind == goal.object_target:
            homes = [receptacle for receptacle in homes if receptacle.kind != goal.parent_target]
        if kind in LAMPS:
            homes = [r for r in scene.receptacles if r.kind not in tables.constants.OPENABLE_CLASS_SET]
        most = 1 if kind in LAMPS else MOST_OF_A_KIND
        for _ in range(max(least.get(kind, 0), rng.randint(0, most)) if homes else 0):
            scene.lies_in[f"{kind}{_position(rng)}"] = rng.choice(homes)


def _expert_plan(rng: random.Random, scene: Scene, goal: Goal, tables: _Tables) -> list[tuple[str, ...]] | None:
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
        names = [game.entities[_pddl(name).lower()].name for name in ids]
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


def _pddl(name: str) -> str:
    """An id in PDDL's alphabet, as alfworld's demangler reads it back."""
    for character, word in (("-", "_minus_"), ("|", "_bar_"), ("+", "_plus_"), (".", "_dot_"), (",", "_comma_")):
        name = name.replace(character, word)
    return name


def _problem(scene: Scene, goal: Goal, tables: _Tables) -> str:
    """The PDDL problem: all kinds, this room's things, where they are and what can be done with them, and the goal."""
    constants = tables.constants
    object_kinds = sorted((set(constants.OBJECTS) | set(constants.MOVABLE_RECEPTACLES)) - tables.furniture)
    furniture_kinds = sorted(tables.furniture)
    start = "loc|0|0|0|30"
    locations = sorted({receptacle.location for receptacle in scene.receptacles} | {start})
    things = ["agent1 - agent"]
    things += [f"{kind}Type - otype" for kind in object_kinds]
    things += [f"{kind}Type - rtype" for kind in furniture_kinds]
    things += [f"{name} - object" for name in scene.lies_in]
    things += [f"{receptacle.id} - receptacle" for receptacle in scene.receptacles]
    things += [f"{location} - location" for location in locations]

    facts: list[tuple[str, ...]] = [("atLocation", "agent1", start)]
    for kind in furniture_kinds:
        facts += [("canContain", f"{kind}Type", f"{held}Type") for held in tables.holds(kind)]
    for receptacle in scene.receptacles:
        facts.append(("receptacleType", receptacle.id, f"{receptacle.kind}Type"))
        facts.append(("receptacleAtLocation", receptacle.id, receptacle.location))
        if receptacle.kind in constants.OPENABLE_CLASS_SET:
            facts.append(("openable", receptacle.id))
    for name, receptacle in scene.lies_in.items():
        kind = name.split("|")[0]
        facts.append(("objectType", name, f"{kind}Type"))
        facts.append(("objectAtLocation", name, receptacle.location))
        facts.append(("inReceptacle", name, receptacle.id))
        facts.append(("toggleable" if kind in LAMPS else "pickupable", name))
        if kind in constants.MOVABLE_RECEPTACLES_SET:
            facts.append(("isReceptacleObject", name))
        facts += [(PROPERTIES[p], name) for p in PROPERTIES if kind in constants.VAL_ACTION_OBJECTS[p]]

    condition = tables.goals[goal.task_type]["pddl"].replace("#", "-")
    condition = condition.format(obj=goal.object_target, recep=goal.parent_target, toggle=goal.toggle_target)
    written_things = "\n        ".join(_declaration(thing) for thing in things)
    written_facts = "\n        ".join(f"({' '.join(_pddl(word) for word in fact)})" for fact in facts)
    return (
        "(define (problem plan)\n    (:domain alfred)\n"
        f"    (:objects\n        {written_things}\n    )\n"
        f"    (:init\n        (= (total-cost) 0)\n        {written_facts}\n    )\n{condition}"
    )


def _declaration(thing: str) -> str:
    name, kind = thing.split(" - ")
    return f"{_pddl(name)} - {kind}"


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
