"""GiGPO's advantages: by hand, against a second implementation written from the formulas, and in their limits."""

import math
import statistics
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onelayer.training.algorithms.gigpo import (
    anchor_groups,
    discounted_returns,
    episode_advantages,
    gigpo_advantages,
    step_advantages,
)

EPSILON = 1e-4


class Turn(NamedTuple):
    """One row of a batch."""

    group: int
    trajectory: int
    observation: str
    reward: float
    penalty: float = 0.0


def advantages(turns: list[Turn], **options: object) -> torch.Tensor:
    return gigpo_advantages(
        torch.tensor([t.reward for t in turns], dtype=torch.float64),
        torch.tensor([t.group for t in turns]),
        torch.tensor([t.trajectory for t in turns]),
        [t.observation for t in turns],
        penalties_R=torch.tensor([t.penalty for t in turns], dtype=torch.float64),
        **options,  # type: ignore[arg-type]
    ).advantages


def grpo(scores: list[float], mode: str = "mean_std_norm") -> list[float]:
    mean = statistics.fmean(scores)
    scale = statistics.stdev(scores) + EPSILON if mode == "mean_std_norm" and len(scores) > 1 else 1.0
    return [(score - mean) / scale for score in scores]


# Two trajectories from one kitchen. The first wins in two turns, the second wanders back to the start and fails.
KITCHEN = [
    Turn(0, 0, "kitchen", 0.0),
    Turn(0, 0, "holding cup", 1.0),
    Turn(0, 1, "kitchen", 0.0),
    Turn(0, 1, "hall", 0.0),
    Turn(0, 1, "kitchen", 0.0),
]


def test_mean_norm_by_hand() -> None:
    # Episodes 1 and 0: mean 1/2. The kitchen was left with returns 0.5, 0, 0: mean 1/6. The rest was seen once.
    expected = [0.5 + 1 / 3, 0.5, -0.5 - 1 / 6, -0.5, -0.5 - 1 / 6]
    assert advantages(KITCHEN, gamma=0.5, mode="mean_norm").tolist() == pytest.approx(expected)


def test_mean_std_norm_by_hand() -> None:
    # Deviation of (1, 0): sqrt(1/2). Of (1/2, 0, 0): sqrt((1/9 + 1/36 + 1/36) / 2) = sqrt(1/12).
    episode, kitchen = 0.5 / (math.sqrt(0.5) + EPSILON), math.sqrt(1 / 12) + EPSILON
    expected = [
        episode + 2 * (1 / 3) / kitchen,
        episode,
        -episode - 2 * (1 / 6) / kitchen,
        -episode,
        -episode - 2 * (1 / 6) / kitchen,
    ]
    assert advantages(KITCHEN, gamma=0.5, step_advantage_w=2.0).tolist() == pytest.approx(expected)


def test_statistics_per_step_count_the_longer_trajectory_more() -> None:
    # Per step the scores are 1, 1, 0, 0, 0: mean 2/5.
    per_step = advantages(KITCHEN, mode="mean_norm", step_advantage_w=0.0, episode_statistics="step")
    per_trajectory = advantages(KITCHEN, mode="mean_norm", step_advantage_w=0.0)
    assert per_step.tolist() == pytest.approx([0.6, 0.6, -0.4, -0.4, -0.4])
    assert per_trajectory.tolist() == pytest.approx([0.5, 0.5, -0.5, -0.5, -0.5])


def test_discounted_returns_of_interleaved_trajectories() -> None:
    rewards, trajectories = torch.tensor([1.0, 0.0, 2.0, 8.0]), torch.tensor([5, 3, 5, 3])
    assert discounted_returns(rewards, trajectories, 0.5).tolist() == [2.0, 4.0, 2.0, 8.0]


