"""``household-v0``: a text game of one house, small enough for a model of 0.4M parameters, without dependencies.

Four rooms, each a step from any other, nine places that hold things, three of them closed at first. An episode asks for
one of five kinds of task, in a vocabulary of a few dozen words:

    put     put cup shelf           find the cup, carry it to the shelf
    clean   put clean cup shelf     ... by way of the sink
    heat    put hot egg table       ... by way of the stove
    cool    put cold apple desk     ... by way of the fridge
    look    look book lamp          find the book, switch the lamp on while holding it

The agent sees only its room and what is open in it; one hand holds one thing. An observation names the room, its
furniture with what is on or in it, and the hand: ``kitchen , table cup , sink , stove , fridge closed , hold nothing``.
It says everything the agent can know of its surroundings now, so equal observations are good anchors for GiGPO, and an
action that is not admissible leaves it as it is. Every start can be solved in 3 to 8 steps by an agent that knows where
things are (`solve`), and in at most 12 by one that has to search (`onelayer.tasks.environments.policies.expert_action`).
"""

import random
import zlib
from dataclasses import dataclass, field

from onelayer.errors import UserError
from onelayer.tasks.base import Split
from onelayer.tasks.environments.base import Info, StepResult

FURNITURE = {
    "kitchen": ("table", "sink", "stove", "fridge"),
    "bedroom": ("bed", "desk", "lamp", "box"),
    "bathroom": ("shelf", "cabinet"),
    "hall": ("bench", "rack"),
}
ROOMS = tuple(FURNITURE)
ROOM_OF = {thing: room for room, things in FURNITURE.items() for thing in things}
CONTAINERS = ("fridge", "box", "cabinet")
"""Closed when an episode starts; what is in them is seen only while they are open."""
PLACES = tuple(thing for thing in ROOM_OF if thing not in ("sink", "stove", "lamp"))
TOOLS = {"clean": "sink", "heat": "stove", "cool": "fridge"}
STATES = {"clean": "clean", "heat": "hot", "cool": "cold"}
OBJECTS = {
    "put": ("cup", "plate", "apple", "egg", "book", "key", "towel", "soap"),
    "clean": ("cup", "plate", "apple", "towel"),
    "heat": ("cup", "apple", "egg", "plate"),
    "cool": ("cup", "apple", "egg", "plate"),
    "look": ("book", "key", "cup", "towel"),
}
TASK_TYPES = tuple(OBJECTS)
THINGS_IN_A_HOUSE = 4
SHORTEST, LONGEST = 3, 8
"""Fewest and most steps of a solution of any start state."""


@dataclass
class House:
    """The whole state of an episode; `Household` shows the agent its part of it."""

    task_type: str
    target: str
    destination: str
    """The place to put the target at; the lamp in a look task."""
    room: str
    at: dict[str, str]
    """Place of each thing, or ``hand``."""
    state: dict[str, str] = field(default_factory=dict)
    """``clean``, ``hot`` or ``cold``, for things that were cleaned, heated or cooled last."""
    opened: set[str] = field(default_factory=set)
    lamp_used_on: str | None = None
    """What was in the hand when the lamp was last switched on."""

    @property
    def held(self) -> str | None:
        """The thing in the hand."""
        return next((thing for thing, place in self.at.items() if place == "hand"), None)

    @property
    def goal(self) -> str:
        """The task in words."""
        if self.task_type == "look":
            return f"look {self.target} lamp"
        words = ["put", STATES.get(self.task_type, ""), self.target, self.destination]
        return " ".join(word for word in words if word)

    @property
    def won(self) -> bool:
        """Whether the task is done."""
        if self.task_type == "look":
            return self.lamp_used_on == self.target
        needed = STATES.get(self.task_type)
        return self.at[self.target] == self.destination and needed in (None, self.state.get(self.target))

    def is_open(self, place: str) -> bool:
        """Whether things can be seen in, taken from and put at a place."""
        return place not in CONTAINERS or place in self.opened

    def visible(self) -> list[str]:
        """Things that lie in sight in this room."""
        return [thing for thing, place in self.at.items() if ROOM_OF.get(place) == self.room and self.is_open(place)]

    def named(self, thing: str) -> str:
        """A thing with its state: ``clean cup``."""
        return f"{self.state[thing]} {thing}" if thing in self.state else thing

    def observation(self) -> str:
        """What the agent sees."""
        parts = [self.room]
        for furniture in FURNITURE[self.room]:
            if self.is_open(furniture):
                parts.append(" ".join([furniture, *(self.named(t) for t, p in self.at.items() if p == furniture)]))
            else:
                parts.append(f"{furniture} closed")
        parts.append(f"hold {self.named(self.held) if self.held else 'nothing'}")
        return " , ".join(parts)

    def admissible(self) -> list[str]:
        """Every action that changes or may change something, sorted."""
        actions = [f"go {room}" for room in ROOMS if room != self.room]
        held = self.held
        for furniture in FURNITURE[self.room]:
            if furniture in CONTAINERS:
                actions.append(f"{'close' if furniture in self.opened else 'open'} {furniture}")
            if held and furniture in PLACES and self.is_open(furniture):
                actions.append(f"put {furniture}")
            if furniture == "lamp":
                actions.append("use lamp")
        if held:
            actions += [f"{verb} {held}" for verb, tool in TOOLS.items() if ROOM_OF[tool] == self.room]
        else:
            actions += [f"take {thing}" for thing in self.visible()]
        return sorted(actions)

    def apply(self, action: str) -> None:
        """Carry out an admissible action."""
        verb, noun = action.split()
        held = self.held
        if verb == "go":
            self.room = noun
        elif verb == "open":
            self.opened.add(noun)
        elif verb == "close":
            self.opened.remove(noun)
        elif verb == "take":
            self.at[noun] = "hand"
        elif verb == "use":
            self.lamp_used_on = held
        elif verb == "put" and held:
            self.at[held] = noun
        else:
            self.state[noun] = STATES[verb]


