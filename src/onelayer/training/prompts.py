"""Problems as tokens: prompts encoded once, the ones that are too long counted and left out."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onelayer.errors import UserError
from onelayer.models.base import BaseModel
from onelayer.tasks.base import Problem, Prompt, Split, Task
from onelayer.tasks.messages import Messages, as_text

MOST_ADDED = 4
"""Tokens that a tokenizer puts around a text at most."""

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
        UserError: no prompt of the split fits, or one that cannot be encoded (see :func:`encode_prompt`).
    """
    check_stop_tokens(base)
    problems, tokens, too_long = [], [], 0
    for problem in task.problems(split):
        name = problem.scoring.benchmark if problem.scoring else task.name
        encoded = encode_prompt(base, problem.prompt, problem.template, where=f"'{name}', row {problem.id}")
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


def encode_prompt(
    base: BaseModel, prompt: Prompt, template: Mapping[str, Any] | None = None, *, where: str = "a prompt"
) -> list[int]:
    """Tokens of a prompt; messages go through the chat template with the assistant's turn opened.

    Args:
        base: whose tokenizer and template.
        prompt: text, which gets what the tokenizer puts around texts, or messages, which get what their template writes.
        template: what the template gets beside the messages.
        where: the prompt's place, for messages.

    Raises:
        UserError: messages for a tokenizer without a chat template or that the template refuses, a prompt that has no
            token of its own, or one with a token that the model has no embedding of.
    """
    if isinstance(prompt, str):
        ids = _text_tokens(base, prompt, where)
    elif not getattr(base.tokenizer, "chat_template", None):
        raise UserError(f"the prompts are chat messages, but the tokenizer of '{base.name}' has no chat template")
    else:
        ids = _chat_tokens(base, prompt, template or {}, where)
    if not ids:
        raise UserError(f"{where}: the prompt {prompt!r} has no tokens under the tokenizer of '{base.name}'")
    embeddings = base.module.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    if max(ids) >= embeddings:
        raise UserError(
            f"{where}: {_unknown(base, max(ids), embeddings)}; resize the embeddings, or leave the token out"
        )
    return ids


def check_stop_tokens(base: BaseModel) -> None:
    """Refuse a token that ends completions and that the model cannot write.

    Raises:
        UserError: there is one.
    """
    tokens = base.head.out_features
    if max(base.stop_token_ids) >= tokens:
        unknown = _unknown(base, max(base.stop_token_ids), tokens)
        raise UserError(f"the end of sequence: {unknown}; correct eos_token_id, or resize the embeddings")


def _unknown(base: BaseModel, token: int, embeddings: int) -> str:
    text = base.tokenizer.convert_ids_to_tokens(token)
    named = "a token" if text is None else f"the token '{text}'"
    return f"{named} has the id {token}, but model '{base.name}' has {embeddings} embeddings (0 to {embeddings - 1})"


def _text_tokens(base: BaseModel, prompt: str, where: str) -> list[int]:
    """Tokens of a text. One that begins with the begin-of-sequence token, as a rendered chat does, gets no second one."""
    _refuse_half_characters(prompt, where)
    ids: list[int] = list(base.tokenizer(prompt).input_ids)
    first = base.tokenizer.bos_token_id
    if first is not None and ids[:2] == [first, first] and not prompt.startswith(2 * base.tokenizer.bos_token):
        ids = ids[1:]
    # A tokenizer puts a few tokens around a text; they are no prompt.
    empty = len(ids) <= MOST_ADDED and not base.tokenizer(prompt, add_special_tokens=False).input_ids
    return [] if empty else ids


def _chat_tokens(base: BaseModel, messages: Messages, template: Mapping[str, Any], where: str) -> list[int]:
    def apply(form: Messages, *, tokenize: bool) -> Any:
        return base.tokenizer.apply_chat_template(
            form, add_generation_prompt=True, tokenize=tokenize, return_dict=False, **template
        )

    try:
        form = _readable(messages, lambda form: str(apply(form, tokenize=False)))
        return list(apply(form, tokenize=True))
    except (UserError, MemoryError):
        raise
    except Exception as error:  # a template may raise anything, above all what it says itself with raise_exception
        _refuse_half_characters("".join(message.get("content", "") for message in as_text(messages)), where)
        words = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"{where}: the chat template of '{base.name}' refuses the messages: {words}") from error


def _readable(messages: Messages, render: Callable[[Messages], str]) -> Messages:
    """The messages in the form that a template reads: parts as they are, else as text.

    A template that knows only text fails at a list, or writes it as Python does.
    """
    parts = [message["content"] for message in messages if isinstance(message.get("content"), list)]
    if not parts:
        return messages
    plain = as_text(messages)
    try:
        text = render(messages)
    except MemoryError:
        raise
    except Exception:  # as above; where text does not help, the words are those of the second try
        return plain
    return plain if any(str(content) in text for content in parts if content) else messages


def _refuse_half_characters(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"U+{ord(text[error.start]):04X}"
        raise UserError(f"{where}: the text has {half}, half of a surrogate pair, which is no character") from error


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
