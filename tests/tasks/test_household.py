"""household-v0: its rules, its players, and the prompts and actions of agents."""

import random
from collections import deque
from copy import deepcopy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onelayer.errors import UserError
from onelayer.tasks.environments.household import LONGEST, SHORTEST, TASK_TYPES, House, Household, solve, split_of
from onelayer.tasks.environments.policies import (
    expert_action,
    habit_action,
    mixed_policy,
    pretraining_text,
    random_action,
    success_rate,
    vocabulary,
)
from onelayer.tasks.environments.prompting import parse_action, render_prompt

seeds = st.integers(0, 10**9)


def house(task_type: str = "clean", **changes: object) -> House:
    start = House(task_type, "cup", "shelf", "hall", {"cup": "fridge", "key": "bench"})
    for name, value in changes.items():
        setattr(start, name, value)
    return start


def started(seed: int, **options: object) -> tuple[Household, House]:
    environment = Household(**options)  # type: ignore[arg-type]
    environment.reset(seed)
    assert environment.house is not None
    return environment, environment.house


def key_of(state: House) -> tuple[object, ...]:
    things = sorted(state.at.items())
    return state.room, *things, *sorted(state.state.items()), *sorted(state.opened), state.lamp_used_on


def start_of(seed: int, split: str) -> tuple[object, ...]:
    state = started(seed, split=split)[1]
    return state.goal, *key_of(state)


def breadth_first(start: House) -> int:
    """Fewest steps to win, by trying everything: an independent check of `solve`."""
    queue, seen = deque([(start, 0)]), {key_of(start)}
    while True:
        state, depth = queue.popleft()
        if state.won:
            return depth
        for action in state.admissible():
            following = deepcopy(state)
            following.apply(action)
            if key_of(following) not in seen:
                seen.add(key_of(following))
                queue.append((following, depth + 1))


def test_an_episode_by_hand() -> None:
    environment, _ = started(0)
    environment.house = house()
    environment._admissible = environment.house.admissible()
    seen = [environment.step(a) for a in ("go kitchen", "open fridge", "take cup", "clean cup", "go bathroom")]
    assert [result[0] for result in seen] == [
        "kitchen , table , sink , stove , fridge closed , hold nothing",
        "kitchen , table , sink , stove , fridge cup , hold nothing",
        "kitchen , table , sink , stove , fridge , hold cup",
        "kitchen , table , sink , stove , fridge , hold clean cup",
        "bathroom , shelf , cabinet closed , hold clean cup",
    ]
    assert seen[1][4]["admissible_commands"] == ["close fridge", "go bathroom", "go bedroom", "go hall", "take cup"]
    assert not any(reward or terminated or truncated for _, reward, terminated, truncated, _ in seen)
    observation, reward, terminated, truncated, info = environment.step("put shelf")
    assert observation == "bathroom , shelf clean cup , cabinet closed , hold nothing"
    assert (reward, terminated, truncated, info["won"]) == (1.0, True, False, True)
    with pytest.raises(RuntimeError, match="call reset"):
        environment.step("go hall")


def test_a_dirty_cup_on_the_shelf_does_not_win() -> None:
    state = house(at={"cup": "hand", "key": "bench"}, room="bathroom")
    state.apply("put shelf")
    assert not state.won


def test_the_last_treatment_counts() -> None:
    state = house(at={"cup": "hand", "key": "bench"}, room="kitchen")
    state.apply("clean cup")
    state.apply("heat cup")
    assert state.named("cup") == "hot cup"


def test_a_look_task_needs_the_thing_in_the_hand() -> None:
    state = house("look", room="bedroom", destination="lamp")
    state.apply("use lamp")
    assert not state.won
    state.at["cup"] = "hand"
    state.apply("use lamp")
    assert state.won


def test_an_inadmissible_action_costs_a_step_and_changes_nothing() -> None:
    environment, state = started(3)
    before = state.observation()
    observation, _, _, _, info = environment.step("take moon")
    assert observation == before
    assert not info["valid"]


def test_an_episode_is_cut_at_max_steps() -> None:
    environment, _ = started(3, max_steps=2)
    assert environment.step("wait")[2:4] == (False, False)
    assert environment.step("wait")[2:4] == (False, True)


@given(seed=seeds, choices=st.lists(st.integers(0, 99), max_size=12))
@settings(max_examples=100, deadline=None)
def test_seed_and_actions_decide_everything(seed: int, choices: list[int]) -> None:
    (first, _), (second, _) = started(seed), started(seed)
    for choice in choices:
        if first.house is None:
            break
        commands = first.house.admissible()
        action = commands[choice % len(commands)]
        assert first.step(action) == second.step(action)


@given(seed=seeds, split=st.sampled_from(["train", "selection", "test"]))
@settings(max_examples=200, deadline=None)
def test_every_start_is_solvable_in_3_to_8_steps(seed: int, split: str) -> None:
    environment, state = started(seed, split=split)
    assert split_of(state) == split
    plan = solve(state)
    assert SHORTEST <= len(plan) <= LONGEST
    results = [environment.step(action) for action in plan]
    assert all(result[4]["valid"] for result in results)
    assert [result[2] for result in results] == [False] * (len(plan) - 1) + [True]