def test_a_penalty_is_a_reward_or_stays_on_its_row() -> None:
    turns = [Turn(0, 0, "a", 0.0), Turn(0, 0, "b", 1.0, penalty=0.1), Turn(0, 1, "a", 0.0), Turn(0, 1, "b", 0.0)]
    # As a reward: episodes 0.9 and 0, returns at "a" 0.45 and 0, at "b" 0.9 and 0.
    assert advantages(turns, gamma=0.5, mode="mean_norm").tolist() == pytest.approx([0.675, 0.9, -0.675, -0.9])
    # On its row: row scores 1, 0.9, 0, 0 (mean 0.475), returns at "a" 0.5 and 0, at "b" 0.9 and 0.
    on_row = advantages(turns, gamma=0.5, mode="mean_norm", penalty_placement="row", episode_statistics="step")
    assert on_row.tolist() == pytest.approx([0.525 + 0.25, 0.425 + 0.45, -0.475 - 0.25, -0.475 - 0.45])


def test_a_group_of_one_gets_nothing_or_its_return() -> None:
    turns = [Turn(0, 0, "a", 0.0), Turn(0, 0, "b", 3.0)]
    assert advantages(turns).tolist() == [0.0, 0.0]
    assert advantages(turns, group_of_one="return").tolist() == [3.0, 3.0]


def test_equal_observations_of_different_groups_are_different_anchors() -> None:
    groups = torch.tensor([0, 0, 1, 1])
    assert anchor_groups(["a", "a", "a", "b"], groups).tolist() == [0, 0, 1, 2]


def test_similar_observations_share_an_anchor() -> None:
    observations = ["you see a cup 1", "you see a cup 2", "the fridge is open", "you see a cup 2"]
    groups = torch.tensor([0, 0, 0, 1])
    assert anchor_groups(observations, groups, similarity_threshold=0.9).tolist() == [0, 0, 1, 2]
    assert anchor_groups(observations, groups).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("threshold", [0.0, 1.0, 1.5])
def test_a_similarity_outside_0_and_1_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        anchor_groups(["a"], torch.tensor([0]), similarity_threshold=threshold)


def test_inconsistent_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="trajectory 0 lies in groups 0 and 1"):
        advantages([Turn(0, 0, "a", 0.0), Turn(1, 0, "a", 0.0)])
    with pytest.raises(ValueError, match="equally many"):
        gigpo_advantages(torch.zeros(2), torch.zeros(2), torch.zeros(2), ["a"])
    with pytest.raises(ValueError, match="episode_statistics"):
        advantages([Turn(0, 0, "a", 0.0, penalty=0.1)], penalty_placement="row")


def test_the_type_of_the_rewards_is_kept() -> None:
    result = gigpo_advantages(torch.ones(2), torch.zeros(2), torch.arange(2), ["a", "a"])
    assert result.advantages.dtype == torch.float32
    assert result.anchors.dtype == torch.int64


# The reference below follows the paper's text with plain lists: no tensors, no shared helper, forward sums.


def reference(turns: list[Turn], gamma: float, weight: float, mode: str, per_step: bool) -> list[float]:
    paths: dict[int, list[int]] = {}
    for row, turn in enumerate(turns):
        paths.setdefault(turn.trajectory, []).append(row)

    def relative(value: float, population: list[float]) -> float:
        centred = value - sum(population) / len(population)
        if mode == "mean_norm" or len(population) == 1:
            return centred
        return centred / (statistics.stdev(population) + EPSILON)

    result = []
    for row, turn in enumerate(turns):
        total = sum(turns[i].reward - turns[i].penalty for i in paths[turn.trajectory])
        episodes = []
        for path in paths.values():
            if turns[path[0]].group == turn.group:
                score = sum(turns[i].reward - turns[i].penalty for i in path)
                episodes += [score] * (len(path) if per_step else 1)
        returns = {}
        for other, seen in enumerate(turns):
            if (seen.group, seen.observation) == (turn.group, turn.observation):
                future = [i for i in paths[seen.trajectory] if i >= other]
                returns[other] = sum(gamma**k * (turns[i].reward - turns[i].penalty) for k, i in enumerate(future))
        result.append(relative(total, episodes) + weight * relative(returns[row], list(returns.values())))
    return result


@st.composite
def batches(draw: st.DrawFn) -> list[Turn]:
    paths = []
    for trajectory in range(draw(st.integers(1, 7))):
        group = draw(st.integers(0, 2))
        states = draw(st.lists(st.sampled_from("abcd"), min_size=1, max_size=6))
        rewards = draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=len(states), max_size=len(states)))
        penalties = draw(st.lists(st.sampled_from([0.0, 0.1]), min_size=len(states), max_size=len(states)))
        paths.append(
            [Turn(group, trajectory, *row) for row in zip(states, rewards, penalties, strict=True)],
        )
    order = draw(st.permutations([i for i, path in enumerate(paths) for _ in path]))
    queues = [iter(path) for path in paths]
    return [next(queues[i]) for i in order]


