"""GiGPO: group-in-group advantages for agents that act over many turns (arXiv 2505.10978).

A row is one call of the model: one turn of one trajectory. All tensors are one-dimensional with a value per row (suffix
``_R``), and the rows of a trajectory stand in the order of its turns (trajectories may be interleaved). Trajectories
that started from the same state form a *group*; inside a group, rows with the same observation form an *anchor group*.

    episode advantage  A_E = (R(trajectory) - mean over the group) / F_norm          (paper, equation 3)
    discounted return  R_t = r_t + gamma R_{t+1}                                     (equation 5)
    step advantage     A_S = (R_t - mean over the anchor group) / F_norm             (equations 6 and 7)
    advantage          A   = A_E + step_advantage_w A_S                              (equation 8)

F_norm is the standard deviation (``mode="mean_std_norm"``, the setting of verl-agent's ALFWorld recipe) or 1
(``mode="mean_norm"``). Where implementations differ, this file follows the paper by default and offers the other:

- *Counting.* The paper takes the episode mean and deviation over the trajectories of a group; verl-agent by default
  counts a trajectory once per row, so long trajectories weigh more (``episode_statistics="step"``).
- *Group of one.* Its episode advantage is 0 here; verl-agent leaves the return itself (``group_of_one="return"``). An
  anchor group of one has step advantage 0 in both.
- *Penalties for invalid actions.* By default a penalty is part of the reward of its turn, so it lowers the episode's
  return and is discounted like any reward. verl-agent subtracts it after discounting, from the score and the return of
  that row alone (``penalty_placement="row"``).
- *Standard deviation.* Unbiased (n - 1), as in verl-agent and TRL. ``epsilon`` is TRL's 1e-4; verl-agent has 1e-6.
"""

from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Mode = Literal["mean_std_norm", "mean_norm"]
EpisodeStatistics = Literal["trajectory", "step"]
GroupOfOne = Literal["zero", "return"]
PenaltyPlacement = Literal["reward", "row"]


class GigpoAdvantages(NamedTuple):
    """The advantage of every row and what it is made of; each a tensor of shape (rows,)."""

    advantages: Tensor
    episode: Tensor
    step: Tensor
    anchors: Tensor
    """Number of the anchor group of each row (int64), counted from 0 in order of first appearance."""


def gigpo_advantages(
    rewards_R: Tensor,
    groups_R: Tensor,
    trajectories_R: Tensor,
    observations: Sequence[str],
    *,
    penalties_R: Tensor | None = None,
    gamma: float = 0.95,
    step_advantage_w: float = 1.0,
    mode: Mode = "mean_std_norm",
    epsilon: float = 1e-4,
    similarity_threshold: float | None = None,
    episode_statistics: EpisodeStatistics = "trajectory",
    group_of_one: GroupOfOne = "zero",
    penalty_placement: PenaltyPlacement = "reward",
) -> GigpoAdvantages:
    """Compute GiGPO's advantage of every row (equation 8).

    Args:
        rewards_R: reward of each turn, float (rows,).
        groups_R: number of the group (the start state) of each row, integer (rows,).
        trajectories_R: number of the trajectory of each row, integer (rows,), unique over all groups.
        observations: the anchor state of each row: what the environment showed before the turn.
        penalties_R: what each turn loses for an invalid action, at least 0, float (rows,).
        gamma: discount of later rewards in the step returns.
        step_advantage_w: weight of the step advantages; 0 is GRPO on episodes.
        mode: divide by the standard deviation or not.
        epsilon: added to the standard deviation.
        similarity_threshold: see `anchor_groups`.
        episode_statistics: count a trajectory once, or once per row.
        group_of_one: episode advantage of a group with a single entry in its statistics.
        penalty_placement: see the head of this file.

    Raises:
        ValueError: lengths differ, a trajectory lies in two groups, or penalties are placed on rows while statistics
            count trajectories (a trajectory then has no one score, and a group of equal returns divides by epsilon).
    """
    if not (len(rewards_R) == len(groups_R) == len(trajectories_R) == len(observations)):
        raise ValueError(
            f"rewards, groups, trajectories and observations have {len(rewards_R)}, {len(groups_R)}, "
            f"{len(trajectories_R)} and {len(observations)} rows; they must be equally many"
        )
    turn_rewards_R, row_penalties_R = _penalised(rewards_R.double(), penalties_R, penalty_placement, episode_statistics)
    episode_R = episode_advantages(
        episode_returns(turn_rewards_R, trajectories_R) - row_penalties_R,
        groups_R,
        trajectories_R,
        mode=mode,
        epsilon=epsilon,
        episode_statistics=episode_statistics,
        group_of_one=group_of_one,
    )
    anchors_R = anchor_groups(observations, groups_R, similarity_threshold)
    returns_R = discounted_returns(turn_rewards_R, trajectories_R, gamma) - row_penalties_R
    step_R = step_advantages(returns_R, anchors_R, mode=mode, epsilon=epsilon)
    total_R = episode_R + step_advantage_w * step_R
    dtype = rewards_R.dtype
    return GigpoAdvantages(total_R.to(dtype), episode_R.to(dtype), step_R.to(dtype), anchors_R)


def _penalised(
    rewards_R: Tensor, penalties_R: Tensor | None, placement: PenaltyPlacement, statistics: EpisodeStatistics
) -> tuple[Tensor, Tensor]:
    """Rewards less the penalties that are placed on them, and the penalties that are placed on rows, both (rows,)."""
    none_R = torch.zeros_like(rewards_R)
    if penalties_R is None:
        return rewards_R, none_R
    if placement == "reward":
        return rewards_R - penalties_R.double(), none_R
    if statistics == "trajectory":
        raise ValueError('penalty_placement="row" needs episode_statistics="step"')
    return rewards_R, penalties_R.double()


