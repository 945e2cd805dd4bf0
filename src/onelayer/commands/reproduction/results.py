"""What came of a study, read from the folders of its scans."""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onelayer.commands.reproduction.running import Places
from onelayer.commands.reproduction.study import Scan, Study
from onelayer.judging.profile import LayerProfile, Profile
from onelayer.storage.arm_names import FULL, parse
from onelayer.storage.arm_record import ARM, ArmRecord
from onelayer.storage.lines import numbered_lines, read_text
from onelayer.storage.records import read_object


@dataclass(frozen=True)
class Result:
    """One scan: its profile, and what the claims need besides."""

    scan: Scan
    profile: Profile
    learning_rate: float
    seed_scores: tuple[Mapping[int, float], ...]
    """Per training seed: layer -> score."""
    vote: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """The scan's."""
        return self.scan.name

    @property
    def judged(self) -> list[LayerProfile]:
        """Layers with a contribution, in the model's order; none where the gain was too small."""
        return sorted((row for row in self.profile.layers if row.contribution is not None), key=lambda row: row.layer)

    @property
    def curve(self) -> dict[int, float]:
        """Layer -> C."""
        return {row.layer: row.contribution for row in self.judged if row.contribution is not None}


@dataclass(frozen=True)
class Cost:
    """Time that the processes of a part took, in seconds."""

    wall: float
    processor: float


def read_results(study: Study, folder: Path) -> dict[str, Result]:
    """The scans that are done, by name, in the study's order."""
    places = Places(folder)
    return {scan.name: _read(scan, places.scans / scan.name) for scan in study.scans if places.is_scanned(scan)}


def read_costs(folder: Path) -> dict[str, Cost]:
    """What each part took, all its starts together."""
    costs: dict[str, Cost] = defaultdict(lambda: Cost(0.0, 0.0))
    path = Places(folder).times
    for _, line in numbered_lines(read_text(path)) if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:  # half a line: its process was killed, or the machine stopped
            continue
        before = costs[row["name"]]
        costs[row["name"]] = Cost(before.wall + row["wall"], before.processor + row["processor"])
    return dict(costs)


def _read(scan: Scan, folder: Path) -> Result:
    by_seed: dict[int, dict[int, float]] = defaultdict(dict)
    for path in sorted(folder.glob("arms/layer-*/arm.json")):
        name = parse(path.parent.name)
        if name.layer is not None:
            by_seed[name.seed][name.layer] = ArmRecord.read_judged(path).score or 0.0
    vote = read_object(folder / "vote.json") if scan.voters else None
    full = ArmRecord.read_judged(folder / "arms" / FULL / ARM)
    return Result(
        scan,
        Profile.load(folder),
        full.learning_rate or 0.0,
        tuple(by_seed[seed] for seed in sorted(by_seed)),
        vote,
    )
