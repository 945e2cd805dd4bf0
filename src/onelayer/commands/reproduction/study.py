"""What the reproduction runs: base models, and the scans that profile them.

Two families, three domains, three algorithms. GiGPO is run on the agentic task alone: where an episode has one step its
advantages are those of GRPO times 1 + ``step_advantage_w`` (tests/training/test_gigpo.py), a factor that AdamW does not
see.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Literal

Domain = Literal["math", "code", "agentic"]
Scale = Literal["tiny", "gpu"]
Part = Literal["main", "depth", "rate"]

FAMILIES = ("qwen3", "qwen2.5")
TASKS: dict[Domain, str] = {"math": "arithmetic", "code": "code", "agentic": "household"}
ALGORITHMS: dict[Domain, tuple[str, ...]] = {
    "math": ("grpo", "dr_grpo"),
    "code": ("grpo", "dr_grpo"),
    "agentic": ("gigpo", "grpo", "dr_grpo"),
}
"""The first is the one that the paper uses in that domain: it gets all seeds."""
PRETRAINING_STEPS = {"code": 600}
DEFAULT_STEPS = 1000
SEEDS = 3
ANALYSES: dict[str, str | int | bool] = {
    "strategies": True,
    "strategy_k": "2",
    "pairs": 3,
    "leave_one_out": True,
    "lr_check": True,
}
VOTERS = 5
OTHER_RATE: dict[Domain, float] = {"math": 3e-4, "code": 1e-4, "agentic": 1e-4}
"""Of the two rates of the tiny study the one that full training does not choose in the first family, with GRPO."""


@dataclass(frozen=True)
class Base:
    """A base model: one of the bundled ones, or pretrained on the spot (``pretraining.py``)."""

    name: str
    family: str
    task: str
    steps: int = DEFAULT_STEPS
    layers: int = 8
    width: int = 64
    learning_rate: float = 2e-3
    device: str = "cpu"

    @property
    def bundled(self) -> bool:
        """Whether it comes with the package."""
        return resources.files("onelayer").joinpath("bundled", self.name).is_dir()

    def model(self, bases: Path) -> str:
        """What ``--model`` is given, where made models are in the folder ``bases``."""
        return f"bundled:{self.name}" if self.bundled else str(bases / self.name)

    def arguments(self, output: Path) -> list[str]:
        """Arguments of ``python -m onelayer.commands.reproduction.pretraining`` that make it."""
        options = {"architecture": self.family, "task": self.task, "steps": self.steps}
        options |= {"layers": self.layers, "width": self.width, "learning-rate": self.learning_rate}
        options |= {"device": self.device, "output": output}
        return [piece for name, value in options.items() for piece in (f"--{name}", str(value))]


@dataclass(frozen=True)
class Scan:
    """One ``onelayer scan``, and the vote over its best ``voters`` layers."""

    name: str
    base: Base
    domain: Domain
    algorithm: str
    settings: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    voters: int = 0
    part: Part = "main"
    """Depth asks when the middle begins to win, rate for the ranking at another rate: they are in no other comparison."""

    @property
    def seeds(self) -> int:
        """Training seeds of every arm."""
        return int(self.settings.get("seeds", 1))

    def arguments(self, bases: Path, scans: Path) -> list[str]:
        """Arguments of ``onelayer`` that run the scan."""
        options = {
            "task": self.base.task,
            "model": self.base.model(bases),
            "algorithm": self.algorithm,
            **self.settings,
            "output": str(scans / self.name),
        }
        pieces = ["scan"]
        for name, value in options.items():
            pieces += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
        return pieces

    def command(self, bases: Path, scans: Path) -> str:
        """The command line, as a person would type it."""
        return shlex.join(["onelayer", *self.arguments(bases, scans)])


@dataclass(frozen=True)
class Study:
    """Everything that one ``onelayer reproduce`` runs, the longest scans first."""

    scale: Scale
    scans: tuple[Scan, ...]

    @property
    def bases(self) -> tuple[Base, ...]:
        """The base models that have to be made, each once."""
        return tuple(dict.fromkeys(scan.base for scan in self.scans if not scan.base.bundled))


def study_of(scale: Scale) -> Study:
    """The study at one scale: ``tiny`` takes two processor cores some hours, ``gpu`` wants a GPU.

    The learning rate of a scan is the one of two with which full training is best on the selection problems, as the
    paper chose its own. What the paper does with a profile is tried with the first family, in mathematics. On a GPU
    models have 12 layers of width 512 (38M parameters) and are pretrained there.
    """
    on_gpu = scale == "gpu"

    def base_of(family: str, task: str) -> Base:
        steps = PRETRAINING_STEPS.get(task, DEFAULT_STEPS)
        if on_gpu:
            name = f"{family}-{task}-12x512"
            return Base(name, family, task, steps, layers=12, width=512, learning_rate=5e-4, device="cuda")
        return Base(f"{family}-{task}", family, task, steps)

    common: dict[str, str | int | float | bool] = {
        "learning_rate": "auto:1e-5,3e-5,1e-4" if on_gpu else "auto:1e-4,3e-4"
    }
    if on_gpu:
        common["device"] = "cuda"
    scans = []
    for domain, task in TASKS.items():
        for family in FAMILIES:
            for place, algorithm in enumerate(ALGORITHMS[domain]):
                settings = {**common, "seeds": SEEDS if place == 0 else 1}
                analysed = (domain, family, place) == ("math", FAMILIES[0], 0)
                if analysed:
                    settings |= ANALYSES
                scans.append(
                    Scan(
                        f"{domain}-{family}-{algorithm}",
                        base_of(family, task),
                        domain,
                        algorithm,
                        settings,
                        voters=VOTERS if analysed else 0,
                    )
                )
    boxed = base_of("qwen3", "arithmetic-boxed")
    scans.append(Scan("boxed-qwen3-grpo", boxed, "math", "grpo", {**common, "seeds": SEEDS}))
    if not on_gpu:
        scans += [
            *_depth_scans(common),
            *(_rate_scan(domain, base_of(FAMILIES[0], TASKS[domain])) for domain in OTHER_RATE),
        ]
    # What takes long begins first, so that the processes end together.
    return Study(scale, tuple(sorted(scans, key=lambda scan: -scan.seeds * (3 if scan.voters else 1))))


def _depth_scans(common: Mapping[str, str | int | float | bool]) -> list[Scan]:
    """Other depths, and other lengths of pretraining."""
    return [
        Scan(f"math-{base.name}", base, "math", "grpo", dict(common), part="depth")
        for base in (
            Base("qwen3-4-layers", "qwen3", "arithmetic", layers=4),
            Base("qwen3-16-layers", "qwen3", "arithmetic", layers=16),
            Base("qwen3-300-steps", "qwen3", "arithmetic", steps=300),
            Base("qwen3-3000-steps", "qwen3", "arithmetic", steps=3000),
        )
    ]


def _rate_scan(domain: Domain, base: Base) -> Scan:
    """A scan at another learning rate."""
    rate = OTHER_RATE[domain]
    name = f"{domain}-{FAMILIES[0]}-grpo-rate-{rate:.0e}"
    return Scan(name, base, domain, "grpo", {"learning_rate": rate}, part="rate")
