"""``onelayer eval``: the estimates by hand and by counting, deltas against merged checkpoints, the harness's results."""

import json
import math
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from onelayer.arms.arm import Arm, OptimizerSettings
from onelayer.arms.delta_files import merge as merge_delta
from onelayer.arms.delta_files import write_delta
from onelayer.errors import UserError
from onelayer.evaluation.estimates import (
    MeanEstimate,
    category_averages,
    estimate_benchmark,
    mean_over_problems,
    pass_at_k,
)
from onelayer.evaluation.harness import HarnessTask, parse_tasks, read_samples
from onelayer.judging.contribution import analyse
from onelayer.judging.measured import pair_arms
from onelayer.models.load import load_base
from onelayer.storage.scores import ArmScores, read_scores
from tests.conftest import character_tokenizer
from tests.support.evaluation import BOTH, Command, small_scan


def scores_of(rewards: list[list[float]], truncated: list[list[bool]] | None = None) -> ArmScores:
    """Scores of problems in a mixed order, one list of samples each."""
    flat = [(problem, sample, r) for problem, row in enumerate(rewards) for sample, r in enumerate(row)]
    cut = {(p, s): truncated[p][s] if truncated else False for p, s, _ in flat}
    flat.sort(key=lambda entry: (entry[1], -entry[0]))
    return ArmScores(
        benchmark=["b"] * len(flat),
        problem=np.array([10 * p for p, _, _ in flat]),
        sample=np.array([s for _, s, _ in flat]),
        reward=np.array([r for _, _, r in flat]),
        length=np.array([p + 1 for p, _, _ in flat]),
        truncated=np.array([cut[p, s] for p, s, _ in flat]),
    )


def test_pass_at_k_by_hand() -> None:
    # Two of four are right: of the six pairs, one holds no right one.
    assert pass_at_k(4, 2, 1) == 0.5
    assert pass_at_k(4, 2, 2) == pytest.approx(5 / 6)
    assert pass_at_k(4, 2, 3) == pass_at_k(4, 4, 1) == 1.0
    assert pass_at_k(5, 0, 5) == 0.0
    assert pass_at_k(200, 3, 100) == pytest.approx(1 - math.comb(197, 100) / math.comb(200, 100))
    for k in (0, 5):
        with pytest.raises(ValueError, match=f"pass@{k}"):
            pass_at_k(4, 2, k)


@given(st.lists(st.booleans(), min_size=1, max_size=7), st.data())
def test_pass_at_k_counts_all_choices(right: list[bool], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(right)))
    choices = list(combinations(right, k))
    assert pass_at_k(len(right), sum(right), k) == pytest.approx(sum(map(any, choices)) / len(choices))


def test_estimates_by_hand() -> None:
    cut = [[True, False], [False, False], [True, True]]
    found = estimate_benchmark(scores_of([[1, 0], [0, 0], [1, 1]], cut))
    assert (found.problems, found.num_samples) == (3, 2)
    # Means .5, 0, 1: standard deviation .5 over three problems.
    assert found.avg_at_k == MeanEstimate(0.5, pytest.approx(0.5 / math.sqrt(3)))
    assert found.pass_at[1] == found.avg_at_k
    assert found.pass_at[2] == MeanEstimate(pytest.approx(2 / 3), pytest.approx(math.sqrt(1 / 3) / math.sqrt(3)))
    assert found.truncation_rate == MeanEstimate(pytest.approx(0.5), pytest.approx(0.5 / math.sqrt(3)))
    assert found.mean_length.value == 2.0
    assert list(estimate_benchmark(scores_of([[1.0] * 12] * 2)).pass_at) == [1, 2, 4, 8, 12]
    assert mean_over_problems([0.25]) == MeanEstimate(0.25, None)
    with pytest.raises(ValueError, match="how many completions"):
        estimate_benchmark(scores_of([[1, 0], [1]]))


def test_the_standard_error_is_the_spread_of_repeated_benchmarks() -> None:
    rng = np.random.default_rng(0)
    means, errors = [], []
    for _ in range(400):
        chances = rng.beta(1, 1, size=40)
        estimate = estimate_benchmark(scores_of([list(rng.random(4) < chance) for chance in chances])).avg_at_k
        means.append(estimate.value)
        errors.append(estimate.standard_error)
    assert np.std(means) == pytest.approx(np.mean(errors), rel=0.1)


