"""A cell's place and norm → what directions do there that know nothing of the labels.

One random direction is no null distribution. It must not know how the cell was chosen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from steer_tools.core.interventions import Add
from steer_tools.core.plan import Placement, Plan
from steer_tools.directions.methods import method_named
from steer_tools.directions.statistics import Examples
from steer_tools.engines.base import Engine
from steer_tools.evaluation.intervals import Floats
from steer_tools.evaluation.questions import Question, propensities

KINDS = ("random", "random_covariance", "balanced_shuffle")
# Eight pairs can be halved in 35 ways.
_FEWEST_EXAMPLES = 8


@dataclass(frozen=True)
class NullDistribution:
    """The effects of control directions: `effects` is (controls, items), `kinds` says how each was drawn."""

    effects: Floats
    kinds: tuple[str, ...]

    @property
    def means(self) -> Floats:
        """(controls,) the mean effect of each."""
        return self.effects.mean(axis=1)

    @property
    def moved_wrong_way(self) -> float:
        """The share of all items of all controls whose effect is below 0."""
        return float((self.effects < 0).mean())


def control_directions(examples: Examples, count: int, seed: int) -> list[tuple[str, Tensor]]:
    """Return (kind, direction (width,)) of each control, of any length; the kinds take turns.

    Kinds that draw from the examples are left out where there are too few for different ones.
    """
    kinds = KINDS if min(examples.counts) >= _FEWEST_EXAMPLES else KINDS[:1]
    return [
        (kind, method_named(kind, {"seed": seed * count + index}).raw(examples))
        for index in range(count)
        for kind in [kinds[index % len(kinds)]]
    ]


def control_plans(placement: Placement, directions: Sequence[Tensor]) -> list[Plan]:
    """Return the placement with each direction in place of its own, at the same norm, strength and positions."""
    assert isinstance(placement.intervention, Add)
    norm = placement.intervention.direction.norm()
    return [(replace(placement, intervention=Add((own * (norm / own.norm())).float())),) for own in directions]


def random_plans(placement: Placement, count: int, seed: int) -> list[Plan]:
    """Return the placement with directions in place of its own that know nothing, not even where activations lie."""
    assert isinstance(placement.intervention, Add)
    generator = torch.Generator().manual_seed(seed)
    width = len(placement.intervention.direction)
    return control_plans(placement, [torch.randn(width, generator=generator) for _ in range(count)])


def null_distribution(
    engine: Engine, placement: Placement, drawn: Sequence[tuple[str, Tensor]], asked: Sequence[Question]
) -> NullDistribution:
    """Measure controls, each with its kind, at the place and norm of `placement`."""
    plans = control_plans(placement, [direction for _, direction in drawn])
    unsteered, *steered = propensities(engine, asked, [(), *plans])
    return NullDistribution(np.stack(steered) - unsteered, tuple(kind for kind, _ in drawn))
