"""Problems as tokens: prompts encoded once, the ones that are too long counted and left out."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from onelayer.errors import UserError
from onelayer.models.base import BaseModel
from onelayer.tasks.base import Problem, Prompt, Split, Task

SPLITS: tuple[Split, ...] = ("train", "selection", "test")


@dataclass(frozen=True)
class EncodedSplit:
    """The problems of a split that fit, with their prompts' tokens."""

    problems: list[Problem]
    tokens: list[list[int]]
    too_long: int
    """Problems left out because their prompt is over the limit."""

    @property
    def width(self) -> int:
        """Tokens of the longest prompt."""
        return max(len(tokens) for tokens in self.tokens)

    @property
    def hash(self) -> str:
        """SHA-256 of ids, prompts, everything the reward sees and how completions are stopped and scored."""
        digest = hashlib.sha256()
        for problem, tokens in zip(self.problems, self.tokens, strict=True):
            seen = [problem.id, tokens, dict(problem.columns), problem.stop, problem.scoring]
            digest.update(json.dumps(seen, default=str, sort_keys=True).encode())
        return digest.hexdigest()


def encode_split(base: BaseModel, task: Task, split: Split, max_prompt_length: int) -> EncodedSplit:
    """Encode a split.

    Raises:
        UserError: no prompt of the split fits, or messages without a chat template.
    """
    problems, tokens, too_long = [], [], 0
    for problem in task.problems(split):
        encoded = encode_prompt(base, problem.prompt)
        if len(encoded) > max_prompt_length:
            too_long += 1
        else:
            problems.append(problem)
            tokens.append(encoded)
    if not problems:
        raise UserError(
            f"task '{task.name}': none of the {too_long} {split} prompts has at most {max_prompt_length} tokens; "
            "raise max_prompt_length"
        )
    return EncodedSplit(problems, tokens, too_long)


def encode_prompt(base: BaseModel, prompt: Prompt) -> list[int]:
    """Tokens of a prompt; messages go through the chat template with the assistant's turn opened.

    Raises:
        UserError: messages for a tokenizer without a chat template, or a prompt that has no token.
    """
    if isinstance(prompt, str):
        ids = base.tokenizer(prompt).input_ids
    elif not getattr(base.tokenizer, "chat_template", None):
        raise UserError(f"the prompts are chat messages, but the tokenizer of '{base.name}' has no chat template")
    else:
        ids = base.tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=True, return_dict=False)
    if not ids:
        raise UserError(f"the prompt {prompt!r} has no tokens under the tokenizer of '{base.name}'")
    return list(ids)


def drawn_prompts(count: int, batch: int, seed: int, step: int) -> list[int]:
    """Indices of the prompts of a step: epoch after epoch in an order that depends on (seed, epoch) only."""
    return [
        int(_epoch_order(count, seed, position // count)[position % count])
        for position in range(step * batch, (step + 1) * batch)
    ]


def drawn_samples(indices: Sequence[int], group: int) -> list[tuple[int, int]]:
    """(index, sample number) of the rows of a step's prompts, ``group`` of each, in order.

    A prompt can come twice in a step (small data sets): its second group needs other draws than its first.
    """
    seen = [indices[:place].count(index) for place, index in enumerate(indices)]
    return [
        (index, again * group + sample) for index, again in zip(indices, seen, strict=True) for sample in range(group)
    ]


@lru_cache(maxsize=64)
def _epoch_order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    key = hashlib.blake2b(f"{seed}|order|{epoch}".encode(), digest_size=16).digest()
    # Sorting raw draws: unlike Generator.permutation, this cannot change between numpy versions.
    raw = np.random.Philox(key=np.frombuffer(key, dtype=np.uint64)).random_raw(count)
    return np.argsort(raw, kind="stable")
