"""Contribution statistics against hand-computed numbers, SciPy, a naive loop and properties that must hold."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from onelayer.errors import UserError
from onelayer.judging.contrasts import AverageScores, PairedScores, benchmark_weights, ratio_interval, unit
from onelayer.judging.contribution import VERDICTS, Rules, additivity, analyse, holm


def scan(rng, contributions, *, problems=80, samples=8, gain=0.25, seeds=1, seed_sd=0.0):
    """Simulate per-problem scores of base, full and layers with the given true contributions."""
    easiness = rng.beta(2, 2, problems) * (1 - gain - 0.1)

    def arm(worth, count):
        chance = easiness + gain * worth + seed_sd * rng.standard_normal((count, 1))
        return rng.binomial(samples, np.clip(chance, 0, 1), (count, problems)) / samples

    arms = {"base": arm(0, 1), "full": arm(1, seeds)}
    return arms | {f"layer-{k:02d}": arm(c, seeds) for k, c in enumerate(contributions)}


def judge(arms, **options):
    layers = {int(name[6:]): name for name in arms if name.startswith("layer-")}
    return analyse(PairedScores(arms, options.pop("benchmarks", None)), layers, num_layers=len(layers), **options)


def fieller(d, g, alpha=0.05):
    """The textbook: roots of (d - C g)^2 = t^2 Var(d - C g), from means and the covariance matrix of the means."""
    covariance = np.cov(d, g) / len(d)
    t2 = scipy.stats.t.isf(alpha / 2, len(d) - 1) ** 2
    a = g.mean() ** 2 - t2 * covariance[1, 1]
    b = -2 * (d.mean() * g.mean() - t2 * covariance[0, 1])
    c = d.mean() ** 2 - t2 * covariance[0, 0]
    return sorted((-b + sign * math.sqrt(b * b - 4 * a * c)) / (2 * a) for sign in (-1, 1))


def test_hand_computed():
    # d = (.5, 0, .5, 0), g = (.5, .5, 1, .5): means .25 and .625, C = .4. g - d = (0, .5, .5, .5): mean .375,
    # sd .25, standard error .125, t = 3 with 3 degrees of freedom: p = .0577.
    arms = {"base": [0.25, 0.0, 0.0, 0.5], "full": [0.75, 0.5, 1.0, 1.0], "layer-00": [0.75, 0.0, 0.5, 0.5]}
    layer = judge(arms).layers[0]
    assert layer.difference == 0.25
    assert layer.contribution == pytest.approx(0.4)
    assert layer.p_full == pytest.approx(0.0577, abs=1e-4)
    assert layer.score == pytest.approx(0.4375)


def test_one_seed_is_fieller_and_the_paired_t_tests():
    arms = scan(np.random.default_rng(1), [0.0, 0.5, 1.0])
    result = judge(arms)
    base, full = arms["base"][0], arms["full"][0]
    for layer in result.layers:
        own = arms[layer.name][0]
        assert layer.contribution_ci == pytest.approx(fieller(own - base, full - base), abs=1e-9)
        assert layer.p_full == pytest.approx(scipy.stats.ttest_rel(own, full).pvalue)
        assert layer.p_base == pytest.approx(scipy.stats.ttest_rel(own, base).pvalue)
        low, high = scipy.stats.ttest_rel(own, base).confidence_interval()
        assert layer.difference_ci == pytest.approx((low, high))
    low, high = scipy.stats.ttest_rel(full, base).confidence_interval()
    assert result.gain_ci == pytest.approx((low, high))
    assert result.gain_z == pytest.approx(scipy.stats.ttest_rel(full, base).statistic)


def test_seed_variance_against_a_naive_loop():
    arms = scan(np.random.default_rng(2), [0.3, 0.9], seeds=3, seed_sd=0.05)
    squares_between = squares_within = df = 0
    for name, scores in arms.items():
        if name == "base":
            continue
        seeds, problems = scores.shape
        df += seeds - 1
        for s in range(seeds):
            squares_between += (scores[s].mean() - scores.mean()) ** 2
            for i in range(problems):
                expected = scores[s].mean() + scores[:, i].mean() - scores.mean()
                squares_within += (scores[s, i] - expected) ** 2
    between, within = squares_between / df, squares_within / (df * (problems - 1)) / problems
    sigma2 = between - within
    assert sigma2 > 0
    result = judge(arms)
    assert result.seed_sd == pytest.approx(math.sqrt(sigma2))

    # The test against full, from its parts: spread over problems and both arms' seed noise, Satterthwaite's df.
    e = arms["layer-00"].mean(axis=0) - arms["full"].mean(axis=0)
    spread = e.var(ddof=1) / problems
    factor = 1 / 3 + 1 / 3
    variance = spread + factor * sigma2
    welch = spread**2 / (problems - 1) + factor**2 * (between**2 / df + within**2 / (df * (problems - 1)))
    p = 2 * scipy.stats.t.sf(abs(e.mean()) / math.sqrt(variance), variance**2 / welch)
    assert result.layers[0].p_full == pytest.approx(p)


def test_interval_ends_are_where_the_test_is_at_its_level():
    arms = scan(np.random.default_rng(3), [0.2, 0.7, 1.1], seeds=2, seed_sd=0.03)
    benchmarks = ["a"] * 30 + ["b"] * 50
    scores = PairedScores(arms, benchmarks)
    for layer in judge(arms, benchmarks=benchmarks).layers:
        for end in layer.contribution_ci:
            weights = unit(scores, layer.name) - end * unit(scores, "full") - (1 - end) * unit(scores, "base")
            assert scores.estimate(weights).p_value() == pytest.approx(0.05, abs=1e-6)
        assert layer.contribution_ci[0] < layer.contribution < layer.contribution_ci[1]


def test_benchmarks_are_strata_with_equal_weight():
    rng = np.random.default_rng(4)
    arms = scan(rng, [0.5], problems=50)
    benchmarks = ["a"] * 10 + ["b"] * 40
    result = judge(arms, benchmarks=benchmarks)
    full = arms["full"][0]
    assert result.full_score == pytest.approx((full[:10].mean() + full[10:].mean()) / 2)
    gain = full - arms["base"][0]
    parts = [gain[:10].var(ddof=1) / 10 / 4, gain[10:].var(ddof=1) / 40 / 4]
    df = sum(parts) ** 2 / (parts[0] ** 2 / 9 + parts[1] ** 2 / 39)
    half = scipy.stats.t.isf(0.025, df) * math.sqrt(sum(parts))
    assert result.gain_ci == pytest.approx((result.gain - half, result.gain + half))


def test_c_all_is_the_mean_of_category_averages():
    weights = benchmark_weights(["gsm8k", "amc", "mbpp"], {"gsm8k": "math", "amc": "math", "mbpp": "code"})
    assert weights == {"gsm8k": 0.25, "amc": 0.25, "mbpp": 0.5}
    with pytest.raises(UserError, match="mbpp"):
        benchmark_weights(["gsm8k", "mbpp"], {"gsm8k": "math"})


def test_holm_by_hand_and_vectorised():
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([[0.5, 0.9], [0.9, 0.01]])) == pytest.approx(np.array([[1.0, 1.0], [0.9, 0.02]]))


@pytest.mark.parametrize(
    ("worth", "verdict"),
    [(1.5, "better than full"), (1.0, "tied with full"), (0.5, "partial"), (0.0, "nothing"), (-0.6, "harmful")],
)
def test_verdicts_on_clear_data(worth, verdict):
    arms = scan(np.random.default_rng(5), [worth], problems=600, samples=32, gain=0.3)
    assert judge(arms).layers[0].verdict == verdict


def test_not_rejected_is_not_called_a_tie():
    arms = scan(np.random.default_rng(6), [0.9], problems=40, samples=1, gain=0.4)
    layer = judge(arms).layers[0]
    assert layer.p_full > 0.05
    assert layer.contribution_ci[0] < 0.8
    assert layer.verdict == "undecided"


def test_the_verdict_is_the_stated_function_of_tests_and_interval():
    rng = np.random.default_rng(7)
    seen = set()
    for _ in range(60):
        worths = rng.uniform(-1, 2, 4)
        result = judge(scan(rng, worths, problems=int(rng.integers(20, 400)), gain=0.2))
        if result.refused is not None:
            continue
        for layer in result.layers:
            differs, worth = layer.p_full_holm < 0.05, layer.p_base_holm < 0.05
            low, high = layer.contribution_ci
            if worth and layer.contribution < 0:
                expected = "harmful"
            elif differs and layer.contribution > 1:
                expected = "better than full"
            elif differs and worth:
                expected = "partial"
            elif not differs and low > 0.8:
                expected = "tied with full"
            elif not worth and high < 0.2:
                expected = "nothing"
            else:
                expected = "undecided"
            assert layer.verdict == expected
            seen.add(layer.verdict)
    assert seen == set(VERDICTS)


def test_no_clear_gain_is_refused_and_differences_are_still_there():
    arms = scan(np.random.default_rng(8), [0.5, 1.0], gain=0.0)
    result = judge(arms)
    assert "did not clearly beat the base" in result.refused
    assert result.gain_ci[0] <= 0
    for layer in result.layers:
        assert (layer.contribution, layer.contribution_ci, layer.verdict) == (None, None, "undecided")
        assert math.isfinite(layer.difference)
        assert layer.difference_ci is not None


def test_full_worse_than_base_is_refused():
    arms = scan(np.random.default_rng(9), [0.5])
    arms["base"], arms["full"] = arms["full"], arms["base"]
    assert judge(arms).refused is not None


def test_fieller_set_is_bounded_exactly_when_not_refused():
    for seed in range(40):
        arms = scan(np.random.default_rng(seed), [1.0], problems=60, gain=0.06)
        scores = PairedScores(arms)
        base, full = unit(scores, "base"), unit(scores, "full")
        low, high = ratio_interval(scores, [unit(scores, "layer-00") - base], full - base)
        clear = scores.estimate(full - base).p_value() < 0.05
        assert np.isfinite([low[0], high[0]]).all() == clear


def test_a_weak_gain_warns():
    warned = [judge(scan(np.random.default_rng(s), [1.0], problems=60, gain=0.1)) for s in range(12)]
    warned = [result for result in warned if result.refused is None]
    assert {bool(result.warnings) for result in warned} == {True, False}
    for result in warned:
        assert bool(result.warnings) == (result.gain_z < 4)


def test_flip_sd_is_where_the_verdict_changes():
    arms = scan(np.random.default_rng(10), [0.4, 1.0, 1.6], problems=400, samples=16, gain=0.25)
    scores = PairedScores(arms)
    result = judge(arms)
    for layer in result.layers:
        assert layer.verdict != "undecided"
        # Recompute the family at a seed noise just below and just above the flip, from first principles.
        verdicts = []
        for seed_sd in (layer.flip_sd * 0.999, layer.flip_sd * 1.001):
            p_full, p_base, lows = [], [], []
            for other in result.layers:
                picked = unit(scores, other.name)
                base, full = unit(scores, "base"), unit(scores, "full")
                p_full.append(scores.estimate(picked - full).with_seed_sd(seed_sd).p_value())
                p_base.append(scores.estimate(picked - base).with_seed_sd(seed_sd).p_value())
                mark = scores.estimate(picked - 0.8 * full - 0.2 * base).with_seed_sd(seed_sd)
                lows.append(bool(mark.p_value() < 0.05 and mark.value > 0))
            differs = holm(np.array(p_full))[layer.layer] < 0.05
            worth = holm(np.array(p_base))[layer.layer] < 0.05
            verdicts.append((differs, worth, not differs and lows[layer.layer]))
        assert verdicts[0] != verdicts[1]


def test_with_seeds_no_flip_sd_and_the_meaning_says_so():
    rng = np.random.default_rng(11)
    one, two = judge(scan(rng, [0.5])), judge(scan(rng, [0.5], seeds=2))
    assert one.seed_sd is None
    assert one.meaning.startswith("One training seed: intervals are about these checkpoints")
    assert two.seed_sd is not None
    assert "pooled over 2 arms (2 degrees of freedom)" in two.meaning
    assert all(layer.flip_sd is None for layer in two.layers)


def test_a_layer_identical_to_full_has_c_exactly_one():
    arms = scan(np.random.default_rng(12), [0.3])
    arms["layer-00"] = arms["full"]
    layer = judge(arms).layers[0]
    assert layer.contribution == 1.0
    assert layer.contribution_ci == pytest.approx((1.0, 1.0))
    assert (layer.p_full, layer.verdict) == (1.0, "tied with full")


def test_scores_without_any_noise():
    arms = {"base": np.zeros(10), "full": np.ones(10), "layer-00": np.full(10, 0.5), "layer-01": np.tile([0.0, 1.0], 5)}
    result = judge(arms)
    assert (result.gain_ci, result.gain_z, result.refused) == ((1.0, 1.0), None, None)
    assert result.layers[0].contribution_ci == pytest.approx((0.5, 0.5))
    assert result.layers[0].verdict == "partial"
    assert result.layers[1].contribution_ci == pytest.approx(
        scipy.stats.ttest_1samp(arms["layer-01"], 0).confidence_interval()
    )


def test_adding_a_strategy_does_not_change_the_layers():
    arms = scan(np.random.default_rng(13), [0.2, 0.6, 0.9])
    arms["only-b2"] = arms["full"] * 0.9
    alone, together = judge({k: v for k, v in arms.items() if k != "only-b2"}), judge(arms, others=["only-b2"])
    assert alone.layers == together.layers
    assert together.others[0].layer is None
    assert 0 < together.others[0].contribution_ci[0] < together.others[0].contribution


def test_additivity_is_a_paired_test_of_four_arms():
    arms = scan(np.random.default_rng(14), [0.3, 0.4])
    arms["pair"] = scan(np.random.default_rng(14), [0.9])["layer-00"]
    result = additivity(PairedScores(arms), "pair", ["layer-00", "layer-01"])
    e = arms["pair"][0] - arms["layer-00"][0] - arms["layer-01"][0] + arms["base"][0]
    expected = scipy.stats.ttest_1samp(e, 0)
    assert result.excess == pytest.approx(e.mean())
    assert result.p_value == pytest.approx(expected.pvalue)
    assert result.excess_ci == pytest.approx(tuple(expected.confidence_interval()))
    assert result.excess == pytest.approx(result.combined_difference - result.sum_of_differences)


def test_averages_with_a_stated_sd():
    # var(C) = sd^2 (1 + C^2 + (1 - C)^2) / gain^2; with a large gain Fieller's interval is C +- 1.96 sd(C).
    means = {"base": 40.0, "full": 60.0, "layer-00": 55.0}
    layer = analyse(AverageScores(means, 0.1), {0: "layer-00"}, num_layers=1).layers[0]
    assert layer.contribution == pytest.approx(0.75)
    sd = 0.1 * math.sqrt(1 + 0.75**2 + 0.25**2) / 20
    assert layer.contribution_ci == pytest.approx((0.75 - 1.96 * sd, 0.75 + 1.96 * sd), abs=1e-4)
    assert layer.verdict == "partial"
    assert layer.flip_sd > 0


def test_averages_alone_have_no_interval_and_say_so():
    means = {"base": 40.0, "full": 60.0, "layer-00": 55.0}
    result = analyse(AverageScores(means), {0: "layer-00"}, num_layers=1)
    assert result.refused is None
    assert result.gain_ci is None
    assert "--score-sd" in result.warnings[0]
    layer = result.layers[0]
    assert (layer.contribution, layer.contribution_ci, layer.verdict) == (0.75, None, "undecided")
    assert analyse(AverageScores(means | {"full": 40.0}), {0: "layer-00"}, num_layers=1).refused is not None


def test_bad_input_is_named():
    arms = scan(np.random.default_rng(15), [0.5])
    with pytest.raises(UserError, match="layer-00"):
        PairedScores(arms | {"layer-00": np.zeros((1, 7))})
    with pytest.raises(UserError, match="not a finite number"):
        PairedScores(arms | {"full": np.full(80, np.nan)})
    with pytest.raises(UserError, match="at least two"):
        PairedScores(arms, ["a"] * 79 + ["b"])
    with pytest.raises(UserError, match="layer 3 does not exist"):
        analyse(PairedScores(arms), {3: "layer-00"}, num_layers=3)
    with pytest.raises(UserError, match="no scores of the arm 'full'"):
        analyse(PairedScores({"base": arms["base"]}), {}, num_layers=3)
    with pytest.raises(UserError, match="above zero"):
        AverageScores({"base": 1.0}, -1.0)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 100), shift=st.floats(-50, 50), seeds=st.integers(1, 3))
def test_c_and_its_interval_do_not_depend_on_scale_origin_or_order(seed, scale, shift, seeds):
    rng = np.random.default_rng(seed)
    arms = scan(rng, [0.2, 0.8], problems=40, seeds=seeds, seed_sd=0.02)
    order = rng.permutation(40)
    other = judge({name: shift + scale * scores[:, order] for name, scores in arms.items()})
    result = judge(arms)
    assert (other.refused is None) == (result.refused is None)
    if result.refused is None:
        for a, b in zip(result.layers, other.layers, strict=True):
            assert a.contribution == pytest.approx(b.contribution, rel=1e-6, abs=1e-6)
            assert a.contribution_ci == pytest.approx(b.contribution_ci, rel=1e-5, abs=1e-5)
            assert a.verdict == b.verdict


def test_short_coverage():
    """100 scans of three equal layers: the intervals of C = 1 cover, whether one seed or three noisy ones."""
    for seeds, seed_sd in ((1, 0.0), (3, 0.015)):
        rng = np.random.default_rng(16)
        results = [judge(scan(rng, [1.0] * 3, problems=60, seeds=seeds, seed_sd=seed_sd)) for _ in range(100)]
        intervals = [layer.contribution_ci for r in results if r.refused is None for layer in r.layers]
        covered = np.mean([low <= 1 <= high for low, high in intervals])
        assert len(intervals) > 250
        assert 0.9 < covered < 0.985
        better = np.mean([any(layer.verdict == "better than full" for layer in r.layers) for r in results])
        assert better <= 0.08


def test_rules_move_the_marks():
    arms = scan(np.random.default_rng(5), [1.0], problems=600, samples=32, gain=0.3)
    assert judge(arms).layers[0].verdict == "tied with full"
    assert judge(arms, rules=Rules(tie_low=0.99)).layers[0].verdict == "undecided"


def test_order_of_layers_is_by_index():
    arms = scan(np.random.default_rng(18), [0.1, 0.2, 0.3])
    shuffled = {name: arms[name] for name in ("layer-02", "full", "layer-00", "base", "layer-01")}
    result = judge(shuffled)
    assert [layer.layer for layer in result.layers] == [0, 1, 2]
    assert [layer.depth for layer in result.layers] == [0.0, 0.5, 1.0]
    assert [layer.score for layer in result.layers] == [arms[f"layer-{k:02d}"].mean() for k in range(3)]
