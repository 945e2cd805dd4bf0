"""profile.json, choosing layers from it, and the recommendation."""

import json

import numpy as np
import pytest

from onelayer.errors import UserError
from onelayer.judging.contrasts import AverageScores, PairedScores
from onelayer.judging.contribution import additivity, analyse
from onelayer.judging.measured import MeasuredScores
from onelayer.judging.profile import Profile, build_profile
from onelayer.judging.recommend import Candidate, recommend


def measured(worths, *, others=None, gain=0.3, problems=300, seed=0):
    """Scores of a scan whose layers (and other arms) have the given true contributions."""
    rng = np.random.default_rng(seed)
    easiness = rng.uniform(0, 1 - gain * 1.5, problems)
    true = {"base": 0.0, "full": 1.0, **{f"layer-{k:02d}": c for k, c in enumerate(worths)}, **(others or {})}
    arms = {name: rng.binomial(16, easiness + gain * worth) / 16 for name, worth in true.items()}
    layers = {k: f"layer-{k:02d}" for k in range(len(worths))}
    return MeasuredScores(PairedScores(arms), layers, tuple(others or ()), dict.fromkeys(arms, 1), 16)


def profile(worths, *, others=None, selection_scores=None, **options):
    scores = measured(worths, others=others, **options)
    result = analyse(scores.scores, scores.layers, num_layers=len(worths), others=scores.others)
    return build_profile(
        result,
        scores,
        model="tiny",
        task="arithmetic",
        algorithm="grpo",
        versions={"onelayer": "0.1"},
        recommended=recommend(scores.scores, result, selection_scores=selection_scores),
        selection_scores=selection_scores,
        command="onelayer scan",
    )


def test_round_trip_keeps_every_key(tmp_path):
    written = profile([0.1, 0.6, 1.0], others={"only-b2": 1.1})
    written.save(tmp_path / "profile.json")
    assert Profile.load(tmp_path / "profile.json") == written
    assert Profile.load(tmp_path) == written
    stored = json.loads((tmp_path / "profile.json").read_text())
    for key in ("model", "task", "algorithm", "num_layers", "base_score", "full_score", "ranking", "recommended"):
        assert key in stored
    assert set(stored["layers"][0]) >= {"layer", "depth", "score", "contribution", "ci_low", "ci_high", "verdict"}
    assert (stored["refused"], stored["command"]) == (None, "onelayer scan")
    assert stored["strategies"][0]["name"] == "only-b2"


def test_ranking_and_choices_by_test_scores():
    found = profile([0.1, 0.9, 0.5, 1.2])
    assert found.ranking == [3, 1, 2, 0]
    assert found.best(2).layers == (3, 1)
    assert found.worst(2).layers == (0, 2)
    assert found.best(1).basis == "test"
    assert "test problems, for want of selection scores" in found.best(1).note


def test_choices_use_the_selection_scores_where_all_layers_have_one():
    selection = {f"layer-{k:02d}": score for k, score in enumerate([0.4, 0.3, 0.9, 0.1])}
    found = profile([0.1, 0.9, 0.5, 1.2], selection_scores=selection)
    assert found.ranking == [3, 1, 2, 0]
    assert found.best(2).layers == (2, 0)
    assert found.worst(2).layers == (3, 1)
    assert found.best(2).basis == "selection"
    partly = profile([0.1, 0.9, 0.5, 1.2], selection_scores={"layer-00": 0.9})
    assert partly.best(1).basis == "test"


@pytest.mark.parametrize("k", [0, 5])
def test_choosing_more_layers_than_there_are(k):
    with pytest.raises(UserError, match=f"best:{k} is not possible; choose 1 to 4"):
        profile([0.1, 0.9, 0.5, 1.2]).best(k)


def test_a_refused_profile_has_no_contributions_and_no_recommendation(tmp_path):
    found = profile([0.5, 0.5], gain=0.0)
    found.save(tmp_path / "profile.json")
    stored = json.loads((tmp_path / "profile.json").read_text())
    assert "did not clearly beat the base" in stored["refused"]
    assert stored["recommended"] is None
    assert [layer["contribution"] for layer in stored["layers"]] == [None, None]
    assert all(layer["difference"] is not None for layer in stored["layers"])
    assert sorted(Profile.load(tmp_path).ranking) == [0, 1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"num_layers": None}, "num_layers: "),
        ({"num_layers": 1}, "layer 1 does not exist in a model of 1 layers"),
        ({"ranking": [0, 0]}, "'ranking' does not list each layer once"),
        ({"base_score": "high"}, "base_score: "),
        ({"full_score": float("nan")}, "full_score: "),
        ({"refused": 3}, "refused: "),
    ],
)
def test_a_damaged_profile_is_one_sentence(tmp_path, change, reason):
    path = tmp_path / "profile.json"
    good = json.loads(profile([0.2, 0.8]).model_dump_json())
    path.write_text(json.dumps(good | change))
    with pytest.raises(UserError, match=reason):
        Profile.load(path)


