"""Steering done by hand, without any code of the package: one row, no cache, no padding, hooks of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

Chooses = Callable[[int, int, int], bool]

# What each scope means, said again in plain Python: (position, prompt length, position after BOS) -> steered?
SCOPES: dict[str, Chooses] = {
    "generated": lambda p, n, first: p >= n - 1,
    "prompt": lambda p, n, first: p < n,
    "all": lambda p, n, first: True,
    "last_prompt": lambda p, n, first: p == n - 1,
    "first": lambda p, n, first: p == first,
    "0:2": lambda p, n, first: p < min(2, n),
    "-2:": lambda p, n, first: n - 2 <= p < n,
    "first,generated": lambda p, n, first: p == first or p >= n - 1,
}


def blocks_of(model: Any) -> list[Any]:
    base = getattr(model, "model", None) or model.transformer
    return list(base.layers if hasattr(base, "layers") else base.h)


@contextmanager
def edited_by_hand(model: Any, edits: dict[int, Tensor], steered: list[bool]) -> Iterator[None]:
    """Add edits[layer] to the output of each block at the tokens where `steered` is true."""

    def hook_for(delta: Tensor) -> Callable[..., Any]:
        def hook(module: Any, args: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            edited = torch.stack([h + delta if s else h for h, s in zip(hidden[0], steered, strict=True)])[None]
            return (edited, *output[1:]) if isinstance(output, tuple) else edited

        return hook

    handles = [blocks_of(model)[layer].register_forward_hook(hook_for(delta)) for layer, delta in edits.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def logits_by_hand(
    model: Any, ids: list[int], prompt_length: int, edits: dict[int, Tensor], chooses: Chooses, bos: int | None = 1
) -> Tensor:
    """Return the logits (tokens, vocabulary) of one uncached pass with edited blocks."""
    first = int(ids[0] == bos)
    steered = [chooses(p, prompt_length, first) for p in range(len(ids))]
    with torch.no_grad(), edited_by_hand(model, edits, steered):
        return model(torch.tensor([ids]), use_cache=False).logits[0]


def greedy_by_hand(model: Any, prompt: list[int], edits: dict[int, Tensor], chooses: Chooses, steps: int) -> list[int]:
    """Return `steps` greedy tokens, each from a whole new pass."""
    ids = list(prompt)
    for _ in range(steps):
        ids.append(int(logits_by_hand(model, ids, len(prompt), edits, chooses)[-1].argmax()))
    return ids[len(prompt) :]


def outputs_by_hand(model: Any, ids: list[int]) -> list[Tensor]:
    """Return each block's output (tokens, width) in one plain pass."""
    outputs: list[Tensor] = []

    def keep(module: Any, args: Any, output: Any) -> None:
        outputs.append((output[0] if isinstance(output, tuple) else output)[0].detach().clone())

    handles = [block.register_forward_hook(keep) for block in blocks_of(model)]
    try:
        with torch.no_grad():
            model(torch.tensor([ids]), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return outputs
