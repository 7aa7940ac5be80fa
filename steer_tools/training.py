"""Contrast pairs and a model → a direction trained to make the positive completions likelier than the negative ones.

It must not know files, sessions, or what is applied.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from steer_tools.engines.base import Engine, Row
from steer_tools.errors import ArgumentError, DirectionError, PromptError
from steer_tools.interventions import Add
from steer_tools.plan import Placement, Plan
from steer_tools.positions import GENERATED
from steer_tools.progress import report, reporting_to
from steer_tools.prompts import ContrastPrompts, Prompt, TokenPrompt
from steer_tools.sites import Site


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
        if not (whole and 0 < self.budget < float("inf") and self.steps > 0 and self.batch > 0 and self.seed >= 0):
            raise ArgumentError(
                f"The options of 'trained' are {self}",
                valid="budget > 0 (default 1.0, in norms of the contrast); whole numbers steps >= 1 (40), batch >= 1 "
                "(16), seed >= 0 (0)",
            )


@dataclass(frozen=True)
class CompletionPair:
    """A prompt with the completion to promote and the one to suppress, as token ids."""

    prompt: tuple[int, ...]
    promoted: tuple[int, ...]
    suppressed: tuple[int, ...]


def completion_pairs(engine: Engine, contrast: ContrastPrompts) -> list[CompletionPair]:
    """Split each pair where its two texts part: what they share is the prompt.

    Raises:
        PromptError: The sides are of unequal length, or a pair shares no token, or one text is the other's beginning.
    """
    contrast.require_pairs("trained")
    pairs: list[CompletionPair] = []
    for positive, negative in zip(contrast.positive, contrast.negative, strict=True):
        ids, other = engine.tokenize(positive).tokens, engine.tokenize(negative).tokens
        shared = len(list(takewhile(lambda both: both[0] == both[1], zip(ids, other, strict=False))))
        if shared == 0 or shared in (len(ids), len(other)):
            raise PromptError(
                f"The pair {_shown(positive)} and {_shown(negative)} does not begin alike and then part",
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
    """
    radius = options.budget * contrast_norm
    generator = torch.Generator().manual_seed(options.seed)
    direction = torch.zeros(engine.width(site))
    for step in range(options.steps):
        drawn = torch.randperm(len(pairs), generator=generator)[: options.batch].tolist()
        slope = _slope(engine, [pairs[i] for i in drawn], site, direction)
        if not slope.isfinite().all() or not slope.any():
            raise DirectionError(
                f"The completions do not depend on what is at {site}, so nothing can be trained there",
                fix="Use an earlier layer, or completions that are not already certain.",
            )
        direction = direction + 0.3 * radius * (1 - step / options.steps) * slope / slope.norm()
        direction = direction * min(1.0, radius / float(direction.norm()))
        report(step + 1, options.steps, f"training a direction at {site}")
    return direction


def _slope(engine: Engine, pairs: Sequence[CompletionPair], site: Site, direction: Tensor) -> Tensor:
    """Return the gradient (width,) of the mean log σ(log-odds) at `direction`."""
    plan: Plan = (Placement(Add(direction), site, 1.0, GENERATED),)
    rows = [Row(TokenPrompt(pair.prompt), plan) for pair in pairs]
    completions = [*(pair.promoted for pair in pairs), *(pair.suppressed for pair in pairs)]
    with reporting_to(None):
        found = engine.gradients([*rows, *rows], completions, [site])
    slope = torch.zeros_like(direction)
    for pair, promoted, suppressed in zip(pairs, found[: len(pairs)], found[len(pairs) :], strict=True):
        log_odds = torch.tensor(promoted.log_prob - suppressed.log_prob)
        # The positions `generated` begin with the last token of the prompt.
        steered = [side.by_site[site][len(pair.prompt) - 1 :].sum(dim=0) for side in (promoted, suppressed)]
        slope += torch.sigmoid(-log_odds) * (steered[0] - steered[1])
    return slope / len(pairs)


def _shown(prompt: Prompt) -> str:
    return f"{prompt!s:.60}"