def test_other_damage(tmp_path):
    path = tmp_path / "profile.json"
    with pytest.raises(UserError, match="does not exist"):
        Profile.load(path)
    good = json.loads(profile([0.2, 0.8]).model_dump_json())
    layer = good["layers"][0]
    for broken, reason in [
        ("{", "not a valid profile"),
        (json.dumps({k: v for k, v in good.items() if k != "task"}), "task: Field required"),
        (json.dumps(good | {"layers": [layer, layer]}), "layer 0 is listed twice"),
        (json.dumps(good | {"layers": [layer | {"verdict": "great"}, good["layers"][1]]}), "layers.0.verdict"),
        (json.dumps([]), "not a valid profile"),
    ]:
        path.write_text(broken)
        with pytest.raises(UserError, match=reason):
            Profile.load(path)


def recommendation(worths, others=None, strategies=None, selection_scores=None, **options):
    scores = measured(worths, others=others, **options)
    result = analyse(scores.scores, scores.layers, num_layers=len(worths), others=scores.others)
    return recommend(scores.scores, result, strategies=strategies, selection_scores=selection_scores)


def test_recommends_the_layer_tied_with_full():
    found = recommendation([0.2, 1.0, 0.5])
    assert (found.arm, found.plan, found.layers) == ("layer-01", "1", (1,))
    assert "layer 1 alone" in found.reason
    assert found.reason.endswith(".")


def test_recommends_full_when_no_layer_is_tied():
    found = recommendation([0.2, 0.5, 0.4])
    assert (found.plan, found.layers) == ("all", (0, 1, 2))
    assert "no smaller set is tied with it" in found.reason


def test_recommends_the_smallest_tied_strategy():
    strategies = {"only-b2": Candidate("best:2@profile.json", (1, 2)), "boost-b2": Candidate("boost:2@p", (0, 1, 2, 3))}
    found = recommendation([0.2, 0.5, 0.4, 0.1], {"only-b2": 1.3, "boost-b2": 1.3}, strategies)
    assert (found.arm, found.layers) == ("only-b2", (1, 2))
    assert "'best:2@profile.json'" in found.reason


def test_selection_scores_decide_between_tied_layers():
    by_test = recommendation([1.0, 1.0, 0.3])
    other = {"layer-00": "layer-01", "layer-01": "layer-00"}[by_test.arm]
    selection = {"layer-00": 0.1, "layer-01": 0.1, "layer-02": 0.9} | {other: 0.5}
    found = recommendation([1.0, 1.0, 0.3], selection_scores=selection)
    assert found.arm == other
    assert "2 sets of one layer are tied for the best" in found.reason
    assert "on the selection problems" in found.reason


def test_without_intervals_the_recommendation_says_so():
    scores = AverageScores({"base": 40.0, "full": 50.0, "layer-00": 51.0})
    result = analyse(scores, {0: "layer-00"}, num_layers=1)
    found = recommend(scores, result)
    assert found.arm == "layer-00"
    assert "not known whether that is more than luck" in found.reason


def test_pairs_are_stored(tmp_path):
    scores = measured([0.4, 0.5], others={"pair": 0.8})
    result = analyse(scores.scores, scores.layers, num_layers=2, others=scores.others)
    pair = additivity(scores.scores, "pair", ["layer-00", "layer-01"])
    built = build_profile(
        result, scores, model="m", task="t", algorithm="a", versions={}, recommended=None, pairs=(pair,)
    )
    built.save(tmp_path / "profile.json")
    stored = json.loads((tmp_path / "profile.json").read_text())["pairs"][0]
    assert stored["parts"] == ["layer-00", "layer-01"]
    assert stored["excess"] == pytest.approx(pair.excess)
    assert Profile.load(tmp_path) == built
