"""The paper in small: what would run, that it resumes, and that each claim is judged as its rule says."""

import itertools
import json
import re
import shlex
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import matplotlib.pyplot as plt
import pytest
from rich.console import Console

from onelayer.commands.cli import main
from onelayer.commands.flags import build_config
from onelayer.commands.reproduction import claims, figures, page, rankings, running
from onelayer.commands.reproduction.results import Result, read_costs, read_results
from onelayer.commands.reproduction.running import Failed, Places, run_study
from onelayer.commands.reproduction.study import ALGORITHMS, FAMILIES, Base, Scale, Scan, Study, study_of
from onelayer.config.configs import ScanConfig
from onelayer.errors import RunStopped, UserError
from onelayer.judging.compare import Correlation
from onelayer.judging.contribution import Additivity
from onelayer.judging.profile import Profile

VERDICTS = ["tied with full", "partial", "nothing"]


def layer_row(layer: int, num_layers: int, c: float | None, verdict: str, half: float = 0.05) -> dict[str, Any]:
    return {
        "layer": layer,
        "depth": layer / (num_layers - 1),
        "score": 0.4 + 0.5 * (c or 0.0),
        "contribution": c,
        "ci_low": None if c is None else c - half,
        "ci_high": None if c is None else c + half,
        "verdict": verdict,
    }


def verdict_of(c: float) -> str:
    return "tied with full" if c > 0.9 else "partial" if c > 0.2 else "nothing"


def result(
    name: str,
    curve: Sequence[float],
    *,
    base: Base | None = None,
    algorithm: str = "grpo",
    arms: Sequence[dict[str, Any]] = (),
    seeds: Sequence[Sequence[float]] = (),
    vote: dict[str, Any] | None = None,
    **profile: Any,
) -> Result:
    scan = Scan(name, base or Base("qwen3-arithmetic", "qwen3", "arithmetic"), "math", algorithm)
    layers = [layer_row(k, len(curve), c, verdict_of(c)) for k, c in enumerate(curve)]
    made = Profile.model_validate(
        {
            "model": "m",
            "task": scan.base.task,
            "algorithm": algorithm,
            "num_layers": len(curve),
            "base_score": 0.4,
            "full_score": 0.9,
            "layers": layers,
            "ranking": list(range(len(curve))),
            "recommended": None,
            "refused": None,
            "versions": {"torch": "2"},
            "strategies": list(arms),
            **profile,
        }
    )
    return Result(scan, made, 1e-4, tuple(dict(enumerate(scores)) for scores in seeds), vote)


def arm(name: str, plan: str, c: float, verdict: str, half: float = 0.05) -> dict[str, Any]:
    row = layer_row(0, 2, c, verdict, half)
    return {"name": name, "plan": plan, **{key: row[key] for key in row if key not in ("layer", "depth")}}


# The study ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("scale", get_args(Scale))
def test_every_scan_of_the_study_is_a_valid_command(scale: Scale, tmp_path: Path) -> None:
    study = study_of(scale)
    assert len({scan.name for scan in study.scans}) == len(study.scans)
    cells = {(scan.base.family, scan.domain, scan.algorithm) for scan in study.scans if scan.part == "main"}
    assert cells == {(f, d, a) for f in FAMILIES for d, names in ALGORITHMS.items() for a in names}  # type: ignore[comparison-overlap]
    for scan in study.scans:
        pieces = scan.arguments(tmp_path / "bases", tmp_path / "scans")[1:]
        flags: dict[str, Any] = {}
        for piece in pieces:
            if piece.startswith("--"):
                flags[key := piece[2:].replace("-", "_")] = True
            else:
                flags[key] = piece
        config = build_config(ScanConfig, flags, None, None)
        assert config.layers == "all" and config.algorithm == scan.algorithm
        assert config.output == str(tmp_path / "scans" / scan.name)
        assert config.model.startswith("bundled:") or Path(config.model).name in {base.name for base in study.bases}


def test_the_command_of_a_scan() -> None:
    scan = next(scan for scan in study_of("tiny").scans if scan.name == "agentic-qwen3-grpo")
    assert scan.command(Path("b"), Path("s")) == (
        "onelayer scan --task household --model bundled:qwen3-household --algorithm grpo "
        "--learning-rate auto:1e-4,3e-4 --seeds 1 --output s/agentic-qwen3-grpo"
    )


def test_the_first_run_on_real_weights_is_a_valid_command() -> None:
    text = (Path(__file__).parents[2] / "docs" / "first-real-run.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^    onelayer scan (.*)$", text, re.MULTILINE)
    pieces = shlex.split(line)
    flags = {name[2:].replace("-", "_"): value for name, value in zip(pieces[::2], pieces[1::2], strict=True)}
    config = build_config(ScanConfig, flags, None, flags.pop("preset"))
    assert (config.model, config.layers, config.algorithm) == ("Qwen/Qwen3-1.7B-Base", "10,24", "grpo")
    assert config.train_batch_size % config.mini_batch_size == 0


