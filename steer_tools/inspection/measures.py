"""Items → what plans make of them, in one of three measures. It must not know what the plans take out."""

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import numpy as np

from steer_tools.core.plan import Plan
from steer_tools.engines.base import Engine, Row, Sampling
from steer_tools.evaluation.evaluation_set import TextScore
from steer_tools.evaluation.questions import Floats, Question, propensities

Measure: TypeAlias = Literal["log_odds", "kl", "exact"]
MEASURES: tuple[Measure, ...] = ("log_odds", "kl", "exact")
# Plans → (plans, items).
Measured: TypeAlias = Callable[[Sequence[Plan]], Floats]

# Tokens of an unsteered text over which a divergence is averaged.
_UNSTEERED_TOKENS = 32


def log_odds_of(engine: Engine, asked: Sequence[Question]) -> Measured:
    """Return a measure of log p(positive) − log p(negative), in nats."""
    return lambda plans: propensities(engine, asked, plans)


def divergence_of(engine: Engine, asked: Sequence[Question]) -> Measured:
    """Return a measure of KL(unsteered‖plan) over the model's own unsteered texts, in nats a token."""
    texts = [own.tokens for own in engine.generate([Row(q.prompt) for q in asked], Sampling(_UNSTEERED_TOKENS))]

    def measured(plans: Sequence[Plan]) -> Floats:
        # Where the model ends at once there is no token before which to compare.
        written = [i for i, text in enumerate(texts) if text]
        rows = [Row(asked[i].prompt, plan) for i in written for plan in plans]
        found = engine.divergences(rows, [texts[i] for i in written for _ in plans])
        means = np.zeros((len(plans), len(asked)))
        means[:, written] = np.array([float(own.mean()) for own in found]).reshape(len(written), len(plans)).T
        return means

    return measured


def score_of(engine: Engine, asked: Sequence[Question], scorer: TextScore, max_new_tokens: int) -> Measured:
    """Return a measure of the scores of greedy texts; every plan writes all of them."""

    def measured(plans: Sequence[Plan]) -> Floats:
        rows = [Row(question.prompt, plan) for plan in plans for question in asked]
        texts = engine.generate(rows, Sampling(max_new_tokens))
        scores = [scorer(row.prompt, own.text) for row, own in zip(rows, texts, strict=True)]
        assert None not in scores, "An exact scorer has a score for every text."
        return np.array(scores, dtype=np.float64).reshape(len(plans), len(asked))

    return measured
