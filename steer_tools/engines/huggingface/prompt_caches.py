"""What beginnings of rows leave behind: keys and values that are taken out of one cache and lent to others.

It must not know plans, or what ran.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
from typing_extensions import override

# Caches of these layers hold all that tokens leave behind, and a row's part of them is a slice.
_DIVISIBLE = (DynamicLayer, DynamicSlidingWindowLayer)


@dataclass(frozen=True, eq=False)
class Beginning:
    """What some tokens left behind.

    Attributes:
        tokens: Them.
        layers: Keys and values (heads, tokens, size) of each layer of the cache; None where a layer keeps nothing.
    """

    tokens: tuple[int, ...]
    layers: tuple[tuple[Tensor, Tensor] | None, ...]

    @property
    def size(self) -> int:
        """Its bytes."""
        return sum(part.nbytes for kept in self.layers if kept is not None for part in kept)

    def up_to(self, layer: int, other: "Beginning") -> "Beginning":
        """Return this up to a layer, and another of the same tokens behind it."""
        return Beginning(self.tokens, (*self.layers[: layer + 1], *other.layers[layer + 1 :]))


class _Lent(DynamicLayer):
    """Shows what it holds to rows whose own keys and values it does not keep."""

    @override
    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return _shown(self, key_states, value_states)


class _LentWindow(DynamicSlidingWindowLayer):
    """The same, of a layer with a window."""

    @override
    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return _shown(self, key_states, value_states)


class _Reserved(DynamicLayer):
    """Writes what comes into room that it took once, where its own class copies all it holds at every step."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self._tokens = tokens
        self._room: tuple[Tensor, Tensor] | None = None

    @override
    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self._room is None or end > self._room[0].shape[-2] or self._room[0].shape[0] != len(key_states):
            self.keys, self.values = super().update(key_states, value_states)
            rows, heads = self.keys.shape[:2]
            sizes = (self.keys.shape[-1], self.values.shape[-1])
            keys, values = (self.keys.new_empty(rows, heads, max(self._tokens, end), size) for size in sizes)
            keys[:, :, :end], values[:, :, :end] = self.keys, self.values
            self._room = keys, values
        else:
            keys, values = self._room
            keys[:, :, start:end], values[:, :, start:end] = key_states, value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values


def _shown(layer: DynamicLayer, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    assert layer.keys is not None and layer.values is not None
    return torch.cat([layer.keys, keys], dim=-2), torch.cat([layer.values, values], dim=-2)


def is_divisible(cache: object, layers: int) -> bool:
    """Return whether a cache is one of so many layers that each hold all that tokens leave behind."""
    return (
        type(cache) is DynamicCache
        and len(cache.layers) == layers
        and all(type(own) in _DIVISIBLE for own in cache.layers)
    )


def window_of(cache: DynamicCache) -> int | None:
    """Return the fewest tokens of which a layer forgets some; None where none does."""
    windows = [own.sliding_window for own in cache.layers if isinstance(own, DynamicSlidingWindowLayer)]
    return min(windows, default=None)


def beginnings_in(cache: DynamicCache, tokens: Sequence[tuple[int, ...]]) -> list[Beginning]:
    """Take each row's beginning out of a cache that is padded on the right.

    It must not have forgotten any.
    """
    return [
        Beginning(own, tuple(_part(layer, row, len(own)) for layer in cache.layers)) for row, own in enumerate(tokens)
    ]


def _part(layer: Any, row: int, tokens: int) -> tuple[Tensor, Tensor] | None:
    if not layer.is_initialized:
        return None
    return layer.keys[row, :, :tokens].clone(), layer.values[row, :, :tokens].clone()


def empty_like(template: DynamicCache, reserved: int = 0) -> DynamicCache:
    """Return a cache of the same layers that holds nothing, with room for `reserved` tokens."""
    cache = DynamicCache()
    cache.layers = [_layer_like(own, is_lent=False, reserved=reserved) for own in template.layers]
    return cache


def cache_of(
    template: DynamicCache,
    beginnings: Sequence[Beginning],
    *,
    passed_by: int = -1,
    is_lent: bool = False,
    reserved: int = 0,
) -> DynamicCache:
    """Return a cache with one row a beginning, those that are shorter padded on the left.

    Layers up to `passed_by` do not run, and only say how many tokens there are. A cache that is lent does not keep what
    it is given, and so takes one layer's memory at a time; one that is not gets room for `reserved` tokens.
    """
    distinct = {own: place for place, own in enumerate(dict.fromkeys(beginnings))}
    of_row = torch.tensor([distinct[own] for own in beginnings])
    length = max(len(own.tokens) for own in distinct)
    cache = DynamicCache()
    cache.layers = [_layer_like(own, is_lent=is_lent, reserved=reserved) for own in template.layers]
    for index, layer in enumerate(cache.layers):
        kept = [own.layers[index] for own in distinct]
        if index <= passed_by:
            place = torch.empty(1, 1, length, 1)
            _fill(layer, place, place, length)
        elif kept[0] is not None:
            parts = ([own[part] for own in kept if own is not None] for part in (0, 1))
            keys, values = (_rows_of(part, of_row) for part in parts)
            _fill(layer, keys, values, length)
    return cache


def _layer_like(layer: Any, *, is_lent: bool, reserved: int) -> Any:
    if isinstance(layer, DynamicSlidingWindowLayer):
        return (_LentWindow if is_lent else DynamicSlidingWindowLayer)(layer.sliding_window)
    if is_lent:
        return _Lent()
    return _Reserved(reserved) if reserved else DynamicLayer()


def _fill(layer: DynamicLayer, keys: Tensor, values: Tensor, length: int) -> None:
    layer.lazy_initialization(keys, values)
    layer.keys, layer.values = keys, values
    if isinstance(layer, DynamicSlidingWindowLayer):
        layer.cumulative_length = length


def _rows_of(parts: Sequence[Tensor], of_row: Tensor) -> Tensor:
    """Return (rows, heads, tokens, size) of distinct (heads, tokens, size), padded on the left."""
    if len(parts) == 1:
        return parts[0].expand(len(of_row), *parts[0].shape)
    longest = max(part.shape[1] for part in parts)
    padded = torch.stack([torch.nn.functional.pad(part, (0, 0, longest - part.shape[1], 0)) for part in parts])
    return padded[of_row.to(padded.device)]
