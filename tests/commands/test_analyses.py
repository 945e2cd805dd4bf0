"""What follows the layers of a scan, by its commands: searches, strategies, stitching, votes, comparisons."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Command, save_model
from tests.support.own_data import OWN

SCAN = f"scan --model m {OWN}"


def profile_of(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "profile.json").read_text())
    return loaded


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "arms").iterdir()}


def test_strategies_and_controls_join_a_finished_scan(onelayer: Command, data: Path) -> None:
    save_model(data / "m", layers=3)
    assert onelayer(f"{SCAN} --output run")[0] == 0
    before = profile_of(data / "run")
    delta = (data / "run/arms/layer-01/delta.safetensors").read_bytes()
    more = "--strategies --strategy-k 2 --pairs 2 --leave-one-out --sublayers --also random:1@3.mlp"
    code, out, err = onelayer(f"{SCAN} --output run --resume {more}")
    assert (code, err) == (0, "")
    after = profile_of(data / "run")
    assert (data / "run/arms/layer-01/delta.safetensors").read_bytes() == delta
    assert [row["score"] for row in after["layers"]] == [row["score"] for row in before["layers"]]
    strategies = {row["name"]: row["plan"] for row in after["strategies"]}
    assert {
        "only-best-2",
        "boost-best-2",
        "only-worst-2",
        "boost-worst-2",
        "mid-2",
        "random-1-3-mlp",
    } <= strategies.keys()
    assert {f"without-{k:02d}" for k in range(3)} <= strategies.keys()
    pair = after["pairs"][0]
    assert pair["excess"] == pytest.approx(pair["combined_difference"] - pair["sum_of_differences"])
    assert after["predictors"].keys() == {"change_norm", "first_gradient_norm"}
    best = max(after["layers"], key=lambda row: (row["selection_score"], -row["layer"]))["layer"]
    assert strategies[f"layer-{best:02d}-attn"] == f"{best}.attn"

    plan_code, out, _ = onelayer("plan best:2@run/profile.json --model m --task arithmetic")
    assert plan_code == 0
    assert "selection problems" in out
    code, _, err = onelayer("plan best:4@run/profile.json --model m --task arithmetic")
    assert code == 2


def test_stitching_and_voting(onelayer: Command, data: Path) -> None:
    save_model(data / "m", layers=3)
    line = "scan --model m --task arithmetic --steps 2 --train-batch-size 4 --num-generations 2 --eval-steps 0"
    assert onelayer(f"{line} --learning_rate 1e-2 --output run")[0] == 0
    code, out, err = onelayer("stitch run --layers 0,2")
    assert (code, err) == (0, "")
    assert "stitched-00-02: gain" in out
    assert "stitched-00-02" in {row["name"] for row in profile_of(data / "run")["strategies"]}
    code, out, err = onelayer("vote run --k 2")
    assert (code, err) == (0, "")
    result = json.loads((data / "run/vote.json").read_text())
    assert {row["name"] for row in result["scores"]} >= {"vote", "self-consistency", "full"}
    for line, message in {
        "stitch run --layers 1": "at least two",
        "stitch run --layers best:9": "9",
        "vote run --k 1": "at least two voters",
        "vote nothing": "does not exist",
    }.items():
        code, _, err = onelayer(line)
        assert code == 2
        assert message in err


def test_a_stitched_model_is_the_union_of_its_deltas(onelayer: Command, data: Path) -> None:
    from safetensors.torch import load_file

    save_model(data / "m", layers=2)
    assert onelayer(f"{SCAN} --output run")[0] == 0
    assert onelayer("stitch run --layers 0-1")[0] == 0
    arms = data / "run/arms"
    union = load_file(arms / "layer-00/delta.safetensors") | load_file(arms / "layer-01/delta.safetensors")
    stitched = load_file(arms / "stitched-00-01/delta.safetensors")
    assert stitched.keys() == union.keys()
    assert all((stitched[name] == union[name]).all() for name in union)
    code, _, err = onelayer("vote run --k 2")
    assert code == 2
    assert "nothing can be voted on" in err


def test_halving_takes_the_decisions_that_a_full_scan_shows(onelayer: Command, data: Path) -> None:
    """Arms do not depend on their company, so a search can be replayed on the curves of a full scan."""
    from onelayer.commands import scan_phases as phases

    save_model(data / "m", layers=4)
    own = OWN.replace("--eval-steps 6", "--eval-steps 3")
    assert onelayer(f"scan --model m {own} --output whole")[0] == 0
    code, _, err = onelayer(f"scan --model m {own} --search halving --rungs 2 --output half")
    assert (code, err) == (0, "")

    def curve(layer: int) -> dict[int, float]:
        lines = (data / f"whole/arms/layer-{layer:02d}/metrics.jsonl").read_text().splitlines()
        return {r["step"] + 1: r["eval/score"] for r in map(json.loads, lines) if "eval/score" in r}

    alive, dropped = [0, 1, 2, 3], {}
    for rung in phases.rung_steps(12, 2):
        kept = phases.survivors({layer: curve(layer)[rung] for layer in alive})
        dropped |= {f"layer-{layer:02d}": rung for layer in alive if layer not in kept}
        alive = kept
    profile = profile_of(data / "half")
    assert profile["dropped"] == dropped
    assert [row["layer"] for row in profile["layers"]] == alive
    assert profile["partial"] is True
    for name in (f"layer-{alive[0]:02d}", "full"):
        ours, theirs = (data / run / "arms" / name / "delta.safetensors" for run in ("half", "whole"))
        assert ours.read_bytes() == theirs.read_bytes()


def test_a_paused_search_goes_on(onelayer: Command, data: Path) -> None:
    save_model(data / "m", layers=4)
    line = f"{SCAN} --search halving --rungs 2"
    assert onelayer(f"{line} --output straight")[0] == 0
    assert onelayer(f"{line} --output paused --stop-at 5")[0] == 0
    assert onelayer(f"{line} --output paused --resume")[0] == 0
    straight, paused = profile_of(data / "straight"), profile_of(data / "paused")
    assert straight == paused


def test_coarse_search_trains_around_the_best(onelayer: Command, data: Path) -> None:
    save_model(data / "m", layers=5)
    assert onelayer(f"{SCAN} --search coarse --stride 3 --output run")[0] == 0
    trained = {row["layer"] for row in profile_of(data / "run")["layers"]}
    assert {1, 4} < trained
    assert profile_of(data / "run")["partial"] is True or trained == set(range(5))


def test_the_learning_rate_is_chosen_before_any_layer(onelayer: Command, data: Path) -> None:
    save_model(data / "m", layers=2)
    line = f"{SCAN} --lr-check".replace("--learning_rate 1e-2", "--learning_rate auto:1e-5,1e-2")
    code, out, err = onelayer(f"{line} --strategy-k 1 --output auto")
    assert (code, err) == (0, "")
    assert "learning rate 0.01 for all arms" in out
    assert onelayer(f"{SCAN} --output fixed")[0] == 0
    for arm in ("full", "layer-00"):
        ours, theirs = (data / run / "arms" / arm / "delta.safetensors" for run in ("auto", "fixed"))
        assert ours.read_bytes() == theirs.read_bytes()
    assert "full-rate-1e-05" in names(data / "auto")
    assert {row["name"] for row in profile_of(data / "auto")["strategies"]} == {"layer-00-rate-x3", "layer-01-rate-x3"}
    for rates in ("auto:1e-5", "auto:1e-5,1e-5", "auto:a,b", "auto:-1,1"):
        code, _, err = onelayer(f"{SCAN} --learning_rate {rates} --output other")
        assert code == 2
        assert "learning_rate" in err


def test_two_seeds_are_one_arm(onelayer: Command, data: Path) -> None:
    save_model(data / "m", layers=2)
    assert onelayer(f"{SCAN} --seeds 2 --output run")[0] == 0
    profile = profile_of(data / "run")
    assert profile["seeds"] == 2
    assert profile["seed_sd"] is not None
    assert {"layer-00", "layer-00-seed1", "full-seed1"} <= names(data / "run")


def test_scores_measured_elsewhere_and_comparisons(onelayer: Command, data: Path) -> None:
    rows = ["setting,layer,gsm8k,math500", "Base,,40,20", "Full,,50,30"]
    rows += [f"Layer {k},{k},{40 + k},{20 + 2 * k}" for k in range(6)]
    (data / "scores.csv").write_text("\n".join(rows))
    code, out, err = onelayer("contribution scores.csv --score-sd 0.5 --output a")
    assert (code, err) == (0, "")
    assert profile_of(data / "a")["layers"][4]["contribution"] == pytest.approx(0.6)
    assert (data / "a/report.html").is_file()
    # Two categories of one and two benchmarks: the base is (30 + (40 + 20) / 2) / 2 = 30, not (40 + 20 + 30) / 3.
    wide = [rows[0] + ",mbpp", rows[1] + ",30", rows[2] + ",60", *(f"{row},45" for row in rows[3:])]
    (data / "wide.csv").write_text("\n".join(wide))
    code, _, err = onelayer("contribution wide.csv --categories 'Math=gsm8k,math500;Code=mbpp' --output all")
    assert (code, err) == (0, "")
    assert profile_of(data / "all")["base_score"] == pytest.approx(30)
    assert profile_of(data / "all")["full_score"] == pytest.approx(50)
    code, _, err = onelayer("contribution scores.csv --output a")
    assert code == 2
    assert "already exists" in err
    (data / "scores.csv").write_text("\n".join([*rows[:3], *reversed(rows[4:]), "Layer 0,0,43,21"]))
    assert onelayer("contribution scores.csv --output b")[0] == 0
    code, out, err = onelayer("compare a b --output both")
    assert (code, err) == (0, "")
    assert "Spearman" in out
    assert (data / "both/report.html").is_file()
    for line, message in {
        "compare a --output x": "at least two",
        "compare a nothing --output x": "does not exist",
        "contribution nothing.csv --output x": "nothing.csv",
        "contribution wide.csv --output x --categories Math": "write for example",
        "contribution wide.csv --output x --categories Math=gsm8k,math500": "mbpp",
        "contribution wide.csv --output x --categories 'A=gsm8k;B=gsm8k'": "two categories",
        "contribution scores.csv --output x --num-layers 3": "at least 6",
    }.items():
        code, _, err = onelayer(line)
        assert code == 2
        assert message in err
        assert not (data / "x").exists()