def test_category_averages_by_hand() -> None:
    categories = {"a": "Math", "b": "Math", "c": "Code"}
    assert category_averages({"a": 0.2, "b": 0.4, "c": 1.0}, categories) == {"Math": pytest.approx(0.3), "Code": 1.0}


def save_delta(folder: Path, layer: int) -> Path:
    """A delta of one layer, changed at random, beside the merged checkpoint that it stands for."""
    base = load_base(str(folder / "m"))
    rates = {name: 1.0 for name, part in base.parts.items() if part.layer == layer}
    arm = Arm.create(base, rates, OptimizerSettings(), plan=str(layer), layer=layer)
    generator = torch.Generator().manual_seed(layer)
    with torch.no_grad():
        for master in arm.masters.values():
            master.add_(torch.randn(master.shape, generator=generator) * 0.3)
    (folder / f"delta-{layer}").mkdir()
    write_delta(folder / f"delta-{layer}/delta.safetensors", arm.delta(), base, arm.plan)
    merge_delta(arm.masters, base, folder / f"merged-{layer}")
    return folder / f"delta-{layer}"


def test_a_delta_scores_like_its_merged_checkpoint_without_one_being_written(onelayer: Command, tmp_path: Path) -> None:
    save_delta(tmp_path, 1)
    code, out, err = onelayer(f"eval --delta delta-1 {BOTH} --output delta")
    assert (code, err) == (0, "")
    assert onelayer(f"eval --model merged-1 {BOTH} --output merged")[0] == 0
    assert onelayer(f"eval --model m {BOTH} --output base")[0] == 0
    delta, merged, base = (read_scores(tmp_path / name / "scores.parquet") for name in ("delta", "merged", "base"))
    assert {path.name for path in (tmp_path / "delta").iterdir()} == {
        "scores.parquet",
        "completions.jsonl",
        "results.json",
        "results.copy.json",
    }
    assert (delta.reward == merged.reward).all()
    assert (delta.length == merged.length).all()
    assert (delta.length != base.length).any()
    assert len(delta.reward) == 9 * 8 + 5
    assert 0 < delta.reward[:72].mean() < 1

    results = json.loads((tmp_path / "delta/results.json").read_text())
    assert results["plan"] == "1"
    digits, greedy = results["benchmarks"]
    assert (digits["num_samples"], digits["temperature"], greedy["num_samples"], greedy["temperature"]) == (8, 1, 1, 0)
    for row in (digits, greedy):
        assert row["prompt"] == "{{ problem }}="
        assert row["answer_rule"] == "last_number"
        assert sum(row["reasons"].values()) == row["problems"] * row["num_samples"]
    assert digits["avg_at_k"]["value"] == pytest.approx(delta.reward[:72].mean())
    assert set(digits["pass_at"]) == {"1", "2", "4", "8"}
    assert results["categories"] == {"Math": digits["avg_at_k"]["value"], "Code": greedy["avg_at_k"]["value"]}
    assert f"{100 * digits['avg_at_k']['value']:.1f} ± {100 * digits['avg_at_k']['standard_error']:.1f}" in out

    rows = [json.loads(line) for line in (tmp_path / "delta/completions.jsonl").read_text().splitlines()]
    assert [row["reward"] for row in rows] == delta.reward.tolist()
    assert not any("#" in row["completion"] for row in rows if row["benchmark"] == "digits")


def test_a_benchmark_does_not_feel_the_others(onelayer: Command, tmp_path: Path) -> None:
    assert onelayer(f"eval --model m {BOTH} --output both")[0] == 0
    alone = "--benchmarks digits.yaml --data-files digits=digits.jsonl"
    assert onelayer(f"eval --model m {alone} --output alone --max-rows 16")[0] == 0
    both, one = (read_scores(tmp_path / name / "scores.parquet") for name in ("both", "alone"))
    assert both.reward[:72].tolist() == one.reward.tolist()
    assert both.length[:72].tolist() == one.length.tolist()


def test_options_replace_what_the_benchmark_says(onelayer: Command, tmp_path: Path) -> None:
    line = f"eval --model m {BOTH} --limit 2 --eval-num-samples 3 --eval-temperature 0.5 --max-completion-length 5"
    assert onelayer(f"{line} --output out")[0] == 0
    results = json.loads((tmp_path / "out/results.json").read_text())
    for row in results["benchmarks"]:
        assert [row[key] for key in ("problems", "num_samples", "temperature", "max_completion_length")] == [
            2,
            3,
            0.5,
            5,
        ]


