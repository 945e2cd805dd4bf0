from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TopKLogitsWarper, TopPLogitsWarper

from onelayer.models.base import BaseModel
from onelayer.training.completions import Completions, before_stop
from onelayer.training.draws import Key, Row, Sampling, pick, uniforms
from onelayer.training.generate import generate
from onelayer.training.sample import Request, complete

KEY = Key(0, "train", 3)


def rows_of(count: int) -> list[Row]:
    return [Row([2 + i % 9] * (1 + i % 4), i // 4, i % 4) for i in range(count)]


def run(base: BaseModel, rows: list[Row], sampling: Sampling, max_rows: int = 512, width: int = 6) -> Completions:
    return complete(base, [Request({}, rows, KEY)], sampling, width=width, max_rows=max_rows)[0]


def test_pick_by_hand() -> None:
    logits = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log().expand(6, -1)
    uniform = torch.tensor([0.0, 0.0999, 0.1001, 0.31, 0.59, 0.99], dtype=torch.float64)
    assert pick(logits, uniform, Sampling(1)).tolist() == [0, 0, 1, 2, 2, 3]
    assert pick(logits, uniform, Sampling(1, temperature=0)).tolist() == [3] * 6
    # top_k 2 leaves .3 and .4: the border is at 3/7; top_p .75 keeps .4 + .3 as well, since .4 alone is too little.
    assert pick(logits, torch.tensor([0.42, 0.44] * 3), Sampling(1, top_k=2)).tolist() == [2, 3] * 3
    assert pick(logits, torch.tensor([0.42, 0.44] * 3), Sampling(1, top_p=0.69)).tolist() == [2, 3] * 3
    # Temperature 1/2 squares: .01 .04 .09 .16 of .3.
    assert pick(logits[:2], torch.tensor([0.46, 0.47]), Sampling(1, temperature=0.5)).tolist() == [2, 3]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(0, 12), st.floats(0.05, 1.0), st.floats(0.2, 3.0))
def test_the_filters_keep_what_transformers_keeps(seed: int, top_k: int, top_p: float, temperature: float) -> None:
    logits = 3 * torch.randn(1, 12, generator=torch.Generator().manual_seed(seed))
    scores = logits.double() / temperature
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    expected = scores.softmax(-1)
    grid = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    drawn = pick(logits.expand(4000, -1), grid, Sampling(1, temperature, top_p, top_k))
    frequency = torch.bincount(drawn, minlength=12) / 4000
    assert torch.allclose(frequency, expected[0].float(), atol=6e-4)


@given(st.integers(0, 10**6), st.floats(0, 1, exclude_max=True))
def test_a_token_without_mass_is_never_drawn(seed: int, uniform: float) -> None:
    logits = torch.randn(1, 9, generator=torch.Generator().manual_seed(seed))
    logits[0, [0, 4, 8]] = -torch.inf
    assert pick(logits, torch.tensor([uniform]), Sampling(1)).item() not in (0, 4, 8)
    assert pick(logits, torch.tensor([1.0]), Sampling(1)).item() == 7  # whatever rounding does, the last with mass


@given(st.integers(0, 10**6), st.floats(0.2, 3.0))
def test_pick_counts_what_lies_below_the_draw(seed: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(6, 50, generator=generator)
    uniform = torch.rand(6, dtype=torch.float64, generator=generator)
    mass = (logits.double() / temperature).softmax(-1)
    naive = []
    for row, number in zip(mass.tolist(), uniform.tolist(), strict=True):
        sums = np.cumsum(row)
        naive.append(sum(1 for below in sums if below <= number * sums[-1]))
    assert pick(logits, uniform, Sampling(1, temperature)).tolist() == naive


def test_a_policy_that_is_no_longer_finite_still_draws_a_token() -> None:
    assert pick(torch.full((2, 9), torch.nan), torch.tensor([0.1, 1.0]), Sampling(1)).tolist() == [8, 8]


def test_a_draw_depends_on_its_key_and_position_only() -> None:
    rows = rows_of(8)
    drawn = uniforms(KEY, rows, 5)
    assert ((drawn >= 0) & (drawn < 1)).all()
    assert np.array_equal(uniforms(KEY, rows[3:4], 3)[0], drawn[3, :3])
    assert np.array_equal(uniforms(KEY, rows[::-1], 5)[::-1], drawn)
    others = [uniforms(key, rows, 5) for key in (Key(1, "train", 3), Key(0, "eval", 3), Key(0, "train", 4))]
    others.append(uniforms(KEY, [row._replace(turn=1) for row in rows], 5))
    everything = np.concatenate([drawn, *others]).ravel()
    assert len(np.unique(everything)) == everything.size
    assert abs(uniforms(KEY, rows_of(400), 100).mean() - 0.5) < 0.005


def test_greedy_equals_transformers_generate(base_of: Callable[..., BaseModel]) -> None:
    base = base_of()
    rows = rows_of(12)
    ours = run(base, rows, Sampling(10, temperature=0))
    for i, row in enumerate(rows):
        expected = base.module.generate(  # type: ignore[operator]
            torch.tensor([row.prompt]), do_sample=False, max_new_tokens=10, pad_token_id=0, eos_token_id=[1]
        )[0, len(row.prompt) :]
        assert ours.ids[i, : ours.lengths[i]].tolist() == expected.tolist()
        assert bool(ours.truncated[i]) == (1 not in expected.tolist())


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("family", ["qwen3", "qwen2", "llama"])
def test_a_row_does_not_depend_on_its_company(base_of: Callable[..., BaseModel], family: str, threads: int) -> None:
    base = base_of(family)
    rows = rows_of(40)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = run(base, rows, Sampling(12))
        assert together.lengths.unique().numel() > 3  # rows leave at different times
        for max_rows in (8, 9, 17):
            apart = run(base, rows, Sampling(12), max_rows=max_rows)
            assert torch.equal(apart.ids, together.ids)
        alone = run(base, rows[5:6], Sampling(12))
        assert torch.equal(alone.ids[0], together.ids[5, : alone.ids.shape[1]])
    finally:
        torch.set_num_threads(before)


def test_several_stop_tokens(base: BaseModel) -> None:
    object.__setattr__(base, "stop_token_ids", (1, 5, 7))
    rows = rows_of(40)
    result = run(base, rows, Sampling(12))
    stops = torch.tensor([1, 5, 7])
    for i in range(40):
        tokens = result.ids[i, : result.lengths[i]]
        assert not torch.isin(tokens[:-1], stops).any()
        assert bool(result.truncated[i]) != bool(torch.isin(tokens[-1], stops))
    assert torch.equal(result.mask.sum(-1), result.lengths)
    assert (result.ids[~result.mask] == 0).all()


def test_the_pad_width_is_not_seen_by_the_model(base: BaseModel) -> None:
    """Another width may change last bits, never what is computed."""
    greedy = Sampling(10, temperature=0)
    assert torch.equal(run(base, rows_of(12), greedy).ids, run(base, rows_of(12), greedy, width=11).ids)


def test_sampled_frequencies_are_the_models_probabilities(base: BaseModel) -> None:
    rows = [Row([3, 4, 5], 0, sample) for sample in range(3000)]
    first = run(base, rows, Sampling(1)).ids[:, 0]
    probabilities = base.module(input_ids=torch.tensor([[3, 4, 5]])).logits[0, -1].softmax(-1)
    frequency = torch.bincount(first, minlength=len(probabilities)) / 3000
    assert (frequency - probabilities).abs().max() < 4 * (0.25 / 3000) ** 0.5


def test_generation_leaves_no_graph(base: BaseModel) -> None:
    drawn = uniforms(KEY, rows_of(8), 3)
    assert not generate(base, rows_of(8), drawn, Sampling(3), width=4).ids.requires_grad


def test_stop_text_ends_a_completion_early_and_changes_nothing_before_it(base: BaseModel) -> None:
    free = run(base, rows_of(16), Sampling(20))
    texts = free.texts(base.tokenizer)
    stop = texts[3][4:6]  # Something that row 3 is going to write.
    stopped = run(base, [row._replace(stop=("##", stop)) for row in rows_of(16)], Sampling(20))
    for i in range(16):
        prefixes = [free.ids[i, : n + 1].tolist() for n in range(int(free.lengths[i]))]
        written = base.tokenizer.batch_decode(prefixes, skip_special_tokens=True)
        ends = [n + 1 for n, text in enumerate(written) if stop in text or "##" in text]
        expected = ends[0] if ends else int(free.lengths[i])
        assert stopped.lengths[i] == expected
        assert torch.equal(stopped.ids[i, :expected], free.ids[i, :expected])
        assert stopped.truncated[i] == (free.truncated[i] and not ends)
    assert stopped.lengths[3] < free.lengths[3]
    assert not stopped.truncated[3]


def test_text_before_the_first_stop() -> None:
    assert before_stop("a\nb#c", ("#", "\n")) == "a"
    assert before_stop("a\nb#c", ("##",)) == "a\nb#c"
    assert before_stop("abc", ()) == "abc"
