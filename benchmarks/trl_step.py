"""A scan step against TRL's GRPOTrainer that trains the same arms one after the other.

The same model, prompts, group, lengths, precision and threads on both sides: 16 rows an arm, as many tokens for every
row, the same reward. TRL freezes all other layers with ``requires_grad_(False)``. Each side runs in a process of its
own, since a process's peak memory never falls; pairs of processes alternate. Times are processor seconds of a step,
summed over the arms for TRL; on a GPU wall seconds, and the peak is of the GPU's memory. onelayer's backward passes take
4 rows of the larger models at a time (``--micro-batch``), TRL's all rows (its batch size is that of a process): the sum of
the gradients is the same, the memory is not.

    python benchmarks/trl_step.py --model tiny                        # bundled Qwen3, full and 8 layers
    python benchmarks/trl_step.py --model 42M --beta 0.04             # 42M parameters, full and 12 layers
    python benchmarks/trl_step.py --model 42M --beta 0.04 --arms 6    # one middle layer alone

On a GPU, with random weights in the shapes of Qwen3 (``--alone``: onelayer arm by arm, in the place of TRL):

    python benchmarks/trl_step.py --device cuda --dtype bfloat16 --model 0.6B --rows 32 --length 512
    python benchmarks/trl_step.py --device cuda --dtype bfloat16 --model 1.7B --rows 32 --length 512 --alone
    python benchmarks/trl_step.py --device cuda --dtype bfloat16 --model 8B --rows 32 --length 512 --arms 18   # under 24 GB?
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

GROUP = 8
TINY = "bundled:qwen3-arithmetic"


class Shape(NamedTuple):
    """A Qwen3 model; the last four are the published ones."""

    layers: int
    width: int
    inner: int
    heads: int
    key_value_heads: int
    head_dim: int
    vocabulary: int
    tied: bool = True


SHAPES = {
    "42M": Shape(12, 512, 1536, 8, 4, 64, 8192),
    "0.6B": Shape(28, 1024, 3072, 16, 8, 128, 151936),
    "1.7B": Shape(28, 2048, 6144, 16, 8, 128, 151936),
    "8B": Shape(36, 4096, 12288, 32, 8, 128, 151936, tied=False),
}


class Meter:
    """Seconds and peak memory: of the processor and the process, or of the GPU."""

    def __init__(self, device: str) -> None:
        self._on_gpu = device == "cuda"

    def now(self) -> float:
        """Processor seconds; on a GPU wall seconds once it is done."""
        if self._on_gpu:
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    def peak_mb(self) -> float:
        """Most memory so far, in MB (Linux counts a process's in kB)."""
        if self._on_gpu:
            return torch.cuda.max_memory_allocated() / 1e6
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def prompts_of(model: str, count: int) -> list[str]:
    """Prompts of 8 words of the model's vocabulary, the same for both sides."""
    generator = torch.Generator().manual_seed(1)
    if model == "tiny":
        digits = torch.randint(1, 100, (count, 3), generator=generator).tolist()
        return ["+".join(f"{n:02d}" for n in numbers) + "=" for numbers in digits]
    words = torch.randint(0, 8000, (count, 16), generator=generator).tolist()
    return [" ".join(f"w{n}" for n in row) for row in words]


def reward_of(text: str) -> float:
    """A reward that looks like noise, but is the same for the same text on both sides."""
    return zlib.crc32(text.encode()) % 100 / 100


def write_model(model: str, folder: Path, dtype: torch.dtype) -> str:
    """The model's folder: the bundled one, or random weights with a vocabulary of words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config

    if model == "tiny":
        from onelayer.models.source import model_path

        return model_path(TINY)
    torch.manual_seed(0)
    shape = SHAPES[model]
    config = Qwen3Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=shape.tied,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(folder)
    words = {"<pad>": 0, "<eos>": 1, **{f"w{n}": n + 2 for n in range(shape.vocabulary - 2)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    ).save_pretrained(folder)
    return str(folder)


def arms_of(args: argparse.Namespace, num_layers: int) -> list[str]:
    """Plans of the arms: ``all`` and every layer, or those asked for."""
    return args.arms.split(",") if args.arms else ["all", *map(str, range(num_layers))]


def run_onelayer(args: argparse.Namespace) -> dict[str, Any]:
    """Steps of all arms through onelayer's own loop: together, or one arm after the other."""
    from dataclasses import replace

    from onelayer.arms.spec import create_arm, spec_of
    from onelayer.config.configs import TrainConfig
    from onelayer.models.load import load_base
    from onelayer.tasks.base import Problem
    from onelayer.training.loop import Training, train_step
    from onelayer.training.prompts import encode_split

    class Task:
        name = "benchmark"

        def problems(self, split: str) -> list[Problem]:
            return [Problem(i, p, {}) for i, p in enumerate(prompts_of(args.model, 64))]

        def reward(self, prompts: Any, completions: list[str], **columns: Any) -> list[float]:
            return [reward_of(text) for text in completions]

    meter = Meter(args.device)
    loaded = load_base(args.path, dtype=getattr(torch, args.dtype), device=torch.device(args.device))
    base = replace(loaded, stop_token_ids=(-1,))
    baseline = meter.peak_mb()
    config = TrainConfig(
        model=args.path,
        task="arithmetic",
        steps=1000,
        train_batch_size=args.rows // GROUP,
        num_generations=GROUP,
        micro_batch_size=args.micro_batch or (args.rows if args.model == "tiny" else 4),
        max_completion_length=args.length,
        learning_rate=args.learning_rate,
        beta=args.beta,
        dtype=args.dtype,
    )
    data = encode_split(base, Task(), "train", 512)
    specs = [spec_of(base, plan, 0) for plan in arms_of(args, base.num_layers)]
    training = Training(base, Task(), data, data, config, (0,))
    by_set = []
    for together in [[spec] for spec in specs] if args.alone else [specs]:
        arms = [create_arm(base, spec, config) for spec in together]
        seconds = []
        for step in range(args.steps + 1):
            start = meter.now()
            records = train_step(training, arms, step)
            seconds.append(meter.now() - start)
            assert all(record["completions/mean_length"] == args.length for record in records)
        by_set.append(seconds[1:])
    seconds = [sum(step) for step in zip(*by_set, strict=True)]
    return {"seconds": seconds, "peak": meter.peak_mb(), "baseline": baseline}


def run_trl(args: argparse.Namespace) -> dict[str, Any]:
    """The same steps of every arm through TRL's trainer, one arm after the other."""
    from datasets import Dataset
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    meter = Meter(args.device)

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.start = meter.now()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.seconds.append(meter.now() - self.start)

    def reward(completions: list[str], **columns: Any) -> list[float]:
        return [reward_of(text) for text in completions]

    baseline = meter.peak_mb()
    by_arm = []
    data = Dataset.from_dict({"prompt": prompts_of(args.model, 64)})
    num_layers = AutoConfig.from_pretrained(args.path).num_hidden_layers
    for plan in arms_of(args, num_layers):
        model = AutoModelForCausalLM.from_pretrained(args.path, dtype=getattr(torch, args.dtype))
        if plan != "all":
            model.requires_grad_(False)
            model.model.layers[int(plan)].requires_grad_(True)
        settings = GRPOConfig(
            output_dir=tempfile.mkdtemp(),
            use_cpu=args.device == "cpu",
            bf16=False,
            per_device_train_batch_size=args.rows,
            num_generations=GROUP,
            max_completion_length=args.length,
            generation_kwargs={"min_new_tokens": args.length},
            max_steps=args.steps + 1,
            learning_rate=args.learning_rate,
            lr_scheduler_type="constant",
            beta=args.beta,
            loss_type="grpo",
            gradient_checkpointing=args.checkpointing,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        clock = Clock()
        tokenizer = AutoTokenizer.from_pretrained(args.path)
        trainer = GRPOTrainer(
            model, reward, settings, train_dataset=data, processing_class=tokenizer, callbacks=[clock]
        )
        trainer.train()
        by_arm.append(clock.seconds[1:])
        del trainer, model
    return {"seconds": [sum(step) for step in zip(*by_arm, strict=True)], "peak": meter.peak_mb(), "baseline": baseline}


def child(side: list[str], path: str, args: argparse.Namespace) -> dict[str, Any]:
    """Run one side in a process of its own."""
    command = [sys.executable, __file__, "--side", *side, "--path", path]
    for name in ("model", "beta", "rows", "length", "steps", "dtype", "learning_rate", "arms", "device", "micro_batch"):
        if getattr(args, name) is not None:
            command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["tiny", *SHAPES], default="tiny")
    parser.add_argument("--beta", type=float, default=0.0)
    parser.add_argument("--rows", type=int, default=16, help="rows an arm")
    parser.add_argument("--length", type=int, help="new tokens a row; by default 32, or 64 with 42M")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a process; one more warms up")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--arms", help="plans, comma-separated; by default all and every layer")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--learning-rate", type=float, default=1e-5)
    parser.add_argument("--micro-batch", type=int, help="onelayer's rows of a backward pass")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--no-defaults", action="store_true", help="leave out TRL with its default checkpointing")
    parser.add_argument("--alone", action="store_true", help="against onelayer arm by arm, instead of TRL")
    parser.add_argument("--checkpointing", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--side", choices=["onelayer", "trl"], help=argparse.SUPPRESS)
    parser.add_argument("--path", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.length = args.length or (32 if args.model == "tiny" else 64)
    if args.side:
        torch.set_num_threads(1)
        print(json.dumps((run_onelayer if args.side == "onelayer" else run_trl)(args)))
        return
    import transformers

    sides = {"onelayer": ["onelayer"]}
    if args.alone:
        sides["onelayer, arm by arm"] = ["onelayer", "--alone"]
    else:
        sides["TRL, checkpointing off"] = ["trl"]
        if not args.no_defaults:
            sides["TRL, its defaults"] = ["trl", "--checkpointing"]
    with tempfile.TemporaryDirectory() as folder:
        path = write_model(args.model, Path(folder), getattr(torch, args.dtype))
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
        for _ in range(args.pairs):
            for name, side in sides.items():
                runs[name].append(child(side, path, args))
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, trl {version('trl')}, one thread,")
    machine = torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or platform.machine()
    print(f"{machine}; arms {args.arms or 'all and every layer'}, {args.rows} rows")
    print(f"of {args.length} new tokens, beta {args.beta:g}, {args.dtype}; medians of {args.pairs} pairs\n")
    print("| | s a scan step | times onelayer's | peak MB | of it after imports |\n|---|---|---|---|---|")
    own = [statistics.median(run["seconds"]) for run in runs["onelayer"]]
    for name, measured in runs.items():
        seconds = [statistics.median(run["seconds"]) for run in measured]
        ratio = statistics.median(theirs / ours for theirs, ours in zip(seconds, own, strict=True))
        peak = statistics.median(run["peak"] for run in measured)
        added = statistics.median(run["peak"] - run["baseline"] for run in measured)
        print(f"| {name} | {statistics.median(seconds):.2f} | {ratio:.2f} | {peak:.0f} | {added:.0f} |", flush=True)


if __name__ == "__main__":
    main()
