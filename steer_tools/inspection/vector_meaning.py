"""A direction → the tokens that it makes likelier, by the unembedding and as observed, and the vectors that it is like.

The unembedding says what a direction means to the last norm and the output matrix; later blocks may do something else
with it, which only the observed effect shows. It must not know files.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import nan
from typing import NamedTuple

import torch
from torch import Tensor

from steer_tools.core.interventions import Add
from steer_tools.core.plan import Placement
from steer_tools.core.site import Site
from steer_tools.core.vectors import SteeringVector, cosines, layer_cosines
from steer_tools.engines.base import Engine, Row, Unembedding, distinct
from steer_tools.errors import SteeringError
from steer_tools.evaluation.behaviors.behavior import Behavior, contrast_prompts
from steer_tools.evaluation.questions import pooling_of
from steer_tools.inspection.meaningless_directions import chance_level, meaningless_directions
from steer_tools.progress import report
from steer_tools.prompts import Prompt

# Rows of the output matrix that are in work at once: vocabularies are large.
_ROWS = 8192
# In residual norms: small, so that the change is that of the direction and not of broken texts.
_SMALL = 0.05
# Directions of no meaning of each kind, which also have a best token; their numbers and one are multiples of twenty.
_LENS_CONTROLS, _EFFECT_CONTROLS = 99, 19


class RankedToken(NamedTuple):
    """A token's id, its text, told apart from those of the others, and its value."""

    token: int
    text: str
    value: float


@dataclass(frozen=True)
class Ranking:
    """Tokens with their values, the most raised ones and the most lowered ones, each from the strongest on.

    Attributes:
        suppressed: With values below 0.
        chance: What the furthest token, of either sign, has of one in twenty directions that mean nothing.
    """

    boosted: tuple[RankedToken, ...]
    suppressed: tuple[RankedToken, ...]
    chance: float


@dataclass(frozen=True)
class Meaning:
    """What a vector's direction at one site means.

    Attributes:
        lens: By the unembedding; None at a single head.
        observed: By its effect on the next token, at `observed_strength` of the unit.
        layers: Cosines with the vector's other layers.
        behaviors: Cosines with behaviours; None where none were asked for.
    """

    lens: Ranking | None
    observed: Ranking
    observed_strength: float
    layers: dict[int, float]
    behaviors: dict[str, float] | None


def meaning_of(
    engine: Engine,
    vector: SteeringVector,
    unit: Placement,
    top: int,
    *,
    subtract_mean_token: bool = True,
    behaviors: Mapping[str, Behavior] | None = None,
) -> Meaning:
    """Say what a vector means where `unit` adds it, in the `top` tokens and by what it is like.

    Raises:
        UnsupportedFeatureError: The model has no final norm or no unembedding that was found.
    """
    site, direction = unit.site, vector.directions[unit.site.layer]
    own = layer_cosines(vector)[vector.layers.index(site.layer)].tolist()
    return Meaning(
        lens=None
        if site.head is not None
        else lens_ranking(engine, direction, site, top, subtract_mean_token=subtract_mean_token),
        observed=effect_ranking(engine, unit, _SMALL, engine.neutral_prompts, top),
        observed_strength=_SMALL,
        layers={layer: cosine for layer, cosine in zip(vector.layers, own, strict=True) if layer != site.layer},
        behaviors=None if behaviors is None else dict(behavior_cosines(engine, vector, site.layer, site, behaviors)),
    )


def vector_where_placed(vector: SteeringVector, unit: Placement) -> SteeringVector:
    """Return the vector, or the direction that `unit` adds where that is at none of its own layers."""
    site = unit.site
    if site.layer in vector.directions:
        return vector
    assert isinstance(unit.intervention, Add)
    added = {site.layer: unit.intervention.direction}
    return SteeringVector.from_directions(added, component=site.component, head=site.head)


def lens_ranking(
    engine: Engine, direction: Tensor, site: Site, top: int, *, subtract_mean_token: bool = True, seed: int = 0
) -> Ranking:
    """Rank tokens by the cosine of a direction with what raises their logit (the logit lens, nostalgebraist 2020).

    What raises a logit is the token's row of the output matrix times the final norm's scale, and what that norm takes
    away is no part of it. Cosines, since rows differ in length: by the logit itself a token of a short row is never
    first, not even in its own direction. With `subtract_mean_token` the mean over all rows is taken off each: what
    raises all logits alike changes no probability. Chance is that of directions at `site`.

    Raises:
        UnsupportedFeatureError: The model has no final norm or no unembedding that was found.
    """
    unembedding = engine.unembedding()
    (cosines,) = token_cosines(direction[None].float(), unembedding, subtract_mean_token)
    drawn = meaningless_directions(engine, site, _LENS_CONTROLS, seed)
    by_chance = [token_cosines(own, unembedding, subtract_mean_token).abs().amax(dim=1) for own in drawn.values()]
    return _ranked(engine, cosines, torch.ones_like(cosines, dtype=torch.bool), top, chance_level(by_chance))


