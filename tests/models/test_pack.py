"""Packed policies get the bits they get alone; a row's bits depend on no other row."""

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from onelayer.arms.spec import create_arm, spec_of
from onelayer.config.configs import ScanConfig
from onelayer.models.base import BaseModel
from onelayer.models.load import wrap_model
from onelayer.models.pack import RowCut, Span, packable, packed, row_cut, spans_of
from onelayer.models.rowwise import MIN_ROWS, PIECE_ROWS, replaced_forward, row_wise, shows_its_rows
from onelayer.models.trunk import lowest_layer
from onelayer.training import draws, sample
from onelayer.training.completions import Completions
from onelayer.training.draws import Key, Row, Sampling, uniforms
from onelayer.training.sample import Request
from tests.conftest import threads
from tests.support.gpt2 import gpt2

PLANS = [
    "all",
    "0",
    "1",
    "3",
    "mid:2.mlp",
    "2.attn",
    "all.norm",
    "embed",
    "final_norm",
    "0,embed",
    "lora:2",
    "lisa:1/2@0",
]
CONFIG = ScanConfig(model="x", task="arithmetic")
LENGTH = 12
Policy = Mapping[str, Tensor]


@torch.no_grad()
def policy_of(base: BaseModel, plan: str) -> dict[str, Tensor]:
    """What the base wears under an arm that has moved from it."""
    arm = create_arm(base, spec_of(base, plan, 0), CONFIG)
    generator = torch.Generator().manual_seed(len(plan))
    for master in arm.masters.values():
        master += 0.1 * torch.randn(master.shape, generator=generator)
    return {name: tensor.detach() for name, tensor in arm.weights.items()}


