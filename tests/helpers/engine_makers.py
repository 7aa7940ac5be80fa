"""The engines that the conformance suite holds to the contract; the next one is one line in MAKERS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from helpers.small_models import make_model, make_tokenizer
from steer_tools.engines.base import Engine
from steer_tools.engines.facets import AmbientPlans, EditableWeights, Gradients, Heads, LiveModel, Replay, WatchedCalls
from steer_tools.engines.fake import FakeEngine
from steer_tools.engines.huggingface.engine import HuggingFaceEngine

FACETS: tuple[type[Engine], ...] = (AmbientPlans, Gradients, Heads, Replay, WatchedCalls, LiveModel, EditableWeights)


@dataclass(frozen=True)
class Subject:
    """An engine, and what any other caller of its model sees."""

    engine: Engine
    seen_by_others: Callable[[], Tensor]


@dataclass(frozen=True)
class Maker:
    """How an engine is made, the facets that it should have, and whether its context has an end."""

    make: Callable[[], Subject]
    facets: tuple[type[Engine], ...]
    has_limit: bool = True


def huggingface(family: str) -> Subject:
    """A tiny model of a family, and its logits by a plain call."""
    model, tokenizer = make_model(family), make_tokenizer()

    def logits() -> Tensor:
        with torch.no_grad():
            return model(torch.tensor([tokenizer("baba mora seti vozu")["input_ids"]])).logits

    return Subject(HuggingFaceEngine(model, tokenizer), logits)


def fake() -> Subject:
    """The toy, and the number of the word that its `next_word` gives."""
    engine = FakeEngine()
    pairs = [f"{first} {second}" for first in ("baba", "mora", "zuzu") for second in ("keke", "lili", "vozu", "seti")]

    def words() -> Tensor:
        return torch.tensor([int.from_bytes(engine.next_word(pair).encode()) for pair in pairs])

    return Subject(engine, words)


MAKERS: dict[str, Maker] = {
    "llama": Maker(partial(huggingface, "llama"), FACETS),
    "gpt2": Maker(partial(huggingface, "gpt2"), FACETS),
    "bloom": Maker(partial(huggingface, "bloom"), FACETS, has_limit=False),
    "fake": Maker(fake, (AmbientPlans,)),
}