def lens_tokens(engine: Engine, direction: Tensor, top: int) -> tuple[RankedToken, ...]:
    """Return the tokens that the lens ranks first, with no level of chance, which costs most of it."""
    (cosines,) = token_cosines(direction[None].float(), engine.unembedding())
    return _ranked(engine, cosines, torch.ones_like(cosines, dtype=torch.bool), top, nan).boosted


def token_cosines(directions: Tensor, unembedding: Unembedding, subtract_mean_token: bool = True) -> Tensor:
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
    direction = unit.intervention.direction
    ((changes, likely),) = next_token_changes(engine, unit, [direction], strength, prompts)
    drawn = meaningless_directions(engine, unit.site, _EFFECT_CONTROLS, seed)
    by_chance: list[Tensor] = []
    for controls in drawn.values():
        found = next_token_changes(
            engine, unit, [own * (direction.norm() / own.norm()) for own in controls], strength, prompts
        )
        by_chance.append(torch.stack([changes[likely].abs().max() for changes, likely in found]))
    return _ranked(engine, changes, likely, top, chance_level(by_chance))


def next_token_changes(
    engine: Engine, unit: Placement, directions: Sequence[Tensor], strength: float, prompts: Sequence[Prompt]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield for each direction in place of the unit's the changes of the vocabulary, and which tokens are likely."""
    placements = [replace(unit, intervention=Add(direction)).scaled(strength) for direction in directions]
    rows = [Row(p, (own.scaled(sign),)) for p in prompts for own in placements for sign in (1.0, -1.0)]
    found = torch.stack(engine.distributions(rows)).reshape(len(prompts), len(placements), 2, -1)
    changes = (found[:, :, 0] - found[:, :, 1]).mean(dim=0) / 2  # (placements, vocabulary)
    likely = found.exp().amax(dim=(0, 2)) > 1 / found.shape[-1]  # (placements, vocabulary)
    return zip(changes, likely, strict=True)


def _ranked(engine: Engine, values: Tensor, taken: Tensor, top: int, chance: float) -> Ranking:
    order = values.argsort(descending=True, stable=True)
    order = order[taken[order]]

    def named(chosen: Tensor) -> tuple[RankedToken, ...]:
        tokens: list[int] = chosen.tolist()
        return tuple(map(RankedToken, tokens, distinct(engine.texts(tokens), tokens), values[chosen].tolist()))

    highest, lowest = order[:top], order.flip(0)[:top]
    return Ranking(named(highest[values[highest] > 0]), named(lowest[values[lowest] < 0]), chance)


def nearest(
    vector: SteeringVector, layer: int, others: Mapping[str, SteeringVector], most: int
) -> tuple[tuple[str, int, float], ...]:
    """Return the names of the others that have the layer, it, and the cosines, from the most alike or opposed on."""
    found: list[tuple[str, int, float]] = []
    for name, other in others.items():
        if layer in other.directions:
            with suppress(SteeringError):  # Made on another model, or at another place.
                found.append((name, layer, float(cosines([vector, other], layer)[0, 1])))
    return tuple(sorted(found, key=lambda own: -abs(own[2]))[:most])


def nearest_anywhere(
    vector: SteeringVector, layer: int, others: Mapping[str, SteeringVector], most: int
) -> tuple[tuple[str, int, float], ...]:
    """Return the names of the others, the layer where each is most along the vector's direction at `layer`, and the
    absolute cosine there, the most alike first: for directions that have neither a sign nor a layer of their own.
    """
    found: list[tuple[str, int, float]] = []
    direction = vector.directions[layer].double()
    for name, other in others.items():
        if other.width == vector.width and other.head is None:
            at = torch.stack([other.directions[n].double() for n in other.layers])
            sizes = torch.nn.functional.cosine_similarity(at, direction[None], dim=1).abs()
            found.append((name, other.layers[int(sizes.argmax())], float(sizes.max())))
    return tuple(sorted(found, key=lambda own: -own[2])[:most])


def behavior_cosines(
    engine: Engine, vector: SteeringVector, layer: int, site: Site, behaviors: Mapping[str, Behavior]
) -> tuple[tuple[str, float], ...]:
    """Return behaviours with the cosine of the vector and their mean difference at the site, the most alike first.

    The mean difference (Marks and Tegmark 2023, arXiv 2310.06824) is that of their own pairs, read as an experiment
    reads them.
    """
    direction = vector.directions[layer].double()
    found: dict[str, float] = {}
    for done, (name, behavior) in enumerate(behaviors.items()):
        report(done, len(behaviors), "reading behaviours")
        contrast = contrast_prompts(behavior.pairs, engine.info.has_chat_template)
        pooling = pooling_of(engine, behavior.pairs)
        sides = (contrast.positive, contrast.negative)
        shown, opposite = (engine.read(side, [site], pooling)[site].double().mean(dim=0) for side in sides)
        found[name] = float(torch.nn.functional.cosine_similarity(direction, shown - opposite, dim=0))
    return tuple(sorted(found.items(), key=lambda own: -abs(own[1])))
