"""Texts → which of them are broken, and whether a set of them is one that a model may have written to these prompts.

What is broken has no effect: it counts as the unsteered text to the same prompt, never as score 0, which would be an
effect where that text scores otherwise. What the unsteered model writes, and how sure it is of texts, is the measure.
It must not know what texts should show.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steer_tools.engines.base import Engine, Row, Sampling, row_seed
from steer_tools.errors import PromptError
from steer_tools.evaluation.behaviors.behavior import Item, evaluation_prompt
from steer_tools.evaluation.intervals import Floats
from steer_tools.evaluation.metrics import distinct_2, pooled_distinct_2
from steer_tools.prompts import Prompt

# The tokens of one text a prompt.
TextSet: TypeAlias = Sequence[Sequence[int]]
# The log-probabilities of these tokens, (tokens,) a text, for the unsteered model.
TextLogProbs: TypeAlias = Sequence[Tensor]
Booleans: TypeAlias = NDArray[np.bool_]
_Pairs: TypeAlias = frozenset[tuple[int, int]]

# A text may be as surprising as all but one in ten that the unsteered model draws at temperature 1, so many or two a
# prompt. Of small models the last few are gibberish, and of so few samples a higher quantile would be theirs.
SAMPLES, SURPRISAL_QUANTILE = 32, 0.9
# So much of what the unsteered texts have must be left: of a text's distinct-2, and of its own words, which its prompt
# has not; of a set's distinct-2, its relevance, and its texts.
LEAST_DISTINCT, LEAST_OWN = 0.75, 0.5
LEAST_VARIETY, LEAST_RELEVANCE, LEAST_WHOLE = 0.75, 0.6, 2 / 3
# Answers of a behaviour's pairs that say how much such answers depend on their prompts, by chance ones of others; they
# count for no less than this share of what the unsteered texts do.
_ANSWERS, _LEAST_OF_UNSTEERED = 16, 0.5
# Below so many nats a token the unsteered texts hardly depend on their prompts, and a share of that is noise.
_MEASURABLE_RELEVANCE = 0.05


@dataclass(frozen=True, eq=False)
class CheckedTexts:
    """A set of texts as the guards found it.

    Attributes:
        surprisals: (prompts,) mean −log p of a text's worse half under the unsteered model, in nats a token; NaN of an
            empty text.
        distinct: (prompts,) distinct-2; NaN of a text of fewer than two tokens.
        own: (prompts,) share of the adjacent token pairs that the prompt has not; NaN as before.
        is_whole: (prompts,) whether each text is not broken.
        variety: Distinct-2 of all texts together, as a share of the unsteered ones'; None without two tokens.
        relevance: How much likelier the texts are behind their own prompts than behind others, as a share of what may
            be asked of them; None where that cannot be measured.
    """

    surprisals: Floats
    distinct: Floats
    own: Floats
    is_whole: Booleans
    variety: float | None
    relevance: float | None

    @property
    def failures(self) -> tuple[str, ...]:
        """Why the set as a whole says nothing of steering; empty where it passes."""
        return self.failures_within(1.0)

    def failures_within(self, share: float) -> tuple[str, ...]:
        """Return the same where a set need have but a share of what is asked of it."""
        reasons = {
            "broken": self.is_whole.mean() < share * LEAST_WHOLE,
            "alike": self.variety is not None and self.variety < share * LEAST_VARIETY,
            "irrelevant": self.relevance is not None and self.relevance < share * LEAST_RELEVANCE,
        }
        return tuple(reason for reason, holds in reasons.items() if holds)

    @property
    def passes(self) -> bool:
        """Whether a verdict may rest on the set."""
        return not self.failures


@dataclass(frozen=True, eq=False)
class TextGuards:
    """What the unsteered model writes to some prompts, as the limits of what is no broken text there.

    Attributes:
        prompts: Those that every set answers.
        surprisals: (most tokens,) the most nats a token in the worse half of a text of 1, 2, ... tokens: models are
            less sure of first words, so that short texts are held to the beginnings of samples.
        distinct: The unsteered texts' median distinct-2; NaN where none has two tokens.
        own: Their median share of pairs that the prompts have not; NaN as before.
        variety: The distinct-2 of all of them together; None as before.
        relevance: How much likelier texts are to be behind their own prompts, in nats a token: the unsteered ones, or
            answers that show the behaviour or its opposite, where these depend less on what is asked, as refusals do;
            None where the prompts are all alike, or the texts do not depend on them.
    """

    prompts: tuple[Prompt, ...]
    surprisals: Floats
    distinct: float
    own: float
    variety: float | None
    relevance: float | None

    def most_surprisal(self, tokens: int) -> float:
        """Return the most nats a token in the worse half of a text of so many tokens."""
        return float(self.surprisals[min(tokens, len(self.surprisals)) - 1])

    def check(
        self, engine: Engine, sets: Sequence[TextSet], log_probs: Sequence[TextLogProbs] | None = None
    ) -> list[CheckedTexts]:
        """Return what is wrong with each set; the texts of all of them are rows of the same call, equal ones once.

        `log_probs` are those of the texts' tokens for the unsteered model, where they are known.
        """
        if log_probs is None:
            log_probs = _log_probs(engine, self.prompts, sets)
        asked, relevances = _pairs_in(engine, self.prompts), _relevances(engine, self.prompts, sets, log_probs)
        return [self._checked(asked, *own) for own in zip(sets, log_probs, relevances, strict=True)]

    def whole(self, engine: Engine, prompts: Sequence[Prompt], texts: TextSet, log_probs: TextLogProbs) -> Booleans:
        """Return (texts,) which of some texts to some of the prompts are not broken, whatever they are as a set."""
        own = _own(_pairs_in(engine, prompts), texts)
        return self._is_whole(texts, _surprisals(log_probs), _distinct(texts), own)

    def _checked(
        self, asked: Sequence[_Pairs], texts: TextSet, log_probs: TextLogProbs, relevance: float
    ) -> CheckedTexts:
        surprisals, distinct, own = _surprisals(log_probs), _distinct(texts), _own(asked, texts)
        variety = pooled_distinct_2(texts)
        return CheckedTexts(
            surprisals=surprisals,
            distinct=distinct,
            own=own,
            is_whole=self._is_whole(texts, surprisals, distinct, own),
            variety=variety / self.variety if variety is not None and self.variety else None,
            relevance=relevance / self.relevance if self.relevance and np.isfinite(relevance) else None,
        )

    def _is_whole(self, texts: TextSet, surprisals: Floats, distinct: Floats, own: Floats) -> Booleans:
        limits = [self.most_surprisal(len(text)) for text in texts]
        # A text too short for pairs has none to repeat.
        is_poor = (distinct < LEAST_DISTINCT * self.distinct) | (own < LEAST_OWN * self.own)
        return (surprisals <= limits) & ~is_poor


def fit_text_guards(
    engine: Engine,
    prompts: Sequence[Prompt],
    unsteered: TextSet,
    max_new_tokens: int,
    *,
    of_answers: float | None = None,
    seed: int = 0,
) -> TextGuards:
    """Return the limits that the unsteered model's own texts set, and the relevance of a behaviour's answers where that
    is less; samples of the model are drawn by the seed.

    Raises:
        PromptError: It writes nothing to the prompts.
    """
    draws = max(2, -(-SAMPLES // len(prompts)))
    rows = [Row(prompt, (), row_seed(seed + draw, prompt)) for draw in range(draws) for prompt in prompts]
    sampled = engine.generate(rows, Sampling(max_new_tokens, temperature=1.0))
    drawn = [-text.log_probs.double().numpy() for text in sampled if text.tokens]
    if not drawn or not any(unsteered):
        raise PromptError(
            "The model ends its texts to these prompts before the first token, so there is nothing to compare with",
            fix="Choose prompts that it answers.",
        )
    beginnings = [[_worse_half(own[:length]) for length in range(1, max_new_tokens + 1)] for own in drawn]
    (relevance,) = _relevances(engine, prompts, [unsteered], _log_probs(engine, prompts, [unsteered]))
    return TextGuards(
        prompts=tuple(prompts),
        surprisals=np.quantile(beginnings, SURPRISAL_QUANTILE, axis=0),
        distinct=_median(_distinct(unsteered)),
        own=_median(_own(_pairs_in(engine, prompts), unsteered)),
        variety=pooled_distinct_2(unsteered),
        relevance=_asked_of(relevance, of_answers) if relevance >= _MEASURABLE_RELEVANCE else None,
    )


def relevance_of_answers(engine: Engine, pairs: Sequence[Item], seed: int = 0) -> float | None:
    """Return how much likelier answers of a behaviour's pairs are behind their own prompts, in nats a token: of both
    kinds the less; None where pairs have no prompts, or all the same."""
    chosen = Random(f"answers/{seed}").sample(list(pairs), min(_ANSWERS, len(pairs)))
    if any(pair.prompt is None for pair in chosen):
        return None
    posed = [evaluation_prompt(pair, engine.info.has_chat_template) for pair in chosen]
    prompts = [prompt for prompt, _, _ in posed]
    others = _others(prompts)
    if not others:
        return None
    answers = [*(positive for _, positive, _ in posed), *(opposite for _, _, opposite in posed)]
    scores = engine.score([Row(prompt) for prompt in (*prompts, *prompts, *others, *others)], answers * 2)
    own, behind_others = np.array([float(score.mean()) for score in scores]).reshape(2, 2, len(posed))
    return float((own - behind_others).mean(axis=1).min())


def _asked_of(unsteered: float, of_answers: float | None) -> float:
    return unsteered if of_answers is None else min(unsteered, max(of_answers, _LEAST_OF_UNSTEERED * unsteered))


def text_effects(steered: Floats, unsteered: Floats, is_whole: Booleans) -> Floats:
    """Return (prompts,) how much higher the steered texts score than the unsteered ones; what is broken has effect 0.

    NaN where the unsteered text has no score.
    """
    counts = is_whole & np.isfinite(steered)
    return np.where(counts, steered, unsteered) - unsteered


def two_signed_effects(plus: Floats, minus: Floats) -> Floats:
    """Return (prompts,) half of what a vector's texts are above its opposite's, by the effects of both."""
    return (plus - minus) / 2


def mean_effect(effects: Floats) -> float | None:
    """Return the mean over the prompts that have one; None where none has."""
    there = effects[np.isfinite(effects)]
    return float(there.mean()) if len(there) else None


def _log_probs(engine: Engine, prompts: Sequence[Prompt], sets: Sequence[TextSet]) -> list[list[Tensor]]:
    """Return what the tokens of each text have behind its prompt, (tokens,)."""
    asked = [(prompt, tuple(text)) for texts in sets for prompt, text in zip(prompts, texts, strict=True)]
    wanted = [*dict.fromkeys(key for key in asked if key[1])]
    scores = engine.score([Row(prompt) for prompt, _ in wanted], [text for _, text in wanted])
    known = dict(zip(wanted, scores, strict=True))
    found = [known[key] if key[1] else torch.zeros(0) for key in asked]
    return [found[start : start + len(prompts)] for start in range(0, len(found), len(prompts))]


def _relevances(
    engine: Engine, prompts: Sequence[Prompt], sets: Sequence[TextSet], log_probs: Sequence[TextLogProbs]
) -> list[float]:
    """Return how much likelier the texts of each set are behind their own prompts than behind others, in nats a token.

    NaN of a set without text, or where all prompts are alike.
    """
    others = _others(prompts)
    if not others:
        return [np.nan] * len(sets)
    behind_others = _log_probs(engine, others, sets)
    above = [
        [float(own.mean() - other.mean()) if len(own) else np.nan for own, other in zip(*both, strict=True)]
        for both in zip(log_probs, behind_others, strict=True)
    ]
    return [_mean(np.array(of_set)) for of_set in above]


def _surprisals(log_probs: TextLogProbs) -> Floats:
    return np.array([_worse_half(-own.double().numpy()) if len(own) else np.nan for own in log_probs])


def _others(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Return another prompt for each, from the other half where it can be: neighbours may ask the same in other words.

    Empty where all are alike.
    """
    if len(set(prompts)) < 2:
        return []
    count = len(prompts)
    turned = [[prompts[(i + count // 2 + step) % count] for step in range(count)] for i in range(count)]
    return [next(other for other in own if other != prompt) for prompt, own in zip(prompts, turned, strict=True)]


def _worse_half(values: Floats) -> float:
    """Return the mean of the half in which it is higher: a good beginning hides no bad end."""
    half = len(values) // 2
    return max(float(part.mean()) for part in (values[:half], values[half:]) if len(part))


def _distinct(texts: TextSet) -> Floats:
    return np.array([distinct_2([text]) for text in texts], dtype=np.float64)  # None becomes NaN.


def _pairs_in(engine: Engine, prompts: Sequence[Prompt]) -> list[_Pairs]:
    return [frozenset(pairwise(engine.tokenize(prompt).tokens)) for prompt in prompts]


def _own(asked: Sequence[_Pairs], texts: TextSet) -> Floats:
    """Return (texts,) the share of each text's adjacent token pairs that its prompt has not."""
    written = [[*pairwise(text)] for text in texts]
    shares = [
        sum(pair not in theirs for pair in pairs) / len(pairs) if pairs else np.nan
        for theirs, pairs in zip(asked, written, strict=True)
    ]
    return np.array(shares)


def _median(values: Floats) -> float:
    there = values[np.isfinite(values)]
    return float(np.median(there)) if len(there) else np.nan


def _mean(values: Floats) -> float:
    there = values[np.isfinite(values)]
    return float(there.mean()) if len(there) else np.nan
