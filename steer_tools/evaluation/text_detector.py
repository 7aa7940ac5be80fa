"""Pairs of a behaviour → how much of it a written text shows, by what the unsteered model's middle makes of its tokens.

No judge is asked. Whether a text is one at all is `text_guards`' matter: a salad of the right words scores high here.
It must not know vectors, or which texts are steered.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from random import Random
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from steer_tools.core.positions import Pooling
from steer_tools.core.site import Site
from steer_tools.engines.base import Completion, Engine, Generation, Row
from steer_tools.errors import DirectionError, PromptError
from steer_tools.evaluation.behaviors.behavior import Item, evaluation_prompt
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
        """Return (texts,) how much of the behaviour each shows as an answer to its prompt, from −1 to 1; NaN of a blank
        one."""
        scores, there = np.full(len(texts), np.nan), [i for i, text in enumerate(texts) if text.strip()]
        if there:
            said, asked = [texts[i] for i in there], [prompts[i] for i in there]
            means = _read(engine, asked if self.reads_prompts else None, said, said, [self.layer])[0][self.layer]
            scores[there] = self._scores(means)
        return scores

    def read(
        self, engine: Engine, prompts: Sequence[Prompt], written: Sequence[Generation]
    ) -> tuple[Floats, list[Tensor]]:
        """Return the scores of what was written, and the log-probabilities (tokens,) of each text for the unsteered
        model, which the same pass shows."""
        scores, log_probs = np.full(len(written), np.nan), [torch.zeros(0)] * len(written)
        there = [i for i, own in enumerate(written) if own.tokens]
        if there:
            tokens, texts = [written[i].tokens for i in there], [written[i].text for i in there]
            asked = [prompts[i] for i in there]
            means, found = _read(engine, asked if self.reads_prompts else None, tokens, texts, [self.layer])
            if not self.reads_prompts:
                found = engine.score([Row(prompt) for prompt in asked], tokens)
            for i, score, own in zip(there, self._scores(means[self.layer]), found, strict=True):
                scores[i], log_probs[i] = score if written[i].text.strip() else np.nan, own
        return scores, log_probs

    def _scores(self, means: Tensor) -> Floats:
        projections = (means @ self.direction).double()
        return ((projections - self.middle) / self.half_distance).clamp(-1, 1).numpy()


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
    answers = [*(positive for _, positive, _ in posed), *(opposite for _, _, opposite in posed)]
    prompts = [prompt for prompt, _, _ in posed] * 2 if reads_prompts else None
    read, _ = _read(engine, prompts, answers, answers, layers or _middle_layers(engine))
    tried = [_fit(layer, both, is_held_out) for layer, both in read.items()]
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


def _read(
    engine: Engine,
    prompts: Sequence[Prompt] | None,
    completions: Sequence[Completion],
    texts: Sequence[str],
    layers: Sequence[int],
) -> tuple[dict[int, Tensor], list[Tensor]]:
    """Return (texts, width) at each layer, and the log-probabilities of texts behind prompts; without prompts these are
    none, and texts are read alone."""
    if prompts is None:
        read = engine.read([TextPrompt(text.strip()) for text in texts], [Site(layer) for layer in layers], "mean")
        return {layer: read[Site(layer)] for layer in layers}, []
    found = engine.read_completions(prompts, completions, layers)
    means = {layer: torch.stack([own.means[layer] for own in found]) for layer in layers}
    return means, [own.log_probs for own in found]
