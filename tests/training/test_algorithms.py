"""What an algorithm's name stands for, and its numbers against TRL's and against loops written another way."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from onelayer.config.algorithm import ALGORITHM_SETTINGS, GIGPO_DEFAULTS
from onelayer.config.sources import build
from onelayer.config.update import StepConfig
from onelayer.errors import UserError
from onelayer.training.algorithms.grpo import clipped_loss, group_advantages, leave_one_out_advantages, token_weights
from onelayer.training.batch import advantages_of
from tests.support.trl_loss import trl_loss


def config_of(*sources: dict[str, Any]) -> StepConfig:
    named = [(f"source {number}", source) for number, source in enumerate(sources)]
    return build(StepConfig, named)


def test_one_name_sets_several_options() -> None:
    config = config_of({"algorithm": "dr_grpo"})
    assert (config.loss_type, config.scale_rewards) == ("dr_grpo", "none")
    config = config_of({"algorithm": "dapo"})
    assert (config.loss_type, config.epsilon, config.epsilon_high) == ("dapo", 0.2, 0.28)
    config = config_of({"algorithm": "gspo"})
    assert (config.importance_sampling_level, config.epsilon, config.epsilon_high) == ("sequence", 3e-4, 4e-4)
    assert StepConfig(algorithm="dr_grpo") == config_of({"algorithm": "dr_grpo"})
    plain = config_of({})
    assert {name: getattr(plain, name) for name in ALGORITHM_SETTINGS["grpo"]} == ALGORITHM_SETTINGS["grpo"]


def test_what_is_said_explicitly_wins_unless_the_algorithm_is_named_later() -> None:
    assert config_of({"algorithm": "dr_grpo", "loss_type": "dapo"}).loss_type == "dapo"
    assert config_of({"algorithm": "dr_grpo"}, {"scale_rewards": "batch"}).scale_rewards == "batch"
    # The configuration that a run writes names every option: another algorithm on the command line still is that one.
    written = config_of({}).model_dump()
    assert config_of(written, {"algorithm": "dr_grpo"}).loss_type == "dr_grpo"
    assert config_of(written, {"algorithm": "dr_grpo", "loss_type": "grpo"}).loss_type == "grpo"
    assert config_of(config_of({"algorithm": "gigpo", "gamma": 0.5}).model_dump()).gamma == 0.5
    # A preset's epsilon is of its own algorithm's division: one that divides by nothing does not read it.
    assert config_of({"algorithm": "grpo", "advantage_epsilon": 1e-6}, {"algorithm": "rloo"}).advantage_epsilon == 1e-4
    assert config_of({"algorithm": "grpo", "advantage_epsilon": 1e-6}, {"algorithm": "gspo"}).advantage_epsilon == 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "gipo"}, "'gigpo'"),
        ({"gamma": 0.9}, "gamma is an option of gigpo"),
        ({"algorithm": "gigpo", "scale_rewards": "none"}, "takes gigpo_mode"),
        ({"algorithm": "gigpo", "penalty_placement": "row"}, "needs episode_statistics step"),
        ({"algorithm": "gigpo", "similarity_thresh": 1.0}, "similarity_thresh"),
        ({"algorithm": "rloo", "scale_rewards": "group"}, "divides by no deviation"),
        ({"algorithm": "rloo", "advantage_epsilon": 1e-6}, "scale_rewards none divides by none; leave it 0.0001"),
        ({"algorithm": "dr_grpo", "unbiased_std": False}, "scale_rewards none divides by none; leave it True"),
        ({"scale_rewards": "none", "advantage_epsilon": 1e-6}, "scale_rewards none divides by none"),
        ({"algorithm": "gigpo", "gigpo_mode": "mean_norm", "advantage_epsilon": 0.0}, "gigpo_mode mean_norm divides"),
    ],
)
def test_options_that_would_be_ignored_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config_of(options)


def test_every_option_of_gigpo_is_refused_elsewhere() -> None:
    changed: dict[str, Any] = {
        "gamma": 0.5,
        "step_advantage_w": 0.5,
        "gigpo_mode": "mean_norm",
        "similarity_thresh": 0.5,
        "episode_statistics": "step",
        "group_of_one": "return",
        "penalty_placement": "row",
    }
    assert changed.keys() == GIGPO_DEFAULTS.keys()
    for name, value in changed.items():
        with pytest.raises(UserError, match=f"{name} is an option of gigpo"):
            config_of({name: value})


rewards = st.lists(st.lists(st.floats(-5, 5), min_size=3, max_size=3), min_size=1, max_size=4)


@given(rewards, st.integers(0, 2))
def test_rloo_equals_a_loop(values: list[list[float]], missing: int) -> None:
    values[0][missing] = math.nan
    expected = []
    for group in values:
        for i, reward in enumerate(group):
            others = [other for j, other in enumerate(group) if j != i and not math.isnan(other)]
            expected.append(0.0 if math.isnan(reward) or not others else reward - sum(others) / len(others))
    ours = advantages_of(torch.tensor(values, dtype=torch.float64), config_of({"algorithm": "rloo"}))
    assert ours.flatten().tolist() == pytest.approx(expected, abs=1e-12)


def test_rloo_by_hand() -> None:
    assert leave_one_out_advantages(torch.tensor([[1.0, 0.0, 0.5]])).tolist() == [[0.75, -0.75, 0.0]]
    assert leave_one_out_advantages(torch.tensor([[3.0, math.nan]])).tolist() == [[0.0, 0.0]]
    # Without missing rewards it is Dr. GRPO's advantage times n / (n - 1).
    values = torch.rand(3, 5, dtype=torch.float64)
    assert torch.allclose(leave_one_out_advantages(values), group_advantages(values, "none") * 5 / 4)


def test_the_sequence_ratio_by_hand() -> None:
    # Log-ratios .3 and -.1 over two tokens (the third is padding): the completion's ratio is exp(.1).
    logps = torch.tensor([[0.3, -0.1, 9.0]], requires_grad=True)
    mask = torch.tensor([[True, True, False]])
    result = clipped_loss(logps, torch.zeros(1, 3), torch.tensor([2.0]), epsilon=0.2, sequence_mask_BT=mask)
    assert result.loss[0, :2].tolist() == pytest.approx([-2 * math.exp(0.1)] * 2)
    (result.loss * token_weights(mask, "grpo", 3)).sum().backward()
    assert logps.grad is not None
    assert logps.grad[0].tolist() == pytest.approx([-math.exp(0.1), -math.exp(0.1), 0.0])
    clipped = clipped_loss(logps, torch.zeros(1, 3), torch.tensor([2.0]), epsilon=0.05, sequence_mask_BT=mask)
    assert clipped.clipped_high[0, :2].tolist() == [True, True]
    assert clipped.loss[0, 0].item() == pytest.approx(-2.1)


@pytest.mark.parametrize("algorithm", ["grpo", "dr_grpo", "dapo", "gspo"])
def test_each_algorithm_equals_trl(algorithm: str) -> None:
    config = config_of({"algorithm": algorithm, "max_completion_length": 12})
    generator = torch.Generator().manual_seed(5)
    spread = 2e-3 if algorithm == "gspo" else 0.4  # on both sides of the clip range
    for _ in range(5):
        values = torch.rand(2, 3, generator=generator)
        advantages = advantages_of(values, config).flatten()
        mean = values.mean(-1, keepdim=True)
        std = 1.0 if config.scale_rewards == "none" else values.std(-1, keepdim=True) + 1e-4
        assert torch.allclose(advantages, ((values - mean) / std).flatten(), atol=1e-6)
        logps = -torch.rand(6, 12, generator=generator)
        old = logps + spread * torch.randn(6, 12, generator=generator)
        mask = (torch.arange(12) < torch.randint(1, 13, (6, 1), generator=generator)).long()
        ours, theirs = (logps.clone().requires_grad_(True) for _ in range(2))
        policy = clipped_loss(
            ours,
            old,
            advantages,
            epsilon=config.epsilon,
            epsilon_high=config.epsilon_high,
            sequence_mask_BT=mask.bool() if config.importance_sampling_level == "sequence" else None,
        )
        loss = (policy.loss * token_weights(mask, config.loss_type, config.max_completion_length)).sum()
        expected = trl_loss(theirs, old, advantages, mask, config)
        assert torch.allclose(loss, expected, rtol=1e-5, atol=1e-7)
        loss.backward()
        expected.backward()
        assert ours.grad is not None and theirs.grad is not None
        assert torch.allclose(ours.grad, theirs.grad, rtol=1e-5, atol=1e-8)
