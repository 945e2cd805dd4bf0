"""Drawing the next tokens: a binary search in few rows at a time, against counting in all rows at once.

Both take the inverse of the cumulative distribution at a uniform number, in doubles. Processor time, medians of alternating
calls on one thread.

    python benchmarks/drawing.py
"""

import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor

from onelayer.training.draws import PICKED_BYTES, Sampling, pick

SIZES = [(144, 17), (208, 8192), (208, 32768), (32, 151936)]
REPEATS = 20


def count(logits: Tensor, uniform: Tensor) -> Tensor:
    """Tokens whose cumulative mass lies below the draw, counted."""
    mass = logits.double().softmax(-1)
    cumulative = mass.cumsum(-1)
    chosen = (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(-1)
    last = mass.shape[-1] - 1 - (mass > 0).flip(-1).long().argmax(-1)
    return torch.minimum(chosen, last)


def search(logits: Tensor, uniform: Tensor) -> Tensor:
    """As sampling does it."""
    rows = max(1, PICKED_BYTES // (8 * logits.shape[-1]))
    parts = zip(torch.split(logits, rows), torch.split(uniform, rows), strict=True)
    return torch.cat([pick(part, numbers, Sampling(1)) for part, numbers in parts])


def milliseconds(draw: Callable[[Tensor, Tensor], Tensor], logits: Tensor, uniform: Tensor) -> float:
    started = time.process_time()
    draw(logits, uniform)
    return 1000 * (time.process_time() - started)


def main() -> None:
    torch.set_num_threads(1)
    print("| rows | vocabulary | counting, ms | searching, ms | ratio |\n|---|---|---|---|---|")
    for rows, vocabulary in SIZES:
        generator = torch.Generator().manual_seed(0)
        logits = 3 * torch.randn(rows, vocabulary, generator=generator)
        uniform = torch.rand(rows, dtype=torch.float64, generator=generator)
        assert torch.equal(count(logits, uniform), search(logits, uniform))
        times = [(milliseconds(count, logits, uniform), milliseconds(search, logits, uniform)) for _ in range(REPEATS)]
        slow, fast = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"| {rows} | {vocabulary} | {slow:.2f} | {fast:.2f} | {slow / fast:.2f} |", flush=True)


if __name__ == "__main__":
    main()