@settings(max_examples=150, deadline=None)
@given(
    turns=batches(),
    gamma=st.sampled_from([0.0, 0.5, 0.95, 1.0]),
    weight=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    mode=st.sampled_from(["mean_norm", "mean_std_norm"]),
    per_step=st.booleans(),
)
def test_agrees_with_the_reference(turns: list[Turn], gamma: float, weight: float, mode: str, per_step: bool) -> None:
    actual = advantages(
        turns,
        gamma=gamma,
        step_advantage_w=weight,
        mode=mode,
        episode_statistics="step" if per_step else "trajectory",
    )
    assert actual.tolist() == pytest.approx(reference(turns, gamma, weight, mode, per_step), abs=1e-9)


modes = st.sampled_from(["mean_norm", "mean_std_norm"])


@settings(max_examples=50, deadline=None)
@given(turns=batches(), mode=modes)
def test_without_step_advantages_it_is_grpo_on_episodes(turns: list[Turn], mode: str) -> None:
    actual = advantages(turns, step_advantage_w=0.0, mode=mode).tolist()
    returns: dict[int, float] = {}
    groups: dict[int, list[int]] = {}
    for turn in turns:
        if turn.trajectory not in returns:
            groups.setdefault(turn.group, []).append(turn.trajectory)
        returns[turn.trajectory] = returns.get(turn.trajectory, 0.0) + turn.reward - turn.penalty
    expected: dict[int, float] = {}
    for members in groups.values():
        expected |= zip(members, grpo([returns[t] for t in members], mode), strict=True)
    assert actual == pytest.approx([expected[turn.trajectory] for turn in turns], abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(wins=st.lists(st.booleans(), min_size=2, max_size=8), mode=modes, weight=st.floats(0.1, 3.0))
def test_unrepeated_states_leave_grpo_on_all_rows_but_the_first(wins: list[bool], mode: str, weight: float) -> None:
    turns = [
        Turn(0, path, "start" if turn == 0 else f"state {path} {turn}", float(win) if turn == 2 else 0.0)
        for path, win in enumerate(wins)
        for turn in range(3)
    ]
    actual = advantages(turns, mode=mode, step_advantage_w=weight, gamma=0.9)
    episode = grpo([float(win) for win in wins], mode)
    start = grpo([0.81 * win for win in wins], mode)
    assert actual[1::3].tolist() == actual[2::3].tolist() == pytest.approx(episode, abs=1e-9)
    both = [e + weight * s for e, s in zip(episode, start, strict=True)]
    assert actual[0::3].tolist() == pytest.approx(both, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(rewards=st.lists(st.floats(-2, 2), min_size=1, max_size=8), mode=modes, weight=st.floats(0.0, 3.0))
def test_one_step_episodes_are_grpo_times_one_plus_w(rewards: list[float], mode: str, weight: float) -> None:
    turns = [Turn(0, path, "start", reward) for path, reward in enumerate(rewards)]
    actual = advantages(turns, mode=mode, step_advantage_w=weight)
    assert actual.tolist() == pytest.approx([(1 + weight) * a for a in grpo(rewards, mode)], abs=1e-8)


def test_the_parts_add_up() -> None:
    rewards = torch.tensor([t.reward for t in KITCHEN])
    groups = torch.tensor([t.group for t in KITCHEN])
    trajectories = torch.tensor([t.trajectory for t in KITCHEN])
    result = gigpo_advantages(rewards, groups, trajectories, [t.observation for t in KITCHEN], step_advantage_w=0.5)
    scores = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0])
    assert torch.allclose(result.episode, episode_advantages(scores, groups, trajectories))
    returns = discounted_returns(rewards, trajectories, 0.95)
    assert torch.allclose(result.step, step_advantages(returns, result.anchors))
    assert torch.allclose(result.advantages, result.episode + 0.5 * result.step)
