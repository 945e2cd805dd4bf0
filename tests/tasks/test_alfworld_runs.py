"""Runs on ALFWorld from start to end: new games, the real engine, a small random model that says some commands."""

import json
import shlex
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from onelayer.commands.cli import main
from onelayer.storage.scores import read_scores
from tests.conftest import save_model
from tests.support.games import installed, write_games
from tests.support.presets import preset

pytestmark = pytest.mark.skipif(not installed, reason="the packages of onelayer[alfworld] are not installed")

WORDS = ["<action>look</action>", "<action>inventory</action>", "<action>sing</action>", "think", "You", "see", "a"]
SMALL = (
    "--model m --dtype float32 --steps 2 --train-batch-size 2 --num-generations 4 --max-env-steps 3 --env-workers 1 "
    "--max-completion-length 3 --learning-rate 1e-2 --eval-steps 2 --micro-batch-size 16"
)


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Whole actions are words, so that a random model says some that the games know and some that they do not."""
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<eos>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    words.chat_template = "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {% endfor %}assistant :"
    return words


@pytest.fixture(scope="module")
def games(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("games")
    write_games(2, folder, seed=5, held_out=2)
    return folder


@pytest.fixture
def workplace(games: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with the model; the games are set."""
    monkeypatch.setenv("ALFWORLD_DATA", str(games))
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "m", "qwen2", layers=4, context=4096, tokenizer=word_tokenizer())
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.setattr("sys.argv", ["onelayer", *shlex.split(line)])
    main()


def check_arm(folder: Path) -> list[dict[str, float]]:
    """Check the episodes and scores of an arm; return its metrics."""
    record = json.loads((folder / "arm.json").read_text())
    scores = read_scores(folder / "scores.parquet")
    assert scores.problem.tolist() == [0, 1]
    assert record["score"] == scores.reward.mean() == 0
    assert record["episode_ends"] == {"max_steps": 2}
    assert set(record["success_by_task_type"].values()) == {0.0}
    episodes = [json.loads(line) for line in (folder / "trajectories.jsonl").read_text().splitlines()]
    for episode in episodes:
        assert episode["reason"] == "max_steps"
        assert len(episode["steps"]) == 3
        for step in episode["steps"]:
            assert step["prompt"][0]["role"] == "user"
            assert episode["goal"] in step["prompt"][0]["content"]
            assert step["valid"] == (step["action"] in ("look", "inventory"))
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ["qwen2.5-1.5b-alfworld", "qwen2.5-3b-alfworld"])
def test_the_whole_path_of_a_preset_on_a_small_model(
    name: str, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, f"scan --preset {name} {SMALL} --layers 3 --output run")
    config = preset(name)
    arms = workplace / "run/arms"
    assert {path.name for path in arms.iterdir()} == {"base", "full", "layer-03"}
    for arm in ("full", "layer-03"):
        metrics = check_arm(arms / arm)
        assert len(metrics) == 2
        assert all(("kl" in each) == (config.beta > 0) for each in metrics)
        assert any(0 < each["episode/valid_action_ratio"] < 1 and each["grad_norm"] > 0 for each in metrics)
        assert "eval/score" in metrics[-1]
    profile = json.loads((workplace / "run/profile.json").read_text())
    assert (profile["task"], profile["algorithm"]) == ("alfworld", "gigpo")
    assert profile["refused"]
    assert "out of steps after 3 steps" in (workplace / "run/report.html").read_text()


def test_train_the_middle_layers(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = f"train --task alfworld --algorithm gigpo --layers mid:2 --chat {SMALL} --max-prompt-length 2048"
    run(monkeypatch, f"{line} --output run")
    (folder,) = [path for path in (workplace / "run/arms").iterdir() if path.name != "base"]
    metrics = check_arm(folder)
    assert any(each["grad_norm"] > 0 for each in metrics)
    assert {name.split(".")[2] for name in load_file(folder / "delta.safetensors")} == {"1", "2"}
