"""What it costs to train a layer, by its depth: backward time and peak memory of one update.

Nothing below the lowest trained layer needs a gradient, so both fall as the layer index rises.

    python benchmarks/depth.py            # a random Qwen3 of 42M parameters (12 layers, width 512), about two minutes
    python benchmarks/depth.py --layers 6 --width 128 --vocabulary 1000 --repeats 3
"""

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch


def measure(plan: str, args: argparse.Namespace) -> tuple[float, float, float]:
    """Median forward and backward seconds of processor time, and MB that the update adds to the peak memory."""
    from transformers import AutoModelForCausalLM, Qwen3Config

    from onelayer.arms.arm import Arm, OptimizerSettings
    from onelayer.arms.plan import parse_plan, resolve
    from onelayer.models.load import wrap_model
    from onelayer.models.logprobs import Tokens, completion_logprobs

    class NoTokenizer:
        eos_token_id = 1

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=args.vocabulary,
        hidden_size=args.width,
        intermediate_size=3 * args.width,
        num_hidden_layers=args.layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=args.width // 8,
        tie_word_embeddings=True,
        eos_token_id=1,
    )
    base = wrap_model(AutoModelForCausalLM.from_config(config), NoTokenizer(), name="random Qwen3")
    rates = resolve(parse_plan(plan, base.num_layers), base.parts, base.tied_head)
    prompt = torch.randint(2, args.vocabulary, (args.rows, 16))
    completion = torch.randint(2, args.vocabulary, (args.rows, args.length))
    ones = torch.ones_like
    before = peak_mb()
    arm = Arm.create(base, rates, OptimizerSettings())
    forward, backward = [], []
    for _ in range(args.repeats + 1):
        start = time.process_time()
        with arm.worn_by(base):
            logps, _ = completion_logprobs(base, Tokens(prompt, ones(prompt), completion, ones(completion)))
            middle = time.process_time()
            logps.mean().backward()
        forward.append(middle - start)
        backward.append(time.process_time() - middle)
        arm.update()
    return statistics.median(forward[1:]), statistics.median(backward[1:]), peak_mb() - before


def peak_mb() -> float:
    """Peak resident memory of this process so far, in MB (Linux counts in kB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--plan", help="measure one plan only and print its numbers")
    args = parser.parse_args()
    if args.plan:
        print(*measure(args.plan, args))
        return
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} thread(s)")
    print(f"{args.layers} layers of width {args.width}, {args.rows} rows of 16 + {args.length} tokens\n")
    print("| plan | forward s | backward s | added peak MB |\n|---|---|---|---|")
    plans = ["all", *(str(k) for k in range(0, args.layers, max(1, args.layers // 6))), str(args.layers - 1)]
    for plan in dict.fromkeys(plans):
        # A process each, because a process's peak memory never falls.
        line = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--plan", plan], capture_output=True, text=True)
        if line.returncode:
            sys.exit(line.stderr)
        forward, backward, memory = map(float, line.stdout.split())
        print(f"| {plan} | {forward:.2f} | {backward:.2f} | {memory:.0f} |", flush=True)


if __name__ == "__main__":
    main()
