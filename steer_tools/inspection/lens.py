"""A direction → the tokens that it makes likelier: by the unembedding alone, and as observed. It must not know files.

The unembedding says what a direction means to the last norm and the output matrix; later blocks may do something else
with it, which only the observed effect shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

import torch
from torch import Tensor

from steer_tools.core.interventions import Add
from steer_tools.core.plan import Placement
from steer_tools.engines.base import Engine, Row, Unembedding
from steer_tools.prompts import Prompt

# Rows of the output matrix that are in work at once: vocabularies are large.
_ROWS = 8192
# Directions of no meaning, which also have a best token.
_LENS_CONTROLS, _EFFECT_CONTROLS = 20, 8


@dataclass(frozen=True)
class Ranking:
    """Tokens with their values, the most raised ones and the most lowered ones, each from the strongest on.

    Attributes:
        boosted: As the vocabulary writes them.
        suppressed: With values below 0.
        chance: What the best token of a random direction has, the median of several.
    """

    boosted: tuple[tuple[str, float], ...]
    suppressed: tuple[tuple[str, float], ...]
    chance: float


def lens_ranking(
    engine: Engine, direction: Tensor, top: int, *, subtract_mean_token: bool = False, seed: int = 0
) -> Ranking:
    """Rank tokens by the cosine of a direction with what raises their logit (the logit lens, nostalgebraist 2020).

    What raises a logit is the token's row of the output matrix times the final norm's scale, and what that norm takes
    away is no part of it. Cosines, since rows differ in length: by the logit itself a token of a short row is never
    first, not even in its own direction. With `subtract_mean_token` the mean over all rows is taken off each.

    Raises:
        UnsupportedFeatureError: The model has no final norm or no unembedding that was found.
    """
    unembedding = engine.unembedding()
    generator = torch.Generator().manual_seed(seed)
    controls = torch.randn(_LENS_CONTROLS, len(direction), generator=generator)
    cosines = token_cosines(torch.cat([direction[None].float(), controls]), unembedding, subtract_mean_token)
    chance = median(float(own.max()) for own in cosines[1:])
    return _ranked(engine, cosines[0], torch.ones_like(cosines[0], dtype=torch.bool), top, chance)


def token_cosines(directions: Tensor, unembedding: Unembedding, subtract_mean_token: bool = False) -> Tensor:
    """Return (directions, vocabulary) the cosines of (directions, width) with what raises each token's logit."""
    mean = unembedding.matrix.mean(dim=0) if subtract_mean_token else None
    units = torch.nn.functional.normalize(directions, dim=1)
    found: list[Tensor] = []
    for rows in unembedding.matrix.split(_ROWS):
        raising = (rows if mean is None else rows - mean) * unembedding.scale
        if unembedding.centers:
            raising = raising - raising.mean(dim=1, keepdim=True)
        found.append(units @ torch.nn.functional.normalize(raising, dim=1).T)
    return torch.cat(found, dim=1)


def effect_ranking(
    engine: Engine, unit: Placement, strength: float, prompts: Sequence[Prompt], top: int, *, seed: int = 0
) -> Ranking:
    """Rank tokens by how much a placement changes their log-probability as the next token of prompts, in nats.

    It is half of the difference between `strength` and its opposite, the mean over the prompts, so that what both signs
    do alike does not count. Only tokens that are likelier than one in the vocabulary somewhere are ranked: of others
    every change is large and none is seen.
    """
    assert isinstance(unit.intervention, Add)
    generator = torch.Generator().manual_seed(seed)
    length = unit.intervention.direction.norm()
    drawn = torch.randn(_EFFECT_CONTROLS, len(unit.intervention.direction), generator=generator)
    directions = [unit.intervention.direction, *(own * (length / own.norm()) for own in drawn)]
    placements = [replace(unit, intervention=Add(direction)).scaled(strength) for direction in directions]
    rows = [Row(p, (own.scaled(sign),)) for p in prompts for own in placements for sign in (1.0, -1.0)]
    found = torch.stack(engine.distributions(rows)).reshape(len(prompts), len(placements), 2, -1)
    changes = (found[:, :, 0] - found[:, :, 1]).mean(dim=0) / 2  # (placements, vocabulary)
    likely = (found.exp().amax(dim=(0, 2)) > 1 / found.shape[-1]).unbind()  # By placement, (vocabulary,).
    chance = median(float(own[seen].max()) for own, seen in zip(changes[1:], likely[1:], strict=True))
    return _ranked(engine, changes[0], likely[0], top, chance)


def _ranked(engine: Engine, values: Tensor, taken: Tensor, top: int, chance: float) -> Ranking:
    order = values.argsort(descending=True, stable=True)
    order = order[taken[order]]

    def named(chosen: Tensor) -> tuple[tuple[str, float], ...]:
        return tuple(zip(engine.pieces(chosen.tolist()), values[chosen].tolist(), strict=True))

    highest, lowest = order[:top], order.flip(0)[:top]
    return Ranking(named(highest[values[highest] > 0]), named(lowest[values[lowest] < 0]), chance)
