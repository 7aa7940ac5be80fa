"""Contrast pairs and a model → a direction trained to make the positive completions likelier than the negative ones.

It must not know files, sessions, or what is applied.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from steer_tools.core.interventions import Add
from steer_tools.core.plan import Placement, Plan
from steer_tools.core.positions import GENERATED
from steer_tools.core.site import Site
from steer_tools.engines.base import Engine, Row
from steer_tools.engines.facets import Gradients, require
from steer_tools.errors import ArgumentError, DirectionError, PromptError
from steer_tools.limits import STEPS
from steer_tools.progress import report, reporting_to
from steer_tools.prompts import ContrastPrompts, TokenPrompt


@dataclass(frozen=True)
class TrainingOptions:
    """How a direction is trained.

    Attributes:
        budget: The most that it may be long, in norms of the contrast.
        steps: Steps of gradient ascent.
        batch: Pairs that a step looks at, drawn anew for each.
        seed: Of the draws.
    """

    budget: float = 1.0
    steps: int = 40
    batch: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        whole = all(type(value) is int for value in (self.steps, self.batch, self.seed))
        is_length = type(self.budget) in (int, float) and 0 < self.budget < float("inf")
        if not (whole and is_length and self.steps > 0 and self.batch > 0 and self.seed >= 0):
            raise ArgumentError(
                f"The options of 'trained' are {self}",
                valid="budget > 0 (default 1.0, in norms of the contrast); whole numbers steps >= 1 (40), batch >= 1 "
                "(16), seed >= 0 (0)",
            )
        STEPS.require(self.steps, "The options of 'trained' ask for")


@dataclass(frozen=True)
class CompletionPair:
    """A prompt with the completion to promote and the one to suppress, as token ids."""

    prompt: tuple[int, ...]
    promoted: tuple[int, ...]
    suppressed: tuple[int, ...]


def completion_pairs(engine: Engine, contrast: ContrastPrompts) -> list[CompletionPair]:
    """Split each pair where its two texts part: what they share is the prompt.

    Raises:
        PromptError: A pair shares no token, or one text is the other's beginning.
    """
    pairs: list[CompletionPair] = []
    for positive, negative in zip(contrast.positive, contrast.negative, strict=True):
        ids, other = engine.tokenize(positive).tokens, engine.tokenize(negative).tokens
        shared = len(list(takewhile(lambda both: both[0] == both[1], zip(ids, other, strict=False))))
        if shared == 0 or shared in (len(ids), len(other)):
            raise PromptError(
                f"The pair {positive!s:.60} and {negative!s:.60} does not begin alike and then part",
                valid="pairs with the same prompt and two completions, neither the beginning of the other",
                fix="Put the same text, or the same messages, before both completions.",
            )
        pairs.append(CompletionPair(ids[:shared], ids[shared:], other[shared:]))
    return pairs


def train_direction(
    engine: Engine, pairs: Sequence[CompletionPair], site: Site, contrast_norm: float, options: TrainingOptions
) -> Tensor:
    """Return the direction (width,) that, added at the positions `generated`, tells the completions best.

    Ascends the mean of log σ(log-odds of promoted against suppressed) by steps along its gradient, whose length falls
    linearly to 0, and stays in the ball of `budget` contrasts.

    Raises:
        DirectionError: The completions do not depend on what is at the site.
        UnsupportedFeatureError: The engine has no gradients.
    """
    engine = require(engine, Gradients, "The method 'trained'")
    radius = options.budget * contrast_norm
    generator = torch.Generator().manual_seed(options.seed)
    direction = torch.zeros(engine.width(site))
    for step in range(options.steps):
        drawn = torch.randperm(len(pairs), generator=generator)[: options.batch].tolist()
        slope = _slope(engine, [pairs[i] for i in drawn], site, direction)
        if slope.isfinite().all() and slope.any():
            direction = direction + 0.3 * radius * (1 - step / options.steps) * (slope / slope.norm()).float()
            direction = direction * min(1.0, radius / float(direction.norm()))
        elif not direction.any():
            raise DirectionError(
                f"The completions do not depend on what is at {site}, so nothing can be trained there",
                fix="Use an earlier layer, or completions that are not already certain.",
            )
        report(step + 1, options.steps, f"training a direction at {site}")
    return direction


def _slope(engine: Gradients, pairs: Sequence[CompletionPair], site: Site, direction: Tensor) -> Tensor:
    """Return a positive multiple of the gradient (width,) of the mean log σ(log-odds) at `direction`, in float64."""
    plan: Plan = (Placement(Add(direction), site, 1.0, GENERATED),)
    rows = [Row(TokenPrompt(pair.prompt), plan) for pair in pairs]
    completions = [*(pair.promoted for pair in pairs), *(pair.suppressed for pair in pairs)]
    with reporting_to(None):
        found = engine.gradients([*rows, *rows], completions, [site])
    sides = list(zip(found[: len(pairs)], found[len(pairs) :], strict=True))
    log_odds = torch.tensor([ours.log_prob - theirs.log_prob for ours, theirs in sides], dtype=torch.float64)
    # Relative to the largest, since all of them are 0 in floating point where completions are well told.
    log_weights = torch.nn.functional.logsigmoid(-log_odds)
    weights = (log_weights - log_weights.max()).exp()
    slope = torch.zeros_like(direction, dtype=torch.float64)
    for weight, pair, (ours, theirs) in zip(weights, pairs, sides, strict=True):
        # The positions `generated` begin with the last token of the prompt.
        steered = [side.by_site[site][len(pair.prompt) - 1 :].double().sum(dim=0) for side in (ours, theirs)]
        slope += weight * (steered[0] - steered[1])
    return slope
