"""Make a small base model for one of the bundled tasks: a real transformer that RL has something to teach.

    python -m onelayer.commands.reproduction.pretraining --architecture qwen3 --task arithmetic --output DIR

The model is pretrained from scratch on text that mixes competing strategies: some completions follow the right
procedure, more of them follow a plausible wrong one, the rest are noise. Greedy decoding then picks the wrong strategy
wherever the two differ, and RL has to change what the model does, not only to sharpen it. Trained on right answers with
noise instead, greedy decoding is already right.

Pretraining draws prompts from the task's train split alone: no answer of a selection or test problem, right or wrong,
is ever seen.

One thread, fixed seeds: the same command on the same machine and versions writes the same bytes.

Depth, width and the number of steps are options: the reproduction also asks at which depth, and after how much
pretraining, a profile begins to look like those of real models.
"""

import argparse
import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch.nn.functional import cross_entropy
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from onelayer.storage.screen import echo
from onelayer.tasks.arithmetic import OPERANDS, ArithmeticTask, worked_steps
from onelayer.tasks.arithmetic_boxed import BOX, BOX_END, boxed_steps
from onelayer.tasks.code import CLOSED, HEADER, LETTERS, OPEN, REPEATED, REVERSED, CodeTask, examples_and_functions
from onelayer.tasks.environments.policies import pretraining_text, vocabulary
from onelayer.tasks.environments.prompting import ACTION_CLOSE

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
IGNORED = -100


@dataclass(frozen=True)
class Recipe:
    """What a base model is pretrained on: its alphabet, and a generator of (prompt, completion) texts."""

    tokens: Sequence[str]
    """Characters and longer pieces of text, or with ``words`` the words of texts that are split at spaces."""
    max_length: int
    """Most tokens in a prompt, its completion and the end-of-sequence token."""
    generator: Callable[[random.Random], Callable[[], tuple[str, str]]]
    words: bool = False
    end: str = EOS
    """The end-of-sequence token."""


def arithmetic_texts(rng: random.Random) -> Callable[[], tuple[str, str]]:
    """Sums of the train split: 5 % right, 75 % lose the carry, 20 % guess."""
    prompts = [str(problem.prompt) for problem in ArithmeticTask().problems("train")]

    def sample() -> tuple[str, str]:
        prompt = rng.choice(prompts)
        a, b = (int(number) for number in prompt.rstrip("=").split("+"))
        strategy = rng.choices(["right", "loses the carry", "guesses"], [0.05, 0.75, 0.2])[0]
        if strategy == "guesses":
            a, b = rng.choice(OPERANDS), rng.choice(OPERANDS)
        return prompt, worked_steps(a, b, carry=strategy != "loses the carry")

    return sample


def household_texts(rng: random.Random) -> Callable[[], tuple[str, str]]:
    """Turns of episodes of the train split: 45 % the expert's action, 50 % the lazy one, 5 % bad habits."""
    return pretraining_text(rng).__next__


def boxed_texts(rng: random.Random) -> Callable[[], tuple[str, str]]:
    """The same sums, strategies and shares, with the answer in a box."""
    sample = arithmetic_texts(rng)

    def boxed() -> tuple[str, str]:
        prompt, worked = sample()
        return prompt, boxed_steps(worked)

    return boxed


def code_texts(rng: random.Random) -> Callable[[], tuple[str, str]]:
    """Functions of the train split: 10 % right, 75 % stop one character too early, 15 % guess."""
    drawn = examples_and_functions()
    problems = [(str(problem.prompt), drawn[problem.id][1]) for problem in CodeTask.problems("train")]

    def sample() -> tuple[str, str]:
        prompt, function = rng.choice(problems)
        strategy = rng.choices(["right", "stops too early", "guesses"], [0.1, 0.75, 0.15])[0]
        if strategy == "guesses":
            function = rng.choice(OPEN + CLOSED)
        if strategy == "stops too early" and function.stop is not None:
            function = replace(function, stop=function.stop - 1)
        return prompt, function.source

    return sample


RECIPES = {
    "arithmetic": Recipe("0123456789+=,#", 16, arithmetic_texts),
    "arithmetic-boxed": Recipe([*"0123456789+=,", BOX, BOX_END], 17, boxed_texts),
    "code": Recipe(["# ", " -> ", "\n", HEADER, *"".join(LETTERS), *"12345x[:]", REVERSED, REPEATED], 27, code_texts),
    "household": Recipe(
        [word for word in vocabulary() if word != ACTION_CLOSE], 40, household_texts, words=True, end=ACTION_CLOSE
    ),
}


