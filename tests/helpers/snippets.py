"""What snippets of steering do, with torch hooks alone, during the model's own calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from helpers.oracle import blocks_of, outputs_by_hand

Edit: TypeAlias = Callable[[Tensor], Tensor]


@contextmanager
def hooked(module: Any, edit: Edit, *, before: bool = False) -> Iterator[None]:
    """Edit what goes into a module, or what comes out of it."""
    if before:
        handle = module.register_forward_pre_hook(lambda _, given: (edit(given[0]), *given[1:]))
    else:
        handle = module.register_forward_hook(
            lambda _, __, out: (edit(out[0]), *out[1:]) if isinstance(out, tuple) else edit(out)
        )
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def added(model: Any, edits: dict[int, Tensor], where: Literal["last", "all"]) -> Iterator[None]:
    """Add edits[layer] to what a block puts out, at the last token of each call or at all its tokens."""

    def adding(delta: Tensor) -> Edit:
        def edit(hidden: Tensor) -> Tensor:
            steered = hidden.clone()
            steered[:, -1 if where == "last" else slice(None)] += delta
            return steered

        return edit

    with ExitStack() as stack:
        for layer, delta in edits.items():
            stack.enter_context(hooked(blocks_of(model)[layer], adding(delta)))
        yield


def continued(model: Any, tokenizer: Any, prompt: str, tokens: int = 10) -> str:
    """Return what the model's own `generate` writes, greedily, with its cache."""
    inputs = tokenizer(prompt, return_tensors="pt")
    written = model.generate(**inputs, do_sample=False, max_new_tokens=tokens)[0]
    return tokenizer.decode(written[inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def logits(model: Any, tokenizer: Any, prompt: str) -> Tensor:
    """Return the logits (tokens, vocabulary) of an ordinary call."""
    with torch.no_grad():
        return model(**tokenizer(prompt, return_tensors="pt")).logits[0]


def last_tokens(model: Any, tokenizer: Any, prompts: Sequence[str], layer: int) -> Tensor:
    """Return what the block puts out at each prompt's last token, (prompts, width)."""
    return torch.stack([outputs_by_hand(model, tokenizer(prompt)["input_ids"])[layer][-1] for prompt in prompts])


def mean_difference(model: Any, tokenizer: Any, positive: Sequence[str], negative: Sequence[str], layer: int) -> Tensor:
    """Return what the two sides' last tokens differ by on average, (width,)."""
    more, less = (last_tokens(model, tokenizer, side, layer) for side in (positive, negative))
    return more.mean(0) - less.mean(0)
