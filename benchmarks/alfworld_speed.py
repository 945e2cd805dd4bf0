"""Speed of ALFWorld's engine before and after, on games of official size, and proof that both show the same.

    python benchmarks/alfworld_speed.py                     # write 6 games with 20 or more receptacles and measure
    python benchmarks/alfworld_speed.py --games 24 --check-steps 40

Every game is replayed with the stock engine (textworld's PddlEnv with alfworld's demangler, without the planner) and
with ours: a random walk, then the expert plan. All observations, admissible commands and the win must be equal. Then
our engine alone plays random walks in worker processes. Prints a Markdown table; CPU times hold on a busy machine too,
steps per second do not.
"""

import argparse
import json
import random
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from onelayer.tasks.environments.alfworld import DATA_FOLDER, Alfworld, Game, import_engine, read_games
from onelayer.tasks.environments.alfworld_games import write_games
from onelayer.tasks.environments.workers import EnvironmentWorkers

EPISODE = 50


def commands_for(game: Game, environment: Alfworld, number: int, steps: int) -> list[str]:
    """A random walk with a wrong command in it, and the expert plan after it."""
    rng = random.Random(number)
    _, info = environment.reset(number)
    walk: list[str] = []
    plan = json.loads(game.path.read_text())["walkthrough"]
    for turn in range(1 + steps + len(plan)):
        if turn == 0:
            walk.append("sing")
        else:
            walk.append(rng.choice(info["admissible_commands"]) if turn <= steps else plan[turn - steps - 1])
        *_, terminated, truncated, info = environment.step(walk[-1])
        if terminated or truncated:
            break
    return walk


def replay_stock(path: Path, commands: list[str]) -> tuple[list[Any], float, float]:
    import textworld
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
    from textworld.envs import PddlEnv

    start = time.process_time()
    environment = AlfredDemangler(PddlEnv(textworld.EnvInfos(admissible_commands=True, won=True)))
    environment.load(str(path))
    state = environment.reset()
    loaded = time.process_time()
    shown = [(state.feedback, state["admissible_commands"], state["won"])]
    for command in commands:
        state = environment.step(command)[0]
        shown.append((state.feedback, state["admissible_commands"], state["won"]))
    return shown, loaded - start, time.process_time() - loaded


def replay_ours(environment: Alfworld, number: int, commands: list[str]) -> tuple[list[Any], float, float]:
    start = time.process_time()
    observation, info = environment.reset(number)
    loaded = time.process_time()
    shown = [(observation, info["admissible_commands"], info["won"])]
    for command in commands:
        observation, _, _, _, info = environment.step(command)
        shown.append((observation, info["admissible_commands"], info["won"]))
    return shown, loaded - start, time.process_time() - loaded


def cpu_seconds() -> float:
    """CPU time of this process and its workers so far."""
    processes = [psutil.Process(), *psutil.Process().children()]
    return sum(p.cpu_times().user + p.cpu_times().system for p in processes)


def play_pool(games: tuple[Game, ...], workers: int, episodes: int) -> dict[str, float]:
    """Random walks of 50 steps, ``episodes`` of each game."""
    with EnvironmentWorkers(partial(Alfworld, games, EPISODE), workers, timeout=300) as pool:
        seeds = [number for number in range(len(games)) for _ in range(episodes)]
        start = time.perf_counter()
        running = {n: info["admissible_commands"] for n, (_, info) in enumerate(pool.reset(seeds))}
        started, used = time.perf_counter(), cpu_seconds()
        rng, steps = random.Random(0), 0
        while running:
            results = pool.step({n: rng.choice(commands) for n, commands in running.items()})
            steps += len(results)
            running = {n: r[4]["admissible_commands"] for n, r in results.items() if not (r[2] or r[3])}
        end = time.perf_counter()
        assert not pool.failures, pool.failures
        return {
            "steps/s": steps / (end - started),
            "steps/s, starts included": steps / (end - start),
            "CPU ms a step, both sides": 1e3 * (cpu_seconds() - used) / steps,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--games", type=int, default=6)
    parser.add_argument("--receptacles", type=int, default=20)
    parser.add_argument("--check-steps", type=int, default=10)
    parser.add_argument("--episodes", type=int, default=8, help="episodes per game in the pools")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        report = write_games(options.games, Path(folder), options.seed, held_out=0, min_receptacles=options.receptacles)
        writing = time.perf_counter() - start
        games = read_games("train", Path(folder) / DATA_FOLDER).games
        walker = Alfworld(games, max_steps=10**9)
        walks = [commands_for(game, walker, number, options.check_steps) for number, game in enumerate(games)]
        walker.close()
        stock_steps = stock_load = our_steps = our_reset = 0.0
        environment = Alfworld(games, max_steps=10**9)
        for number, (game, walk) in enumerate(zip(games, walks, strict=True)):
            stock, loading, stepping = replay_stock(game.path, walk)
            stock_load, stock_steps = stock_load + loading, stock_steps + stepping
            import_engine().translate.cache_clear()  # Else the walk above has paid for it.
            ours, loading, stepping = replay_ours(environment, number, walk)
            our_reset, our_steps = our_reset + loading, our_steps + stepping
            assert stock == ours, f"{game.path}: the engines differ"
        environment.close()
        total = sum(map(len, walks))
        pools = {workers: play_pool(games, workers, options.episodes) for workers in (1, 2)}
    lowest, highest = report.receptacles
    print(f"{len(games)} games, {lowest}-{highest} receptacles, written in {writing / len(games):.2f} s each")
    print(f"{total} steps replayed with both engines: all observations, commands and wins equal\n")
    print("| | stock | here |\n|---|---|---|")
    rows = {
        "CPU ms a step": (stock_steps / total, our_steps / total),
        "CPU ms to load and reset a game": (stock_load / len(games), our_reset / len(games)),
    }
    for name, (stock_seconds, our_seconds) in rows.items():
        print(f"| {name} | {1e3 * stock_seconds:.1f} | {1e3 * our_seconds:.1f} |")
    for workers, figures in pools.items():
        for name, value in figures.items():
            print(f"| {workers} worker process{'es' * (workers > 1)}: {name} | | {value:.1f} |")


if __name__ == "__main__":
    main()
