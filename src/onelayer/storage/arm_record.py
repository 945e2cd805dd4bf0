"""``arm.json``: what an arm leaves behind besides its delta and its scores. It is written last, so an arm with it is done.

Folders get copied, cut short and edited. Keys may be missing, since older versions wrote fewer, or unknown, since newer
ones write more; a value that is there has the right kind.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from onelayer.errors import UserError
from onelayer.storage.files import SEAL, seal_holds, write_sealed
from onelayer.storage.records import read_object

ARM = "arm.json"
Number = Annotated[float, Field(allow_inf_nan=False)]


class ArmRecord(BaseModel):
    """What is known of an arm, a training seed each; None, or nothing, where it was not recorded."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    arm: str | None = None
    """Its name without the seed."""
    name: str | None = None
    kind: str | None = None
    """``base``, ``full``, ``layer``, ``strategy``, ...; ``rate`` and ``dropped`` are no results."""
    plan: str | None = None
    layer: int | None = None
    """The one layer that it trains."""
    seed: int | None = None
    learning_rate: Number | None = None
    trained_parameters: int | None = None
    score: Number | None = None
    """Mean on the test problems."""
    selection_score: Number | None = None
    reasons: dict[str, int] = {}
    """How often a grader gave each reason on the test problems."""
    seconds: Number | None = None
    """Its share of the wall-clock time of training."""
    stopped: str | None = None
    """Why a guard stopped it."""
    skipped_updates: int | None = None
    dropped_at: int | None = None
    """The step at which a search gave it up."""
    change_norms: dict[str, Number] = {}
    """Euclidean norm of each tensor's change."""
    first_gradient_norms: dict[str, Number] = {}
    episode_ends: dict[str, Number] = {}
    success_by_task_type: dict[str, Number] = {}
    engine: str | None = None
    processes: int | None = None
    rollouts: str | None = None
    """Engine trl: how tokens were drawn."""
    engine_options: dict[str, Any] = {}
    updates: int | None = None
    command: str | None = None
    base_model: str | None = None
    revision: str | None = None
    base_hash: str | None = None
    sha256: dict[str, str] = {}
    """Checksums of the arm's other files."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read an ``arm.json``; those of the first versions have no checksum of themselves.

        Raises:
            UserError: it cannot be read, is not what was written, or a value is none of its key.
        """
        value = read_object(path)
        if not seal_holds(value):
            raise UserError(
                f"{path} is damaged: its content differs from its checksum; restore it, or remove its folder to train "
                "the arm again"
            )
        try:
            return cls.model_validate({key: item for key, item in value.items() if key != SEAL})
        except ValidationError as error:
            first = error.errors()[0]
            key = str(first["loc"][0])
            raise UserError(f"{path} has a '{key}' that is {value[key]!r}; restore it") from error

    @classmethod
    def read_judged(cls, path: Path) -> Self:
        """Read one that says at least what kind it is of and, for a layer alone, which.

        Raises:
            UserError: as :meth:`read`, or one of them is missing.
        """
        record = cls.read(path)
        if record.kind is None:
            raise UserError(f"{path} has no 'kind' (base, full, layer or strategy); restore it")
        if record.kind == "layer" and record.layer is None:
            raise UserError(f"{path} is of kind 'layer' but 'layer' is None, not a number")
        return record

    def write(self, path: Path) -> None:
        """Write it with a checksum of itself: the keys that were set, and no others.

        Raises:
            WriteFailed: the disk refused it.
        """
        write_sealed(path, self.model_dump(exclude_unset=True))

    def changed(self, **values: Any) -> Self:
        """The same with other values."""
        return type(self).model_validate({**self.model_dump(exclude_unset=True), **values})


def records_of(folder: Path) -> Mapping[str, ArmRecord]:
    """The records of all arms of a run that are done, by the names of their folders, in order.

    Raises:
        UserError: one of them is damaged.
    """
    return {path.parent.name: ArmRecord.read_judged(path) for path in sorted(folder.glob(f"arms/*/{ARM}"))}
