from hypothesis import given
from hypothesis import strategies as st

from onelayer.arms.plan import parse_plan
from onelayer.commands import scan_phases as phases


def test_strategies_of_the_paper() -> None:
    ranking = [10, 12, 9, 2, 13, 0, 1, 3, 27, 24]
    arms = {arm.name: arm.plan for arm in phases.strategies(ranking, 28, 5)}
    assert arms == {
        "only-best-5": "2,9,10,12,13",
        "boost-best-5": "all,2*2,9*2,10*2,12*2,13*2",
        "only-worst-5": "0,1,3,24,27",
        "boost-worst-5": "all,0*2,1*2,3*2,24*2,27*2",
        "mid-5": "mid:5",
    }


def test_other_arms() -> None:
    assert [phases.default_k(depth) for depth in (4, 8, 28, 36)] == [2, 2, 5, 6]
    assert [(arm.name, arm.plan, arm.kind) for arm in phases.pairs([5, 1, 3, 0], 3)] == [
        ("pair-01-03", "1,3", "pair"),
        ("pair-01-05", "1,5", "pair"),
        ("pair-03-05", "3,5", "pair"),
    ]
    assert [arm.plan for arm in phases.leave_one_out([0, 4])] == ["all,0*0", "all,4*0"]
    assert [arm.plan for arm in phases.rate_check([5, 1, 3, 0], 1)] == ["0*3", "5*3"]
    assert [arm.plan for arm in phases.sublayers(3)] == ["3.attn", "3.mlp", "3.norm"]


def test_halving_by_hand() -> None:
    assert phases.rung_steps(80, 3) == [10, 20, 40]
    assert phases.rung_steps(3, 5) == [1]
    assert phases.survivors({0: 0.5, 1: 0.7, 2: 0.5, 3: 0.6, 4: 0.1}) == [0, 1, 3]


def test_coarse_by_hand() -> None:
    assert phases.coarse_layers(8, 3) == [1, 4, 7]
    assert phases.coarse_layers(1, 5) == [0]
    assert phases.around_best({1: 0.2, 4: 0.9, 7: 0.3}, 8, 3) == [2, 3, 5, 6]
    assert phases.around_best({1: 0.9, 4: 0.9, 7: 0.3}, 8, 3) == [0, 2, 3]


@given(st.integers(1, 40), st.integers(1, 10), st.randoms(use_true_random=False))
def test_a_search_without_noise_finds_the_best_of_a_single_peak(depth: int, stride: int, random: object) -> None:
    peak = random.randrange(depth)  # type: ignore[attr-defined]
    value = {layer: -abs(layer - peak) for layer in range(depth)}
    first = {layer: float(value[layer]) for layer in phases.coarse_layers(depth, min(stride, depth))}
    seen = [*first, *phases.around_best(first, depth, min(stride, depth))]
    assert peak in seen
    alive = list(range(depth))
    for _ in range(3):
        alive = phases.survivors({layer: float(value[layer]) for layer in alive})
    assert peak in alive


@given(st.lists(st.integers(0, 27), min_size=10, max_size=20, unique=True), st.integers(1, 5))
def test_every_extra_arm_is_a_plan(ranking: list[int], k: int) -> None:
    extras = phases.strategies(ranking, 28, k) + phases.pairs(ranking, k) + phases.rate_check(ranking, k)
    for arm in extras + phases.leave_one_out(ranking) + phases.sublayers(ranking[0]):
        assert parse_plan(arm.plan, 28)