def rows_of(count: int) -> list[Row]:
    """Groups of three completions of a prompt."""
    return [
        Row([2 + (3 * group) % 8, 2 + group % 9] * (1 + group % 3), group, i)
        for i in range(count)
        for group in [i // 3]
    ]


class Logits:
    """The logits that each row of each policy drew its tokens from, by its uniform number."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: dict[float, Tensor] = {}
        pick = draws.pick

        def remember(logits: Tensor, uniform: Tensor, sampling: Sampling) -> Tensor:
            for row, number in zip(logits, uniform.tolist(), strict=True):
                self.seen.setdefault(number, row)  # live rows come before those that fill the batch up
            return pick(logits, uniform, sampling)

        monkeypatch.setattr(draws, "pick", remember)

    def of(self, key: Key, rows: Sequence[Row], done: Completions) -> list[Tensor]:
        drawn = uniforms(key, rows, LENGTH)
        return [
            torch.stack([self.seen[number] for number in numbers[:length].tolist()])
            for numbers, length in zip(drawn, done.lengths, strict=True)
        ]


Result = tuple[Completions, list[Tensor]]


def complete(
    monkeypatch: pytest.MonkeyPatch,
    base: BaseModel,
    policies: Sequence[Policy],
    counts: Sequence[int],
    max_rows: int = 512,
    first_seed: int = 0,
) -> list[Result]:
    """Completions and logits of each policy; their seeds follow each other."""
    keys = [Key(first_seed + place, "train", 0) for place in range(len(policies))]
    rows = [rows_of(count) for count in counts]
    with monkeypatch.context() as patch:
        logits = Logits(patch)
        requests = [
            Request(policy, own, key, lowest_layer(base, policy) or None)
            for policy, own, key in zip(policies, rows, keys, strict=True)
        ]
        done = sample.complete(base, requests, Sampling(LENGTH), width=7, max_rows=max_rows)
    return [(each, logits.of(key, own, each)) for key, own, each in zip(keys, rows, done, strict=True)]


def complete_alone(
    monkeypatch: pytest.MonkeyPatch, base: BaseModel, policies: Sequence[Policy], counts: Sequence[int]
) -> list[Result]:
    return [
        complete(monkeypatch, base, [policy], [count], first_seed=place)[0]
        for place, (policy, count) in enumerate(zip(policies, counts, strict=True))
    ]


def assert_same(one: Result, two: Result) -> None:
    assert torch.equal(one[0].lengths, two[0].lengths)
    assert torch.equal(one[0].truncated, two[0].truncated)
    assert torch.equal(one[0].ids, two[0].ids)
    assert (one[0].trunk is None) == (two[0].trunk is None)
    if one[0].trunk and two[0].trunk:
        assert torch.equal(one[0].trunk.hidden, two[0].trunk.hidden)
    for ours, theirs in zip(one[1], two[1], strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["qwen3", "qwen2", "llama"])
def test_packed_is_alone_bit_for_bit(
    base_of: Callable[..., BaseModel], monkeypatch: pytest.MonkeyPatch, family: str, tied: bool, count: int
) -> None:
    base = base_of(family, tied=tied)
    plans = [*PLANS, *([] if tied else ["head", "0,head"])]
    policies = [{}, *(policy_of(base, plan) for plan in plans)]
    counts = [9 + 5 * (i % 4) for i in range(len(policies))]
    counts[2] = 1
    with threads(count):
        together = complete(monkeypatch, base, policies, counts)
        for alone, packed_one in zip(complete_alone(monkeypatch, base, policies, counts), together, strict=True):
            assert_same(alone, packed_one)
        if tied and family == "qwen3":
            for max_rows in (8, 50):
                for cut, whole in zip(complete(monkeypatch, base, policies, counts, max_rows), together, strict=True):
                    assert_same(cut, whole)
    lengths = torch.cat([done.lengths for done, _ in together])
    assert len(lengths.unique()) > 5  # rows leave the batch at different times
    texts = {str(done.ids[:9].tolist()) for done, _ in together}
    assert len(texts) > len(policies) - 3  # the policies do differ


def test_all_policies_share_the_forward_passes(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    policies = [policy_of(base, plan) for plan in PLANS]
    passes = 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1

    with monkeypatch.context(), base.decoder.register_forward_pre_hook(count):
        complete(monkeypatch, base, policies, [4] * len(policies))
    assert passes <= LENGTH


def test_gpt2_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    base = gpt2()
    policies = [policy_of(base, plan) for plan in ("all", "1", "0.mlp", "final_norm", "embed")]
    assert all(packable(base, policy) for policy in policies)
    counts = [5, 17, 8, 3, 9]
    together = complete(monkeypatch, base, policies, counts)
    for alone, packed_one in zip(complete_alone(monkeypatch, base, policies, counts), together, strict=True):
        assert_same(alone, packed_one)


class Gate(nn.Module):
    """A module of no known kind that holds a tensor itself."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.scale = nn.Parameter(torch.ones(32), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.scale


def test_a_policy_that_cannot_be_packed_runs_alone(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    for layer in base.layers:
        layer.mlp = Gate(layer.mlp)
    base = wrap_model(base.module, base.tokenizer, name="gated")
    policies = [policy_of(base, plan) for plan in ("0", "1.attn", "2.attn", "3")]
    assert [packable(base, policy) for policy in policies] == [False, True, True, False]
    together = complete(monkeypatch, base, policies, [9] * 4)
    for alone, packed_one in zip(complete_alone(monkeypatch, base, policies, [9] * 4), together, strict=True):
        assert_same(alone, packed_one)


def test_bfloat16_agrees_to_its_precision(base_of: Callable[..., BaseModel]) -> None:
    base = base_of("qwen3", dtype=torch.bfloat16)
    policies = [policy_of(base, plan) for plan in ("all", "0", "2.mlp", "3")]
    ids = torch.randint(2, 40, (36, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), packed(base, policies, [9] * 4):
        together = base.module(input_ids=ids).logits.float()
    for place, policy in enumerate(policies):
        own = slice(9 * place, 9 * place + 9)
        with torch.no_grad(), base.wearing(policy):
            alone = base.module(input_ids=ids[own]).logits.float()
        assert (together[own] - alone).abs().max() < 0.02 * alone.abs().max()


def test_nothing_is_left_behind(base: BaseModel) -> None:
    tensors = {name: base.tensor(name) for name in base.parts}
    policy = {name: tensor.clone().requires_grad_(True) for name, tensor in policy_of(base, "all").items()}
    rows = rows_of(6)
    requests = [Request(policy, rows, Key(0, "a", 0)), Request({}, rows, Key(0, "a", 0))]
    sample.complete(base, requests, Sampling(4), width=7, max_rows=512)
    assert all(tensor.grad is None for tensor in policy.values())
    with pytest.raises(RuntimeError, match="boom"), row_wise(base), packed(base, [policy, {}], [3, 3]):
        raise RuntimeError("boom")
    assert all(base.tensor(name) is tensor for name, tensor in tensors.items())
    assert not any("forward" in module.__dict__ for module in base.module.modules())
    with replaced_forward(base.head, torch.relu), replaced_forward(base.head, torch.neg):
        assert base.head.forward is torch.neg


def test_rows_of_another_batch_are_refused(base: BaseModel) -> None:
    with (
        torch.no_grad(),
        packed(base, [policy_of(base, "0"), {}], [3, 4]),
        pytest.raises(RuntimeError, match="5 rows do not belong to a batch of 7"),
    ):
        base.decoder(input_ids=torch.ones(5, 1, dtype=torch.int64))


def test_cuts_by_hand() -> None:
    spans = spans_of([5, 0, 3, 2, 40, 6], {0, 3, 4})
    assert spans == [Span(0, 5, 0), Span(5, 8, None), Span(8, 10, 3), Span(10, 50, 4), Span(50, 56, None)]
    assert row_cut(spans, 1) == RowCut(spans, [])
    # The short block goes under; the long one and the one at the edge stay.
    assert row_cut(spans, 5) == RowCut(
        [Span(0, 5, 0), Span(5, 10, None), Span(10, 50, 4), Span(50, 56, None)], [Span(8, 10, 3)]
    )
    assert row_cut(spans, 40) == RowCut([Span(0, 5, 0), Span(5, 56, None)], [Span(8, 10, 3), Span(10, 50, 4)])


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.sets(st.integers(0, 7)), st.integers(0, 12))
def test_every_row_sees_its_owners_tensors(sizes: list[int], owners: set[int], short: int) -> None:
    expected = [policy if policy in owners else None for policy, size in enumerate(sizes) for _ in range(size)]
    cut = row_cut(spans_of(sizes, owners), short)
    seen: list[int | None] = []
    for start, stop, owner in cut.spans:
        assert start == len(seen)
        seen += [owner] * (stop - start)
    for start, stop, owner in cut.overwritten:
        seen[start:stop] = [owner] * (stop - start)
    assert seen == expected


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("width_in", "width_out"), [(64, 192), (192, 64), (48, 32), (512, 256), (1408, 512)])
def test_products_do_not_show_their_rows(width_in: int, width_out: int, count: int) -> None:
    linear = nn.Linear(width_in, width_out, bias=width_out < 64)
    x = torch.randn(250, width_in, generator=torch.Generator().manual_seed(0))
    with threads(count), torch.no_grad(), row_wise(around(linear)):
        whole = linear(x)
        for rows in (MIN_ROWS, 17, 31, PIECE_ROWS, 57, 100, 180):
            assert torch.equal(linear(x[3 : 3 + rows]), whole[3 : 3 + rows])
    assert shows_its_rows(linear, count) == (count == 2 and width_in == 1408)


@settings(deadline=None, max_examples=12)
@given(st.integers(1, 900), st.sampled_from([3, 48, 50, 192]), st.sampled_from([1, 2]))
def test_activations_do_not_show_their_rows(rows: int, width: int, count: int) -> None:
    silu = nn.SiLU()
    x = 3 * torch.randn(900, width, generator=torch.Generator().manual_seed(0))
    with threads(count), row_wise(around(silu)):
        assert torch.equal(silu(x[:rows]), silu(x)[:rows])
        assert torch.allclose(silu(x), functional.silu(x))


def around(module: nn.Module) -> Any:
    """What ``row_wise`` needs of a base."""
    return SimpleNamespace(module=nn.ModuleList([module]), device=torch.device("cpu"))
