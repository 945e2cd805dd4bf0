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
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from onelayer.config.base import Config

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


class AlgorithmConfig(Config):
    """What makes up the algorithm: groups, advantages, the loss."""

    algorithm: Algorithm = Field(
        "grpo", description="the RL algorithm; it sets the options that make it up, where they are not set as well"
    )
    num_generations: int = Field(8, ge=2, description="completions a prompt: the group")
    beta: float = Field(0.0, ge=0, description="coefficient of the KL to the base (k3 estimate)")
    epsilon: float = Field(0.2, gt=0, description="clip range of the ratio")
    epsilon_high: float | None = Field(None, gt=0, description="upper clip range, if not epsilon (DAPO's clip-higher)")
    loss_type: Literal["grpo", "dapo", "dr_grpo"] = Field(
        "grpo",
        description="token average: grpo per completion, dapo over all tokens (verl's default), dr_grpo constant",
    )
    scale_rewards: Literal["group", "batch", "none"] = Field("group", description="whose std divides advantages")
    importance_sampling_level: Literal["token", "sequence"] = Field(
        "token", description="whose ratio is clipped: each token's, or one for a completion (GSPO)"
    )
    advantage_epsilon: float = Field(1e-4, ge=0, description="added to that std (TRL 1e-4, verl 1e-6)")
    unbiased_std: bool = Field(True, description="divide by n-1 in that std (TRL and verl do)")
    invalid_action_penalty_coef: float = Field(
        0.1, ge=0, description="tasks played in turns: reward that an action costs which the environment does not know"
    )
    gamma: float = Field(GIGPO_DEFAULTS["gamma"], ge=0, le=1, description="GiGPO: discount of later rewards")
    step_advantage_w: float = Field(
        GIGPO_DEFAULTS["step_advantage_w"], ge=0, description="GiGPO: weight of step advantages; 0 is GRPO on episodes"
    )
    gigpo_mode: Literal["mean_std_norm", "mean_norm"] = Field(
        GIGPO_DEFAULTS["gigpo_mode"], description="GiGPO: divide advantages by the deviation or not"
    )
    similarity_thresh: float | None = Field(
        GIGPO_DEFAULTS["similarity_thresh"], gt=0, lt=1, description="GiGPO: group observations that are so similar"
    )
    episode_statistics: Literal["trajectory", "step"] = Field(
        GIGPO_DEFAULTS["episode_statistics"],
        description="GiGPO: count each episode once (paper) or once per step (verl-agent) in means and deviations",
    )
    group_of_one: Literal["zero", "return"] = Field(
        GIGPO_DEFAULTS["group_of_one"], description="GiGPO: advantage of an episode without others in its group"
    )
    penalty_placement: Literal["reward", "row"] = Field(
        GIGPO_DEFAULTS["penalty_placement"],
        description="GiGPO: take penalties off the turn's reward, or off that row alone (verl-agent)",
    )

    @model_validator(mode="before")
    @classmethod
    def _of_algorithm(cls, values: Any) -> Any:
        return {**ALGORITHM_SETTINGS.get(str(values.get("algorithm", "grpo")), {}), **values}

    @model_validator(mode="after")
    def _consistent_algorithm(self) -> Self:
        if reason := contradiction(vars(self)):
            raise ValueError(reason)
        return self