# Running it -----------------------------------------------------------------------------------------------------------
SHORT = {"steps": 1, "train-batch-size": 2, "layers": "0,7", "learning-rate": 1e-4}


def test_a_study_runs_resumes_and_says_what_failed(tmp_path: Path) -> None:
    made = Base("made", "qwen2.5", "arithmetic", steps=1, layers=8)
    folder = tmp_path / "study"
    study = Study(
        "tiny",
        (
            Scan("good", made, "math", "grpo", SHORT, voters=2),
            Scan("wrong", Base("qwen3-arithmetic", "qwen3", "arithmetic"), "math", "grpo", {**SHORT, "steps": 0}),
        ),
    )
    with pytest.raises(RunStopped, match=r"1 of 3 parts failed, wrong: error: .*steps.*go on with --resume"):
        run_study(study, folder, 2, Console(quiet=True), resume=False)
    places = Places(folder)
    assert places.base_is_made(made) and places.is_scanned(study.scans[0]) and not places.is_scanned(study.scans[1])
    assert set(read_results(study, folder)) == {"good"}
    before = read_costs(folder)
    assert before["good"].processor > 0

    with pytest.raises(RunStopped, match="1 of 1 parts failed"):
        run_study(study, folder, 2, Console(quiet=True), resume=True)
    with places.times.open("a") as times:
        times.write('{"name": "good", "wa\n')  # what a killed process leaves
    after = read_costs(folder)
    assert {name for name in after if after[name] != before[name]} == {"wrong"}

    with pytest.raises(UserError, match="not an empty folder"):
        run_study(study, folder, 1, Console(quiet=True), resume=False)
    with pytest.raises(UserError, match="another study, with other bases, scans"):
        run_study(study_of("tiny"), folder, 1, Console(quiet=True), resume=True)
    with pytest.raises(UserError, match=r"no study\.json"):
        run_study(study, tmp_path, 1, Console(quiet=True), resume=True)

    written = page.write_page(study, folder).read_text(encoding="utf-8")
    assert "**Not done yet: wrong.**" in written
    assert "onelayer scan --task arithmetic --model DIR/bases/made" in written


def test_stopping_ends_the_processes(tmp_path: Path) -> None:
    places = Places(tmp_path)
    places.logs.mkdir()
    processes = running._Processes(places)
    failures: list[Failed] = []

    def sleep() -> None:
        try:
            processes.run("sleeper", ["timeit", "-n", "1", "import time; time.sleep(600)"])
        except Failed as failure:
            failures.append(failure)

    thread = threading.Thread(target=sleep)
    thread.start()
    while not processes.names:
        time.sleep(0.01)
    processes.stop()
    thread.join(10)
    assert not thread.is_alive() and len(failures) == 1
    assert json.loads(places.times.read_text())["code"] != 0
    with pytest.raises(Failed, match="stopped"):
        processes.run("late", ["this"])


# The claims -----------------------------------------------------------------------------------------------------------
def test_the_majority_is_more_than_half() -> None:
    assert claims.majority(["holds", "holds", "cannot tell"]) == "holds"
    assert claims.majority(["holds", "does not hold"]) == "cannot tell"
    assert claims.majority(["does not hold"]) == "does not hold"
    assert claims.majority([]) == "cannot tell"


def test_one_layer_is_enough() -> None:
    assert claims.one_layer_is_enough([result("a", [0.5, 0.95, 0.1])]).judgement == "holds"
    assert claims.one_layer_is_enough([result("a", [0.5, 0.6, 0.1])]).judgement == "does not hold"
    open_one = result("a", [0.5, 0.6, 0.1])
    rows = [*open_one.profile.layers[:2], open_one.profile.layers[2].model_copy(update={"verdict": "undecided"})]
    undecided = Result(open_one.scan, open_one.profile.model_copy(update={"layers": rows}), 1e-4, ())
    claim = claims.one_layer_is_enough([undecided])
    assert claim.judgement == "cannot tell"
    assert claim.measured == ("a: best C 0.60 (layer 1), 0 match full",)


