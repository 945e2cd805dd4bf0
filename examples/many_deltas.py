"""Many deltas over one base: the model is loaded once, and every request names the delta that answers it.

    python examples/many_deltas.py BASE "PROMPT" DELTA DELTA ...

BASE is a hub name, a folder or ``bundled:NAME``; a delta is a folder with ``delta.safetensors``. A single-layer delta of
a 1.7B model has about 50M parameters, so hundreds of them fit beside one base. ``onelayer vote`` does this with a batch
that all deltas share.
"""

import sys
from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

import onelayer
from onelayer.models.source import model_path


def main() -> None:
    """Answer one prompt with the base and with every delta."""
    name, prompt, *paths = sys.argv[1:]
    folder = model_path(name)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    deltas: dict[str, Mapping[str, Tensor]] = {"base": {}}
    deltas |= {path: onelayer.read_delta(model, path) for path in paths}

    inputs = tokenizer(prompt, return_tensors="pt")
    for label, delta in deltas.items():
        with onelayer.wearing(model, delta), torch.no_grad():
            written = model.generate(**inputs, max_new_tokens=32, do_sample=False)
        print(f"{label}: {tokenizer.decode(written[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)!r}")


if __name__ == "__main__":
    main()
