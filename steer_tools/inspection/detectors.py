"""A direction and activations of two classes → a threshold, and how well it tells prompts that it has not seen.

It must not know where prompts come from.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steer_tools.directions.separation import best_threshold, roc_area
from steer_tools.directions.statistics import Examples
from steer_tools.evaluation.metrics.intervals import Interval
from steer_tools.evaluation.metrics.roc import roc_interval

# Directions of no meaning: in a wide space many of them tell classes apart that lie far apart.
_CONTROLS, _CHANCE = 200, 0.95


@dataclass(frozen=True)
class Detector:
    """A threshold on û·h, with its figures on held-out examples.

    Attributes:
        threshold: In the model's own units; above it is the positive class.
        area: Under the ROC curve, in [0, 1].
        interval: Of the area, 95 %; None where all examples belong together.
        chance: The area that one in twenty random directions reaches, of either sign.
        misses: Share of the positive examples at or below the threshold.
        false_alarms: Share of the negative examples above it.
    """

    threshold: float
    area: float
    interval: Interval | None
    chance: float
    misses: float
    false_alarms: float


def fit_detector(
    direction: Tensor, seen: Examples, held_out: Examples, groups: tuple[Sequence[Hashable], Sequence[Hashable]]
) -> Detector:
    """Fit the threshold of least balanced error on one set of examples, and measure it on another.

    `direction` is (width,); `groups` say which held-out positive, and which negative, examples belong together.
    """
    unit = (direction / direction.norm()).double()
    threshold = best_threshold(seen.positive @ unit, seen.negative @ unit)
    high, low = held_out.positive @ unit, held_out.negative @ unit
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(len(unit), _CONTROLS, generator=generator, dtype=torch.float64)
    controls = [
        float(roc_area(one, other))
        for one, other in zip((held_out.positive @ drawn).T, (held_out.negative @ drawn).T, strict=True)
    ]
    return Detector(
        threshold=threshold,
        area=float(roc_area(high, low)),
        interval=roc_interval(high.numpy(), low.numpy(), *groups),
        # Either sign of a drawn direction could have been drawn.
        chance=float(torch.tensor([*controls, *(1 - area for area in controls)]).quantile(_CHANCE)),
        misses=float((high <= threshold).double().mean()),
        false_alarms=float((low > threshold).double().mean()),
    )
