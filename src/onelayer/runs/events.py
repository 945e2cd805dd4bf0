"""What a set of arms at work tells whoever keeps its results: plain values, which can come from another machine.

Events come in order. Tensors in them are the arms' own: they are to be written, or copied, before the next event is
asked for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from onelayer.storage.arm_record import ArmRecord
from onelayer.storage.scores import ArmScores
from onelayer.training.loop import Record
from onelayer.training.out_of_memory import Place


@dataclass(frozen=True)
class ArmState:
    """Everything that a continued run needs of an arm."""

    name: str
    tensors: Mapping[str, Tensor]
    counters: Mapping[str, Any]


@dataclass(frozen=True)
class Stepped:
    """A step is done: its metrics, by the names of the arms that trained."""

    step: int
    records: Sequence[tuple[str, Record]]


@dataclass(frozen=True)
class Reached:
    """The state of the whole set before step ``next_step``, to be kept, and the seconds trained so far."""

    next_step: int
    seconds: float
    arms: Sequence[ArmState]


@dataclass(frozen=True)
class Between:
    """Nothing is half done: the moment to ask for a stop, which the next step would not notice."""


@dataclass(frozen=True)
class FewerRows:
    """From a step of a set on (or for scoring the base) a batch has fewer rows, because memory ran out."""

    place: Place
    step: int
    rows: Mapping[str, int]


@dataclass(frozen=True)
class Said:
    """A sentence for the person who watches."""

    text: str
    warns: bool = False


@dataclass(frozen=True)
class Noted:
    """What goes on besides training."""

    text: str


@dataclass(frozen=True)
class Finished:
    """An arm (or the base) is trained and scored."""

    name: str
    scores: ArmScores
    record: ArmRecord
    """What ``arm.json`` says of it, but for what the keeper knows."""
    delta: Mapping[str, Tensor] | None = None
    """fp32, by the tensors' original names; None for the base."""
    trajectories: Sequence[Mapping[str, Any]] | None = None
    """Rows of ``trajectories.jsonl``, where the task is played in turns."""


Event = Stepped | Reached | Between | FewerRows | Said | Noted | Finished
