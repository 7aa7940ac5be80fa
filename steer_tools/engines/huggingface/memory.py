"""Rows with their lengths → batches that the device's free memory holds, by estimate and then by trial.

What a row takes is estimated from above out of the model's config; what runs out of memory all the same is run again in
halves, which changes no row's result. It must not know plans or prompts.
"""

import gc
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from steer_tools.engines.huggingface.architecture import Architecture
from steer_tools.engines.huggingface.decoding import batches_by_length
from steer_tools.errors import OutOfMemoryError

# Of what is free: what a pass takes beside the estimate, and what others may want meanwhile, comes out of the rest.
_SHARE = 0.5
# A step's logits while a token is chosen: as they are, warped, with noise (in float64) and as scores.
_CHOOSING_BYTES = 24
# Copies of a scored token's logits: as the model gives them, in float32, and as log-probabilities.
_SCORING_BYTES = 12
# What a batch takes at most on a CPU, where larger ones are no faster, and what is kept of passes for those to come.
_MOST_ON_CPU, _MOST_KEPT = 2**30, 2**29
# How backends other than CUDA's say it, none of which has a type for it.
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
_MEMINFO, _CGROUPS = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
# Of a group of processes, by version: the most, what is used, and the part of it that gives way.
_GROUP_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)

_Made = TypeVar("_Made")


