"""Tasks played in turns: what an episode becomes in training, that no company changes it, and faults."""

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from onelayer.arms.spec import create_arm, spec_of
from onelayer.config.algorithm import AlgorithmConfig
from onelayer.errors import RunStopped, UserError
from onelayer.models.base import BaseModel
from onelayer.runs.inputs import load_splits
from onelayer.runs.open_run import open_run
from onelayer.runs.trajectories import as_record, chosen
from onelayer.tasks.agentic import AgenticTask
from onelayer.tasks.base import Problem
from onelayer.training.algorithms.gigpo import gigpo_advantages
from onelayer.training.batch import Batch, to_batch
from onelayer.training.draws import Key, Sampling
from onelayer.training.episode import Episode, Turn
from onelayer.training.episodes import Player, pad_width, play, rollouts_of
from onelayer.training.rollout import collect, evaluate
from tests.support.episodes import DigitGame, game
from tests.support.runs import config_of, delta_bytes, run_in

TURNS: dict[str, Any] = {"algorithm": "gigpo", "max_prompt_length": 80, "max_completion_length": 1}


def played(base: BaseModel, task: AgenticTask, starts: list[tuple[int, int]]) -> list[Episode]:
    seats = [(Problem(seed, str(seed)), sample) for seed, sample in starts]
    return play(base, task, [Player({}, seats, Key(0, "test", 0))], Sampling(1), 24)[0]


def turn(observation: str = "a", valid: bool = True, reward: float = 0.0, ids: tuple[int, ...] = (5,)) -> Turn:
    return Turn("p", [1, 2], "x", list(ids), False, observation, "x", valid, reward)


def episode(reason: Any, *turns: Turn, seed: int = 0, sample: int = 0) -> Episode:
    info = DigitGame()
    info.reset(seed)
    return Episode(Problem(seed, ""), sample, "", info.info(True), list(turns), reason)


def test_an_agentic_arm_learns_and_shows_its_episodes(base: BaseModel, tmp_path: Path) -> None:
    folder = run_in(tmp_path / "run", base, ["all"], task=game(), steps=15, learning_rate=1e-2, max_rows=64, **TURNS)
    record = {arm: json.loads((folder / "arms" / arm / "arm.json").read_text()) for arm in ("base", "full")}
    assert record["full"]["score"] > record["base"]["score"] + 0.3
    assert sum(record["full"]["episode_ends"].values()) == 5
    assert record["full"]["success_by_task_type"].keys() == {"say2", "say3"}
    logged = [json.loads(line) for line in (folder / "arms/full/metrics.jsonl").read_text().splitlines()]
    assert logged[-1]["episode/valid_action_ratio"] > logged[0]["episode/valid_action_ratio"]
    assert logged[0]["episode/ended/success"] == logged[0]["episode/success_rate"]
    ends = [value for name, value in logged[0].items() if name.startswith("episode/ended/")]
    assert sum(ends) == pytest.approx(1) and len(ends) == 5
    lines = [json.loads(line) for line in (folder / "arms/full/trajectories.jsonl").read_text().splitlines()]
    assert {line["rank"] for line in lines} == {"best", "worst"}
    assert lines[0]["steps"][0]["prompt"].startswith("goal say ")


def test_alone_in_a_set_and_continued_are_the_same_bytes(base_of: Callable[..., BaseModel], tmp_path: Path) -> None:
    base = base_of("qwen3", tied=False)
    changes = {**TURNS, "mini_batch_size": 1, "steps": 3, "train_batch_size": 2}
    together = run_in(tmp_path / "together", base, ["all", "0", "2"], task=game(), **changes)
    alone = run_in(tmp_path / "alone", base, ["2"], task=game(), **changes)
    one_by_one = run_in(tmp_path / "sets", base, ["all", "0", "2"], task=game(), arms_per_set=1, **changes)
    stopped = run_in(tmp_path / "stopped", base, ["0", "2"], task=game(), stop_at=2, **changes)
    run_in(stopped, base, ["0", "2"], task=game(), resume=True, **changes)
    for other in (alone, one_by_one, stopped):
        for file in ("delta.safetensors", "scores.parquet", "trajectories.jsonl"):
            assert (other / "arms/layer-02" / file).read_bytes() == (together / "arms/layer-02" / file).read_bytes()
    assert delta_bytes(one_by_one, "full") == delta_bytes(together, "full")


def test_an_episode_does_not_depend_on_its_company(base: BaseModel) -> None:
    starts = [(seed, sample) for seed in range(6) for sample in range(4)]
    together = played(base, game(), starts)
    assert len({len(e.turns) for e in together}) > 1
    for number in (0, 7, 23):
        alone = played(base, game(), [starts[number]])[0]
        assert as_record("", alone) == as_record("", together[number])
    assert [t.completion for t in played(base, game(), [(3, 0)])[0].turns] != [
        t.completion for t in played(base, game(), [(3, 1)])[0].turns
    ]