def test_c_all_from_evaluated_arms(onelayer: Command, tmp_path: Path) -> None:
    """Contributions over the mean of category averages, from the files that eval writes."""
    for layer in (0, 1):
        save_delta(tmp_path, layer)
    for name, source in (("base", "--model m"), ("full", "--delta delta-0"), ("layer-01", "--delta delta-1")):
        assert onelayer(f"eval {source} {BOTH} --output evals/{name}")[0] == 0
    results = {name: json.loads((tmp_path / f"evals/{name}/results.json").read_text()) for name in ("base", "full")}
    categories = {row["name"]: row["category"] for row in results["base"]["benchmarks"]}
    arms = {name: [read_scores(tmp_path / f"evals/{name}/scores.parquet").problem_means()] for name in ("base", "full")}
    arms["layer-01"] = [read_scores(tmp_path / "evals/layer-01/scores.parquet").problem_means()]
    contribution = analyse(pair_arms(arms, categories), {1: "layer-01"}, num_layers=3)
    for name, score in (("base", contribution.base_score), ("full", contribution.full_score)):
        assert score == pytest.approx(np.mean(list(results[name]["categories"].values())))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("eval --model m", "give --benchmarks or --harness"),
        ("eval --benchmarks gsm8k", "give --model, --delta or --scan"),
        ("eval --model m --benchmarks gsm8", "there is no benchmark 'gsm8'; did you mean gsm8k?"),
        ("eval --model m --benchmarks numinamath", "'numinamath' is no benchmark"),
        ("eval --model m --benchmarks gsm8k,gsm8k", "'gsm8k' is named twice"),
        ("eval --model m --benchmarks digits.yaml --data-files digits=nothing.jsonl", "is not there"),
        ("eval --model m --benchmarks digits.yaml --data-files digts=digits.jsonl", "'digts' is not used here"),
        ("eval --model m --benchmarks gsm8k --data-files gsm8k=digits.jsonl", "the row has q, a"),
        ("eval --delta m --benchmarks gsm8k", "cannot be read"),
        (f"eval --model m {BOTH} --max-completion-length 200", "lower max_completion_length"),
        (f"eval --model m {BOTH} --output m", "not an empty folder"),
        ("eval --model m --harness arc_easy", "write arc_easy:Math"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(onelayer: Command, line: str, message: str) -> None:
    code, _, err = onelayer(line)
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not Path("runs").exists()


def test_harness_tasks_have_categories() -> None:
    found = parse_tasks("gpqa_diamond_zeroshot, mmlu_pro,ceval-valid,ifeval,mgsm_direct_en, arc_easy:Reasoning")
    assert [task.category for task in found] == ["Reasoning", "Reasoning", *["Language"] * 3, "Reasoning"]


def sample(doc: int, filter_name: str, metrics: dict[str, Any], reply: str | None = None) -> dict[str, Any]:
    """One logged sample, with the keys that lm-eval 0.4.13 writes."""
    arguments: dict[str, Any] = {"arg_0": "Q"}
    if reply is not None:
        arguments["arg_1"] = {"until": ["\n"], "max_gen_toks": 4}
    return {
        "doc_id": doc,
        "filter": filter_name,
        "metrics": list(metrics),
        "arguments": {"gen_args_0": arguments},
        "resps": [[reply]] if reply is not None else [[(-1.0, False)]],
        **metrics,
    }


def test_recorded_harness_results_become_scores() -> None:
    results = {
        "group_subtasks": {"group": ["part_a", "part_b"], "part_a": []},
        "samples": {
            "part_a": [
                sample(1, "strict", {"exact_match": 1.0}, "12345"),
                sample(0, "strict", {"exact_match": 0.0}, "12"),
                sample(0, "loose", {"exact_match": 1.0}, "12"),
                sample(1, "loose", {"exact_match": 1.0}, "12345"),
            ],
            "part_b": [sample(0, "strict", {"exact_match": 1.0}, "1")],
            "choice": [sample(0, "none", {"acc": True, "acc_norm": False})],
            "several": [sample(0, "none", {"inst_level": [True, False]})],
        },
    }
    found = read_samples(HarnessTask("group", "Language"), results, character_tokenizer())
    assert (found.metric, found.filter) == ("exact_match", "strict")
    assert found.scores.benchmark == ["group"] * 3
    assert found.scores.problem.tolist() == [0, 1, 2]
    assert found.scores.reward.tolist() == [0.0, 1.0, 1.0]
    assert found.scores.length.tolist() == [2, 5, 1]
    assert found.scores.truncated.tolist() == [False, True, False]
    choice = read_samples(HarnessTask("choice", "Reasoning"), results, character_tokenizer())
    assert (choice.metric, choice.scores.reward.tolist(), choice.scores.length.tolist()) == ("acc", [1.0], [0])
    with pytest.raises(UserError, match="no single number 'inst_level'"):
        read_samples(HarnessTask("several", "Language"), results, character_tokenizer())
    with pytest.raises(UserError, match="no samples of task 'none'"):
        read_samples(HarnessTask("none", "Language"), results, character_tokenizer())


def test_the_real_harness_on_a_local_task(onelayer: Command, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="the harness extra is not installed")
    (tmp_path / "tasks").mkdir()
    task = {
        "task": "own_sums",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "digits.jsonl")}},
        "test_split": "test",
        "doc_to_text": "{{q}}=",
        "doc_to_target": "{{a}}",
        "output_type": "generate_until",
        "generation_kwargs": {"until": ["#"], "max_gen_toks": 6},
        "metric_list": [{"metric": "exact_match"}],
    }
    (tmp_path / "tasks/own_sums.yaml").write_text(yaml.safe_dump(task))
    save_delta(tmp_path, 1)
    line = f"eval --delta delta-1 {BOTH} --harness own_sums:Reasoning --harness-tasks tasks --limit 4 --output out"
    code, _, err = onelayer(line)
    assert code == 0, err
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert [row["name"] for row in results["benchmarks"]] == ["digits", "greedy", "own_sums"]
    assert results["benchmarks"][2]["metric"] == "exact_match"
    assert results["benchmarks"][2]["problems"] == 4
    assert set(results["categories"]) == {"Math", "Code", "Reasoning"}
    assert read_scores(tmp_path / "out/scores.parquet").benchmark[-4:] == ["own_sums"] * 4
    code, _, err = onelayer("eval --model m --harness nothing_like_it:Math --output none")
    assert code == 2
    assert "no task 'nothing_like_it'" in err


