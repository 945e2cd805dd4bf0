"""The frozen base model: a Hugging Face causal LM, its decoder layers found by position, its tensors told apart.

The base is loaded once and never changes. What trains lives in arms (``arm.py``), which lend their tensors to the module
for as long as a forward pass needs them.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from onelayer.errors import UserError
from onelayer.models.part import Part


@dataclass(frozen=True)
class BaseModel:
    """A loaded model with everything the rest of the package asks of it."""

    name: str
    revision: str | None
    module: nn.Module
    """The whole ``...ForCausalLM``, in eval mode, without gradients."""
    decoder: nn.Module
    """The part that returns hidden states: ``(batch, length) -> (batch, length, width)``."""
    head: nn.Linear
    layers: nn.ModuleList
    parts: Mapping[str, Part]
    """Part of each tensor, in the model's order, by its original name. A tied head appears as the embedding only."""
    tied_head: bool
    tokenizer: Any
    stop_token_ids: tuple[int, ...]
    hash: str
    """SHA-256 over names, shapes and values of all tensors as the checkpoint has them, in whatever type they were loaded: a
    delta names the base it belongs to by it."""

    @property
    def num_layers(self) -> int:
        """Number of decoder layers, L."""
        return len(self.layers)

    @property
    def num_parameters(self) -> int:
        """Number of parameters, a tied head counted once."""
        return sum(self.tensor(name).numel() for name in self.parts)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states, H."""
        return self.head.in_features

    @property
    def dtype(self) -> torch.dtype:
        """The type of the frozen weights."""
        return self.head.weight.dtype

    @property
    def max_length(self) -> int:
        """The longest sequence the model was made for, in tokens."""
        return int(getattr(self.module.config, "max_position_embeddings", None) or 2**31)

    def tensor(self, name: str) -> Tensor:
        """The base's own tensor: the reference policy of whatever trains it."""
        return self.module.get_parameter(name)

    @contextmanager
    def wearing(self, tensors: Mapping[str, Tensor]) -> Iterator[None]:
        """Run the module with other tensors in the place of its own, e.g. an arm's.

        Gradients flow into ``tensors``. The module is back to its own tensors afterwards, also after an exception.
        """
        slots = self.places(tensors)
        own = [module._parameters[leaf] for module, leaf, _ in slots]
        try:
            for module, leaf, tensor in slots:
                # Straight into the table of parameters: assignment by attribute insists on nn.Parameter.
                module._parameters[leaf] = tensor  # type: ignore[assignment]
            yield
        finally:
            for (module, leaf, _), parameter in zip(slots, own, strict=True):
                module._parameters[leaf] = parameter

    def places(self, tensors: Mapping[str, Tensor]) -> list[tuple[nn.Module, str, Tensor]]:
        """Where tensors are worn: (module, name in it, tensor). A tied embedding has a second place, the head."""
        slots = []
        for name, tensor in tensors.items():
            path, _, leaf = name.rpartition(".")
            slots.append((self.module.get_submodule(path), leaf, tensor))
            if self.tied_head and self.parts[name] == Part(None, "embed") and self.tensor(name) is self.head.weight:
                slots.append((self.head, "weight", tensor))
        return slots


def outline(module: nn.Module, *, name: str, revision: str | None = None) -> BaseModel:
    """Freeze a model and find its parts, without a look at its weights: they may be on the meta device.

    There is no tokenizer and no hash; what only plans needs neither.

    Raises:
        UserError: no single list of decoder layers, or no plain linear head.
    """
    module.requires_grad_(False)
    module.eval()
    layers_path, layers = _find_layers(module, name)
    decoder = module.get_submodule(layers_path.rpartition(".")[0])
    head, tied = _find_head(module, name)
    return BaseModel(
        name=name,
        revision=revision,
        module=module,
        decoder=decoder,
        head=head,
        layers=layers,
        parts=_find_parts(module, layers_path, head, tied),
        tied_head=tied,
        tokenizer=None,
        stop_token_ids=(),
        hash="",
    )


def parts_of(module: nn.Module, name: str) -> tuple[dict[str, Part], bool]:
    """Part of each tensor of a model, as :class:`BaseModel` has them, and whether its head is tied; nothing is changed.

    Raises:
        UserError: no single list of decoder layers, or no plain linear head.
    """
    layers_path, _ = _find_layers(module, name)
    head, tied = _find_head(module, name)
    return _find_parts(module, layers_path, head, tied), tied