def episode_returns(rewards_R: Tensor, trajectories_R: Tensor) -> Tensor:
    """Undiscounted sum of the rewards of each row's trajectory, shape (rows,)."""
    _, trajectory_R = torch.unique(trajectories_R, return_inverse=True)
    sums = torch.zeros(int(trajectory_R.max()) + 1, dtype=rewards_R.dtype, device=rewards_R.device)
    return sums.index_add(0, trajectory_R, rewards_R)[trajectory_R]


def discounted_returns(rewards_R: Tensor, trajectories_R: Tensor, gamma: float) -> Tensor:
    """Return R_t = r_t + gamma R_{t+1} of each row inside its trajectory (equation 5), shape (rows,)."""
    later: dict[int, float] = {}
    returns = [0.0] * len(rewards_R)
    rewards, trajectories = rewards_R.tolist(), trajectories_R.tolist()
    for row in reversed(range(len(rewards))):
        returns[row] = later[trajectories[row]] = rewards[row] + gamma * later.get(trajectories[row], 0.0)
    return torch.tensor(returns, dtype=rewards_R.dtype, device=rewards_R.device)


def episode_advantages(
    scores_R: Tensor,
    groups_R: Tensor,
    trajectories_R: Tensor,
    *,
    mode: Mode = "mean_std_norm",
    epsilon: float = 1e-4,
    episode_statistics: EpisodeStatistics = "trajectory",
    group_of_one: GroupOfOne = "zero",
) -> Tensor:
    """Advantage of each row's episode within its group (equation 3), shape (rows,).

    ``scores_R`` holds the score of the whole episode at each of its rows; with ``episode_statistics="trajectory"`` the
    scores of one trajectory must be equal, and its first row stands for it.

    Raises:
        ValueError: a trajectory lies in two groups.
    """
    first_rows: dict[int, int] = {}
    groups = groups_R.tolist()
    for row, trajectory in enumerate(trajectories_R.tolist()):
        first = first_rows.setdefault(trajectory, row)
        if groups[first] != groups[row]:
            raise ValueError(f"trajectory {trajectory} lies in groups {groups[first]} and {groups[row]}")
    counted = torch.zeros(len(scores_R), dtype=torch.bool, device=scores_R.device)
    if episode_statistics == "trajectory":
        counted[list(first_rows.values())] = True
    else:
        counted[:] = True
    _, group_R = torch.unique(groups_R, return_inverse=True)
    advantages_R, counts_R = _normalise(scores_R, group_R, counted, mode, epsilon)
    if group_of_one == "return":
        advantages_R = torch.where(counts_R == 1, scores_R, advantages_R)
    return advantages_R


def anchor_groups(observations: Sequence[str], groups_R: Tensor, similarity_threshold: float | None = None) -> Tensor:
    """Number the sets of rows that saw the same observation inside one group (equation 6), int64 of shape (rows,).

    With ``similarity_threshold`` (0 < t < 1, verl-agent's option) an observation joins the first anchor group of its
    group whose first member is at least that similar by `difflib.SequenceMatcher`, whose cost grows with the product
    of rows and anchor groups. The start state, which all trajectories of a group share, is an anchor like any other.

    Raises:
        ValueError: the threshold is not between 0 and 1.
    """
    if similarity_threshold is not None and not 0.0 < similarity_threshold < 1.0:
        raise ValueError(f"similarity_threshold is {similarity_threshold}; it must lie between 0 and 1, both excluded")
    anchors: list[int] = []
    known: dict[int, dict[str, int]] = {}
    count = 0
    for observation, group in zip(observations, groups_R.tolist(), strict=True):
        members = known.setdefault(group, {})
        anchor = members.get(observation)
        if anchor is None and similarity_threshold is not None:
            similar = (number for text, number in members.items() if _similar(observation, text, similarity_threshold))
            anchor = next(similar, None)
        if anchor is None:
            anchor = members[observation] = count
            count += 1
        anchors.append(anchor)
    return torch.tensor(anchors, dtype=torch.int64, device=groups_R.device)


def step_advantages(
    returns_R: Tensor, anchors_R: Tensor, *, mode: Mode = "mean_std_norm", epsilon: float = 1e-4
) -> Tensor:
    """Advantage of each row's discounted return within its anchor group (equation 7), shape (rows,); alone it is 0."""
    everything = torch.ones(len(returns_R), dtype=torch.bool, device=returns_R.device)
    return _normalise(returns_R, anchors_R, everything, mode, epsilon)[0]


def _normalise(
    values_R: Tensor, sets_R: Tensor, counted_R: Tensor, mode: Mode, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Centre (and scale) values within their sets 0..n-1, with statistics over the counted rows; also the counts."""
    size = int(sets_R.max()) + 1
    weights_R = counted_R.to(values_R.dtype)

    def total_R(summands_R: Tensor) -> Tensor:
        zeros = torch.zeros(size, dtype=values_R.dtype, device=values_R.device)
        return zeros.index_add(0, sets_R, summands_R * weights_R)[sets_R]

    counts_R = total_R(torch.ones_like(values_R))
    centred_R = values_R - total_R(values_R) / counts_R
    if mode == "mean_norm":
        return centred_R, counts_R
    std_R = (total_R(centred_R**2) / (counts_R - 1).clamp(min=1)).sqrt()
    return centred_R / (std_R + epsilon), counts_R


def _similar(first: str, second: str, threshold: float) -> bool:
    """Whether two texts are at least ``threshold`` similar; the two cheap upper bounds only save time."""
    matcher = SequenceMatcher(None, first, second)
    return (
        matcher.real_quick_ratio() >= threshold and matcher.quick_ratio() >= threshold and matcher.ratio() >= threshold
    )
