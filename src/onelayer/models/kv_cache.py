"""The key/value cache of a generation: written in place, instead of copied whole for every token as transformers does.

What attention sees is the same, so results are. Layers of another kind (sliding windows, convolutions, recurrent states)
keep transformers' own cache.
"""

from torch import Tensor
from transformers.cache_utils import (
    DynamicCache,
    DynamicLayer,
    LinearAttentionCacheLayerMixin,
)

from onelayer.models.base import BaseModel

GROWTH = 1.5
"""A full buffer grows by this factor: each token is copied twice on average, whatever the length."""
HEADROOM = 128
"""Tokens of room at first. On a CPU untouched room takes no memory, and copying to a larger buffer does."""


class RoomyLayer(DynamicLayer):  # type: ignore[misc]  # untyped in transformers
    """Keys and values of one layer, (rows, heads, tokens, width of a head), at the start of larger buffers."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most
        """Tokens that there will ever be."""
        self._buffers: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append tokens; returns all keys and values so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        seen = self.get_seq_length()
        stop = seen + key_states.shape[-2]
        if self._buffers is None or stop > self._buffers[0].shape[-2]:
            # The prompt alone takes no more than it needs: many copies of its rows may be made, or few kept.
            self._grow(key_states, value_states, seen, self._room(stop) if seen else stop)
        assert self._buffers is not None
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., seen:stop, :] = states
        self.keys, self.values = (buffer[..., :stop, :] for buffer in self._buffers)
        return self.keys, self.values

    def _room(self, tokens: int) -> int:
        return min(self._most, max(tokens + HEADROOM, int(tokens * GROWTH)))

    def _grow(self, keys: Tensor, values: Tensor, seen: int, room: int) -> None:
        old = self.keys, self.values
        self._buffers = (
            keys.new_empty(*keys.shape[:-2], room, keys.shape[-1]),
            values.new_empty(*values.shape[:-2], room, values.shape[-1]),
        )
        if seen:
            for new, before in zip(self._buffers, old, strict=True):
                new[..., :seen, :] = before
            self.keys, self.values = (buffer[..., :seen, :] for buffer in self._buffers)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows, in this order; a row may be kept several times."""
        if self._buffers is None:
            return
        seen = self.get_seq_length()
        kept = [part.index_select(0, indices) for part in (self.keys, self.values)]
        self.keys, self.values = kept
        self._grow(kept[0], kept[1], seen, self._room(seen))


def new_cache(base: BaseModel, most: int) -> DynamicCache:
    """An empty cache for one generation of at most so many tokens, prompt included."""
    cache = DynamicCache(config=base.module.config)
    cache.layers = [RoomyLayer(most) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def select_rows(cache: DynamicCache, indices: Tensor) -> None:
    """Keep some rows of a cache, in this order; a row may be kept several times."""
    for layer in cache.layers:
        if isinstance(layer, LinearAttentionCacheLayerMixin):
            # States that do not grow with the tokens, and the attention beside them in the same layer, if any.
            layer.reorder_cache(indices)
        else:
            layer.batch_select_indices(indices)


def unknown_layers(cache: DynamicCache) -> list[str]:
    """Kinds of layers of which :func:`select_rows` does not know that it takes all of a row's state along."""
    generic = DynamicLayer.__module__
    return sorted({type(layer).__name__ for layer in cache.layers if type(layer).__module__ not in (generic, __name__)})
