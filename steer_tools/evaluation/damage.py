"""Plans → what steering by them costs: drift of predictions on neutral prompts, and what happens to texts.

Every plan is a row of the same batches. It must not know vectors, or which plan is the better one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from steer_tools.core.plan import Plan
from steer_tools.engines.base import Engine, Generation, Row, Sampling, unsteered_log_probs
from steer_tools.errors import ArgumentError
from steer_tools.evaluation.intervals import Floats
from steer_tools.evaluation.metrics import distinct_2
from steer_tools.prompts import Prompt

# Tokens of an unsteered text over which the divergence is averaged.
_UNSTEERED_TOKENS = 32


@dataclass(frozen=True)
class Budget:
    """The damage that may be done.

    Attributes:
        divergence: The most KL(unsteered‖steered), in nats a token.
        surprisal: The most surprisal of steered texts, as a multiple of the unsteered texts'. A share, since models
            differ in how sure they are: what is much for one that writes a small language is little for another.
        distinct: The least share of the unsteered text's distinct-2 that must be left: loops are no surprise.
        length: The least share of its length: nothing is no surprise either.
    """

    divergence: float = 0.5
    surprisal: float = 1.5
    distinct: float = 0.75
    length: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.divergence < float("inf"):
            raise ArgumentError(f"damage_budget is {self.divergence!r}", valid="a finite number above 0, such as 0.5")

    def relaxed(self) -> "Budget":
        """Return a budget of half as much damage again: what was chosen at the limit may be beyond it elsewhere."""
        more = 1.5
        return Budget(
            self.divergence * more, 1 + (self.surprisal - 1) * more, 1 - (1 - self.distinct) * more, self.length / more
        )


@dataclass(frozen=True)
class Damage:
    """What a plan costs.

    Attributes:
        divergence: Mean KL(unsteered‖steered) over the tokens of unsteered continuations, in nats a token.
        surprisal: Mean −log p of the steered texts' tokens under the unsteered model, as a multiple of the unsteered
            texts'.
        perplexity: exp of that mean, as a multiple of the unsteered texts'.
        distinct: Distinct-2 of steered texts, as a multiple of the unsteered texts'.
        length: Tokens of steered texts, as a multiple of the unsteered texts'.
    """

    divergence: float
    surprisal: float
    perplexity: float
    distinct: float
    length: float

    def is_within(self, budget: Budget) -> bool:
        """Whether nothing of it is more than the budget allows."""
        return (
            self.divergence <= budget.divergence
            and self.surprisal <= budget.surprisal
            and self.distinct >= budget.distinct
            and self.length >= budget.length
        )


@dataclass(frozen=True)
class Texts:
    """What a model wrote to some prompts.

    Attributes:
        generations: One a prompt.
        surprisal: Mean over the texts of −log p of their tokens under the unsteered model, in nats a token.
        distinct: Mean distinct-2.
        length: Mean number of tokens.
    """

    generations: tuple[Generation, ...]
    surprisal: float
    distinct: float
    length: float

    def damage(self, unsteered: "Texts", divergence: float) -> Damage:
        """Return what these texts cost beside the unsteered ones."""
        return Damage(
            divergence=divergence,
            surprisal=self.surprisal / unsteered.surprisal if unsteered.surprisal else 1.0,
            perplexity=float(np.exp(self.surprisal - unsteered.surprisal)),
            distinct=self.distinct / unsteered.distinct if unsteered.distinct else 1.0,
            length=self.length / unsteered.length if unsteered.length else 1.0,
        )


class DamageMeter:
    """Measures plans against the unsteered model: divergence on neutral prompts, texts on the behaviour's own."""

    def __init__(
        self, engine: Engine, neutral: Sequence[Prompt], prompts: Sequence[Prompt], max_new_tokens: int
    ) -> None:
        self._engine, self._neutral, self._prompts, self._max_new_tokens = engine, neutral, prompts, max_new_tokens

    def damages(self, plans: Sequence[Plan]) -> list[Damage]:
        """Return the damage of each plan."""
        divergences = self.divergences(plans)
        found = write(self._engine, self._prompts, plans, self._max_new_tokens)
        return [texts.damage(self._unsteered, divergence) for divergence, texts in zip(divergences, found, strict=True)]

    def divergences(self, plans: Sequence[Plan]) -> list[float]:
        """Return KL(unsteered‖steered) of each plan, in nats a token."""
        continued = [index for index, text in enumerate(self._continuations) if text.tokens]
        found = divergences(self._engine, self._neutral, self._continuations, plans)
        return found[:, continued].mean(axis=1).tolist() if continued else [0.0] * len(plans)

    @cached_property
    def _continuations(self) -> list[Generation]:
        return continuations(self._engine, self._neutral)

    @cached_property
    def _unsteered(self) -> Texts:
        return write(self._engine, self._prompts, [()], self._max_new_tokens)[0]


def continuations(engine: Engine, prompts: Sequence[Prompt]) -> list[Generation]:
    """Return the model's own unsteered texts, over which divergences are averaged."""
    return engine.generate([Row(prompt) for prompt in prompts], Sampling(_UNSTEERED_TOKENS))


def divergences(
    engine: Engine, prompts: Sequence[Prompt], unsteered: Sequence[Generation], plans: Sequence[Plan]
) -> Floats:
    """Return (plans, prompts) KL(unsteered‖plan) over the unsteered texts to the prompts, in nats a token.

    Where the model ends at once there is no token before which to compare, and it is 0.
    """
    written = [index for index, text in enumerate(unsteered) if text.tokens]
    rows = [Row(prompts[index], plan) for index in written for plan in plans]
    found = engine.divergences(rows, [unsteered[index].tokens for index in written for _ in plans])
    means = np.zeros((len(plans), len(prompts)))
    means[:, written] = np.array([float(own.mean()) for own in found]).reshape(len(written), len(plans)).T
    return means


def write(engine: Engine, prompts: Sequence[Prompt], plans: Sequence[Plan], max_new_tokens: int) -> list[Texts]:
    """Return greedy texts of each plan to all prompts, with their mean surprisal under the unsteered model."""
    rows = [Row(prompt, plan) for plan in plans for prompt in prompts]
    return texts_of(engine, rows, engine.generate(rows, Sampling(max_new_tokens)), len(prompts))


def texts_of(engine: Engine, rows: Sequence[Row], generations: Sequence[Generation], count: int) -> list[Texts]:
    """Return what rows wrote, so many of them together, with their mean surprisal under the unsteered model."""
    log_probs = unsteered_log_probs(engine, rows, generations)
    found: list[Texts] = []
    for start in range(0, len(rows), count):
        own = generations[start : start + count]
        surprisals = [-float(of_text.mean()) for of_text in log_probs[start : start + count] if len(of_text)]
        tokens = [one.tokens for one in own]
        found.append(
            Texts(
                generations=tuple(own),
                surprisal=float(np.mean(surprisals or [0.0])),
                distinct=distinct_2(tokens) or 0.0,
                length=float(np.mean([len(one) for one in tokens])),
            )
        )
    return found