def new_house(rng: random.Random) -> House:
    """Draw a start state; not every one is a game (see `Household.reset`)."""
    task_type = rng.choice(TASK_TYPES)
    target = rng.choice(OBJECTS[task_type])
    others = [thing for thing in OBJECTS["put"] if thing != target]
    things = [target, *rng.sample(others, THINGS_IN_A_HOUSE - 1)]
    return House(
        task_type=task_type,
        target=target,
        destination="lamp" if task_type == "look" else rng.choice(PLACES),
        room=rng.choice(ROOMS),
        # Sorted, so that the order in which things are listed does not give the target away.
        at={thing: rng.choice(PLACES) for thing in sorted(things)},
    )


def split_of(house: House) -> Split:
    """The split a start state belongs to, by a checksum of the state: eight tenths train, one each for the others."""
    start = f"{house.goal}|{house.room}|{sorted(house.at.items())}"
    tenth = zlib.crc32(start.encode()) % 10
    if tenth == 0:
        return "selection"
    return "test" if tenth == 1 else "train"


def solve(house: House) -> list[str]:
    """Shortest list of actions that does the task, knowing where everything is."""
    plan: list[str] = []
    room, opened = house.room, set(house.opened)

    def go(place: str) -> None:
        nonlocal room
        if room != ROOM_OF[place]:
            room = ROOM_OF[place]
            plan.append(f"go {room}")

    def reach(place: str) -> None:
        go(place)
        if place in CONTAINERS and place not in opened:
            opened.add(place)
            plan.append(f"open {place}")

    if house.won:
        return plan
    if house.held not in (None, house.target):
        reachable = [p for p in FURNITURE[room] if p in PLACES and p not in CONTAINERS]
        plan.append(f"put {reachable[0]}")
    if house.held != house.target:
        reach(house.at[house.target])
        plan.append(f"take {house.target}")
    if house.task_type in TOOLS and house.state.get(house.target) != STATES[house.task_type]:
        go(TOOLS[house.task_type])
        plan.append(f"{house.task_type} {house.target}")
    if house.task_type == "look":
        go("lamp")
        return [*plan, "use lamp"]
    reach(house.destination)
    return [*plan, f"put {house.destination}"]


class Household:
    """``household-v0`` as an `onelayer.tasks.environments.base.Environment`.

    The start states of the three splits differ: each possible start belongs to one split only, whatever the seeds.
    """

    def __init__(self, split: Split = "train", max_steps: int = 12) -> None:
        self.split = split
        self.max_steps = max_steps
        self.house: House | None = None
        self._steps = 0
        self._admissible: list[str] = []

    def reset(self, seed: int) -> tuple[str, Info]:
        """Start the game of this seed.

        Raises:
            UserError: the seed is negative.
        """
        if seed < 0:
            raise UserError(f"household: seed {seed} is negative; seeds count from 0.")
        rng = random.Random(seed)
        house = new_house(rng)
        while split_of(house) != self.split or not SHORTEST <= len(solve(house)) <= LONGEST:
            house = new_house(rng)
        self.house, self._steps = house, 0
        return house.observation(), self._info(house, valid=True)

    def step(self, action: str) -> StepResult:
        """Carry out one action; one that is not admissible changes nothing but the number of steps.

        Raises:
            RuntimeError: the episode is over, or none was started.
        """
        house = self.house
        if house is None:
            raise RuntimeError("household: call reset before step, and again after the end of an episode")
        valid = action in self._admissible
        if valid:
            house.apply(action)
        self._steps += 1
        won, truncated = house.won, self._steps >= self.max_steps and not house.won
        if won or truncated:
            self.house = None
        return house.observation(), float(won), won, truncated, self._info(house, valid)

    def close(self) -> None:
        """Nothing to free."""

    def _info(self, house: House, valid: bool) -> Info:
        self._admissible = house.admissible()
        return {
            "goal": house.goal,
            "task_type": house.task_type,
            "admissible_commands": list(self._admissible),
            "won": house.won,
            "valid": valid,
        }