@given(seed=seeds, wandered=st.integers(0, 6))
@settings(max_examples=8, deadline=None)
def test_no_shorter_solution_exists_anywhere_on_the_way(seed: int, wandered: int) -> None:
    environment, state = started(seed)
    rng = random.Random(seed)
    for _ in range(wandered):
        environment.step(habit_action(state, rng))
    assert len(solve(state)) == breadth_first(state)


@given(seed=seeds)
@settings(max_examples=200, deadline=None)
def test_the_expert_needs_at_most_12_steps_and_no_hidden_knowledge(seed: int) -> None:
    environment, state = started(seed)
    while environment.house is not None:
        blind = deepcopy(state)
        in_sight = {*state.visible(), state.held}
        blind.at = {thing: place if thing in in_sight else "nowhere" for thing, place in state.at.items()}
        action = expert_action(blind)
        _, reward, *_ = environment.step(action)
    assert reward == 1.0


def test_all_task_types_occur() -> None:
    types = {Household().reset(seed)[1]["task_type"] for seed in range(100)}
    assert types == set(TASK_TYPES)


def test_start_states_of_the_splits_are_different() -> None:
    starts = {split: {start_of(seed, split) for seed in range(150)} for split in ("train", "selection", "test")}
    assert not starts["train"] & starts["selection"]
    assert not starts["train"] & starts["test"]
    assert not starts["selection"] & starts["test"]
    assert min(map(len, starts.values())) > 140


def test_states_recur_within_a_group() -> None:
    observations = []
    for path in range(8):
        environment, state = started(11)
        rng = random.Random(path)
        while environment.house is not None:
            observations.append(state.observation())
            environment.step(random_action(state, rng))
    assert len(set(observations)) < len(observations) / 2


def test_the_mixed_player_leaves_room_to_learn() -> None:
    rates = [success_rate(mixed_policy(fraction), 200) for fraction in (0.0, 0.45, 1.0)]
    assert rates[0] < 0.05
    assert 0.1 < rates[1] < 0.4
    assert rates[2] == 1.0


def test_the_pretraining_text_stays_in_its_vocabulary_and_size() -> None:
    text = pretraining_text(random.Random(0))
    pairs = [next(text) for _ in range(2000)]
    words = {word for prompt, action in pairs for word in f"{prompt} {action} </action>".split()}
    assert words == set(vocabulary())
    assert len(vocabulary()) < 100
    assert max(len(prompt.split()) for prompt, _ in pairs) <= 60
    assert {len(action.split()) for _, action in pairs} == {2}


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(UserError, match="-1 is negative"):
        Household().reset(-1)


TURNS = [("hall", "go kitchen"), ("kitchen", "take cup"), ("kitchen , hold cup", "go hall")]


def test_a_compact_prompt() -> None:
    prompt = render_prompt("put cup rack", TURNS, "hall , rack , hold cup", ["put rack"], style="compact")
    assert prompt == "goal put cup rack . did take cup ; go hall . see hall , rack , hold cup . <action>"
    first = render_prompt("put cup rack", [], "hall", [], style="compact")
    assert first == "goal put cup rack . see hall . <action>"


def test_a_chat_prompt_shows_the_last_turns_and_the_actions() -> None:
    prompt = render_prompt("put cup rack", TURNS, "hall , rack , hold cup", ["go hall", "put rack"])
    assert "Your task: put cup rack" in prompt
    assert "You have taken 3 steps. The last 2:\n[step 2] you saw: kitchen\n[step 2] you did: take cup" in prompt
    assert "[step 1]" not in prompt
    assert "You now see: hall , rack , hold cup" in prompt
    assert "- go hall\n- put rack\n" in prompt


@pytest.mark.parametrize(("length", "shown"), [(0, 0), (1, 1), (3, 3), (9, 3)])
def test_the_history_length_is_kept(length: int, shown: int) -> None:
    prompt = render_prompt("g", TURNS, "hall", ["go hall"], history_length=length)
    assert prompt.count("you did:") == shown


@pytest.mark.parametrize(
    ("completion", "action"),
    [
        ("<action>go hall</action>", "go hall"),
        ("I think.\n<action>\n Go   Hall </action> done", "go hall"),
        ("<action>a</action> no, <action>b</action>", "b"),
        ("<action> a <action> b </action>", "b"),
        ("go hall", None),
        ("<action>go hall", None),
        ("go hall</action>", None),
        ("<action>  </action>", None),
    ],
)
def test_parse_action(completion: str, action: str | None) -> None:
    assert parse_action(completion) == action


@pytest.mark.parametrize(
    ("completion", "action"),
    [(" go hall </action> x", "go hall"), ("go hall", "go hall"), (" </action>", None), ("a <action> b", None)],
)
def test_parse_action_after_an_opened_tag(completion: str, action: str | None) -> None:
    assert parse_action(completion, opened=True) == action
