"""ALFWorld: written games, the fast engine against the stock one, and reading of folders."""

import json
import random
import shutil
import sys
from pathlib import Path

import pytest

from onelayer.errors import UserError
from onelayer.tasks.environments.alfworld import (
    DATA_FOLDER,
    TASK_TYPES,
    Alfworld,
    data_folder,
    import_engine,
    read_games,
)
from onelayer.tasks.environments.workers import EnvironmentWorkers
from tests.support.games import needs_engine, write_games


@pytest.fixture(scope="module")
def games(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alfworld")
    write_games(8, folder, seed=3, held_out=1)
    return folder / DATA_FOLDER


@pytest.fixture
def broken(games: Path, tmp_path: Path) -> Path:
    """A copy of the games with six faults."""
    copy = tmp_path / DATA_FOLDER
    shutil.copytree(games, copy)
    files = sorted(copy.glob("train/**/game.tw-pddl"))
    files[0].write_text("{")
    files[1].write_text(json.dumps({"solvable": True, "grammar": ""}))
    (files[2].parent / "traj_data.json").unlink()
    (files[4].parent / "traj_data.json").write_text("[1]")
    files[5].write_text(json.dumps(json.loads(files[5].read_text()) | {"pddl_domain": 3}))
    files[3].write_text(json.dumps(json.loads(files[3].read_text()) | {"solvable": False}))
    return copy


def playable(folder: Path) -> Alfworld:
    return Alfworld(read_games("train", folder).games)


@needs_engine
def test_written_games_have_the_official_layout(games: Path) -> None:
    found = read_games("train", games)
    assert {game.task_type for game in found.games} == set(TASK_TYPES)
    assert (found.damaged, found.unsolvable, found.unsupported) == ((), 0, 0)
    data = json.loads((found.games[0].path.parent / "traj_data.json").read_text())
    assert found.games[0].path.parts[-3].startswith(data["task_type"] + "-")
    assert len(read_games("selection", games).games) == len(read_games("test", games).games) == 1


@needs_engine
def test_rooms_of_the_test_split_are_others(games: Path) -> None:
    rooms = {
        split: {json.loads(p.read_text())["scene_num"] for p in games.glob(f"{split}/**/traj_data.json")}
        for split in ("train", "valid_unseen")
    }
    assert not rooms["train"] & rooms["valid_unseen"]


@needs_engine
def test_the_same_seed_writes_the_same_games(games: Path, tmp_path: Path) -> None:
    write_games(1, tmp_path, seed=3, held_out=0)
    (again,) = tmp_path.glob("**/game.tw-pddl")
    assert again.read_bytes() == (games / again.relative_to(tmp_path / DATA_FOLDER)).read_bytes()


@needs_engine
def test_every_game_is_won_by_its_walkthrough(games: Path) -> None:
    environment = playable(games)
    for number, game in enumerate(environment.games):
        environment.reset(number)
        walkthrough = json.loads(game.path.read_text())["walkthrough"]
        results = [environment.step(command) for command in walkthrough]
        assert [result[2] for result in results] == [False] * (len(walkthrough) - 1) + [True]
        assert all(result[4]["valid"] for result in results)
        with pytest.raises(RuntimeError, match="call reset"):
            environment.step("look")
    environment.close()


@needs_engine
def test_observations_and_commands_are_those_of_the_stock_engine(games: Path) -> None:
    import textworld
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
    from textworld.envs import PddlEnv

    environment = playable(games)
    # Stock play is slow, so a walk of a few random and wrong commands before each walkthrough has to do.
    for number, game in enumerate(environment.games):
        stock = AlfredDemangler(PddlEnv(textworld.EnvInfos(admissible_commands=True, won=True)))
        stock.load(str(game.path))
        expected = stock.reset()
        observation, info = environment.reset(number)
        rng = random.Random(number)
        commands = ["sing", *[None] * 4, *json.loads(game.path.read_text())["walkthrough"]]
        for command in commands:
            assert (observation, info["admissible_commands"], info["won"]) == (
                expected.feedback,
                expected["admissible_commands"],
                expected["won"],
            )
            chosen = command or rng.choice(info["admissible_commands"])
            if info["won"]:
                break
            expected = stock.step(chosen)[0]
            observation, _, _, _, info = environment.step(chosen)
    environment.close()


@needs_engine
def test_a_wrong_command_does_nothing_and_steps_run_out(games: Path) -> None:
    environment = Alfworld(read_games("train", games).games, max_steps=2)
    _, start = environment.reset(0)
    assert start["goal"].endswith(".")
    observation, reward, terminated, truncated, info = environment.step("sing")
    assert (observation, reward, terminated, truncated, info["valid"]) == ("Nothing happens.", 0.0, False, False, False)
    assert info["admissible_commands"] == start["admissible_commands"]
    assert environment.step("look")[2:4] == (False, True)
    environment.close()


@needs_engine
def test_the_translator_leaves_the_arguments_alone(games: Path) -> None:
    before = list(sys.argv)
    environment = playable(games)
    environment.reset(0)
    environment.close()
    assert sys.argv == before


@needs_engine
def test_damaged_games_are_left_out_and_named(broken: Path) -> None:
    found = read_games("train", broken)
    assert len(found.games) == 2
    assert found.unsolvable == 1
    reasons = "\n".join(found.damaged)
    assert len(found.damaged) == 5
    assert "JSONDecodeError" in reasons
    assert "no pddl_domain, pddl_problem" in reasons
    assert "no pddl_domain\n" in reasons + "\n"
    assert "traj_data.json is no JSON object" in reasons
    assert "traj_data.json" in reasons


class _Open:
    """Makes environments in worker processes."""

    def __init__(self, folder: Path) -> None:
        self.games = read_games("train", folder).games

    def __call__(self) -> Alfworld:
        return Alfworld(self.games)


@needs_engine
def test_a_game_that_cannot_be_translated_costs_its_episode(games: Path, tmp_path: Path) -> None:
    copy = tmp_path / DATA_FOLDER
    shutil.copytree(games, copy)
    bad = read_games("train", copy).games[0].path
    game = json.loads(bad.read_text())
    bad.write_text(json.dumps(game | {"pddl_problem": game["pddl_problem"].replace("agent1 - agent", "")}))
    with EnvironmentWorkers(_Open(copy), num_workers=1) as pool:
        starts = pool.reset([0, 1])
        assert "error" in starts[0][1]
        assert pool.step({1: "look"})[1][4]["valid"]


@needs_engine
def test_wrong_requests_for_games_are_refused(games: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="0 training"):
        write_games(0, tmp_path)
    with pytest.raises(UserError, match="exists already"):
        write_games(1, games.parent)
    with pytest.raises(UserError, match="no room with 99 receptacles"):
        write_games(1, tmp_path, min_receptacles=99)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file' cannot be made: "):
        write_games(1, tmp_path / "file")


def test_missing_games_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)
    with pytest.raises(UserError, match="ALFWORLD_DATA is not set"):
        data_folder()
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path))
    with pytest.raises(UserError, match="there is no folder"):
        data_folder()
    (tmp_path / DATA_FOLDER / "train").mkdir(parents=True)
    with pytest.raises(UserError, match="none can be played"):
        read_games("train")


def test_a_missing_package_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textworld", None)
    monkeypatch.setitem(sys.modules, "alfworld", None)
    with pytest.raises(UserError, match=r"pip install 'onelayer\[alfworld\]'"):
        import_engine()
