"""Simulated scans: how often intervals of C(k) cover the truth, and how often a layer equal to full is called better.

    python benchmarks/coverage.py             # the table of docs/statistics.md: 500 scans a setting, 7 minutes
    python benchmarks/coverage.py --scans 50  # a quick look

A simulated problem i is solved by the base with chance u_i, and by an arm of true contribution c with chance
u_i + gain * c * h_i + seed effect, where h_i averages one: some problems gain much, some nothing. Around that mean each
arm, seed and problem has its own chance (a Beta distribution), because two trainings do not learn the same problems;
then ``SAMPLES`` answers are drawn. Nothing is clipped, so the true contribution is exactly c.
"""

import argparse
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onelayer.judging.contrasts import PairedScores
from onelayer.judging.contribution import analyse

SAMPLES = 4
SPREAD = 8.0
"""Precision of the Beta distribution around an arm's mean chance: the standard deviation is about .15 at one half."""


@dataclass(frozen=True)
class Setting:
    """One row of the table. ``worths`` are the true contributions of the layers."""

    worths: tuple[float, ...]
    problems: int
    gain: float
    seeds: int

    @property
    def seed_sd(self) -> float:
        """The standard deviation between training seeds: one seed stands for "these checkpoints", without noise."""
        return 0.0 if self.seeds == 1 else 0.015


def simulate(setting: Setting, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
    """Return per-problem scores of base, full and layers, shape (seeds, problems)."""
    largest = max(1.0, *setting.worths)
    easiness = 0.15 + rng.beta(0.7, 0.7, setting.problems) * (0.7 - 2 * setting.gain * largest)
    helped = 2 * rng.beta(0.5, 0.5, setting.problems)

    def arm(worth: float, seeds: int, seed_sd: float) -> NDArray[np.float64]:
        seed_effect = seed_sd * rng.standard_normal((seeds, 1))
        mean = easiness + setting.gain * worth * helped + seed_effect
        chance = rng.beta(SPREAD * mean, SPREAD * (1 - mean))
        return rng.binomial(SAMPLES, chance) / SAMPLES

    arms = {"base": arm(0.0, 1, 0.0), "full": arm(1.0, setting.seeds, setting.seed_sd)}
    for k, worth in enumerate(setting.worths):
        arms[f"layer-{k:02d}"] = arm(worth, setting.seeds, setting.seed_sd)
    return arms


@dataclass(frozen=True)
class Row:
    """What happened in the scans of a setting. Rates but ``refused`` are among the scans that were not refused.

    ``cover`` is the share of 95 % intervals that hold the truth, ``cover_se`` its simulation error (layers of one scan
    share base and full, so scans are the units). ``better`` is the share of scans that call a layer equal to full
    `better than full`; ``uncorrected`` would be that share if each layer's interval were taken at its word.
    """

    refused: float
    gain_z: float
    cover: float
    cover_se: float
    better: float
    uncorrected: float


def measure(setting: Setting, scans: int, seed: int) -> Row:
    """Simulate and judge scans of a setting."""
    rng = np.random.default_rng(seed)
    names = {k: f"layer-{k:02d}" for k in range(len(setting.worths))}
    results = [analyse(PairedScores(simulate(setting, rng)), names, num_layers=len(names)) for _ in range(scans)]
    kept = [result for result in results if result.refused is None]
    cover, better, uncorrected = [], [], []
    for result in kept:
        ends = np.array([layer.contribution_ci for layer in result.layers])
        cover.append(np.mean((ends[:, 0] <= setting.worths) & (setting.worths <= ends[:, 1])))
        equal = [layer for layer in result.layers if setting.worths[layer.layer] == 1.0]
        better.append(any(layer.verdict == "better than full" for layer in equal))
        uncorrected.append(any(layer.contribution_ci[0] > 1 for layer in equal))
    return Row(
        refused=1 - len(kept) / scans,
        gain_z=float(np.median([result.gain_z for result in results])),
        cover=float(np.mean(cover)),
        cover_se=float(np.std(cover, ddof=1) / np.sqrt(len(kept))),
        better=float(np.mean(better)),
        uncorrected=float(np.mean(uncorrected)),
    )


EQUAL_6, EQUAL_28 = (1.0,) * 6, (1.0,) * 28
MIXED = (-0.1, 0.0, 0.3, 0.6, 0.9, 1.0, 1.2)
SETTINGS = [
    Setting(worths, problems, gain, seeds)
    for problems, gain in ((200, 0.2), (60, 0.2), (200, 0.05))
    for worths in (EQUAL_6, EQUAL_28)
    for seeds in (1, 2, 3)
]
SETTINGS += [Setting(MIXED, 200, 0.2, seeds) for seeds in (1, 2, 3)]
SETTINGS += [Setting(EQUAL_6, 60, 0.05, seeds) for seeds in (1, 2, 3)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Coverage of the intervals of C(k) in simulated scans.")
    parser.add_argument("--scans", type=int, default=500, help="simulated scans a setting (default 500)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the simulation (default 0)")
    options = parser.parse_args()
    print("| layers | problems | gain | seeds | median z | refused | cover | better than full | uncorrected |")
    print("|---|---|---|---|---|---|---|---|---|")
    start = time.perf_counter()
    for setting in SETTINGS:
        row = measure(setting, options.scans, options.seed)
        layers = f"{len(setting.worths)} {'from -0.1 to 1.2' if setting.worths == MIXED else 'equal to full'}"
        cells = [layers, setting.problems, setting.gain, setting.seeds, f"{row.gain_z:.1f}", f"{row.refused:.1%}"]
        cells += [f"{row.cover:.1%} ± {row.cover_se:.1%}", f"{row.better:.1%}", f"{row.uncorrected:.1%}"]
        print("|", " | ".join(map(str, cells)), "|", flush=True)
    print(f"\n{options.scans} scans a setting, seed {options.seed}, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
