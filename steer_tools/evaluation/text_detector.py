"""Pairs of a behaviour → how much of it a written text shows, by what the unsteered model's middle makes of its tokens.

No judge is asked. Whether a text is one at all is `text_guards`' matter: a salad of the right words scores high here.
It must not know vectors, or which texts are steered.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from math import inf
from random import Random
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from steer_tools.core.positions import Pooling
from steer_tools.core.site import Site
from steer_tools.engines.base import Engine
from steer_tools.engines.pooling import TokenizedPrompt
from steer_tools.errors import DirectionError, PromptError
from steer_tools.evaluation.behaviors.behavior import Item, continued, evaluation_prompt
from steer_tools.evaluation.intervals import Floats
from steer_tools.prompts import Prompt, TextPrompt

# A detector that tells held-out answers apart less well says too little of texts that a model writes by itself.
RELIABLE_D_PRIME = 2.0
# Fewer independent pairs leave halves of which neither a direction nor a spread is worth anything.
FEWEST_GROUPS = 8
# Where in the depth it reads: before, what stands there is the tokens; behind, the next token.
_DEPTHS = (3 / 8, 1 / 2, 5 / 8)

# A text as it is read, and which of its tokens: those of a pooling, or those from a place on.
_Reading: TypeAlias = tuple[Prompt, Pooling | int]


@dataclass(frozen=True, eq=False)
class TextDetector:
    """A direction of answers that show a behaviour, with the scale on which they are at +1 and their opposites at −1.

    Attributes:
        layer: Where it reads.
        d_prime: Distance of the classes of the held-out half, in their typical standard deviation.
        d_primes: That at each layer that was tried.
        direction: (width,) float32, the difference of the classes' means in the other half.
        middle: The projection that scores 0.
        half_distance: The distance from there of what scores 1.
        reads_prompts: Whether texts are read behind their prompts; not where some pair has none.
    """

    layer: int
    d_prime: float
    d_primes: Mapping[int, float]
    direction: Tensor
    middle: float
    half_distance: float
    reads_prompts: bool = True

    @property
    def is_reliable(self) -> bool:
        """Whether a verdict on texts may rest on it."""
        return self.d_prime >= RELIABLE_D_PRIME

    def scores(self, engine: Engine, prompts: Sequence[Prompt], texts: Sequence[str]) -> Floats:
        """Return (texts,) how much of the behaviour each shows as an answer to its prompt, from −1 to 1.

        NaN where there is nothing to read: a text that is blank, or one that the chat template does not let through.

        Raises:
            PromptError: A prompt is token ids, which no text can follow.
        """
        readings = [
            _reading(engine, prompt if self.reads_prompts else None, text)
            for prompt, text in zip(prompts, texts, strict=True)
        ]
        scores = np.full(len(readings), np.nan)
        readable = [i for i, own in enumerate(readings) if texts[i].strip() and _is_readable(engine, own)]
        if readable:
            site = Site(self.layer)
            projections = _read(engine, [readings[i] for i in readable], [site])[site] @ self.direction
            scores[readable] = ((projections.double() - self.middle) / self.half_distance).clamp(-1, 1).numpy()
        return scores


def fit_text_detector(
    engine: Engine, pairs: Sequence[Item], *, layers: Sequence[int] | None = None, seed: int = 0
) -> TextDetector:
    """Take a direction of half of the pairs' groups and its scale of the others, at the layer that shows them best.

    Without `layers` a few in the middle are tried. It may be one that is steered: texts are read unsteered, and such a
    layer ranked them no better than its neighbours (`benchmarks/text_effects.md`).

    Raises:
        PromptError: There are fewer than FEWEST_GROUPS groups, or a pair cannot be read.
        DirectionError: The answers of both kinds are read alike.
    """
    is_held_out = _halved([pair.group for pair in pairs], seed)
    reads_prompts = all(pair.prompt is not None for pair in pairs)
    posed = [evaluation_prompt(pair, engine.info.has_chat_template) for pair in pairs]
    answers = [(prompt, positive) for prompt, positive, _ in posed] + [
        (prompt, opposite) for prompt, _, opposite in posed
    ]
    readings = [_reading(engine, prompt if reads_prompts else None, answer) for prompt, answer in answers]
    read = _read(engine, readings, [Site(layer) for layer in layers or _middle_layers(engine)])
    tried = [_fit(site.layer, both, is_held_out) for site, both in read.items()]
    best = max(tried, key=lambda detector: detector.d_prime)
    d_primes = {detector.layer: detector.d_prime for detector in tried}
    return replace(best, d_primes=d_primes, reads_prompts=reads_prompts)


def _fit(layer: int, read: Tensor, is_held_out: Tensor) -> TextDetector:
    """Fit a detector to what was read at one layer, (2 · pairs, width), the positive answers first."""
    positive, negative = read.reshape(2, len(is_held_out), -1)
    direction = (positive[~is_held_out] - negative[~is_held_out]).mean(dim=0)
    high, low = ((side[is_held_out] @ direction).double() for side in (positive, negative))
    distance = float(high.mean() - low.mean())
    if distance == 0:
        raise DirectionError(
            f"At layer {layer} the model reads the positive and the negative answers alike",
            fix="Change the pairs: what they differ in must be in their words.",
        )
    spread = float(((high.var() + low.var()) / 2).sqrt())
    d_prime = distance / spread if spread else inf
    return TextDetector(layer, d_prime, {}, direction, float(high.mean() + low.mean()) / 2, distance / 2)


def _halved(groups: Sequence[str], seed: int) -> Tensor:
    """Return (pairs,) bool, true in one half of the groups."""
    every = sorted(set(groups))
    if len(every) < FEWEST_GROUPS:
        raise PromptError(
            f"There are {len(every)} independent pairs to tell texts apart by",
            valid=f"at least {FEWEST_GROUPS}",
            fix="Give more pairs, of different questions.",
        )
    Random(f"halves/{seed}").shuffle(every)
    held_out = set(every[::2])
    return torch.tensor([group in held_out for group in groups])


def _middle_layers(engine: Engine) -> list[int]:
    wanted = [depth * (engine.info.layers - 1) for depth in _DEPTHS]
    steerable = engine.info.steerable_layers
    return list(dict.fromkeys(min(steerable, key=lambda layer, at=at: abs(layer - at)) for at in wanted))


def _reading(engine: Engine, prompt: Prompt | None, text: str) -> _Reading:
    if prompt is None:
        return TextPrompt(text.strip()), "mean"
    whole = continued(prompt, text, engine.info.has_chat_template)
    if not isinstance(whole, TextPrompt):
        return whole, "response"
    # What follows a text may begin within its last token.
    before, both = (engine.tokenize(own).tokens for own in (prompt, whole))
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, both, strict=False)))
    return whole, alike


def _is_readable(engine: Engine, reading: _Reading) -> bool:
    prompt, tokens = reading
    try:
        engine.tokenize(prompt).pooled(_pooling(tokens))
    except PromptError:
        return False
    return True


def _pooling(tokens: Pooling | int) -> "Pooling | partial[Tensor]":
    return partial(_from, tokens) if isinstance(tokens, int) else tokens


def _from(start: int, prompt: TokenizedPrompt) -> Tensor:
    return (torch.arange(len(prompt.tokens)) >= start) & ~torch.tensor(prompt.special)


def _read(engine: Engine, readings: Sequence[_Reading], sites: Sequence[Site]) -> dict[Site, Tensor]:
    """Return (readings, width) at each site."""
    places: dict[Pooling | int, list[int]] = defaultdict(list)
    for place, (_, tokens) in enumerate(readings):
        places[tokens].append(place)
    found = {site: torch.zeros(len(readings), engine.width(site)) for site in sites}
    for tokens, own in places.items():
        read = engine.read([readings[place][0] for place in own], sites, _pooling(tokens))
        for site in sites:
            found[site][own] = read[site]
    return found
