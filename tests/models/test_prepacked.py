"""Products with prepacked weights: the same numbers and gradients, and a row's bits that depend on no other row."""

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from onelayer.arms.arm import Arm, OptimizerSettings
from onelayer.arms.plan import parse_plan, resolve
from onelayer.models import prepacked
from onelayer.models.base import BaseModel
from onelayer.models.logprobs import Tokens, completion_logprobs
from onelayer.models.prepacked import MOST_BYTES, SMALLEST, Prepacked, prepack, prepackable
from onelayer.training.draws import Key, Row, Sampling
from onelayer.training.sample import Request, complete
from tests.conftest import threads

WIDTHS = [(512, 256), (1408, 512), (256, 1111)]


def frozen(width_in: int, width_out: int, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    linear = nn.Linear(width_in, width_out, bias=bias).requires_grad_(False)
    prepack(linear)
    assert isinstance(linear.__dict__["forward"], Prepacked)
    return linear


@pytest.mark.parametrize(("width_in", "width_out"), WIDTHS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3,), (2, 40)])
def test_the_same_product_and_gradient(width_in: int, width_out: int, bias: bool, shape: tuple[int, ...]) -> None:
    linear = frozen(width_in, width_out, bias)
    x = torch.randn(*shape, width_in)
    ours, theirs = x.clone().requires_grad_(True), x.clone().requires_grad_(True)
    upstream = torch.randn(*shape, width_out)
    result, expected = linear(ours), functional.linear(theirs, linear.weight, linear.bias)
    (result * upstream).sum().backward()
    (expected * upstream).sum().backward()
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    assert ours.grad is not None and theirs.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(linear(x), result)  # a policy that equals its reference has a ratio of exactly 1


def test_the_gradient_of_a_bias() -> None:
    linear = frozen(512, 256)
    bias = linear.bias.detach().clone().requires_grad_(True)
    linear._parameters["bias"] = bias  # type: ignore[assignment]
    linear(torch.ones(3, 5, 512)).sum().backward()
    assert bias.grad is not None and torch.equal(bias.grad, torch.full((256,), 15.0))


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 200), st.integers(0, 50), st.sampled_from(WIDTHS), st.sampled_from([1, 2]))
def test_rows_do_not_show_their_company(rows: int, start: int, widths: tuple[int, int], count: int) -> None:
    linear = frozen(*widths)
    x = torch.randn(250, widths[0], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = linear(x)
        with threads(count):
            assert torch.equal(linear(x[start : start + rows]), whole[start : start + rows])


def test_other_weights_are_multiplied_as_ever() -> None:
    linear = frozen(512, 256)
    own, x = linear.weight, torch.randn(20, 512)
    other = torch.randn(256, 512).requires_grad_(True)
    linear._parameters["weight"] = other  # type: ignore[assignment]
    linear(x).sum().backward()
    assert torch.equal(linear(x), functional.linear(x, other, linear.bias)) and other.grad is not None
    linear._parameters["weight"] = own
    before = linear(x)
    with torch.no_grad():
        own.mul_(2)
    assert torch.allclose(linear(x) - linear.bias, 2 * (before - linear.bias), atol=1e-5)


def test_which_modules_are_prepacked(monkeypatch: pytest.MonkeyPatch) -> None:
    large, small = nn.Linear(512, SMALLEST // 512), nn.Linear(64, 64)
    assert prepackable(nn.ModuleList([large, small, nn.Embedding(SMALLEST, 2)])) == [large]
    prepack(elsewhere := copy.deepcopy(large).to("meta"))
    assert "forward" not in elsewhere.__dict__
    assert prepackable(copy.deepcopy(large).bfloat16()) == []
    monkeypatch.setattr(prepacked, "MOST_BYTES", 4 * SMALLEST)
    assert prepackable(nn.ModuleList([large, large])) == [large]
    assert prepackable(nn.ModuleList([large, copy.deepcopy(large)])) == []
    assert MOST_BYTES == 2**30


def test_a_whole_model_alone_and_together(base_of: Callable[..., BaseModel], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepacked, "SMALLEST", 1)
    base = base_of(layers=3)
    assert sum(isinstance(module.__dict__.get("forward"), Prepacked) for module in base.module.modules()) == 3 * 7 + 1
    policies = []
    for plan in ("all", "0", "2", "1.attn"):
        arm = Arm.create(base, resolve(parse_plan(plan, 3), base.parts, base.tied_head), OptimizerSettings())
        generator = torch.Generator().manual_seed(len(policies))
        policies.append(
            {n: t.detach() + 0.1 * torch.randn(t.shape, generator=generator) for n, t in arm.weights.items()}
        )
    rows = [Row([2 + i % 9, 5], i, 0) for i in range(11)]
    keys = [Key(seed, "train", 0) for seed in range(4)]
    sampling = Sampling(8)
    requests = [Request(policy, rows, key) for policy, key in zip(policies, keys, strict=True)]
    together = complete(base, requests, sampling, width=3, max_rows=512)
    for request, packed in zip(requests, together, strict=True):
        (alone,) = complete(base, [request], sampling, width=3, max_rows=512)
        assert torch.equal(alone.ids, packed.ids) and torch.equal(alone.lengths, packed.lengths)


def test_a_frozen_layer_lets_gradients_through(
    base_of: Callable[..., BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = base_of(layers=3)
    monkeypatch.setattr(prepacked, "SMALLEST", 1)
    fast = base_of(layers=3)
    ids = torch.randint(2, 40, (3, 11), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    gradients = []
    for base in (plain, fast):
        arm = Arm.create(base, resolve(parse_plan("0", 3), base.parts, base.tied_head), OptimizerSettings())
        with arm.worn_by(base):
            tokens = Tokens(ids[:, :4], mask[:, :4], ids[:, 4:], mask[:, 4:])
            completion_logprobs(base, tokens)[0].sum().backward()  # type: ignore[no-untyped-call]
        gradients.append([master.grad for master in arm.masters.values()])
    for ours, theirs in zip(*gradients, strict=True):
        assert ours is not None and theirs is not None
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
