"""Packed policies against one policy at a time: seconds to complete the same rows, with the same tokens.

Medians of the ratios of alternating pairs in one process, one thread. Every arm answers the same prompts; ``full`` wears
all tensors, the others one layer each.

    python benchmarks/pack.py evaluation --rows 16     # the bundled model on its test problems, greedy
    python benchmarks/pack.py evaluation --rows 256
    python benchmarks/pack.py generation --rows 16     # 32 tokens a row whatever is drawn
    python benchmarks/pack.py generation --rows 16 --random --length 64 --pairs 3   # 42M parameters, 13 arms
    python benchmarks/pack.py generation --rows 16 --group 4      # 4 completions of each prompt, as in training
"""

import argparse
import os
import platform
import statistics
import time
from dataclasses import replace

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers

from onelayer.models.base import BaseModel
from onelayer.models.load import load_base, wrap_model
from onelayer.tasks.arithmetic import ArithmeticTask
from onelayer.training.completions import Completions
from onelayer.training.draws import Key, Row, Sampling
from onelayer.training.prompts import encode_split
from onelayer.training.sample import Request, complete


class NoTokenizer:
    """The end-of-sequence token is all that generation asks of a tokenizer."""

    eos_token_id = 1


def random_model() -> BaseModel:
    """A random Qwen3 of 42M parameters."""
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=8192,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=12,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        tie_word_embeddings=True,
        eos_token_id=1,
    )
    return wrap_model(transformers.AutoModelForCausalLM.from_config(config), NoTokenizer(), name="random Qwen3")


def policies_of(base: BaseModel) -> list[dict[str, torch.Tensor]]:
    """The arms of a scan: full, then each layer; a hundredth away from the base."""
    generator = torch.Generator().manual_seed(0)
    layers: list[int | None] = [None, *range(base.num_layers)]
    names = [[n for n, part in base.parts.items() if layer is None or part.layer == layer] for layer in layers]
    return [
        {n: base.tensor(n) * (1 + 0.01 * torch.randn(base.tensor(n).shape, generator=generator)) for n in own}
        for own in names
    ]


def rows_of(base: BaseModel, args: argparse.Namespace) -> list[Row]:
    """Prompts of the test problems, or random ones for the random model, ``group`` rows each."""
    count = args.rows // args.group
    if args.random:
        prompts = torch.randint(2, 8192, (count, 16), generator=torch.Generator().manual_seed(1)).tolist()
    else:
        prompts = encode_split(base, ArithmeticTask(), "test", 512).tokens[:count]
    return [Row(prompt, problem, sample) for problem, prompt in enumerate(prompts) for sample in range(args.group)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["evaluation", "generation"])
    parser.add_argument("--rows", type=int, default=16, help="rows an arm")
    parser.add_argument("--group", type=int, default=1, help="completions of each prompt")
    parser.add_argument("--length", type=int, default=32, help="tokens a row, for generation")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--max-rows", type=int, default=512)
    parser.add_argument("--random", action="store_true", help="42M random parameters instead of the bundled model")
    args = parser.parse_args()
    base = random_model() if args.random else load_base("bundled:qwen3-arithmetic")
    sampling = Sampling(ArithmeticTask.max_completion_length, 0.0)
    if args.what == "generation":
        base, sampling = replace(base, stop_token_ids=(-1,)), Sampling(args.length, 1.0)
    policies, rows, key = policies_of(base), rows_of(base, args), Key(0, "eval", 0)
    requests = [Request(policy, rows, key) for policy in policies]
    width = max(len(row.prompt) for row in rows)

    def packed() -> list[Completions]:
        return complete(base, requests, sampling, width=width, max_rows=args.max_rows)

    def one_by_one() -> list[Completions]:
        return [complete(base, [request], sampling, width=width, max_rows=args.max_rows)[0] for request in requests]

    seconds: dict[str, list[float]] = {"packed": [], "one by one": []}
    for pair in range(-1, args.pairs):  # The first pair warms up.
        results = []
        for name, run in (("packed", packed), ("one by one", one_by_one)):
            start = time.process_time()
            results.append(run())
            if pair >= 0:
                seconds[name].append(time.process_time() - start)
        assert all(torch.equal(one.ids, two.ids) for one, two in zip(*results, strict=True))
    ratios = [alone / together for together, alone in zip(*seconds.values(), strict=True)]
    mean_length = torch.cat([each.lengths for each in results[0]]).float().mean()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} thread,")
    print(f"{platform.processor() or platform.machine()}, {base.num_parameters:,} parameters")
    print(f"{len(policies)} arms of {len(rows)} rows, prompts of {width}, completions of {mean_length:.1f} tokens")
    for name, times in seconds.items():
        print(f"{name:>12}: {statistics.median(times):.2f} s of processor time")
    print(f"{'ratio':>12}: {statistics.median(ratios):.2f} (of each pair: {', '.join(f'{r:.2f}' for r in ratios)})")


if __name__ == "__main__":
    main()
