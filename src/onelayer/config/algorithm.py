"""What ``--algorithm NAME`` stands for: one name sets several options, each of which can still be set by itself.

Where the authors' settings and a library's defaults differ, the authors' are taken:

- ``grpo`` (arXiv 2402.03300): advantages over the group's deviation, the mean over a completion's tokens.
- ``dr_grpo`` (arXiv 2503.20783): no deviation, and the token sum over a constant, ``max_completion_length``. The same
  as TRL's ``loss_type="dr_grpo", scale_rewards="none"``.
- ``gigpo`` (arXiv 2505.10978): for tasks that are played in turns; see `onelayer.training.algorithms.gigpo`.
- ``dapo`` (arXiv 2503.14476): the mean over all tokens and clip-higher. Its dynamic sampling and its penalty for long
  completions are not part of it here.
- ``rloo`` (arXiv 2402.14740): reward minus the mean of the group's others. The token sum over a constant, so that a
  completion's gradient is that of its log-probability; the KL stays in the loss, where the paper has it in the reward.
- ``gspo`` (arXiv 2507.18071): one ratio a completion, the geometric mean of its tokens', with the paper's clip range.
"""

from collections.abc import Mapping
from typing import Any, Literal

Algorithm = Literal["grpo", "dr_grpo", "gigpo", "dapo", "rloo", "gspo"]

_GRPO: dict[str, Any] = {
    "loss_type": "grpo",
    "scale_rewards": "group",
    "importance_sampling_level": "token",
    "epsilon": 0.2,
    "epsilon_high": None,
}
_DEVIATION_DEFAULTS: dict[str, Any] = {"advantage_epsilon": 1e-4, "unbiased_std": True}
"""Options that only a division by a deviation reads, with their defaults."""
_UNDIVIDED = {**_GRPO, **_DEVIATION_DEFAULTS, "loss_type": "dr_grpo", "scale_rewards": "none"}
ALGORITHM_SETTINGS: dict[str, dict[str, Any]] = {
    "grpo": _GRPO,
    "dr_grpo": _UNDIVIDED,
    "gigpo": _GRPO,
    "dapo": {**_GRPO, "loss_type": "dapo", "epsilon_high": 0.28},
    "rloo": _UNDIVIDED,
    "gspo": {**_GRPO, "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
}
"""The options that each algorithm sets. Every algorithm sets all that make one up, so that changing it leaves nothing
behind; those that divide by no deviation also set back what only the division would read."""

GIGPO_DEFAULTS: dict[str, Any] = {
    "gamma": 0.95,
    "step_advantage_w": 1.0,
    "gigpo_mode": "mean_std_norm",
    "similarity_thresh": None,
    "episode_statistics": "trajectory",
    "group_of_one": "zero",
    "penalty_placement": "reward",
}
"""Options that only GiGPO reads, with their defaults."""


def contradiction(values: Mapping[str, Any]) -> str | None:
    """Why the options of an algorithm do not go together, in a sentence; None where they do.

    An option that its algorithm would not read is a contradiction when it was changed: nothing is ignored silently.
    """
    algorithm = values["algorithm"]
    if algorithm != "gigpo":
        for name, default in GIGPO_DEFAULTS.items():
            if values[name] != default:
                return f"{name} is an option of gigpo, and the algorithm is {algorithm}"
        if algorithm == "rloo" and values["scale_rewards"] != "none":
            return "rloo divides by no deviation: scale_rewards has to be none"
        return _unread_of_deviation(values, "scale_rewards none") if values["scale_rewards"] == "none" else None
    if values["scale_rewards"] != "group" or not values["unbiased_std"]:
        return "gigpo takes gigpo_mode (mean_std_norm or mean_norm) in place of scale_rewards and unbiased_std"
    if values["penalty_placement"] == "row" and values["episode_statistics"] == "trajectory":
        return "penalty_placement row needs episode_statistics step: a trajectory has no one score then"
    return _unread_of_deviation(values, "gigpo_mode mean_norm") if values["gigpo_mode"] == "mean_norm" else None


def _unread_of_deviation(values: Mapping[str, Any], why: str) -> str | None:
    """Why an option of the division was changed in vain, in a sentence; None where none was."""
    for name, default in _DEVIATION_DEFAULTS.items():
        if values[name] != default:
            return f"{name} is of the deviation that divides advantages, and {why} divides by none; leave it {default}"
    return None
