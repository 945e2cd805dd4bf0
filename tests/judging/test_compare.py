"""Comparing profiles: SciPy's correlations, exact permutations by hand, overlap, depth, resampling."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from onelayer.errors import UserError
from onelayer.judging.compare import Curve, compare, correlate, top_overlap
from onelayer.judging.contrasts import PairedScores
from onelayer.judging.contribution import analyse
from onelayer.judging.measured import MeasuredScores
from onelayer.judging.profile import build_profile
from onelayer.judging.score_csv import read_csv

PUBLISHED = Path(__file__).parents[2].parent / "shared" / "data" / "qwen3_1p7b_table13.csv"


def curve(name, values, *, num_layers=None, layers=None, task="t", measured=None):
    layers = tuple(layers or range(len(values)))
    return Curve(name, task, num_layers or len(values), layers, tuple(map(float, values)), measured)


def measured(worths, *, problems=200, seed=0, ids=None):
    rng = np.random.default_rng(seed)
    arms = {"base": 0.0, "full": 1.0} | {f"layer-{k:02d}": c for k, c in enumerate(worths)}
    easiness = rng.uniform(0, 0.5, problems)
    scores = {name: rng.binomial(8, easiness + 0.3 * worth) / 8 for name, worth in arms.items()}
    layers = {k: f"layer-{k:02d}" for k in range(len(worths))}
    return MeasuredScores(PairedScores(scores, problems=ids), layers, (), dict.fromkeys(arms, 1), 8)


def measured_curve(name, worths, **options):
    scores = measured(worths, **options)
    result = analyse(scores.scores, scores.layers, num_layers=len(worths))
    profile = build_profile(result, scores, model="m", task="t", algorithm="a", versions={}, recommended=None)
    return Curve.from_profile(name, profile, scores)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=8, max_size=20), st.integers(0, 99))
def test_correlations_are_scipys_also_with_ties(points, seed):
    x, y = np.array(points, dtype=float).T
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert correlate(x, y, "spearman").value is None
        return
    assert correlate(x, y, "spearman", seed).value == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
    assert correlate(x, y, "kendall", seed).value == pytest.approx(scipy.stats.kendalltau(x, y).statistic)
    assert correlate(x, y, "pearson", seed).value == pytest.approx(scipy.stats.pearsonr(x, y).statistic)


def test_permutation_p_is_exact_for_few_points():
    x, y = np.array([1.0, 2, 3, 4, 5, 6]), np.array([2.0, 1, 4, 3, 6, 5])
    own = scipy.stats.spearmanr(x, y).statistic
    all_values = [scipy.stats.spearmanr(x, order).statistic for order in itertools.permutations(y)]
    expected = np.mean(np.abs(all_values) >= own - 1e-12)
    assert correlate(x, y, "spearman").p_value == pytest.approx(expected)
    # A perfect order of 4 and its reverse: 2 of 24.
    assert correlate(np.arange(4.0), np.arange(4.0), "kendall").p_value == pytest.approx(2 / 24)


def test_random_permutations_agree_with_the_exact_test_and_repeat():
    rng = np.random.default_rng(0)
    x = rng.normal(size=20)
    y = x + 2 * rng.normal(size=20)
    found = correlate(x, y, "kendall", seed=5)
    assert found.p_value == pytest.approx(scipy.stats.kendalltau(x, y, method="exact").pvalue, abs=0.01)
    assert correlate(x, y, "kendall", seed=5) == found


def test_pearson_interval_is_scipys():
    rng = np.random.default_rng(1)
    x = rng.normal(size=28)
    y = x + rng.normal(size=28)
    expected = scipy.stats.pearsonr(x, y).confidence_interval()
    assert correlate(x, y, "pearson").ci == pytest.approx((expected.low, expected.high))
    assert correlate(np.arange(9.0), np.arange(9.0), "pearson").ci is None


def test_spearman_intervals_cover():
    """Correlated normal samples of 28: the 95 % interval holds the true Spearman correlation in 91 to 98 %."""
    rng = np.random.default_rng(2)
    rho = 0.7
    truth = 6 / np.pi * np.arcsin(rho / 2)
    covered = []
    for _ in range(200):
        x, y = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], size=28).T
        r = scipy.stats.spearmanr(x, y).statistic
        z, half = np.arctanh(r), 1.959964 * np.sqrt((1 + r**2 / 2) / 25)
        expected = np.tanh(z - half), np.tanh(z + half)
        if not covered:
            assert correlate(x, y, "spearman").ci == pytest.approx(expected, abs=1e-6)
        covered.append(expected[0] <= truth <= expected[1])
    assert 0.91 <= np.mean(covered) <= 0.98


def test_top_overlap_against_chance():
    x, y = np.array([9.0, 8, 7, 1, 2, 3, 0, 0]), np.array([9.0, 1, 8, 7, 2, 3, 0, 0])
    found = top_overlap(x, y, 3)
    assert (found.overlap, found.expected) == (2, 9 / 8)
    # Of the 56 ways to choose 3 of 8, 3 * 5 share exactly two with a given three and 1 shares all.
    assert found.p_value == pytest.approx(16 / 56)
    assert top_overlap(np.zeros(5), np.zeros(5), 2).overlap == 2


def test_matrix_of_three_profiles():
    a, b, c = curve("a", [1, 2, 3, 4, 5]), curve("b", [2, 3, 4, 5, 9]), curve("c", [5, 4, 3, 2, 1])
    found = compare([a, b, c])
    assert found.matrix == ((1.0, 1.0, -1.0), (1.0, 1.0, -1.0), (-1.0, -1.0, 1.0))
    assert [(pair.first, pair.second) for pair in found.pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert (found.stability, found.notes) == ((), ())


def test_only_shared_layers_count():
    a = curve("a", [5, 1, 2, 3], layers=[0, 2, 4, 6], num_layers=8)
    b = curve("b", [1, 2, 3, 9], layers=[2, 4, 6, 7], num_layers=8)
    pair = compare([a, b]).pairs[0]
    assert (pair.points, pair.over, pair.spearman.value) == (3, "layers", pytest.approx(1.0))


def test_models_of_different_depth_meet_at_relative_depth():
    # A straight line and a curve sampled at 5 and at 9 depths: interpolation must not bend the line.
    line = [k / 4 for k in range(5)]
    fine = [(k / 8) for k in range(9)]
    found = compare([curve("small", line), curve("large", fine)])
    assert (found.pairs[0].over, found.pairs[0].points) == ("relative depth", 5)
    assert found.pairs[0].pearson.value == pytest.approx(1.0)
    assert "different numbers of layers" in found.notes[0]
    # By hand: depths 0, .5, 1 of three layers hit layers 0, 1.5, 3 of four.
    four, three = [0.0, 4.0, 6.0, 1.0], [0.0, 1.0, 7.0]
    pair = compare([curve("four", four), curve("three", three)]).pairs[0]
    assert pair.pearson.value == pytest.approx(scipy.stats.pearsonr([0.0, 5.0, 1.0], three).statistic)


def test_resampling_a_clear_and_a_flat_profile():
    clear = measured_curve("clear", [0.0, 0.3, 0.6, 0.9, 1.2, 1.5], problems=400)
    flat = measured_curve("flat", [0.5] * 6, problems=400, seed=1)
    found = compare([clear, flat])
    by_name = {row.name: row for row in found.stability}
    assert by_name["clear"].spearman > 0.95
    assert by_name["clear"].best_stays > 0.9
    assert by_name["flat"].spearman < by_name["clear"].spearman
    low, high = found.pairs[0].spearman_resampled
    assert low < found.pairs[0].spearman.value < high
    assert high - low > 0.3


def test_the_same_problems_are_resampled_together():
    ids = [("test", i) for i in range(200)]
    worths = [0.5, 0.6, 0.55, 0.65]
    a, b = measured_curve("a", worths, ids=ids), measured_curve("b", worths, ids=ids)
    # The same scan twice: resampled together, the rankings agree in every resample.
    assert compare([a, b]).pairs[0].spearman_resampled == (pytest.approx(1.0), pytest.approx(1.0))
    apart = measured_curve("b", worths, ids=[("other", i) for i in range(200)])
    assert compare([a, apart]).pairs[0].spearman_resampled[0] < 1


def test_layers_without_any_difference_resample_to_no_correlation():
    scores = np.tile([0.0, 1.0], 20)
    arms = {"base": scores * 0.5, "full": scores} | {f"layer-{k:02d}": scores * 0.75 for k in range(3)}
    layers = {k: f"layer-{k:02d}" for k in range(3)}
    flat = MeasuredScores(PairedScores(arms), layers, (), dict.fromkeys(arms, 1), 1)
    found = compare([curve("flat", [0.5] * 3, measured=flat), measured_curve("other", [0.1, 0.9, 0.5])])
    assert found.pairs[0].spearman.value is None
    assert found.pairs[0].spearman_resampled == (0.0, 0.0)


def test_comparison_is_deterministic():
    a, b = measured_curve("a", [0.1, 0.9, 0.5, 0.7]), measured_curve("b", [0.2, 0.8, 0.6, 0.5], seed=3)
    assert compare([a, b], seed=4) == compare([a, b], seed=4)


def test_bad_comparisons():
    a, b = curve("a", [1, 2, 3]), curve("b", [1, 2, 3])
    with pytest.raises(UserError, match="at least two profiles"):
        compare([a])
    with pytest.raises(UserError, match="different names"):
        compare([a, a])
    with pytest.raises(UserError, match="--across-tasks"):
        compare([a, curve("b", [1, 2, 3], task="other")])
    assert compare([a, curve("b", [1, 2, 3], task="other")], across_tasks=True).pairs[0].points == 3
    with pytest.raises(UserError, match="share 2 layers"):
        compare([curve("a", [1, 2, 3], num_layers=5), curve("b", [1, 2, 3], layers=[1, 2, 3], num_layers=5)])
    with pytest.raises(UserError, match="a has no contributions to compare: Full training did not"):
        flat = measured([0.0] * 3)
        refused = analyse(
            PairedScores({n: np.tile([0.0, 1.0], 9) for n in flat.scores.names}), flat.layers, num_layers=3
        )
        profile = build_profile(refused, flat, model="m", task="t", algorithm="a", versions={}, recommended=None)
        Curve.from_profile("a", profile)
    assert b.name == "b"


def test_contribution_on_math_against_a_single_benchmark_of_the_published_table():
    if not PUBLISHED.exists():
        pytest.skip("the published table is not here")
    scores = read_csv(PUBLISHED)
    result = analyse(scores.scores, scores.layers, num_layers=28)
    values = [layer.contribution for layer in result.layers]
    rows = [line.split(",") for line in PUBLISHED.read_text().splitlines()[3:]]
    math500 = [float(row[2]) for row in rows]
    pair = compare([curve("math", values), curve("math500", math500)]).pairs[0]
    assert pair.pearson.value == pytest.approx(scipy.stats.pearsonr(values, math500).statistic)
    assert pair.pearson.value > 0.8
    assert pair.spearman.p_value == 1 / 10_000