def test_thirds_by_hand() -> None:
    # Six layers, two in each third; the error of a layer with half width .0588 is .03, of the mean of two .03 / sqrt 2.
    six = result("a", [0.2, 0.4, 0.9, 0.7, 0.1, 0.3])
    rows = [
        row.model_copy(update={"ci_low": row.contribution - 0.0588, "ci_high": row.contribution + 0.0588})
        for row in six.judged
    ]  # type: ignore[operator]
    six = Result(six.scan, six.profile.model_copy(update={"layers": rows}), 1e-4, ())
    means = claims.thirds(six)
    assert [value for value, _ in means.values()] == pytest.approx([0.3, 0.8, 0.2])
    assert [error for _, error in means.values()] == pytest.approx([0.03 / 2**0.5] * 3)
    # Of eight layers the thirds hold 3, 2 and 3; of 28 9, 10 and 9, as the paper's do.
    for count, sizes in ((8, [3, 2, 3]), (28, [9, 10, 9])):
        curve = [0.01 * k for k in range(count)]
        bounds = [sum(sizes[:i]) for i in range(4)]
        expected = [sum(curve[a:b]) / (b - a) for a, b in itertools.pairwise(bounds)]
        assert [value for value, _ in claims.thirds(result("a", curve)).values()] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("curve", "judgement"),
    [([0.2, 0.9, 0.3], "holds"), ([0.9, 0.5, 0.3], "does not hold"), ([0.5, 0.52, 0.3], "cannot tell")],
)
def test_the_middle(curve: list[float], judgement: str) -> None:
    assert claims.middle_layers_win([result("a", curve)]).judgement == judgement


def test_what_two_scans_differ_in() -> None:
    boxed = Base("qwen3-arithmetic-boxed", "qwen3", "arithmetic-boxed")
    other = Base("qwen2.5-arithmetic", "qwen2.5", "arithmetic")
    curve = [0.9, 0.5, 0.3, 0.1]
    one = result("one", curve, seeds=[[4, 3, 2, 1], [1, 2, 3, 4]])
    all_of_them = [
        one,
        result("dr", curve[::-1], algorithm="dr_grpo"),
        result("boxed", curve, base=boxed),
        result("other", curve, base=other),
        result("other dr", curve, base=other, algorithm="dr_grpo"),
    ]
    # Another rate is compared with the scan of the same model and algorithm alone, and only if it is another one.
    for name, rate in (("faster", 3e-4), ("the same", 1e-4)):
        alike = result(name, curve)
        all_of_them.append(replace(alike, scan=replace(alike.scan, part="rate"), learning_rate=rate))
    found = {(pair.first, pair.second): (pair.group, pair.correlation.value) for pair in rankings.related(all_of_them)}
    assert found == {
        ("one seed 0", "one seed 1"): (rankings.SEED, pytest.approx(-1)),
        ("one", "faster"): (rankings.RATE, pytest.approx(1)),
        ("one", "dr"): (rankings.ALGORITHM, pytest.approx(-1)),
        ("one", "boxed"): (rankings.DATA, pytest.approx(1)),
        ("one", "other"): (rankings.FAMILY, pytest.approx(1)),
        ("other", "other dr"): (rankings.ALGORITHM, pytest.approx(1)),
    }
    assert rankings.spearman({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}) == Correlation(None, None, None)


@pytest.mark.parametrize(
    ("values", "judgement"), [([0.6, 0.5], "holds"), ([0.1, 0.2], "does not hold"), ([0.4], "cannot tell")]
)
def test_rankings_agree(values: list[float], judgement: str) -> None:
    pairs = [rankings.Related(rankings.DATA, "a", "b", Correlation(value, None, None)) for value in values]
    assert claims.rankings_agree(rankings.DATA, "paper", pairs).judgement == judgement
    assert claims.rankings_agree(rankings.DATA, "paper", []).scans == ()


def test_strategies_follow_their_verdicts() -> None:
    arms = [
        arm("only-best-2", "0,1", 1.02, "tied with full"),
        arm("boost-best-2", "all,0*2,1*2", 1.2, "better than full"),
        arm("mid-2", "1,2", 0.6, "partial"),
        arm("only-worst-2", "2,3", 0.3, "partial"),
        arm("boost-worst-2", "all,2*2,3*2", 1.0, "tied with full"),
    ]
    judged = [claims.strategy(asked, [result("a", [0.9, 0.8, 0.2, 0.1], arms=arms)]) for asked in claims.STRATEGIES]
    assert [claim.judgement for claim in judged] == ["holds", "holds", "does not hold", "holds", "does not hold"]
    assert "a boost-best-2 (all,0*2,1*2): C 1.20, `better than full`" in judged[1].measured
    assert claims.strategy(claims.STRATEGIES[0], [result("a", [0.9, 0.8, 0.2])]).scans == ()


