"""The loop: what it computes, that it does not depend on its schedule, and that it stops when it should."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from onelayer.arms.spec import create_arm, spec_of
from onelayer.errors import RunStopped, UserError
from onelayer.models.base import BaseModel
from onelayer.runs.inputs import load_splits
from onelayer.training.loop import run_steps
from onelayer.training.prompts import drawn_prompts
from onelayer.training.rollout import collect, evaluate
from onelayer.training.update import update
from tests.conftest import DigitTask
from tests.support.runs import Settings, config_of, delta_bytes, run_in, training_of


def test_an_arm_learns(base: BaseModel, tmp_path: Path) -> None:
    folder = run_in(tmp_path / "run", base, ["all"], steps=25)
    score = {arm: json.loads((folder / "arms" / arm / "arm.json").read_text())["score"] for arm in ("base", "full")}
    assert score["full"] > score["base"] + 0.2
    records = [json.loads(line) for line in (folder / "arms/full/metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(25))
    expected = {"reward", "reward_std", "frac_reward_zero_std", "loss", "grad_norm", "entropy", "learning_rate"}
    expected |= {"completions/mean_length", "completions/clipped_ratio", "clip_ratio/region_mean", "num_tokens"}
    assert expected <= records[0].keys()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "changes", [{}, {"beta": 0.04, "mini_batch_size": 2, "num_iterations": 2, "loss_type": "dapo"}]
)
def test_alone_in_a_set_and_continued_are_the_same_bytes(
    base_of: Callable[..., BaseModel], tmp_path: Path, threads: int, changes: Settings
) -> None:
    base = base_of("qwen3", tied=False)
    changes = {**changes, "threads": threads}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = run_in(tmp_path / "together", base, ["all", "0", "2", "mid:2.mlp"], **changes)
        alone = run_in(tmp_path / "alone", base, ["2"], **changes)
        one_by_one = run_in(tmp_path / "sets", base, ["all", "0", "2", "mid:2.mlp"], arms_per_set=1, **changes)
        stopped = run_in(tmp_path / "stopped", base, ["0", "2"], stop_at=3, **changes)
        assert not (stopped / "arms/layer-02/arm.json").exists()
        run_in(stopped, base, ["0", "2"], resume=True, **changes)
    finally:
        torch.set_num_threads(before)
    for other in (alone, one_by_one, stopped):
        for file in ("delta.safetensors", "scores.parquet"):
            assert (other / "arms/layer-02" / file).read_bytes() == (together / "arms/layer-02" / file).read_bytes()
    assert delta_bytes(one_by_one, "full") == delta_bytes(together, "full")
    assert delta_bytes(stopped, "layer-00") == delta_bytes(together, "layer-00")
    steps = [json.loads(line)["step"] for line in (stopped / "arms/layer-02/metrics.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2, 3]
    assert not (stopped / "state").exists()


@pytest.mark.parametrize("tied", [True, False])
def test_all_spelled_out_is_all(base_of: Callable[..., BaseModel], tmp_path: Path, tied: bool) -> None:
    base = base_of(tied=tied)
    short = run_in(tmp_path / "short", base, ["all"])
    long = run_in(tmp_path / "long", base, ["head,final_norm,0-3,embed"])

    def tensors(folder: Path) -> bytes:
        raw = delta_bytes(folder, "full")
        return raw[8 + int.from_bytes(raw[:8], "little") :]  # the header names the plan as it was written

    assert tensors(short) == tensors(long)


def test_seeds_differ_and_share_their_pad_width(base: BaseModel, tmp_path: Path) -> None:
    both = run_in(tmp_path / "both", base, ["1"], seeds=(0, 1))
    assert delta_bytes(both, "layer-01") != delta_bytes(both, "layer-01-seed1")
    config = config_of()
    training = training_of(base, config, (0, 1))
    widths = [training_of(base, config, (seed,)).width(2) for seed in (0, 1)]
    assert training.width(2) == max(widths)


def test_prompts_of_a_step_cover_every_epoch_once() -> None:
    drawn = [index for step in range(9) for index in drawn_prompts(12, 4, seed=0, step=step)]
    for epoch in range(3):
        assert sorted(drawn[12 * epoch : 12 * (epoch + 1)]) == list(range(12))
    assert drawn[:12] != drawn[12:24]
    assert drawn_prompts(12, 4, 0, 0) != drawn_prompts(12, 4, 1, 0)
    assert len(drawn_prompts(3, 8, 0, 0)) == 8


def test_a_prompt_drawn_twice_in_a_step_gets_other_completions(base: BaseModel) -> None:
    config = config_of(train_batch_size=24)  # two epochs of 12 problems in one step
    training = training_of(base, config)
    arm = create_arm(base, spec_of(base, "1", 0), config)
    batch, _ = collect(base, DigitTask(), training.train, [arm], 0, training.width(0), config)[0]
    first = batch.prompts[0]
    groups = [g for g in range(24) if batch.prompts[4 * g] == first]
    assert len(groups) == 2
    one, two = (batch.completions.ids[4 * g : 4 * g + 4] for g in groups)
    assert not torch.equal(one, two)


def test_micro_batches_change_nothing_but_rounding(base: BaseModel) -> None:
    results = []
    for size in (3, 16):
        config = config_of(micro_batch_size=size, beta=0.1, mini_batch_size=2, num_iterations=2, max_grad_norm=0.0)
        training = training_of(base, config)
        arm = create_arm(base, spec_of(base, "all", 0), config)
        batch, _ = collect(base, DigitTask(), training.train, [arm], 0, training.width(0), config)[0]
        results.append((update(base, arm, batch, config), arm))
    (one, first), (two, second) = results
    assert one == pytest.approx(two, rel=1e-3, abs=1e-5)
    assert one["kl"] > 0
    for name, master in first.masters.items():
        assert torch.allclose(master, second.masters[name], atol=2e-4)


def test_the_first_ratio_is_one_and_the_first_divergence_zero(base: BaseModel) -> None:
    config = config_of(beta=0.5, mini_batch_size=4, num_iterations=1)
    training = training_of(base, config)
    arm = create_arm(base, spec_of(base, "2", 0), config)
    batch, _ = collect(base, DigitTask(), training.train, [arm], 0, training.width(0), config)[0]
    metrics = update(base, arm, batch, config)
    assert metrics["kl"] == 0
    assert metrics["clip_ratio/region_mean"] == 0


class FlatTask(DigitTask):
    def reward(self, prompts: list[Any], completions: list[str], answer: list[str]) -> list[float | None]:
        return [0.5] * len(completions)


def test_nothing_to_learn_from_stops_the_run(base: BaseModel, tmp_path: Path) -> None:
    with pytest.raises(RunStopped, match="same reward for 3 steps"):
        run_in(tmp_path / "flat", base, ["all", "1"], task=FlatTask(), steps=9, stop_after=3)
    with pytest.raises(RunStopped, match="cut off at 1 tokens for 2 steps"):
        run_in(tmp_path / "cut", base, ["1"], steps=9, stop_after=2, max_completion_length=1)


def test_a_stopped_arm_leaves_the_others_running(base: BaseModel) -> None:
    config = config_of()
    training = training_of(base, config)
    arms = [create_arm(base, spec_of(base, plan, 0), config) for plan in ("1", "2")]
    arms[0].stopped = "done"
    seen: list[list[str]] = []
    for _, results in run_steps(training, arms, start=0):
        seen.append([arm.name for arm, _ in results])
    assert seen == [["layer-02"]] * 4
    assert arms[0].updates == 0


def test_a_learning_rate_that_blows_up_stops_the_run(base: BaseModel) -> None:
    config = config_of(learning_rate=1e30, max_grad_norm=0.0)
    training = training_of(base, config)
    arms = [create_arm(base, spec_of(base, "all", 0), config)]
    records: list[Any] = []
    with pytest.raises(RunStopped, match="not finite for 3 steps in a row, and those updates were skipped"):
        for _, results in run_steps(training, arms, start=0, stop=6):
            records.append(results[0][1])
    assert [record["skipped_updates"] for record in records] == [0, 1, 1, 1]
    assert [record["guard/non_finite"] for record in records] == [0, 1, 2, 3]
    assert "loss" not in records[1] and "stopped" in records[3] and "stopped" not in records[2]
    assert (arms[0].updates, arms[0].skipped) == (1, 3)


class BadReward(DigitTask):
    def __init__(self, result: Any) -> None:
        self.result = result

    def reward(self, prompts: list[Any], completions: list[str], answer: list[str]) -> Any:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result(completions)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (ValueError("no answer"), "raised ValueError: no answer"),
        (lambda texts: [0.0], "returned 1 rewards for 6 completions"),
        (lambda texts: 0.5, "no list of rewards"),
        (lambda texts: [float("nan")] * len(texts), "None for problem 30"),
        (lambda texts: ["yes"] * len(texts), "returned 'yes'"),
        (lambda texts: [None] * len(texts), "None for problem 30"),
    ],
)
def test_a_bad_reward_is_one_sentence_and_leaves_no_folder(
    base: BaseModel, tmp_path: Path, result: Any, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run_in(tmp_path / "run", base, ["1"], task=BadReward(result))
    assert not (tmp_path / "run").exists()


def test_a_folder_with_another_run_is_not_touched(base: BaseModel, tmp_path: Path) -> None:
    folder = run_in(tmp_path / "run", base, ["1"])
    before = delta_bytes(folder, "layer-01")
    with pytest.raises(UserError, match="already holds a run"):
        run_in(folder, base, ["1"])
    with pytest.raises(UserError, match=r"config\.learning_rate was 0\.003, now 0\.001"):
        run_in(folder, base, ["1"], resume=True, learning_rate=1e-3)
    run_in(folder, base, ["1", "2"], resume=True)  # further arms are welcome
    alone = run_in(tmp_path / "alone", base, ["2"])
    assert delta_bytes(folder, "layer-02") == delta_bytes(alone, "layer-02")
    assert delta_bytes(folder, "layer-01") == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not an empty folder"):
        run_in(tmp_path / "other", base, ["1"])
    with pytest.raises(UserError, match="holds no run"):
        run_in(tmp_path / "other", base, ["1"], resume=True)


def test_scores_share_their_random_numbers(base: BaseModel) -> None:
    """Two arms with the same tensors get the same scores, sample by sample."""
    config = config_of(eval_num_samples=3, eval_temperature=1.0)
    data = load_splits(base, DigitTask(), config)["test"]
    arm = create_arm(base, spec_of(base, "1", 0), config)
    ours, theirs = evaluate(base, DigitTask(), data, [arm.weights, {}], config)
    assert (ours.scores.reward == theirs.scores.reward).all()
    assert len(ours.scores.reward) == 18
    assert len(set(ours.scores.reward.tolist())) > 2
