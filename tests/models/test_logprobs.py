from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from onelayer.arms.arm import Arm, OptimizerSettings
from onelayer.arms.plan import parse_plan, resolve
from onelayer.models.base import BaseModel
from onelayer.models.logprobs import Tokens, _FrozenHead, completion_logprobs, head_logprobs, left_pad, tokens_at_once


def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids, mask = left_pad([[3, 4], [5, 6, 7], [8]], 5)
    completions = torch.randint(2, 40, (3, 6), generator=generator)
    lengths = torch.tensor([6, 2, 4])
    return ids, mask, completions, (torch.arange(6) < lengths[:, None]).long()


def head_of(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    head = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    head._parameters["weight"] = weight  # type: ignore[assignment]  # its gradient is of a leaf of the test
    if bias is not None:
        head._parameters["bias"] = bias  # type: ignore[assignment]
    return head


def naive(base: BaseModel, temperature: float) -> Tensor:
    """Row by row, without padding, from the whole table of logits."""
    ids, mask, completions, completion_mask = batch()
    result = torch.zeros(3, 6)
    for row in range(3):
        prompt = ids[row][mask[row] == 1]
        completion = completions[row][completion_mask[row] == 1]
        logits = base.module(input_ids=torch.cat([prompt, completion])[None]).logits[0] / temperature
        logps = logits.float().log_softmax(-1)[len(prompt) - 1 : -1]
        result[row, : len(completion)] = logps[torch.arange(len(completion)), completion]
    return result


@pytest.mark.parametrize("family", ["qwen3", "qwen2", "llama"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk", [1, 5, 1000])
def test_equal_to_the_naive_way(base_of: Callable[..., BaseModel], family: str, temperature: float, chunk: int) -> None:
    base = base_of(family)
    logps, entropy = completion_logprobs(base, Tokens(*batch()), temperature=temperature, chunk_tokens=chunk)
    assert torch.allclose(logps, naive(base, temperature), atol=2e-5)
    assert ((entropy > 0) == batch()[3].bool()).all()


def test_entropy_of_a_known_distribution() -> None:
    weight = torch.tensor([[1.0], [1.0], [-1e4]])
    logps, entropy = head_logprobs(torch.ones(2, 1), head_of(weight), torch.tensor([0, 1]), 1.0, 8)
    assert torch.allclose(logps, torch.full((2,), -0.6931472))
    assert torch.allclose(entropy, torch.full((2,), 0.6931472))


@pytest.mark.parametrize("tied", [True, False])
def test_gradients_equal_the_naive_ways(base_of: Callable[..., BaseModel], tied: bool) -> None:
    base = base_of(tied=tied)
    rates = resolve(parse_plan("all", 4), base.parts, base.tied_head)
    chunked, whole = (Arm.create(base, rates, OptimizerSettings()) for _ in range(2))
    with chunked.worn_by(base):
        completion_logprobs(base, Tokens(*batch()), chunk_tokens=4)[0].sum().backward()
    with whole.worn_by(base):
        naive(base, 1.0).sum().backward()
    for name in rates:
        ours, theirs = chunked.masters[name].grad, whole.masters[name].grad
        assert ours is not None and theirs is not None
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("with_bias", [True, False])
def test_gradient_through_a_frozen_head(dtype: torch.dtype, temperature: float, with_bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight, upstream = (torch.randn(*shape, generator=generator) for shape in ((9, 6), (11, 6), (9,)))
    bias = torch.randn(11, generator=generator).to(dtype) if with_bias else None
    weight, targets = weight.to(dtype), torch.arange(9)
    gradients = []
    for chunked in (True, False):
        leaf = hidden.to(dtype).clone().requires_grad_(True)
        if chunked:
            logps, entropy = head_logprobs(leaf, head_of(weight, bias), targets, temperature, 4)
            assert not entropy.requires_grad
        else:
            logits = torch.nn.functional.linear(leaf, weight, bias).float() / temperature
            logps = logits.log_softmax(-1)[torch.arange(9), targets]
        (logps * upstream).sum().backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None and leaf.grad.dtype == dtype
        gradients.append(leaf.grad.float())
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(gradients[0], gradients[1], rtol=tolerance, atol=tolerance)
    if dtype == torch.float32:
        point = hidden[:3].double().requires_grad_(True)
        bias = None if bias is None else bias.double()
        assert torch.autograd.gradcheck(
            lambda h: head_logprobs(h, head_of(weight.double(), bias), targets[:3], temperature, 2)[0],
            (point,),
            atol=1e-3,
            rtol=1e-3,
            eps=1e-3,  # logits are rounded to fp32
        )


def test_a_layers_gradient_equals_the_naive_way(base: BaseModel) -> None:
    rates = resolve(parse_plan("2", 4), base.parts, base.tied_head)
    chunked, whole = (Arm.create(base, rates, OptimizerSettings()) for _ in range(2))
    with chunked.worn_by(base):
        completion_logprobs(base, Tokens(*batch()), chunk_tokens=4)[0].sum().backward()  # type: ignore[no-untyped-call]
    with whole.worn_by(base):
        naive(base, 1.0).sum().backward()  # type: ignore[no-untyped-call]
    for name in rates:
        ours, theirs = chunked.masters[name].grad, whole.masters[name].grad
        assert ours is not None and theirs is not None
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4), name


def test_the_table_of_logits_never_exists() -> None:
    tokens, vocabulary, width, chunk = 64, 5000, 8, 4
    hidden = torch.randn(tokens, width, requires_grad=True)
    weight = torch.randn(vocabulary, width, requires_grad=True)
    largest = 0

    def watch(tensor: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(watch, lambda tensor: tensor):
        logps, _ = head_logprobs(hidden, head_of(weight), torch.arange(tokens), 1.0, chunk)
    logps.sum().backward()  # type: ignore[no-untyped-call]
    assert 0 < largest <= max(weight.numel(), chunk * vocabulary)
    assert weight.numel() < tokens * vocabulary / 4


def test_a_large_vocabulary_takes_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    # Tokens times words stay below the limit, and a token is the least.
    assert [tokens_at_once(1024, words) for words in (8192, 32768, 151936, 2**30)] == [1024, 1024, 220, 1]
    assert tokens_at_once(16, 151936) == 16
    hidden, weight, targets = torch.randn(64, 8), torch.randn(5000, 8), torch.arange(64)
    whole = head_logprobs(hidden, head_of(weight), targets, 1.0, 64)
    monkeypatch.setattr("onelayer.models.logprobs.LOGITS_BYTES", 3 * 4 * 5000)
    sizes: list[int] = []
    monkeypatch.setattr(
        "onelayer.models.logprobs._FrozenHead.apply",
        lambda hidden, *rest: sizes.append(len(hidden)) or _FrozenHead.forward(FakeContext(), hidden, *rest),
    )
    for one, other in zip(whole, head_logprobs(hidden, head_of(weight), targets, 1.0, 64), strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert max(sizes) == 3 and sum(sizes) == 64


class FakeContext:
    needs_input_grad = (False,)

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        """Autograd's own bookkeeping."""