def test_turns_build_on_each_other(base: BaseModel) -> None:
    for e in played(base, game(history_length=2), [(3, sample) for sample in range(8)]):
        said = 0
        for number, step in enumerate(e.turns):
            assert step.observation == f"{said} of 3"
            said += step.valid
            assert step.valid == step.action.isdigit()
            past = [t.action for t in e.turns[max(0, number - 2) : number]]
            did = f"did {' ; '.join(past)} . " if number else ""
            assert step.prompt == f"goal say 3 . {did}see {step.observation} . <action>"
        assert e.reason == ("success" if said == 3 else "max_steps")
        assert e.total == float(said == 3)


FAULTS: dict[int, Any] = {1: RuntimeError("the lamp\nbroke"), 2: "nonsense", 4: "reset"}


def test_a_fault_costs_its_episode_only(base: BaseModel) -> None:
    starts = [(seed, sample) for seed in range(6) for sample in range(2)]
    healthy, task = played(base, game(), starts), game(FAULTS)
    for before, after in zip(healthy, played(base, task, starts), strict=True):
        if after.start.id not in FAULTS:
            assert as_record("", after) == as_record("", before)
        else:
            assert after.reason == "error"
            assert len(after.turns) == (0 if after.start.id == 4 else 2)
    assert len(task.pool.failures) == 6
    assert "episode with seed 1: RuntimeError: the lamp broke" in task.pool.failures
    assert "episode with seed 4: OSError: the door is locked" in task.pool.failures


def test_failed_episodes_teach_nothing_and_score_nothing(base: BaseModel, tmp_path: Path) -> None:
    faults: dict[int, Any] = dict.fromkeys(range(8, 13), "reset") | {0: "reset", 1: "nonsense"}
    folder = run_in(tmp_path / "run", base, ["2"], task=game(faults), steps=5, mini_batch_size=1, **TURNS)
    record = json.loads((folder / "arms/layer-02/arm.json").read_text())
    assert record["episode_ends"]["error"] == 2
    logged = [json.loads(line) for line in (folder / "arms/layer-02/metrics.jsonl").read_text().splitlines()]
    assert 0 < max(line["episode/ended/error"] for line in logged) < 1


def test_faults_and_long_prompts_are_said(base: BaseModel, tmp_path: Path) -> None:
    task = game(dict.fromkeys(range(8, 13), "reset"), max_prompt_length=len("goal say 3 . see 0 of 3 . <action>"))
    config, console = config_of(**TURNS), Console(file=StringIO(), width=200)
    data = load_splits(base, task, config)
    with open_run(base, task, data, config, [0], tmp_path / "run", console) as run:
        run.train([spec_of(base, "2", 0)])
    said = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "base: 5 test episodes ended at a prompt over max_prompt_length" in said
    assert said.count("the environment failed: episode with seed") == 1
    assert "OSError: the door is locked; metrics.jsonl counts all that follow (episode/ended/error)" in said


def test_no_episode_at_all_stops_the_run(base: BaseModel, tmp_path: Path) -> None:
    faults: dict[int, Any] = dict.fromkeys(range(8, 18), "reset")
    with pytest.raises(RunStopped, match=r"arm layer-02, step 0: no episode could be played: .*the door is locked"):
        run_in(tmp_path / "run", base, ["2"], task=game(faults), **TURNS)
    config = config_of(**TURNS)
    data = load_splits(base, game(), config)["train"]
    arm = create_arm(base, spec_of(base, "2", 0), config)
    with pytest.raises(RunStopped, match="over max_prompt_length"):
        collect(base, game(max_prompt_length=9), data, [arm], 0, 0, config)


def test_a_prompt_that_grows_too_long_ends_its_episode(base: BaseModel) -> None:
    first = len("goal say 3 . see 0 of 3 . <action>")
    episodes = played(base, game(max_prompt_length=first), [(3, sample) for sample in range(4)])
    assert {(e.reason, len(e.turns), e.total) for e in episodes} == {("too_long", 1, 0.0)}


def test_a_context_too_short_is_one_sentence(base: BaseModel) -> None:
    config = config_of(**{**TURNS, "max_prompt_length": 128})
    with pytest.raises(UserError, match="context of 128 tokens, and max_prompt_length with max_completion_length"):
        load_splits(base, game(), config)
    with pytest.raises(
        UserError, match=r"first prompts of 4 episodes have 34 to 34 tokens .* over max_prompt_length 9"
    ):
        load_splits(base, game(max_prompt_length=9), config_of(**TURNS))
    with pytest.raises(UserError, match="played in turns"):
        game().reward(prompts=[], completions=[])


def rows_of(batch: Batch) -> list[float]:
    return batch.advantages.tolist()