def test_without_the_harness_its_install_command_is_named(onelayer: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    code, _, err = onelayer("eval --model m --harness ifeval")
    assert code == 2
    assert "pip install 'onelayer[harness]'" in err


def test_a_scan_is_judged_on_benchmarks(onelayer: Command, tmp_path: Path) -> None:
    small_scan(onelayer, tmp_path)
    code, out, err = onelayer(f"eval --scan scan {BOTH} --output judged")
    assert (code, err) == (0, "")
    assert "C is C_all" in out
    profile = json.loads((tmp_path / "judged/profile.json").read_text())
    assert [row["layer"] for row in profile["layers"]] == [0, 1]
    means = {}
    for arm in ("base", "full", "layer-00", "layer-01"):
        scores = read_scores(tmp_path / "judged/arms" / arm / "scores.parquet")
        names = np.array(scores.benchmark)
        means[arm] = np.mean([scores.reward[names == name].mean() for name in ("digits", "greedy")])
    assert profile["base_score"] == pytest.approx(means["base"])
    assert profile["full_score"] == pytest.approx(means["full"])
    assert [row["score"] for row in profile["layers"]] == pytest.approx([means["layer-00"], means["layer-01"]])
    # The same arm through eval alone, and the same profile again from what is stored.
    assert onelayer(f"eval --delta scan/arms/layer-01 {BOTH} --output alone")[0] == 0
    alone = read_scores(tmp_path / "alone/scores.parquet")
    assert (alone.reward == read_scores(tmp_path / "judged/arms/layer-01/scores.parquet").reward).all()
    assert onelayer("report judged")[0] == 0
    assert json.loads((tmp_path / "judged/profile.json").read_text()) == profile
    assert (tmp_path / "judged/report.html").is_file()
    # What is done is not done again.
    before = (tmp_path / "judged/arms/full/completions.jsonl").stat().st_mtime_ns
    assert onelayer(f"eval --scan scan {BOTH} --output judged --resume")[0] == 0
    assert (tmp_path / "judged/arms/full/completions.jsonl").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--scan nowhere --benchmarks digits.yaml", "not the folder of a scan"),
        ("--scan m --delta m --benchmarks digits.yaml", "either --delta or --scan"),
        ("--scan m", "give --benchmarks or --harness"),
    ],
)
def test_a_scan_that_cannot_be_judged(onelayer: Command, tmp_path: Path, line: str, said: str) -> None:
    code, _, err = onelayer(f"eval {line} --output out")
    assert code == 2 and said in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()
