"""Players for ``household-v0``: an expert that only knows what it sees, players with bad habits, and their transcripts.

A base model that is pretrained on a mixture of them knows every action and favours the right one without being sure of
it: that is the state in which RL has something to find.
"""

import random
from collections.abc import Callable, Iterator

from onelayer.tasks.environments.household import (
    CONTAINERS,
    FURNITURE,
    OBJECTS,
    PLACES,
    ROOM_OF,
    ROOMS,
    STATES,
    TOOLS,
    House,
    Household,
)
from onelayer.tasks.environments.prompting import COMPACT_WORDS, render_prompt

Policy = Callable[[House, random.Random], str]


def vocabulary() -> list[str]:
    """Every word of the game's observations, goals, actions and compact prompts, sorted."""
    words = ["go", "open", "close", "take", "put", "use", "look", "hold", "nothing", "closed", ","]
    things = {thing for names in OBJECTS.values() for thing in names}
    return sorted({*words, *ROOMS, *ROOM_OF, *things, *TOOLS, *STATES.values(), *COMPACT_WORDS})


def expert_action(house: House, rng: random.Random | None = None) -> str:
    """Next step of a sensible player; it looks only at the goal, the room in sight and the hand.

    It searches room after room in a fixed order and opens what is closed, so it needs no memory. ``rng`` is unused: an
    expert is a `Policy` like the others.
    """
    target, room, held = house.target, house.room, house.held
    if held == target:
        if house.task_type == "look":
            return "use lamp" if room == ROOM_OF["lamp"] else f"go {ROOM_OF['lamp']}"
        if house.task_type in TOOLS and house.state.get(target) != STATES[house.task_type]:
            tool_room = ROOM_OF[TOOLS[house.task_type]]
            return f"{house.task_type} {target}" if room == tool_room else f"go {tool_room}"
        if room != ROOM_OF[house.destination]:
            return f"go {ROOM_OF[house.destination]}"
        return f"put {house.destination}" if house.is_open(house.destination) else f"open {house.destination}"
    if held:
        return f"put {next(f for f in FURNITURE[room] if f in PLACES and f not in CONTAINERS)}"
    if target in house.visible():
        return f"take {target}"
    for furniture in FURNITURE[room]:
        if not house.is_open(furniture):
            return f"open {furniture}"
    return f"go {ROOMS[(ROOMS.index(room) + 1) % len(ROOMS)]}"


def random_action(house: House, rng: random.Random) -> str:
    """Any admissible action."""
    return rng.choice(house.admissible())


def habit_action(house: House, rng: random.Random) -> str:
    """A plausible action that is not the expert's: walk on, open and close things, or take and put things."""
    wrong = [action for action in house.admissible() if action != expert_action(house)]
    habit = rng.choice((("go",), ("open", "close", "use"), ("take", "put", *TOOLS)))
    return rng.choice([action for action in wrong if action.split()[0] in habit] or wrong)


def lazy_action(house: House, rng: random.Random | None = None) -> str:
    """Next step of a player who opens nothing and never cleans, heats or cools; otherwise the expert's.

    It wins where neither is needed, a fifth of the training episodes.
    """
    onward = f"go {ROOMS[(ROOMS.index(house.room) + 1) % len(ROOMS)]}"
    if house.held == house.target and house.task_type in TOOLS and house.room != ROOM_OF[house.destination]:
        return f"go {ROOM_OF[house.destination]}"
    if house.held == house.target and house.task_type in TOOLS and house.is_open(house.destination):
        return f"put {house.destination}"
    action = expert_action(house)
    return onward if action.startswith("open") or action.split()[0] in TOOLS else action


def tempted_policy(expert_fraction: float = 0.45, lazy_fraction: float = 0.5) -> Policy:
    """A player whose steps are mostly lazy, sometimes the expert's, and the rest bad habits, independently.

    Its likeliest step is the lazy one: greedy play wins only where that suffices, and RL has to change the preference.
    """

    def act(house: House, rng: random.Random) -> str:
        drawn = rng.random()
        if drawn < expert_fraction:
            return expert_action(house)
        return lazy_action(house) if drawn < expert_fraction + lazy_fraction else habit_action(house, rng)

    return act


def mixed_policy(expert_fraction: float) -> Policy:
    """A player whose steps are the expert's with this probability, independently, and otherwise bad habits."""

    def act(house: House, rng: random.Random) -> str:
        return expert_action(house) if rng.random() < expert_fraction else habit_action(house, rng)

    return act


def success_rate(policy: Policy, episodes: int, seed: int = 0, max_steps: int = 12) -> float:
    """Share of training episodes ``seed, seed + 1, ...`` that a policy wins."""
    wins = 0
    environment = Household("train", max_steps)
    for number in range(seed, seed + episodes):
        rng = random.Random(number)
        environment.reset(number)
        while environment.house is not None:
            _, reward, *_ = environment.step(policy(environment.house, rng))
            wins += reward == 1.0
    return wins / episodes


def pretraining_text(
    rng: random.Random, policy: Policy | None = None, *, history_length: int = 2, max_steps: int = 12
) -> Iterator[tuple[str, str]]:
    """Yield ``(prompt, action)`` of a player's turns (a tempted one's by default) in the train split, without end.

    Prompts are compact (`render_prompt`); a model is to continue each with its action and ``</action>``.
    """
    environment = Household("train", max_steps)
    policy = policy or tempted_policy()
    while True:
        observation, info = environment.reset(rng.randrange(2**31))
        history: list[tuple[str, str]] = []
        while environment.house is not None:
            action = policy(environment.house, rng)
            prompt = render_prompt(
                info["goal"],
                history,
                observation,
                info["admissible_commands"],
                history_length=history_length,
                style="compact",
            )
            yield prompt, action
            history.append((observation, action))
            observation, _, _, _, info = environment.step(action)
