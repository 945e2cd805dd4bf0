"""Products with the base's large weights, prepacked and as they are: billions of operations a second.

All linear weights of the 42M model of ``benchmarks/trl_step.py`` one after the other, as a pass of the model takes them, so
that none is still in the cache from its last use. Processor time; medians of alternating rounds.

    python benchmarks/products.py
    python benchmarks/products.py --threads 2     # wall time
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence

os.environ.setdefault("OMP_NUM_THREADS", "1")

import onelayer  # noqa: F401  # before torch computes: it settles how MKL does

# isort: split
import torch
from torch import Tensor, nn
from torch.nn import functional

from onelayer.models.prepacked import prepack

LAYERS, WIDTH, INNER, VALUES, VOCABULARY = 12, 512, 1536, 256, 8192


def weights() -> list[nn.Linear]:
    """The linear modules of all layers and the head."""
    layer = [
        (WIDTH, WIDTH),
        (WIDTH, VALUES),
        (WIDTH, VALUES),
        (WIDTH, WIDTH),
        (WIDTH, INNER),
        (WIDTH, INNER),
        (INNER, WIDTH),
    ]
    return [nn.Linear(*shape, bias=False).requires_grad_(False) for shape in [*layer * LAYERS, (WIDTH, VOCABULARY)]]


def rate(product: Callable[[nn.Linear, Tensor], Tensor], linears: Sequence[nn.Linear], rows: int, wall: bool) -> float:
    """Billions of operations a second of one pass through all weights."""
    inputs = {width: torch.randn(rows, width) for width in (WIDTH, INNER)}
    now = time.perf_counter if wall else time.process_time
    start = now()
    for linear in linears:
        product(linear, inputs[linear.in_features])
    return sum(2 * rows * linear.weight.numel() for linear in linears) / (now() - start) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    plain, packed = weights(), nn.ModuleList(weights())
    prepack(packed)
    print(f"torch {torch.__version__}, {args.threads} thread{'s' * (args.threads > 1)}\n")
    print("| rows | as they are | prepacked | ratio |\n|---|---|---|---|")
    with torch.no_grad():
        for rows in (16, 64, 208, 1280):
            rates: list[tuple[float, float]] = []
            for _ in range(args.rounds + 1):
                own = rate(lambda linear, x: functional.linear(x, linear.weight), plain, rows, args.threads > 1)
                fast = rate(lambda linear, x: linear(x), list(packed), rows, args.threads > 1)  # type: ignore[arg-type]
                rates.append((own, fast))
            own, fast = (statistics.median(column) for column in zip(*rates[1:], strict=True))
            ratio = statistics.median(b / a for a, b in rates[1:])
            print(f"| {rows} | {own:.0f} | {fast:.0f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
