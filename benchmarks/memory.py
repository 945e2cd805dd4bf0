"""What a training step and a scoring batch take at their fullest, against what ``onelayer plan`` predicts.

A process each, on the CPU: resident memory beyond what it holds with the model loaded, plus the weights.

    python benchmarks/memory.py          # random Qwen3 models of up to 42M parameters, about five minutes
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import psutil
import torch

SETTINGS = {
    "42M, all": {"plans": ["all"]},
    "42M, layer 6": {"plans": ["6"]},
    "42M, layer 11": {"plans": ["11"]},
    "42M, all, 4 rows a pass": {"plans": ["all"], "micro": 4},
    "42M, all, layers computed again": {"plans": ["all"], "checkpointing": True},
    "42M, layer 6, 192 tokens": {"plans": ["6"], "length": 192},
    "42M, all and 12 layers": {"plans": ["all", *map(str, range(12))], "micro": 4},
    "vocabulary 65536, layer 3 of 6": {"plans": ["3"], "layers": 6, "width": 256, "vocabulary": 65536},
}


def run(settings: dict[str, Any]) -> tuple[float, float]:
    """Measured and predicted peak in MB."""
    from transformers import AutoModelForCausalLM, Qwen3Config

    from onelayer.arms.spec import create_arm, spec_of
    from onelayer.commands.memory import memory_of
    from onelayer.config.configs import TrainConfig
    from onelayer.models.load import wrap_model
    from onelayer.models.prepacked import prepack
    from onelayer.tasks.base import Problem
    from onelayer.training.loop import Training, train_step
    from onelayer.training.prompts import EncodedSplit
    from onelayer.training.rollout import evaluate

    class NoTokenizer:
        eos_token_id = 1

        def batch_decode(self, rows: list[list[int]], **options: Any) -> list[str]:
            return [str(sum(row)) for row in rows]

    class Task:
        name = "benchmark"

        def reward(self, prompts: Any, completions: list[str], **columns: Any) -> list[float]:
            return [int(text) % 10 / 10 for text in completions]

    torch.manual_seed(0)
    width = settings.get("width", 512)
    config = Qwen3Config(
        vocab_size=settings.get("vocabulary", 8192),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=settings.get("layers", 12),
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=width // 8,
        tie_word_embeddings=True,
        eos_token_id=1,
    )
    length = settings.get("length", 64)
    base = replace(wrap_model(AutoModelForCausalLM.from_config(config), NoTokenizer(), name="x"), stop_token_ids=(-1,))
    prepack(base.module)  # as loading a model does
    options = TrainConfig(
        model="x",
        task="arithmetic",
        train_batch_size=2,
        num_generations=8,
        micro_batch_size=settings.get("micro", 16),
        max_prompt_length=16,
        max_completion_length=length,
        max_rows=settings.get("max_rows", 64),
        gradient_checkpointing=settings.get("checkpointing", False),
        learning_rate=1e-5,
    )
    specs = [spec_of(base, plan, 0) for plan in settings["plans"]]
    predicted = memory_of(base, specs, options).peak
    prompts = torch.randint(2, 8000, (64, 16)).tolist()
    data = EncodedSplit([Problem(i, str(i), {}) for i in range(64)], prompts, 0)
    # Whatever libraries load on first use is not the run's.
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])
    before = psutil.Process().memory_info().rss - base.num_parameters * base.dtype.itemsize
    arms = [create_arm(base, spec, options) for spec in specs]
    training = Training(base, Task(), data, data, options, (0,))
    for step in range(2):
        train_step(training, arms, step)
    evaluate(base, Task(), data, [{}, *(arm.weights for arm in arms)], options)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 1e6, predicted / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(run(SETTINGS[args.one])))
        return
    print("| run | measured MB | predicted MB | predicted / measured |\n|---|---|---|---|")
    for name in SETTINGS:
        done = subprocess.run([sys.executable, __file__, "--one", name], capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        measured, predicted = json.loads(done.stdout.splitlines()[-1])
        print(f"| {name} | {measured:.0f} | {predicted:.0f} | {predicted / measured:.2f} |", flush=True)


if __name__ == "__main__":
    main()
