"""``manifest.json``: everything that changes a floating-point result of a run, pinned before its first step.

It carries a checksum of itself, and the one before it is kept, so that a damaged file is noticed and replaced.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from onelayer.errors import UserError
from onelayer.storage.files import SEAL, read_sealed_or_before, seal_holds, write_sealed
from onelayer.storage.records import read_object

MANIFEST, MANIFEST_BEFORE = "manifest.json", "manifest.before.json"
ADDED_BY_EVAL = ("scan", "categories")
"""Keys that version 0.1.0 added to the copy of a scan's manifest that eval wrote, under the checksum of the original."""


class Manifest(BaseModel):
    """What pins a run. Unknown keys are kept: other versions, and engines, write more."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    num_layers: Annotated[int, Field(ge=1)]
    versions: dict[str, str] = {}
    code: dict[str, str] = {}
    """Hashes of the modules that compute, by path."""
    reward: str | None = None
    """Hash of an own reward function's files."""
    hardware: str | None = None
    device: str | None = None
    threads: int | None = None
    min_rows: int | None = None
    base_hash: str | None = None
    dtype: str | None = None
    data: dict[str, str] = {}
    """Hash of each split."""
    config: dict[str, Any] = {}
    """The options that change a result."""
    seeds: list[int] = []
    arms: dict[str, str] = {}
    """Plan and seed of every arm, by name."""
    sets: list[list[str]] = []
    """Names of the arms that advance side by side."""
    cuts: list[dict[str, Any]] = []
    """What memory allowed: from a step of a set on (or for the base) a batch has fewer rows."""
    scan: str | None = None
    """The scan whose arms were scored anew, where that is what the folder holds."""
    categories: dict[str, str] | None = None
    """Benchmark -> category, where the score is the mean of category averages."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The manifest of a run, finished or not.

        Raises:
            UserError: there is none, or it is damaged.
        """
        path = folder / MANIFEST
        if not path.exists():
            raise UserError(f"{folder} is not the folder of a scan: it has no {MANIFEST}")
        value = read_object(path)
        original = {key: item for key, item in value.items() if key not in ADDED_BY_EVAL}
        if not (seal_holds(value) or ("scan" in value and seal_holds(original))):
            raise UserError(f"{path} is damaged: its content differs from its checksum; restore it")
        return cls._of(value, path)

    @classmethod
    def read_or_before(cls, folder: Path) -> tuple[Self, str | None]:
        """The manifest of a run that is to go on, or the one before it where it is damaged, and a sentence about that.

        Raises:
            UserError: there is none, or both are damaged.
        """
        value, damage = read_sealed_or_before(folder / MANIFEST, folder / MANIFEST_BEFORE)
        return cls._of(value, folder / MANIFEST), damage

    @classmethod
    def _of(cls, value: Mapping[str, Any], path: Path) -> Self:
        try:
            return cls.model_validate({key: item for key, item in value.items() if key != SEAL})
        except ValidationError as error:
            key = str(error.errors()[0]["loc"][0])
            raise UserError(f"{path} has a '{key}' that is {value.get(key)!r}; restore it") from error

    def write(self, folder: Path) -> None:
        """Write it with a checksum of itself; what was there is kept as the one before.

        Raises:
            WriteFailed: the disk refused it.
        """
        write_sealed(folder / MANIFEST, self.model_dump(exclude_unset=True), before=folder / MANIFEST_BEFORE)

    def changed(self, **values: Any) -> Self:
        """The same with other values."""
        return type(self).model_validate({**self.model_dump(exclude_unset=True), **values})

    def with_sets(self, sets: Sequence[Sequence[str]], plans: Mapping[str, str]) -> Self:
        """With further sets of arms; ``plans`` are the plans of all arms, by name."""
        arms = {name: plans[name] for names in sets for name in names}
        return self.changed(arms=self.arms | arms, sets=[*self.sets, *map(list, sets)])
