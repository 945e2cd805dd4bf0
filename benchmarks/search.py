"""How often a cheap search returns a layer tied with the true best, against what it costs.

    python benchmarks/search.py --model bundled:qwen3-arithmetic --steps 40 --output runs/search

One scan trains every layer from five seeds. An arm does not depend on its company, so what a search would have done from
each seed is replayed on the stored curves (tests/commands/test_analyses.py proves the replay equal to a real search).
The true best is the layer with the highest test score over all seeds; a layer is tied with it when the paired
interval over problems and seeds says so (the rule behind "recommended"). Cost: steps of layers trained, as a share of
training all of them.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from onelayer.commands import scan_phases as phases
from onelayer.judging.contrasts import unit
from onelayer.judging.contribution import Rules
from onelayer.judging.measured import read_measured
from onelayer.judging.recommend import tied_with

Search = Callable[[int], tuple[int, float]]
"""Seed number -> (layer that the search returns, its cost)."""


class Scan:
    """The stored scan: selection scores of every layer and seed, on the way and at the end."""

    def __init__(self, folder: Path, seeds: int) -> None:
        self.measured = read_measured(folder)
        self.layers = sorted(self.measured.layers)
        self.seeds = seeds
        self.curves: dict[tuple[int, int], dict[int, float]] = {}
        self.final: dict[tuple[int, int], float] = {}
        for layer in self.layers:
            for seed in range(seeds):
                arm = folder / "arms" / (f"layer-{layer:02d}" + (f"-seed{seed}" if seed else ""))
                records = map(json.loads, (arm / "metrics.jsonl").read_text().splitlines())
                self.curves[layer, seed] = {r["step"] + 1: r["eval/score"] for r in records if "eval/score" in r}
                self.final[layer, seed] = json.loads((arm / "arm.json").read_text())["selection_score"]
        self.steps = max(self.curves[self.layers[0], 0])

    def exhaustive(self, seed: int) -> tuple[int, float]:
        """Every layer to the end; the best on the selection problems."""
        return phases.ranked(lambda layer: self.final[layer, seed], self.layers)[0], 1.0

    def halving(self, rungs: int) -> Search:
        """Successive halving with so many rungs."""
        steps = phases.rung_steps(self.steps, rungs)

        def search(seed: int) -> tuple[int, float]:
            alive = self.layers
            for step in steps:
                alive = phases.survivors({layer: self.curves[layer, seed][step] for layer in alive})
            best = phases.ranked(lambda layer: self.final[layer, seed], alive)[0]
            return best, phases.halving_cost(len(self.layers), self.steps, steps)

        return search

    def coarse(self, stride: int) -> Search:
        """Every so many layers, then around the best."""

        def search(seed: int) -> tuple[int, float]:
            first = phases.coarse_layers(len(self.layers), stride)
            scores = {layer: self.final[layer, seed] for layer in first}
            scores |= {k: self.final[k, seed] for k in phases.around_best(scores, len(self.layers), stride)}
            return phases.ranked(lambda layer: scores[layer], list(scores))[0], len(scores) / len(self.layers)

        return search


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled:qwen3-arithmetic")
    parser.add_argument("--task", default="arithmetic")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--output", type=Path, required=True, help="folder of the scan; an unfinished one is continued")
    args = parser.parse_args()
    command = ["scan", "--model", args.model, "--task", args.task, "--seeds", str(args.seeds), "--eval-steps", "5"]
    command += ["--steps", str(args.steps)]
    command += ["--output", str(args.output), *(["--resume"] if args.output.exists() else [])]
    subprocess.run([sys.executable, "-m", "onelayer", *command], check=True)
    scan = Scan(args.output, args.seeds)
    scores, names = scan.measured.scores, scan.measured.layers
    test = {layer: float(scores.estimate(unit(scores, names[layer])).value) for layer in scan.layers}
    best = phases.ranked(lambda layer: test[layer], scan.layers)[0]
    tied = [layer for layer in scan.layers if layer == best or tied_with(scores, names[layer], names[best], Rules())]
    print(f"\n{args.model}, {args.seeds} seeds: true best layer {best}, tied with it: {tied} of {len(scan.layers)}\n")
    print("| search | cost | returned, by seed | tied with the best |\n|---|---|---|---|")
    searches: dict[str, Search] = {"every layer": scan.exhaustive}
    searches |= {f"halving, {rungs} rung{'s' * (rungs > 1)}": scan.halving(rungs) for rungs in (1, 2, 3)}
    searches |= {f"coarse, stride {stride}": scan.coarse(stride) for stride in (2, 3)}
    searches["a random layer"] = lambda seed: (-1, 1 / len(scan.layers))
    for name, search in searches.items():
        found = [search(seed) for seed in range(args.seeds)]
        if name == "a random layer":
            share, shown = len(tied) / len(scan.layers), "-"
        else:
            share, shown = sum(layer in tied for layer, _ in found) / args.seeds, ", ".join(str(k) for k, _ in found)
        print(f"| {name} | {sum(cost for _, cost in found) / args.seeds:.0%} | {shown} | {share:.0%} |")


if __name__ == "__main__":
    main()
