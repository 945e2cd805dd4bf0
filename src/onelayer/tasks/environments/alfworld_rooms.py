"""Rooms, goals and PDDL problems of new ALFWorld games, drawn from the tables of the alfworld package."""

import json
import random
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

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
class Tables:
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
def load_tables() -> Tables:
    """Read the tables of the alfworld package once."""
    import alfworld.gen
    import alfworld.info
    from alfworld.gen import constants, goal_library

    return Tables(
        constants=constants,
        goals=goal_library.gdict,
        domain=Path(alfworld.info.ALFRED_PDDL_PATH).read_text(),
        grammar=Path(alfworld.info.ALFRED_TWL2_PATH).read_text(),
        layouts=Path(alfworld.gen.__file__).parent / "layouts",
    )


def empty_room(rng: random.Random, number: int, tables: Tables) -> tuple[Scene, list[str]]:
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


def choose_goal(rng: random.Random, task_type: str, scene: Scene, kinds: list[str], tables: Tables) -> Goal | None:
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


def furnish(rng: random.Random, scene: Scene, goal: Goal, kinds: list[str], tables: Tables) -> None:
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


def pddl_name(name: str) -> str:
    """An id in PDDL's alphabet, as alfworld's demangler reads it back."""
    for character, word in (("-", "_minus_"), ("|", "_bar_"), ("+", "_plus_"), (".", "_dot_"), (",", "_comma_")):
        name = name.replace(character, word)
    return name


def problem(scene: Scene, goal: Goal, tables: Tables) -> str:
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
    written_facts = "\n        ".join(f"({' '.join(pddl_name(word) for word in fact)})" for fact in facts)
    return (
        "(define (problem plan)\n    (:domain alfred)\n"
        f"    (:objects\n        {written_things}\n    )\n"
        f"    (:init\n        (= (total-cost) 0)\n        {written_facts}\n    )\n{condition}"
    )


def _declaration(thing: str) -> str:
    name, kind = thing.split(" - ")
    return f"{pddl_name(name)} - {kind}"