def test_every_turn_is_a_row() -> None:
    """One group of two: a win in two turns, one of them invalid, and a loss in one; by hand."""
    config = AlgorithmConfig(num_generations=2, scale_rewards="none", algorithm="grpo")
    won = episode("success", turn("a", valid=False), turn("a", reward=1.0, ids=(5, 6)))
    lost = episode("failure", turn("a"))
    batch, _ = to_batch(rollouts_of([won, lost], config), config)
    assert rows_of(batch) == pytest.approx([0.45, 0.45, -0.45])
    assert batch.prompt_index.tolist() == [0, 0, 0]
    assert batch.completions.ids.tolist() == [[5, 0], [5, 6], [5, 0]]
    assert batch.completions.lengths.tolist() == [1, 2, 1]
    assert batch.num_tokens == 3 * 2 + 4
    config = AlgorithmConfig(num_generations=2, algorithm="rloo")
    rloo, _ = to_batch(rollouts_of([won, lost], config), config)
    assert rows_of(rloo) == pytest.approx([0.9, 0.9, -0.9])


def test_gigpo_gets_rewards_groups_anchors_and_penalties() -> None:
    config = AlgorithmConfig(algorithm="gigpo", num_generations=2, gigpo_mode="mean_norm", gamma=0.5)
    won = episode("success", turn("a", valid=False), turn("a", reward=1.0))
    lost = episode("failure", turn("a"))
    batch, _ = to_batch(rollouts_of([won, lost, won, won], config), config)
    # Returns .9 and 0, mean .45. Step returns at "a": -.1 + .5, 1 and 0, mean 1.4 / 3.
    mean = 1.4 / 3
    assert rows_of(batch)[:3] == pytest.approx([0.45 + 0.4 - mean, 0.45 + 1 - mean, -0.45 - mean])
    # The second group: equal episodes, so only the steps differ: .4, 1, .4, 1.
    assert rows_of(batch)[3:] == pytest.approx([-0.3, 0.3, -0.3, 0.3])
    expected = gigpo_advantages(
        torch.tensor([0.0, 1, 0, 0, 1, 0, 1], dtype=torch.float64),
        torch.tensor([0, 0, 0, 1, 1, 1, 1]),
        torch.tensor([0, 0, 1, 2, 2, 3, 3]),
        ["a"] * 7,
        penalties_R=torch.tensor([0.1, 0, 0, 0.1, 0, 0.1, 0]),
        gamma=0.5,
        mode="mean_norm",
    )
    assert rows_of(batch) == pytest.approx(expected.advantages.tolist())


def test_an_episode_with_a_fault_leaves_the_means_of_the_others() -> None:
    config = AlgorithmConfig(num_generations=3, scale_rewards="none", algorithm="grpo")
    won, lost = episode("success", turn(reward=1.0)), episode("failure", turn())
    batch, metrics = to_batch(rollouts_of([won, lost, episode("error", turn())], config), config)
    assert rows_of(batch) == pytest.approx([0.5, -0.5])
    assert metrics["reward"] == 0.5


def test_flat_groups_are_those_without_any_advantage(base: BaseModel) -> None:
    config = config_of(**TURNS)
    task = game()
    arm = create_arm(base, spec_of(base, "2", 0), config)
    (batch, metrics), *_ = collect(base, task, load_splits(base, task, config)["train"], [arm], 0, 0, config)
    flat = [float(batch.advantages[batch.prompt_index == group].abs().max() < 1e-6) for group in range(4)]
    assert metrics["frac_reward_zero_std"] == sum(flat) / 4
    assert len(batch.prompts) == sum(batch.prompt_index.bincount()) > 16


def test_scores_share_their_random_numbers(base: BaseModel) -> None:
    config = config_of(**TURNS, eval_num_samples=3, eval_temperature=1.0)
    data = load_splits(base, game(), config)["test"]
    arm = create_arm(base, spec_of(base, "1", 0), config)
    ours, theirs = evaluate(base, game(), data, [arm.weights, {}], config)
    assert (ours.scores.reward == theirs.scores.reward).all()
    assert ours.scores.problem.tolist() == [seed for seed in range(5) for _ in range(3)]
    assert ours.scores.sample.tolist() == [0, 1, 2] * 5
    assert (ours.scores.length == [len(e.turns) for e in ours.episodes]).all()
    assert (ours.scores.truncated == (ours.scores.reward == 0)).all()


def test_the_shown_episodes_are_the_best_and_the_worst() -> None:
    win, slow_win = episode("success", turn(reward=1.0), seed=1), episode("success", turn(), turn(reward=1.0), seed=2)
    short, long = episode("failure", turn(), seed=3), episode("max_steps", turn(), turn(), seed=4)
    shown = [(rank, e.start.id) for rank, e in chosen([long, slow_win, short, win], count=1)]
    assert shown == [("best", 1), ("worst", 4)]
    shown = [(rank, e.start.id) for rank, e in chosen([long, slow_win, win])]
    assert shown == [("best", 1), ("best", 2), ("worst", 4)]
    assert chosen([win]) == [("best", win)]


@given(st.integers(1, 100_000))
@settings(deadline=None)
def test_pad_widths_are_few_and_near(length: int) -> None:
    width = pad_width(length)
    assert length <= width <= max(32, 1.5 * length)
    assert pad_width(width) == width
    assert len({pad_width(n) for n in range(1, 2049)}) == 13
