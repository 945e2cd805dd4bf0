"""How the time and the memory of a scan step grow: with layers, rows, new tokens, and the vocabulary.

A random Qwen3 of width 128 with an arm for each layer and one for all; one of the four grows by doubling, the others
stay. A process each, one thread: processor seconds of a step (the second; the first warms up), and peak memory beyond
what the process held before the model. For the vocabulary: the log-probabilities and their gradient alone.

    python benchmarks/growth.py --picture docs/pictures/growth.svg      # about six minutes
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import psutil
import torch

WIDTH, PROMPT = 128, 16
STANDARD = {"layers": 8, "rows": 16, "tokens": 32}
SERIES = {"layers": (4, 8, 16, 32), "rows": (8, 16, 32, 64), "tokens": (16, 32, 64, 128)}
VOCABULARIES = (8192, 32768, 151936)
LOGPROB_TOKENS = 4096


def scan_step(layers: int, rows: int, tokens: int) -> dict[str, float]:
    """Seconds and MB of a step of a scan: ``rows`` rows an arm, ``tokens`` new tokens each."""
    from transformers import AutoModelForCausalLM, Qwen3Config

    from onelayer.arms.spec import create_arm, spec_of
    from onelayer.config.configs import TrainConfig
    from onelayer.models.load import wrap_model
    from onelayer.tasks.base import Problem
    from onelayer.training.loop import Training, train_step
    from onelayer.training.prompts import EncodedSplit

    class NoTokenizer:
        eos_token_id = 1

        def batch_decode(self, rows: list[list[int]], **options: Any) -> list[str]:
            return [str(sum(row)) for row in rows]

    class Task:
        name = "benchmark"

        def reward(self, prompts: Any, completions: list[str], **columns: Any) -> list[float]:
            return [int(text) % 10 / 10 for text in completions]

    torch.manual_seed(0)
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])
    before = psutil.Process().memory_info().rss
    config = Qwen3Config(
        vocab_size=1024,
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=WIDTH // 4,
        tie_word_embeddings=True,
        eos_token_id=1,
    )
    base = replace(wrap_model(AutoModelForCausalLM.from_config(config), NoTokenizer(), name="x"), stop_token_ids=(-1,))
    options = TrainConfig(
        model="x",
        task="arithmetic",
        train_batch_size=rows // 8,
        num_generations=8,
        micro_batch_size=8,
        max_prompt_length=PROMPT,
        max_completion_length=tokens,
        max_rows=4096,
        learning_rate=1e-5,
    )
    prompts = torch.randint(2, 1000, (64, PROMPT)).tolist()
    data = EncodedSplit([Problem(i, str(i), {}) for i in range(64)], prompts, 0)
    arms = [create_arm(base, spec_of(base, plan, 0), options) for plan in ("all", *map(str, range(layers)))]
    training = Training(base, Task(), data, data, options, (0,))
    train_step(training, arms, 0)
    start = time.process_time()
    train_step(training, arms, 1)
    seconds = time.process_time() - start
    return {"seconds": seconds, "mb": (peak() - before) / 1e6}


def logprobs(vocabulary: int) -> dict[str, float]:
    """Seconds and MB of the log-probabilities of some thousand tokens and their gradient, beyond the head itself."""
    from onelayer.models.logprobs import head_logprobs

    hidden = torch.randn(LOGPROB_TOKENS, WIDTH, requires_grad=True)
    head = torch.nn.Linear(WIDTH, vocabulary, bias=False).requires_grad_(False)
    targets = torch.randint(0, vocabulary, (LOGPROB_TOKENS,))
    head_logprobs(hidden[:2], head, targets[:2], 1.0, LOGPROB_TOKENS)[0].sum().backward()
    before, start = psutil.Process().memory_info().rss, time.process_time()
    head_logprobs(hidden, head, targets, 1.0, LOGPROB_TOKENS)[0].sum().backward()
    return {"seconds": time.process_time() - start, "mb": (peak() - before) / 1e6}


def peak() -> float:
    """Most resident bytes of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def child(**what: int) -> dict[str, float]:
    """Measure one setting in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--one", json.dumps(what)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def exponent(x: tuple[int, ...], y: list[float]) -> float:
    """Slope between the last two points on a log-log picture: the power with which y grows at the end."""
    return math.log(y[-1] / y[-2]) / math.log(x[-1] / x[-2])


def draw(measured: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Time and memory against each size, both on logarithmic axes."""
    import matplotlib
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6))
    for axis, what, label in zip(axes, ("seconds", "mb"), ("processor s a scan step", "peak MB"), strict=True):
        for name, sizes in SERIES.items():
            x = [size / STANDARD[name] for size in sizes]
            axis.plot(x, [point[what] for point in measured[name]], marker="o", markersize=4, label=name)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log", base=2)
        axis.set_xlabel("times the standard (8 layers, 16 rows an arm, 32 tokens)", fontsize=8)
        axis.set_ylabel(label)
        axis.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "onelayer"}):
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, help="SVG to write")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        torch.set_num_threads(1)
        print(json.dumps(logprobs(**args.one) if "vocabulary" in args.one else scan_step(**args.one)))
        return
    measured: dict[str, list[dict[str, float]]] = {}
    print(
        "| what grows | sizes | s a step | power at the end | peak MB | power at the end |\n|---|---|---|---|---|---|"
    )
    for name, sizes in SERIES.items():
        points = measured[name] = [child(**{**STANDARD, name: size}) for size in sizes]
        cells = []
        for what, digits in (("seconds", 2), ("mb", 0)):
            values = [point[what] for point in points]
            cells += [", ".join(f"{value:.{digits}f}" for value in values), f"{exponent(sizes, values):.2f}"]
        print(f"| {name} | {', '.join(map(str, sizes))} | {' | '.join(cells)} |", flush=True)
    print(f"\n| vocabulary | s, {LOGPROB_TOKENS} tokens | peak MB |\n|---|---|---|")
    for vocabulary in VOCABULARIES:
        point = child(vocabulary=vocabulary)
        print(f"| {vocabulary} | {point['seconds']:.2f} | {point['mb']:.0f} |", flush=True)
    if args.picture:
        draw(measured, args.picture)


if __name__ == "__main__":
    main()