@pytest.mark.parametrize(
    ("against_full", "against_samples", "judgement"),
    [
        ((0.01, 0.1), (0.02, 0.1), "holds"),
        ((0.01, 0.1), (-0.1, -0.02), "does not hold"),
        ((-0.1, 0.1), (0.1, 0.2), "cannot tell"),
    ],
)
def test_the_vote(against_full: tuple[float, float], against_samples: tuple[float, float], judgement: str) -> None:
    vote = {
        "scores": [{"name": "vote", "score": 0.9}, {"name": "full", "score": 0.8}],
        "differences": [
            {"other": "full", "difference": 0.1, "ci": against_full},
            {"other": "self-consistency", "difference": 0.1, "ci": against_samples},
            {"other": "layer-00", "difference": -0.5, "ci": (-0.6, -0.4)},
        ],
        "jaccard": 0.5,
    }
    assert claims.vote_wins([result("a", [0.9, 0.8, 0.2], vote=vote)]).judgement == judgement


@pytest.mark.parametrize(("shifted", "judgement"), [(0.52, "holds"), (0.9, "does not hold"), (0.56, "cannot tell")])
def test_three_times_the_rate(shifted: float, judgement: str) -> None:
    arms = [arm("layer-01-rate-x3", "1*3", shifted, "partial")]
    claim = claims.rate_does_not_matter([result("a", [0.9, 0.5, 0.2], arms=arms)])
    assert claim.judgement == judgement
    assert claim.measured == (f"a: layer 1 0.50 to {shifted:.2f}",)


def test_norms_additivity_and_necessity() -> None:
    pair = Additivity("pair-00-01", ("layer-00", "layer-01"), 0.3, 0.5, -0.2, (-0.3, -0.1), 0.001)
    arms = [arm(f"without-0{k}", f"all,{k}*0", 0.9, "partial" if k == 0 else "tied with full") for k in range(3)]
    predictors = {"change_norm": {"value": 0.9, "ci": None, "p_value": 0.01}}
    one = result("a", [0.9, 0.5, 0.2], arms=arms, pairs=[pair], predictors=predictors)
    assert claims.norm_does_not_predict([one]).judgement == "does not hold"
    assert claims.layers_add_up([one]).judgement == "does not hold"
    necessary = claims.layers_are_necessary([one])
    assert necessary.judgement == "holds"
    assert "2 `tied with full`, 1 `partial`" in necessary.measured[0]


def test_the_page_names_every_claim_and_command(tmp_path: Path) -> None:
    other = Base("qwen2.5-arithmetic", "qwen2.5", "arithmetic")
    arms = [arm("only-best-2", "0,1", 1.02, "tied with full")]
    results = {
        "math-qwen3-grpo": result("math-qwen3-grpo", [0.9, 0.95, 0.3], arms=arms),
        "math-qwen2.5-grpo": result("math-qwen2.5-grpo", [0.8, 0.95, 0.3], base=other),
    }
    deeper = result("deeper", [0.2, 0.9, 0.3])
    results["deeper"] = replace(deeper, scan=replace(deeper.scan, part="depth"))
    pictures = page.draw_all(results, tmp_path)
    assert set(pictures) == {"curves", "matrix", "strategies", "depth"}
    bytes_before = pictures["matrix"].read_bytes()
    assert page.draw_all(results, tmp_path)["matrix"].read_bytes() == bytes_before
    judged = claims.all_claims(results)
    study = Study("tiny", tuple(result.scan for result in results.values()))
    text = page.render(
        study, results, judged, {}, {name: path.relative_to(tmp_path) for name, path in pictures.items()}
    )
    for claim in judged:
        assert f"### {claim.title}" in text
    for scan in study.scans:
        assert scan.command(page.SHOWN_BASES, page.SHOWN_SCANS) in text
    assert len(re.findall(r"^!\[", text, re.MULTILINE)) == 4
    # It is in its own section and in no claim.
    assert "- deeper: mean C of the lower third 0.20, middle third 0.90, upper third 0.30" in text.split("When does")[1]
    assert not any("deeper" in claim.scans for claim in judged)
    assert sys.version.split()[0] in text


def test_a_correlation_of_nothing_is_written_into_its_cell() -> None:
    curves = ([0.1, 0.2, 0.3, 0.4], [0.3, 0.1, 0.4, 0.2])  # rank differences 2, 1, 1, 2: 1 - 6 * 10 / 60 = 0
    figure = figures.matrix([result(name, curve) for name, curve in zip("ab", curves, strict=True)])
    assert [text.get_text() for text in figure.axes[0].texts] == ["1.00", "0.00", "0.00", "1.00"]
    plt.close(figure)


def test_the_command_judges_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def reproduce(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["onelayer", "reproduce", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2
        return capsys.readouterr().err

    assert "holds no finished scan of the tiny reproduction" in reproduce("--output", str(tmp_path), "--page-only")
    (tmp_path / "something").touch()
    assert "is not an empty folder" in reproduce("--output", str(tmp_path))
    assert "holds no reproduction that could be resumed" in reproduce("--output", str(tmp_path), "--resume")
    assert list(tmp_path.iterdir()) == [tmp_path / "something"]
