"""Guards: what tells during training that an arm learns nothing, or no longer anything good.

Each guard looks at one metric of a step, has a threshold that is an option, and counts the steps in a row that cross it
(``guard/NAME`` in metrics.jsonl). When it has seen enough of them in a row it says so in one sentence: most then stop the
arm, the others only warn, once. What cannot go on at all (a frozen tensor that moved, a reward that fails) is
:class:`~onelayer.errors.GuardTripped` and ends the run.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from onelayer.config.run import GuardConfig


@dataclass(frozen=True)
class Guard:
    """One guard. Its sentence is formatted with the metric's ``value``, the ``steps`` in a row, and the options."""

    name: str
    metric: str
    crossed: Callable[[float, GuardConfig], bool]
    sentence: str
    patience: Literal["stop_after", "max_skipped_steps"] | None = "stop_after"
    """The option that says how many steps in a row are enough; None is the first."""
    stops: bool = True


GUARDS = (
    Guard(
        "non_finite",
        "skipped_updates",
        lambda value, config: value > 0,
        "loss or gradient were not finite for {steps} steps in a row, and those updates were skipped; lower learning_rate",
        patience="max_skipped_steps",
    ),
    Guard(
        "kl",
        "kl",
        lambda value, config: 0 < config.max_kl < value,
        "the divergence from the base was over max_kl = {max_kl:g} nats a token for {steps} steps (now {value:.3g}), so the "
        "policy is no language model any more; lower learning_rate or raise beta",
    ),
    Guard(
        "entropy",
        "entropy",
        lambda value, config: value < config.min_entropy,
        "the entropy was under min_entropy = {min_entropy:g} nats a token for {steps} steps (now {value:.2g}), so every "
        "completion of a prompt is the same; lower learning_rate or raise temperature",
    ),
    Guard(
        "no_variance",
        "frac_reward_zero_std",
        lambda value, config: value >= config.max_zero_std,
        "all completions of a prompt got the same reward for {steps} steps (mean reward {reward:.3g}), so there is nothing "
        "to learn from",
    ),
    Guard(
        "truncated",
        "completions/clipped_ratio",
        lambda value, config: value > config.max_clipped_ratio,
        "over {max_clipped_ratio:.0%} of the completions were cut off at {max_completion_length} tokens for {steps} steps; "
        "raise max_completion_length",
    ),
    Guard(
        "slow_reward",
        "reward_share",
        lambda value, config: value > config.max_reward_share,
        "the reward took over {max_reward_share:.0%} of the time for {steps} steps (now {value:.0%})",
        stops=False,
    ),
    Guard(
        "failing_reward",
        "reward_failures",
        lambda value, config: value > 0,
        "the reward failed {value:.0f} times in a step before it answered",
        patience=None,
        stops=False,
    ),
)


class Watched(Protocol):
    """An arm as the guards see it."""

    name: str
    guards: dict[str, int]
    warned: list[str]
    stopped: str | None


def watch(arm: Watched, record: dict[str, Any], config: GuardConfig) -> None:
    """Let every guard look at a step's metrics: its count goes to the record, and a sentence where it has seen enough.

    Sets ``stopped`` of the arm and of the record, or ``warning`` of the record.
    """
    options = config.model_dump()
    for guard in GUARDS:
        value = record.get(guard.metric)
        crossed = value is not None and guard.crossed(float(value), config)
        in_row = arm.guards.get(guard.name, 0) + 1 if crossed else 0
        arm.guards[guard.name] = record[f"guard/{guard.name}"] = in_row
        enough = 1 if guard.patience is None else getattr(config, guard.patience)
        if not crossed or in_row < enough or guard.name in arm.warned:
            continue
        said = guard.sentence.format(**{**options, "value": value, "steps": in_row, "reward": record["reward"]})
        sentence = f"arm {arm.name}: {said}"
        if not guard.stops:
            arm.warned.append(guard.name)
            record.setdefault("warning", sentence)
        elif arm.stopped is None:
            arm.stopped = record["stopped"] = sentence


def sentences(record: Mapping[str, Any]) -> list[str]:
    """What a row of metrics.jsonl has to say to a person."""
    return [str(record[key]) for key in ("stopped", "warning") if record.get(key)]
