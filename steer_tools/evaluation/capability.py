"""Questions with a right and a wrong answer, a plan → how many of them the model gets right, without and with it.

It must not know vectors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from random import Random
from statistics import NormalDist
from typing import BinaryIO

from steer_tools.core.plan import Plan
from steer_tools.engines.base import Engine
from steer_tools.errors import PromptError
from steer_tools.evaluation.behaviors.behavior import Behavior, Item
from steer_tools.evaluation.behaviors.item_files import file_of_items, read_any
from steer_tools.evaluation.intervals import Interval, cluster_interval
from steer_tools.evaluation.questions import propensities, questions

# Of a longer file so many questions are drawn: the standard error of their share is at most 0.035 then.
MOST_QUESTIONS = 200
FEWEST_QUESTIONS = 8
# In so many standard errors above a half one guesser in twenty is.
_Z = NormalDist().inv_cdf(0.95)


@dataclass(frozen=True)
class Capability:
    """The shares of questions that are answered right, with the 95 % interval of what steering changes in them.

    There is no interval where all questions are of one group.
    """

    count: int
    unsteered: float
    steered: float
    interval: Interval | None

    @property
    def is_lost(self) -> bool:
        """Whether fewer are answered right, beyond what chance explains."""
        return self.interval is not None and self.interval.high < 0

    @property
    def is_at_chance(self) -> bool:
        """Whether the unsteered model is no better than who guesses one of two answers, and has none to lose."""
        return self.unsteered <= 0.5 + _Z / (2 * sqrt(self.count))

    def in_words(self) -> str:
        """Say it in a clause."""
        told = f"{self.steered:.0%} of {self.count} questions are answered right, {self.unsteered:.0%} without steering"
        if self.interval is not None:
            told += f", 95 % interval of the change {self.interval.low:+.0%} to {self.interval.high:+.0%}"
        if self.is_at_chance:
            told += "; that is no more than by guessing, so it tells little: give easier questions"
        return told


def read_capability(file: BinaryIO, name: str, seed: int = 0) -> tuple[Item, ...]:
    """Return the questions of a file of items, the right answers being the positive ones; some, if there are many.

    Raises:
        PromptError: The file is malformed, holds a whole behaviour, or fewer than FEWEST_QUESTIONS questions.
    """
    found = read_any(file_of_items(file, name))
    items = [] if isinstance(found, Behavior) else [item for item in found if item.prompt is not None]
    if len(items) < FEWEST_QUESTIONS:
        raise PromptError(
            f"{name} holds {len(items)} questions with a right and a wrong answer",
            valid=f"at least {FEWEST_QUESTIONS} records, each with 'prompt', 'correct' and 'incorrect'",
        )
    return tuple(items if len(items) <= MOST_QUESTIONS else Random(seed).sample(items, MOST_QUESTIONS))


def capability(engine: Engine, plan: Plan, items: Sequence[Item]) -> Capability:
    """Return how many questions the model gives the right answer a larger probability than the wrong one."""
    unsteered, steered = propensities(engine, questions(engine, items), [(), plan]) > 0
    interval = cluster_interval(steered.astype(float) - unsteered, [item.group for item in items])
    return Capability(len(items), float(unsteered.mean()), float(steered.mean()), interval)
