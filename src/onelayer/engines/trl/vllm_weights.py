"""Weights on their way to vLLM: all of them once, then only those that train."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn


class TrainedOnly(nn.Module):
    """Shows vLLM's side of TRL only some parameters of a model, so that the others are neither gathered nor sent."""

    def __init__(self, model: nn.Module, is_trained: Callable[[str], bool]) -> None:
        super().__init__()
        # Not a submodule: this is a view, and the model's parameters stay where they are.
        self.__dict__.update(model=model, is_trained=is_trained)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Those parameters of the model that train."""
        seen = self.__dict__
        every = seen["model"].named_parameters(*args, **kwargs)
        return ((name, tensor) for name, tensor in every if seen["is_trained"](name))


def send_only_trained(generation: Any, is_trained: Callable[[str], bool]) -> None:
    """Let TRL's ``VLLMGeneration`` send everything once and afterwards only what trains.

    With sleep mode vLLM forgets all weights between steps, and under FSDP1 TRL walks modules in the place of parameters:
    everything is sent every time then.
    """
    if (generation.mode == "colocate" and generation.enable_sleep_mode) or generation._dist.fsdp_version == 1:
        return
    send = generation.sync_weights
    sent_all = False

    def sync_weights() -> None:
        nonlocal sent_all
        send()
        if not sent_all:
            generation.model = TrainedOnly(generation.model, is_trained)
            # The server is told anew which tensors to expect.
            generation._weight_metadata = None
            sent_all = True

    generation.sync_weights = sync_weights
