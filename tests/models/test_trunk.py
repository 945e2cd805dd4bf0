"""The layers below the lowest trained one run once, and starting above them changes nothing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from onelayer.arms.plan import parse_plan, resolve
from onelayer.arms.spec import create_arm, spec_of
from onelayer.config.optimizer import OptimizerConfig
from onelayer.config.run import RunConfig
from onelayer.config.update import StepConfig
from onelayer.models.base import BaseModel
from onelayer.models.logprobs import Tokens, completion_logprobs, left_pad, position_ids
from onelayer.models.trunk import Start, Trunk, below, kept_layer, lowest_layer, trunk_layer
from onelayer.training.batch import Batch
from onelayer.training.draws import Key, Row, Sampling
from onelayer.training.sample import Request, complete
from onelayer.training.update import _micro_batches, update
from tests.support.gpt2 import gpt2

PROMPTS = [[3, 4, 5, 6], [7, 8], [9, 10, 11]]


class Config(RunConfig, OptimizerConfig, StepConfig):
    """What an arm and its updates take."""


def config_of(**changes: Any) -> Config:
    options: dict[str, Any] = {
        "train_batch_size": 3,
        "num_generations": 4,
        "micro_batch_size": 5,
        "learning_rate": 1e-3,
    }
    return Config(max_completion_length=7, **{**options, **changes})


def sampled(base: BaseModel, layer: int | None, max_rows: int = 512) -> Batch:
    """A batch that the base has drawn, with the input of a layer if one is given."""
    rows = [Row(prompt, problem, sample) for problem, prompt in enumerate(PROMPTS) for sample in range(4)]
    request = Request({}, rows, Key(0, "train", 0), layer)
    (done,) = complete(base, [request], Sampling(7), width=4, max_rows=max_rows)
    advantages = torch.linspace(-1, 1, len(rows))
    return Batch([row.prompt for row in rows], done, advantages, torch.arange(3).repeat_interleave(4))


def tokens_of(batch: Batch) -> Tokens:
    ids, mask = left_pad(batch.prompts, 4)
    return Tokens(ids, mask, batch.completions.ids, batch.completions.mask.long())


@contextmanager
def layers_called(base: BaseModel) -> Iterator[list[int]]:
    """Layers whose attention was computed, one entry a pass."""
    called: list[int] = []
    hooks = [
        layer.self_attn.register_forward_pre_hook(lambda module, args, index=index: called.append(index))
        for index, layer in enumerate(base.layers)
    ]
    yield called
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize(
    ("plan", "lowest"),
    [("all", 0), ("2", 2), ("1,3", 1), ("embed,3", 0), ("final_norm", 3), ("3.mlp", 3), ("0", 0), ("2-3", 2)],
)
def test_lowest_layer(base: BaseModel, plan: str, lowest: int) -> None:
    rates = resolve(parse_plan(plan, base.num_layers), base.parts, base.tied_head)
    assert lowest_layer(base, rates) == lowest
    assert trunk_layer(base, rates) == lowest


@pytest.mark.parametrize("family", ["qwen3", "qwen2", "llama"])
@pytest.mark.parametrize("layer", [1, 3])
def test_starting_above_gives_the_same_bits(base_of: Callable[..., BaseModel], family: str, layer: int) -> None:
    base = base_of(family)
    tokens = tokens_of(sampled(base, None))
    position = position_ids(tokens.input_mask)
    start = below(base, layer, tokens.inputs, tokens.input_mask, position)
    whole, above = completion_logprobs(base, tokens), completion_logprobs(base, tokens, start)
    assert torch.equal(whole[0], above[0]) and torch.equal(whole[1], above[1])
    other = completion_logprobs(base, tokens, Start(layer, start.hidden_BLH * 1.5))
    assert not torch.allclose(whole[0], other[0])  # it does come from there


def test_a_model_whose_layers_get_more_from_below_starts_at_the_beginning(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trunk_layer(base, ["model.layers.2.mlp.up_proj.weight"]) == 2
    seen: list[Tensor] = []
    own = base.layers[3].forward

    def with_more(hidden: Tensor, **kwargs: Any) -> Tensor:
        return own(hidden + seen[0], **kwargs)  # type: ignore[no-any-return]

    base.layers[0].register_forward_hook(lambda module, args, output: seen.insert(0, output))
    monkeypatch.setattr(base.layers[3], "forward", with_more)
    assert trunk_layer(base, ["model.layers.2.mlp.up_proj.weight"]) == 0


def test_gpt2_trains_the_same_with_and_without() -> None:
    base = gpt2()
    names = [name for name, part in base.parts.items() if part.layer == 2]
    layer = trunk_layer(base, names)
    batch = sampled(base, layer or None)
    assert (batch.completions.trunk is not None) == (layer == 2)


@pytest.mark.parametrize("max_rows", [512, 5])
def test_what_is_recorded_is_what_a_pass_gives(base: BaseModel, max_rows: int) -> None:
    batch = sampled(base, 2, max_rows)
    tokens = tokens_of(batch)
    assert len(batch.completions.lengths.unique()) > 1
    start = below(base, 2, tokens.inputs, tokens.input_mask, position_ids(tokens.input_mask))
    assert batch.completions.trunk is not None
    kept = batch.completions.trunk.columns(4, batch.completions.ids.shape[1])
    assert kept.shape == start.hidden_BLH.shape
    # The token that ends a completion never went through the model.
    ran = torch.cat([tokens.prompt_mask, tokens.completion_mask[:, 1:]], dim=1).bool()
    torch.testing.assert_close(kept[ran], start.hidden_BLH[ran], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(kept[ran], below(base, 1, *_inputs(tokens)).hidden_BLH[ran], rtol=1e-2)


def _inputs(tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
    return tokens.inputs, tokens.input_mask, position_ids(tokens.input_mask)


def test_a_row_without_padding_does_not_show_whether_others_have_some(base: BaseModel) -> None:
    rows = [Row([3, 4, 5, 6], problem, sample) for problem in range(2) for sample in range(9)]
    short = [Row([3, 4], 9, sample) for sample in range(9)]
    key, sampling = Key(0, "train", 0), Sampling(7)

    def trunk(rows: list[Row]) -> Tensor:
        (done,) = complete(base, [Request({}, rows, key, 2)], sampling, width=4, max_rows=64)
        assert done.trunk is not None
        return done.trunk.hidden

    alone, among_others = trunk(rows), trunk([*rows, *short])
    assert torch.equal(alone, among_others[: len(rows), : alone.shape[1]])


@pytest.mark.parametrize("changes", [{}, {"beta": 0.04, "mini_batch_size": 1, "num_iterations": 2}])
def test_updates_are_the_same_however_the_trunk_comes(base: BaseModel, changes: dict[str, Any]) -> None:
    config = config_of(**changes)
    deltas = {}
    for way in ("kept", "computed", "none"):
        arm = create_arm(base, spec_of(base, "2", 0), config)
        batch = sampled(base, 2 if way == "kept" else None)
        if way == "none":
            arm.trunk_layer = 0
        with layers_called(base) as called:
            update(base, arm, batch, config)
        assert (0 in called) == (way == "none" or way == "computed")
        assert called.count(3) == called.count(2)
        deltas[way] = {name: tensor.detach().clone() for name, tensor in arm.delta().items()}
    for name, expected in deltas["none"].items():
        assert torch.equal(deltas["computed"][name], expected)
        change = expected - base.tensor(name)
        # Adam's first steps have the size of the rate whatever the gradient's: a tenth of it is a lost bit or two.
        torch.testing.assert_close(deltas["kept"][name], expected, rtol=0, atol=float(change.abs().max()) / 10)
        assert change.abs().max() > 1e-4


def test_the_trunk_runs_once_for_old_policy_and_reference(base: BaseModel) -> None:
    config = config_of(beta=0.04, mini_batch_size=1, num_iterations=2)
    arm = create_arm(base, spec_of(base, "3", 0), config)
    for layer, passes_below in ((None, 3), (3, 0)):
        batch = sampled(base, layer)
        with layers_called(base) as called:
            update(base, arm, batch, config)
        # Three micro-batches: old policy, reference and two epochs above the trunk, which runs once for the first two.
        assert called.count(3) == 4 * 3
        assert called.count(0) == called.count(2) == passes_below * 3


def test_a_trunk_is_kept_within_the_limit(base: BaseModel) -> None:
    size = 10 * 20 * base.hidden_size * 4
    assert kept_layer(base, 2, 10, 20, size) == 2
    assert kept_layer(base, 2, 10, 20, size - 1) is None
    assert kept_layer(base, 0, 10, 20, size) is None


def test_trunks_of_several_batches_line_up() -> None:
    trunk = Trunk(torch.arange(2 * 7 * 1.0).view(2, 7, 1), width=4)
    assert trunk.columns(3, 3)[0, :, 0].tolist() == [1, 2, 3, 4, 5]
    padded = trunk.padded(6)
    assert padded.hidden.shape == (2, 9, 1) and padded.hidden[0, 7:].eq(0).all()
    assert torch.equal(padded.columns(4, 4), trunk.hidden)


def test_micro_batches_hold_rows_of_similar_length(base: BaseModel) -> None:
    batch = sampled(base, None)
    rows = torch.arange(12)
    for size, tokens in ((5, 16384), (100, 40), (100, 1), (1, 16384)):
        config = config_of(micro_batch_size=size, micro_batch_tokens=tokens)
        micros = _micro_batches(batch, rows, config)
        assert sorted(torch.cat(micros).tolist()) == rows.tolist()
        lengths = batch.completions.lengths[torch.cat(micros)].tolist()
        assert lengths == sorted(lengths)
        for micro in micros:
            padded = max(len(batch.prompts[row]) for row in micro) + int(batch.completions.lengths[micro].max())
            assert len(micro) <= size
            assert len(micro) * padded <= tokens or len(micro) == 1
    assert len(_micro_batches(batch, rows, config_of(micro_batch_size=100))) == 1


@pytest.mark.parametrize("plan", ["all", "2", "1.attn,3*0.5", "embed", "lora:4", "lisa:1/2@0"])
def test_computing_layers_again_changes_no_bit_and_keeps_less(base: BaseModel, plan: str) -> None:
    deltas, sizes = [], []
    for again in (False, True):
        config = config_of(beta=0.04, mini_batch_size=1, num_iterations=2, gradient_checkpointing=again)
        arm = create_arm(base, spec_of(base, plan, 0), config)
        kept = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal kept
            kept += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            update(base, arm, sampled(base, None), config)
        deltas.append(arm.delta())
        sizes.append(kept)
    plain, recomputed = deltas
    assert sizes[1] < sizes[0] / 2
    assert all(torch.equal(plain[name], tensor) for name, tensor in recomputed.items())
    assert any(not torch.equal(tensor, base.tensor(name)) for name, tensor in plain.items() if name in base.parts)
