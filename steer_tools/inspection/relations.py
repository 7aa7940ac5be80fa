"""A vector beside others: saved ones, and those of behaviours made for the comparison. It must not know files."""

from collections.abc import Mapping

import torch

from steer_tools.core.site import Site
from steer_tools.core.vectors import SteeringVector, cosines
from steer_tools.engines.base import Engine
from steer_tools.errors import SteeringError
from steer_tools.evaluation.behaviors.behavior import Behavior
from steer_tools.evaluation.behaviors.item_prompts import contrast_prompts
from steer_tools.experiments.experiment import pooling_of
from steer_tools.progress import report


def nearest(
    vector: SteeringVector, layer: int, others: Mapping[str, SteeringVector], most: int
) -> tuple[tuple[str, float], ...]:
    """Return the names and cosines of the others that have the layer, from the most alike or opposed on."""
    found: dict[str, float] = {}
    for name, other in others.items():
        if layer in other.directions:
            try:
                found[name] = float(cosines([vector, other], layer)[0, 1])
            except SteeringError:
                continue  # Made on another model, or at another place.
    return tuple(sorted(found.items(), key=lambda own: -abs(own[1]))[:most])


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
        pooling = pooling_of(engine, behavior)
        means = [
            engine.read(side, [site], pooling)[site].double().mean(dim=0)
            for side in (contrast.positive, contrast.negative)
        ]
        difference = means[0] - means[1]
        found[name] = float(torch.nn.functional.cosine_similarity(direction, difference, dim=0))
    return tuple(sorted(found.items(), key=lambda own: -abs(own[1])))
