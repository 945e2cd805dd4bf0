"""The bundled model of household-v0: what it knows before RL, what GiGPO makes of it, a scan from start to end."""

import json
import random
import shlex
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import onelayer
from onelayer.commands.cli import main
from onelayer.config.configs import TrainConfig
from onelayer.config.sources import build, preset_path, read_yaml
from onelayer.errors import UserError
from onelayer.models.base import BaseModel
from onelayer.models.load import load_base
from onelayer.runs.inputs import load_splits, load_task
from onelayer.storage.scores import read_scores
from onelayer.tasks.environments.household import Household
from onelayer.tasks.environments.policies import pretraining_text
from onelayer.tasks.environments.prompting import parse_action, render_prompt
from onelayer.tasks.household import MAX_STEPS, STARTS, NumberedHousehold, household_task
from onelayer.training.rollout import evaluate

NAME = "bundled:qwen3-household"
FOLDER = Path(onelayer.__file__).parent / "bundled" / "qwen3-household"


@pytest.fixture(scope="module")
def model() -> BaseModel:
    return load_base(NAME)


def config_of(**options: Any) -> TrainConfig:
    return build(TrainConfig, [("preset", read_yaml(preset_path("household"))), ("test", options)])


def test_tokenizer_round_trip_and_limits() -> None:
    config, tokenizer = config_of(), AutoTokenizer.from_pretrained(FOLDER)
    text = pretraining_text(random.Random(1))
    for prompt, action in [next(text) for _ in range(1000)]:
        ids = tokenizer.encode(f"{prompt} {action}")
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == f"{prompt} {action}"
        assert len(tokenizer.encode(prompt)) <= config.max_prompt_length
        assert len(tokenizer.encode(action)) + 1 <= config.max_completion_length


def test_pretraining_plays_the_train_split_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Household] = []
    start = Household.__init__

    def spy(self: Household, *args: Any, **options: Any) -> None:
        start(self, *args, **options)
        made.append(self)

    monkeypatch.setattr(Household, "__init__", spy)
    next(pretraining_text(random.Random(0)))
    assert [environment.split for environment in made] == ["train"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"benchmarks": "gsm8k"}, "benchmarks is for training sets; task 'household' does not read it"),
        ({"selection_size": 9}, "selection_size is for problems of your own .* and training sets; task 'household'"),
        ({"env_workers": 9}, "env_workers is for the task alfworld; task 'household'"),
        ({"task": "arithmetic", "algorithm": "grpo", "max_env_steps": 4}, "max_env_steps is for tasks .*'arithmetic'"),
        ({"task": "numinamath", "algorithm": "grpo", "test_size": 4}, "test_size is for problems of your own"),
        ({"task": None, "dataset": "x.jsonl", "reward": "r.py:f", "chat": True}, "chat is for .*; --dataset does not"),
    ],
)
def test_options_that_a_task_would_not_read_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load_task(config_of(**options))


def naive_greedy_wins(seeds: range) -> list[bool]:
    """Play start states with transformers' own greedy generation, all in step."""
    network, tokenizer = AutoModelForCausalLM.from_pretrained(FOLDER).eval(), AutoTokenizer.from_pretrained(FOLDER)
    environments = [NumberedHousehold(max_steps=MAX_STEPS) for _ in seeds]
    states = [environment.reset(seed) for environment, seed in zip(environments, seeds, strict=True)]
    histories: list[list[tuple[str, str]]] = [[] for _ in seeds]
    won = [False] * len(seeds)
    running = list(range(len(seeds)))
    while running:
        prompts = [
            render_prompt(states[i][1]["goal"], histories[i], states[i][0], [], history_length=2, style="compact")
            for i in running
        ]
        inputs = tokenizer(prompts, return_tensors="pt", padding=True)
        output = network.generate(
            inputs["input_ids"], attention_mask=inputs["attention_mask"], do_sample=False, max_new_tokens=4
        )
        texts = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for i, text in zip(list(running), texts, strict=True):
            action = parse_action(text, opened=True) or ""
            histories[i].append((states[i][0], action))
            observation, _, terminated, truncated, info = environments[i].step(action)
            states[i] = observation, info
            won[i] = info["won"]
            if terminated or truncated:
                running.remove(i)
    return won


@pytest.fixture
def fewer_starts(monkeypatch: pytest.MonkeyPatch) -> range:
    """Keep the first test and selection starts only: time."""
    monkeypatch.setitem(STARTS, "test", range(60))
    monkeypatch.setitem(STARTS, "selection", range(200, 205))
    return STARTS["test"]


def test_bundled_model_leaves_something_to_learn(model: BaseModel, fewer_starts: range) -> None:
    won = naive_greedy_wins(fewer_starts)
    assert 0.1 <= sum(won) / len(won) <= 0.5
    config = config_of()
    task = household_task(config)
    played = evaluate(model, task, load_splits(model, task, config)["test"], [{}], config)[0]
    assert played.scores.reward.tolist() == [float(each) for each in won]
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 2 * 2**20


def onelayer_command(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.setattr("sys.argv", ["onelayer", *shlex.split(line)])
    main()


def test_a_scan_from_start_to_end(fewer_starts: range, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onelayer_command(
        monkeypatch,
        "scan --task household --algorithm gigpo --layers 7 --steps 2 --train-batch-size 2 --num-generations 4 "
        "--max-env-steps 5 --eval-steps 2 --output run",
    )
    profile = json.loads((tmp_path / "run/profile.json").read_text())
    assert (profile["task"], profile["algorithm"], profile["num_layers"]) == ("household", "gigpo", 8)
    assert [layer["layer"] for layer in profile["layers"]] == [7]
    arms = {path.name for path in (tmp_path / "run/arms").iterdir()}
    assert arms == {"base", "full", "layer-07"}
    for arm in arms:
        folder = tmp_path / "run/arms" / arm
        scores = read_scores(folder / "scores.parquet")
        assert scores.problem.tolist() == list(fewer_starts)
        assert set(scores.reward.tolist()) <= {0.0, 1.0}
        record = json.loads((folder / "arm.json").read_text())
        assert record["score"] == pytest.approx(scores.reward.mean())
        assert sum(record["episode_ends"].values()) == len(scores.reward)
        assert record["success_by_task_type"].keys() == {"clean", "cool", "heat", "look", "put"}
        episodes = [json.loads(line) for line in (folder / "trajectories.jsonl").read_text().splitlines()]
        assert [episode["rank"] for episode in episodes] == ["best"] * 3 + ["worst"] * 3
        assert all(1 <= len(episode["steps"]) <= 5 for episode in episodes)
    shown = json.loads((tmp_path / "run/arms/full/trajectories.jsonl").read_text().splitlines()[0])
    page = (tmp_path / "run/report.html").read_text()
    assert f"full, best: {shown['goal']}" in page
    assert shown["steps"][0]["observation"] in page
    logged = [json.loads(line) for line in (tmp_path / "run/arms/full/metrics.jsonl").read_text().splitlines()]
    assert "eval/score" in logged[1] and 0 <= logged[0]["episode/success_rate"] <= 1