def _find_layers(module: nn.Module, name: str) -> tuple[str, nn.ModuleList]:
    expected = getattr(module.config, "num_hidden_layers", None)
    found = [
        (path, child)
        for path, child in module.named_modules()
        if isinstance(child, nn.ModuleList) and len(child) == expected
    ]
    if len(found) != 1:
        raise UserError(
            f"model '{name}' has {len(found) or 'no'} lists of {expected} decoder layers where exactly one is needed"
        )
    return found[0]


def _find_head(module: nn.Module, name: str) -> tuple[nn.Linear, bool]:
    """The language-model head, and whether its weight is the embedding's."""
    head = module.get_output_embeddings()  # type: ignore[operator]
    if not isinstance(head, nn.Linear):
        raise UserError(f"model '{name}' has no linear language-model head, which log-probabilities are computed from")
    embedding = module.get_input_embeddings()  # type: ignore[operator]
    return head, head.weight is embedding.weight


def _find_parts(module: nn.Module, layers_path: str, head: nn.Linear, tied: bool) -> dict[str, Part]:
    parts: dict[str, Part] = {}
    above = False
    for name, tensor in module.named_parameters():
        if name.startswith(layers_path + "."):
            above = True
            index, _, inside = name.removeprefix(layers_path + ".").partition(".")
            parts[name] = Part(int(index), _module_kind(inside))
        elif (tensor is head.weight and not tied) or (head.bias is not None and tensor is head.bias):
            parts[name] = Part(None, "head")
        else:
            # What is neither layers, head nor final norm feeds the first layer: token and position embeddings, and
            # Bloom's norm of these. LFM2's embedding_norm comes after the layers, and OPT names its final norm before them.
            final = _is_norm(name) and (above or "embed" not in name)
            parts[name] = Part(None, "final_norm" if final else "embed")
    return parts


def _is_norm(name: str) -> bool:
    return any(piece in name for piece in ("norm", "ln_", "layernorm"))


def _module_kind(inside: str) -> str:
    """Kind of a tensor in a layer, by the layer's direct child that holds it (Qwen3's ``self_attn.q_norm`` is attn)."""
    child = inside.partition(".")[0].lower()
    if _is_norm(child):
        return "norm"
    if "attn" in child or "attention" in child:
        return "attn"
    if any(piece in child for piece in ("mlp", "feed_forward", "ffn", "moe", "experts")):
        return "mlp"
    return "other"


def tensors_hash(
    module: nn.Module, dtype: torch.dtype | None = torch.float32, *, through: torch.dtype | None = None
) -> str:
    """SHA-256 over names, types, shapes and bytes of all parameters in a type, by way of another one if need be.

    In float32 a checkpoint has one hash, whichever type that holds all of its values it was loaded in. ``dtype`` None
    takes each tensor as it is.
    """
    digest = hashlib.sha256()
    for name, parameter in module.named_parameters():
        own = parameter.detach().to("cpu", through or parameter.dtype)
        tensor = own.to(dtype or parameter.dtype).contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def is_base(module: nn.Module, hash: str, own: str | None = None) -> bool:
    """Whether a hash names a model, whose own hash is ``own`` where that is known.

    Also where the delta's base was this one, rounded to a narrower type: that loses nothing of what the hash says.
    """
    if hash == (own or tensors_hash(module)):
        return True
    rounded = (torch.bfloat16, torch.float16)
    # A base that was held in another type than float32 was once hashed in that type.
    return any(tensors_hash(module, through=dtype) == hash for dtype in rounded) or any(
        tensors_hash(module, dtype) == hash for dtype in (*rounded, None)
    )


def fingerprint(tensor: Tensor) -> int:
    """A quick 64-bit sum over a tensor's bits: it changes with any single changed element. Cheap on any device.

    Each row's sum is weighted by an odd number of its own (a vector's rows are its elements): Adam's first step moves
    all elements by the same amount up or down, and in a plain sum these would cancel now and then. Of a tensor that is
    sharded over processes it is the sum over this process's part.
    """
    # Asked by name: the import of torch's DTensor takes a second.
    tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    width = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    bits = tensor.detach().contiguous().view(width)
    rows = bits.flatten(1).sum(1, dtype=torch.int64) if bits.dim() > 1 else bits.flatten().to(torch.int64)
    # The golden ratio's multiplier spreads the weights over all 64 bits; products wrap.
    weights = torch.arange(len(rows), device=rows.device) * 2 * -7046029254386353131 + 1
    return int((rows * weights).sum())
