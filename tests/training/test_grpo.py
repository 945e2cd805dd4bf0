import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from onelayer.config.update import StepConfig
from onelayer.training.algorithms.grpo import clipped_loss, group_advantages, k3_kl, token_weights
from tests.support.trl_loss import trl_loss


def test_group_advantages_by_hand() -> None:
    # Group 1: mean 0.5, unbiased std sqrt(4 * .25 / 3) = .57735; group 2: no spread.
    rewards = torch.tensor([[1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    expected = 0.5 / (math.sqrt(1 / 3) + 1e-4)
    advantages = group_advantages(rewards)
    assert torch.allclose(advantages[0], torch.tensor([expected, -expected, expected, -expected]))
    assert advantages[1].tolist() == [0, 0, 0, 0]
    biased = group_advantages(rewards, epsilon=0, unbiased=False)
    assert biased[0].tolist() == [1, -1, 1, -1]
    assert group_advantages(rewards, "none")[0].tolist() == [0.5, -0.5, 0.5, -0.5]


def test_batch_scaling_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    std = torch.tensor([1.0, 0.0, 1.0, 1.0]).std()
    expected = torch.tensor([[0.5, -0.5], [0.0, 0.0]]) / (std + 1e-4)
    assert torch.allclose(group_advantages(rewards, "batch"), expected)


def test_rewards_that_do_not_apply_count_nowhere() -> None:
    with_gap = group_advantages(torch.tensor([[1.0, math.nan, 0.0, 0.0]]))
    without = group_advantages(torch.tensor([[1.0, 0.0, 0.0]]))
    assert with_gap[0, 1] == 0
    assert torch.equal(with_gap[0, [0, 2, 3]], without[0])
    assert group_advantages(torch.tensor([[math.nan, 1.0]])).tolist() == [[0, 0]]
    assert group_advantages(torch.full((2, 2), math.nan), "batch").tolist() == [[0, 0], [0, 0]]


@given(
    st.lists(st.lists(st.floats(-10, 10), min_size=4, max_size=4), min_size=1, max_size=5),
    st.sampled_from(["group", "batch", "none"]),
)
def test_advantages_sum_to_zero_and_ignore_a_shift(rewards: list[list[float]], scale: str) -> None:
    tensor = torch.tensor(rewards, dtype=torch.float64)
    advantages = group_advantages(tensor, scale)
    assert torch.allclose(advantages.sum(-1), torch.zeros(len(rewards), dtype=torch.float64), atol=1e-6)
    if scale == "none":
        assert torch.allclose(group_advantages(tensor + 3, scale), advantages, atol=1e-6)


def test_k3_by_hand_and_against_the_exact_divergence() -> None:
    assert k3_kl(torch.tensor(-1.0), torch.tensor(-1.0)) == 0
    assert k3_kl(torch.tensor(-1.0), torch.tensor(-2.0)).item() == pytest.approx(math.exp(-1) + 1 - 1)
    policy, reference = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([0.4, 0.4, 0.2])
    exact = (policy * (policy / reference).log()).sum()
    assert torch.allclose((policy * k3_kl(policy.log(), reference.log())).sum(), exact)


def test_clipping_by_hand() -> None:
    ratios = torch.tensor([[1.3, 0.7, 1.0], [1.3, 0.7, 1.0]])
    result = clipped_loss(ratios.log(), torch.zeros(2, 3), torch.tensor([1.0, -2.0]), epsilon=0.2)
    # A > 0: min(rho, clip(rho)) = 1.2, 0.7, 1; A < 0: -2 * max(rho, clip(rho)) = -2.6, -1.6, -2.
    expected = -torch.tensor([[1.2, 0.7, 1.0], [-2.6, -1.6, -2.0]])
    assert torch.allclose(result.loss, expected)
    assert result.clipped_high.tolist() == [[True, False, False], [False, False, False]]
    assert result.clipped_low.tolist() == [[False, False, False], [False, True, False]]
    higher = clipped_loss(ratios.log(), torch.zeros(2, 3), torch.tensor([1.0, -2.0]), epsilon=0.2, epsilon_high=0.28)
    assert higher.loss[0, 0].item() == pytest.approx(-1.28)


def test_a_clipped_token_has_no_gradient() -> None:
    logps = torch.tensor([[1.3, 0.7, 1.0]]).log().requires_grad_(True)
    clipped_loss(logps, torch.zeros(1, 3), torch.tensor([1.0])).loss.sum().backward()
    assert logps.grad is not None
    assert logps.grad[0, 0] == 0
    assert logps.grad[0, 1].item() == pytest.approx(-0.7)


def test_token_weights_by_hand() -> None:
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert torch.allclose(token_weights(mask, "grpo", 9), torch.tensor([[1 / 4, 1 / 4, 0], [1 / 6, 1 / 6, 1 / 6]]))
    assert torch.allclose(token_weights(mask, "dapo", 9), mask / 5)
    assert torch.allclose(token_weights(mask, "dr_grpo", 9), mask / 18)
    with pytest.raises(ValueError, match="loss_type"):
        token_weights(mask, "mean", 9)
    with pytest.raises(ValueError, match="scale_rewards"):
        group_advantages(torch.zeros(1, 2), "everything")


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_loss_and_gradient_equal_those_of_trl(loss_type: str, beta: float) -> None:
    generator = torch.Generator().manual_seed(7)
    for _ in range(5):
        logps = -torch.rand(6, 12, generator=generator)
        old, reference = (logps + 0.4 * torch.randn(6, 12, generator=generator) for _ in range(2))
        advantages = torch.randn(6, generator=generator)
        mask = (torch.arange(12) < torch.randint(1, 13, (6, 1), generator=generator)).long()
        ours, theirs = (logps.clone().requires_grad_(True) for _ in range(2))
        token_loss = clipped_loss(ours, old, advantages).loss + beta * k3_kl(ours, reference)
        loss = (token_loss * token_weights(mask, loss_type, 12)).sum()
        config = StepConfig(loss_type=loss_type, beta=beta, max_completion_length=12)
        expected = trl_loss(theirs, old, advantages, mask, config, reference)
        assert torch.allclose(loss, expected, rtol=1e-6)
        loss.backward()
        expected.backward()
        assert ours.grad is not None and theirs.grad is not None
        assert torch.allclose(ours.grad, theirs.grad, rtol=1e-5, atol=1e-8)