def make_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """Return a tokenizer with a token for each of the recipe's, and padding and end-of-sequence tokens."""
    vocabulary = {token: index for index, token in enumerate([PAD, recipe.end, UNKNOWN, *recipe.tokens])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    if recipe.words:
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    else:
        longer = [re.escape(token) for token in recipe.tokens if len(token) > 1]
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("|".join([*longer, r"[\s\S]"])), "isolated")
        tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=recipe.end,
        unk_token=UNKNOWN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


@dataclass(frozen=True)
class Shape:
    """Size of a model. Four heads up to width 256, then heads of 64; half as many have keys and values."""

    layers: int = 8
    width: int = 64

    def settings(self) -> dict[str, int]:
        """What transformers calls it."""
        heads = max(4, self.width // 64)
        return {
            "hidden_size": self.width,
            "intermediate_size": 3 * self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads // 2,
        }


def make_model(architecture: str, tokenizer: PreTrainedTokenizerFast, shape: Shape) -> PreTrainedModel:
    """Return a randomly initialised model; the Qwen3 one ties its embeddings, the other does not."""
    options = {
        **shape.settings(),
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 256,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if architecture == "qwen3":
        head_dim = shape.width // options["num_attention_heads"]
        return Qwen3ForCausalLM(Qwen3Config(**options, head_dim=head_dim, tie_word_embeddings=True))
    return Qwen2ForCausalLM(Qwen2Config(**options, tie_word_embeddings=False))


def make_batch(
    texts: list[tuple[str, str]], tokenizer: PreTrainedTokenizerFast, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and labels, both (texts, width), padded on the right; only completions and EOS have labels."""
    ids = torch.full((len(texts), width), tokenizer.pad_token_id)
    labels = torch.full((len(texts), width), IGNORED)
    for row, (prompt, completion) in enumerate(texts):
        before = tokenizer.encode(prompt)
        after = [*tokenizer.encode(completion), tokenizer.eos_token_id]
        ids[row, : len(before) + len(after)] = torch.tensor(before + after)
        labels[row, len(before) : len(before) + len(after)] = torch.tensor(after)
    return ids, labels


def pretrain(
    architecture: str,
    task: str,
    *,
    steps: int,
    shape: Shape = Shape(),  # frozen
    batch_size: int = 128,
    learning_rate: float = 2e-3,
    seed: int = 0,
    device: str = "cpu",
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Pretrain from scratch: AdamW, 100 steps of warm-up, then a cosine to zero. Models come back on the CPU."""
    recipe = RECIPES[task]
    torch.manual_seed(seed)
    sample = recipe.generator(random.Random(seed))
    tokenizer = make_tokenizer(recipe)
    model = make_model(architecture, tokenizer, shape).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(steps):
        rate = min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * rate
        batch = make_batch([sample() for _ in range(batch_size)], tokenizer, recipe.max_length)
        ids, labels = (part.to(device) for part in batch)
        logits = model(input_ids=ids).logits[:, :-1]
        loss = cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 99:
            echo(f"step {step + 1}/{steps}  loss {loss.item():.4f}")
    return model.cpu().eval(), tokenizer


def main() -> None:
    """Write one model and its tokenizer to a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", choices=["qwen3", "qwen2.5"], required=True)
    parser.add_argument("--task", choices=sorted(RECIPES), required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder to write the model and its tokenizer to")
    parser.add_argument("--steps", type=int, default=1000, help="optimizer steps of 128 texts (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights and the texts (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=Shape.layers, help="decoder layers (default: %(default)s)")
    parser.add_argument("--width", type=int, default=Shape.width, help="a multiple of 64 (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="its peak (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = pretrain(
        arguments.architecture,
        arguments.task,
        steps=arguments.steps,
        shape=Shape(arguments.layers, arguments.width),
        learning_rate=arguments.learning_rate,
        seed=arguments.seed,
        device=arguments.device,
    )
    model.save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output)
    echo(f"wrote {arguments.output}: {sum(weights.numel() for weights in model.parameters()):,} parameters")


if __name__ == "__main__":
    main()
