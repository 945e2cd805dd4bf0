"""Loads the tokenizer of a checkpoint.

``AutoTokenizer`` of transformers 5 puts ``Qwen2Tokenizer`` in the place of every tokenizer of a ``qwen2`` checkpoint, with
its own way to cut text and without a word. For Qwen2.5 that is the same; a checkpoint with a tokenizer of its own would read
other tokens than those it was trained on.
"""

from typing import Any

GENERIC = ("TokenizersBackend", "PreTrainedTokenizerFast")
"""Classes that stand for nothing but the checkpoint's ``tokenizer.json``."""


def load_tokenizer(path: str, *, revision: str | None = None, trust_remote_code: bool = False, **options: Any) -> Any:
    """The tokenizer of a local folder or of a repository on the hub, as its own files describe it.

    Raises:
        OSError: it is not there.
        ValueError: it cannot be read.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    declared = get_tokenizer_config(path, revision=revision)
    if declared.get("tokenizer_class") in GENERIC and "auto_map" not in declared:
        return PreTrainedTokenizerFast.from_pretrained(path, revision=revision, **options)
    return AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code, **options)