class Memory:
    """Admits what one model is given to the memory of its device."""

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture

    def batches(
        self, lengths: Sequence[int], token_budget: int, row_bytes: Callable[[int], int], *, equal_only: bool = False
    ) -> list[list[int]]:
        """Group the indices of `lengths` as `batches_by_length` does, into batches that also fit into free memory.

        `row_bytes` says what one row takes, padded to a length.
        """
        free = self.free_bytes()
        most = inf if free is None else _SHARE * free
        if self._architecture.device.type == "cpu":
            most = min(most, _MOST_ON_CPU)

        def fits(rows: int, tokens: int) -> bool:
            return rows * row_bytes(tokens) <= most

        return batches_by_length(lengths, token_budget, fits, equal_only=equal_only)

    def halved(
        self, batches: Iterable[list[int]], run: Callable[[list[int]], _Made]
    ) -> Iterator[tuple[list[int], _Made]]:
        """Yield batches with what `run` makes of each; what runs out of memory is run again as two halves.

        Raises:
            OutOfMemoryError: A row alone does.
        """
        waiting = [*batches][::-1]
        while waiting:
            batch, failure = waiting.pop(), ""
            try:
                yield batch, run(batch)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                failure = _said(error)
            if failure:
                # Only here is the error gone, and with it all that its frames held.
                self._give_back()
                if len(batch) == 1:
                    raise self._refusal("One row alone takes", failure, "Lower max_new_tokens, shorten the prompt")
                middle = len(batch) // 2
                waiting += [batch[middle:], batch[:middle]]

    @contextmanager
    def undivided(self, what: str) -> Generator[None]:
        """Refuse what runs out of memory here, where nothing can be halved; `what` takes it: "The probe takes".

        Raises:
            OutOfMemoryError: It does.
        """
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise self._refusal(what, _said(error), "Shorten what it is given") from error

    def require_generation(self, tokens: int, max_new_tokens: int) -> None:
        """Refuse a row whose cache cannot be held, before anything runs.

        Raises:
            OutOfMemoryError: The cache of `tokens` tokens takes more than is free.
        """
        free, needed = self.free_bytes(), self.cache_bytes(tokens)
        if free is not None and needed > free:
            raise OutOfMemoryError(
                f"The cache of one row of {tokens:,} tokens, {max_new_tokens:,} of them new, takes "
                f"{_megabytes(needed)}, and {_megabytes(free)} are free on {self._architecture.device}",
                valid=f"about {free * tokens // needed:,} tokens a row at present",
                fix="Lower max_new_tokens, shorten the prompt, or free memory.",
            )

    def generating_bytes(self, tokens: int) -> int:
        """Return what a row of `tokens` tokens takes while it is generated."""
        return self.cache_bytes(tokens) + self._pass_bytes(tokens) + _CHOOSING_BYTES * self._vocabulary

    def reading_bytes(self, tokens: int) -> int:
        """Return what a row takes in a pass without cache and logits."""
        return self._pass_bytes(tokens)

    def scoring_bytes(self, tokens: int) -> int:
        """Return what a row takes in a pass that gives logits."""
        return _SCORING_BYTES * self._vocabulary * tokens + self._pass_bytes(tokens)

    def branch_bytes(self, tokens: int, before: int) -> int:
        """Return what a row takes in a pass that gives logits, behind so many tokens whose keys and values are shown to
        one layer at a time."""
        shown = 2 * max(self._key_value_widths) * self._itemsize * (before + tokens)
        return _SCORING_BYTES * self._vocabulary * tokens + self._pass_bytes(tokens, before) + shown

    def beginning_bytes(self, tokens: int, before: int) -> int:
        """Return what a row takes in a pass that leaves a cache, behind so many tokens of it."""
        return 2 * self.cache_bytes(before + tokens) + self._pass_bytes(tokens, before)

    @property
    def hidden_bytes(self) -> int:
        """What a token's activations at one layer take."""
        return self._architecture.hidden_size * self._itemsize

    def keeping_bytes(self) -> int:
        """Return what may be kept of passes for those to come."""
        free = self.free_bytes()
        return _MOST_KEPT if free is None else min(_MOST_KEPT, int(_SHARE * free / 2))

    def gradient_bytes(self, tokens: int) -> int:
        """Return what a row takes in a pass there and back, in which each block keeps what it did."""
        return self.scoring_bytes(tokens) + len(self._architecture.blocks) * self._pass_bytes(tokens)

    def cache_bytes(self, tokens: int) -> int:
        """Return what the keys and values of so many tokens take, at most."""
        numbers = 0
        for kind, width in zip(self._layer_kinds, self._key_value_widths, strict=True):
            if kind in ("full_attention", "sliding_attention", "chunked_attention"):
                window = self._window if kind == "sliding_attention" else None
                numbers += width * (tokens if window is None else min(tokens, window))
        return numbers * self._itemsize

    def free_bytes(self) -> int | None:
        """Return how much may still be taken on the model's device; None where nothing tells it."""
        kind = self._architecture.device.type
        if kind == "cuda":
            return sum(map(_free_on_cuda, self._devices))
        return _free_on_this_machine() if kind == "cpu" else None

    @cached_property
    def _devices(self) -> frozenset[torch.device]:
        """Where its blocks are, each of which keeps its own part of the cache."""
        main = self._architecture.device
        placed = {parameter.device for block in self._architecture.blocks for parameter in block.parameters()}
        return frozenset({main, *(device for device in placed if device.type == main.type)})

    @cached_property
    def _config(self) -> Any:
        return cast(Any, self._architecture.model).config.get_text_config(decoder=True)

    @cached_property
    def _layer_configs(self) -> Sequence[Any]:
        """The config of each layer: where sizes differ between layers, the model's own refuses to be asked for them."""
        layers = list(self._config.per_layer_config)
        blocks = len(self._architecture.blocks)
        return layers if len(layers) == blocks else [self._config] * blocks

    @cached_property
    def _layer_kinds(self) -> Sequence[str]:
        """What each layer keeps of its tokens; where the config does not say it, all of them."""
        kinds = getattr(self._config, "layer_types", None)
        blocks = len(self._architecture.blocks)
        return kinds if isinstance(kinds, list) and len(kinds) == blocks else ["full_attention"] * blocks

    @cached_property
    def _window(self) -> int | None:
        window = getattr(self._config, "sliding_window", None)
        return window if isinstance(window, int) and window > 0 else None

    @cached_property
    def _key_value_widths(self) -> list[int]:
        """Numbers that one token leaves in each layer: keys and values of all heads."""
        return [self._key_value_width(config) for config in self._layer_configs]

    def _key_value_width(self, config: Any) -> int:
        heads = _count(config, "num_key_value_heads") or _count(config, "num_attention_heads")
        sizes = [_count(config, name) for name in ("head_dim", "qk_head_dim", "v_head_dim")]
        if not any(sizes) and (all_heads := _count(config, "num_attention_heads")):
            sizes = [-(-self._architecture.hidden_size // all_heads)]
        return 2 * (heads * max(sizes) or self._architecture.hidden_size)

    @cached_property
    def _inner_width(self) -> int:
        """Of the widest MLP."""
        return max(_count(config, "intermediate_size") for config in self._layer_configs)

    @cached_property
    def _attention_heads(self) -> int:
        return max(_count(config, "num_attention_heads") for config in self._layer_configs)

    @cached_property
    def _vocabulary(self) -> int:
        return cast(Any, self._architecture.model).get_input_embeddings().weight.shape[0]

    @cached_property
    def _itemsize(self) -> int:
        return self._architecture.dtype.itemsize

    def _pass_bytes(self, tokens: int, before: int = 0) -> int:
        """Return what one block takes for a row: its inner widths, and a mask or, in eager attention, all scores."""
        hidden = self._architecture.hidden_size
        inner = self._inner_width or 4 * hidden
        is_eager = getattr(self._config, "_attn_implementation", None) == "eager"
        scores = (self._attention_heads or 1) if is_eager else 1
        return tokens * (6 * hidden + 3 * inner) * self._itemsize + scores * tokens * (before + tokens) * 4

    def _give_back(self) -> None:
        if self._architecture.device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()

    def _refusal(self, what: str, failure: str, fix: str) -> OutOfMemoryError:
        free = self.free_bytes()
        known = "" if free is None else f"; {_megabytes(free)} are free on {self._architecture.device}"
        return OutOfMemoryError(
            f"{what} more memory than there is ({failure:.200}){known}",
            fix=f"{fix}, free memory, or load the model with a smaller dtype.",
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether that is what went wrong, whichever backend says it."""
    is_typed = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return is_typed or any(words in str(error) for words in _OUT_OF_MEMORY)


def _said(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _count(config: Any, name: str) -> int:
    """Return a number of the config; 0 where it has none, or a list with one for each layer."""
    value = getattr(config, name, None)
    return value if isinstance(value, int) else 0


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def _free_on_cuda(device: torch.device) -> int:
    """Return what the device has free, with what torch's allocator keeps of it for itself."""
    spare = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + spare


def _free_on_this_machine() -> int | None:
    """Return what is available to this process: to all on the machine, and to its group where that has a limit."""
    try:
        available = _entry(_MEMINFO.read_text(encoding="ascii"), "MemAvailable:")
    except OSError:
        return None  # Not Linux.
    known = [] if available is None else [1024 * available]
    for most, used, statistics, inactive in _GROUP_FILES:
        try:
            limit = (_CGROUPS / most).read_text(encoding="ascii").strip()
            if limit.isdecimal():
                gives_way = _entry((_CGROUPS / statistics).read_text(encoding="ascii"), inactive) or 0
                known.append(int(limit) - int((_CGROUPS / used).read_text(encoding="ascii")) + gives_way)
        except OSError:
            continue  # The group has no such file: it is of the other version, or has no limit.
    return max(0, min(known)) if known else None


def _entry(text: str, name: str) -> int | None:
    """Return the number behind a name at the start of a line."""
    lines = (line.split() for line in text.splitlines())
    return next((int(words[1]) for words in lines if words[:1] == [name]), None)
