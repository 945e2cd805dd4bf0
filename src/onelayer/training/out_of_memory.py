"""Running out of memory in one batch: noticed, answered with half of the rows, never with other results in silence.

How many rows go through the model at once is part of what is computed where a product's last bits depend on it, and
always in an update, where it orders a sum. So who halves it writes down from which step on, and a continued run halves
it there too.
"""

import gc
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import torch

from onelayer.config.sampling import EvalConfig
from onelayer.errors import RunStopped

Option = Literal["max_rows", "micro_batch_size"]
Place = int | Literal["base"]
"""Where a cut holds: in a set of arms, by its number, or in the scoring of the base."""
FEWEST: dict[Option, int] = {"max_rows": 8, "micro_batch_size": 1}
WITH_IT: dict[Option, tuple[str, ...]] = {"max_rows": (), "micro_batch_size": ("micro_batch_tokens",)}
"""Options that limit the same batch, and are halved too."""
SIGNS = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What torch's errors say where they have no type of their own: on a CPU, on a Mac, inside cuBLAS."""
C = TypeVar("C", bound=EvalConfig)
T = TypeVar("T")


class OutOfMemory(Exception):
    """The memory of the device or of the machine was not enough for a batch whose rows ``option`` limits."""

    def __init__(self, option: Option) -> None:
        super().__init__(option)
        self.option: Option = option


@contextmanager
def noticing(option: Option) -> Iterator[None]:
    """Turn what torch and Python raise when memory runs out into one exception.

    Raises:
        OutOfMemory: memory ran out inside the block.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not any(s in str(error) for s in SIGNS):
            raise
        raise OutOfMemory(option) from error


def free_leftovers() -> None:
    """Free what a failed batch has left behind, once nothing refers to it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def halved(option: Option, config: EvalConfig) -> dict[str, int]:
    """Options with half of their rows, for another try; what the last one left behind is freed.

    Raises:
        RunStopped: there are no fewer rows to be had.
    """
    free_leftovers()
    rows = int(getattr(config, option))
    if rows <= FEWEST[option]:
        raise RunStopped(
            f"out of memory even with {option} = {rows}; lower max_completion_length or logprob_chunk, train fewer "
            "layers, or take a machine with more memory; --resume goes on from the last checkpoint"
        )
    further = {name: max(1, int(getattr(config, name)) // 2) for name in WITH_IT[option]}
    return {option: max(FEWEST[option], rows // 2), **further}


def fewer_rows(call: Callable[[C], T], config: C) -> Generator[dict[str, int], None, T]:
    """``call(config)``, with ``max_rows`` halved as often as memory runs out: yields what it is then, returns the result.

    Raises:
        RunStopped: memory is not enough for the fewest rows.
    """
    while True:
        try:
            with noticing("max_rows"):
                return call(config)
        except OutOfMemory:
            pass  # outside of this block the failed batch is no longer referred to, and can be freed
        cut = halved("max_rows", config)
        config = config.model_copy(update=cut)
        yield cut


def with_fewer_rows(call: Callable[[C], T], config: C, pin: Callable[[dict[str, int]], object]) -> T:
    """:func:`fewer_rows` for those who tell nobody but ``pin``.

    Raises:
        RunStopped: memory is not enough for the fewest rows.
    """
    trying = fewer_rows(call, config)
    while True:
        try:
            pin(next(trying))
        except StopIteration as end:
            result: T = end.value
            return result


def with_cuts(cuts: Sequence[Mapping[str, Any]], place: Place, config: C, step: int) -> C:
    """The configuration as it is for a step of a set: with the rows that memory allowed.

    ``cuts`` are the manifest's: ``{"set": place, "step": first, option: rows, ...}``, later ones win.
    """
    pinned = [cut for cut in cuts if cut["set"] == place and cut["step"] <= step]
    rows = {key: value for cut in pinned for key, value in cut.items() if key not in ("set", "step")}
    if "max_rows" in rows:
        rows["max_rows"] = min(rows["max_rows"], config.max_rows)
    return config.model_copy(update=rows)


def cut_steps(cuts: Sequence[Mapping[str, Any]], place: Place) -> list[int]:
    """The steps of a set from which on it has other cuts, ascending."""
    return sorted({cut["step"] for cut in cuts if cut["set"] == place})
