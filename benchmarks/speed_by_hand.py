"""The works by plain transformers and hooks; it must not know `steer_tools`, since peers are held against the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from speed_models import Model
from torch import Tensor


def read_one_by_one(model: Model, texts: Sequence[str], layers: Sequence[int]) -> Tensor:
    """Return (layers, width): the mean difference of the last tokens of two halves, a whole pass a text."""
    found: list[Tensor] = []
    with torch.inference_mode(), outputs(model, layers) as seen:
        for text in texts:
            model.module(**model.tokenizer(text, return_tensors="pt"))
            found.append(torch.stack([seen[layer][0, -1] for layer in layers]))
    return difference(torch.stack(found))


@contextmanager
def outputs(model: Model, layers: Sequence[int], stop_after: int | None = None) -> Iterator[dict[int, Tensor]]:
    """Yield what the blocks put out in the last pass; with `stop_after`, nothing behind that block runs."""
    seen: dict[int, Tensor] = {}

    def see(layer: int, module: Any, args: Any, output: Tensor) -> None:
        seen[layer] = output
        if layer == stop_after:
            raise Stopped

    hooks = [model.module.model.layers[layer].register_forward_hook(partial(see, layer)) for layer in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


class Stopped(Exception):  # noqa: N818 - it is no error
    """A pass went as far as it was to go."""


@contextmanager
def adding(model: Model, deltas: Mapping[int, Tensor], *, last_only: bool) -> Iterator[None]:
    """Add (rows, width) to what a layer puts out: at each pass's last token, or at all of them."""

    def add(delta: Tensor, module: Any, args: Any, output: Tensor) -> Tensor:
        if not last_only:
            return output + delta[:, None]
        output = output.clone()
        output[:, -1] += delta
        return output

    hooks = [model.module.model.layers[layer].register_forward_hook(partial(add, own)) for layer, own in deltas.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def log_odds(model: Model, prompt: str, completions: Sequence[str], layer: int, delta: Tensor) -> float:
    """Return the log-odds of the first of two completions under a delta (width,) at one layer, a pass a completion."""
    asked = len(model.tokenizer(prompt)["input_ids"])
    totals = []

    def add(module: Any, args: Any, output: Tensor) -> None:
        output[:, asked - 1 :] += delta

    hook = model.module.model.layers[layer].register_forward_hook(add)
    with torch.inference_mode():
        for completion in completions:
            ids = model.tokenizer(prompt + completion, return_tensors="pt")["input_ids"]
            log_probs = model.module(ids).logits[0, asked - 1 : -1].log_softmax(-1)
            totals.append(float(log_probs.gather(1, ids[0, asked:, None]).sum()))
    hook.remove()
    return totals[0] - totals[1]


def greedy(new_tokens: int) -> dict[str, Any]:
    """Return what makes `generate` write so many tokens, the likeliest each time."""
    return {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False}


def copy_of(model: Model) -> Model:
    """Return the same weights in modules of their own, which nothing of ours is on."""
    module = type(model.module)(model.module.config).eval()
    module.load_state_dict(model.module.state_dict(), assign=True)
    module.tie_weights()
    return Model(model.name, module, model.tokenizer, model.words)


def batches(ids: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
    """Return indices in batches of about so many tokens, sorted by length."""
    made: list[list[int]] = []
    for i in sorted(range(len(ids)), key=lambda i: len(ids[i])):
        if not made or (len(made[-1]) + 1) * len(ids[i]) > tokens:
            made.append([])
        made[-1].append(i)
    return made


def right_padded(ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return ids and mask, (rows, tokens)."""
    most = max(map(len, ids))
    padded = torch.tensor([[*own, *[0] * (most - len(own))] for own in ids])
    return padded, torch.tensor([[1] * len(own) + [0] * (most - len(own)) for own in ids])


def left_padded(model: Model, texts: Sequence[str]) -> dict[str, Tensor]:
    """Return the inputs of `generate` for several texts."""
    ids = model.ids(list(texts))
    most = max(map(len, ids))
    padded = torch.tensor([[*[0] * (most - len(own)), *own] for own in ids])
    return {
        "input_ids": padded,
        "attention_mask": (torch.arange(most) >= torch.tensor([[most - len(o)] for o in ids])).long(),
    }


def difference(found: Tensor) -> Tensor:
    """Return (layers, width) of (prompts, layers, width), whose first half is positive."""
    half = len(found) // 2
    return found[:half].mean(0) - found[half:].mean(0)
