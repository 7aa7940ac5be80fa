"""A placed vector and a target → the strength that reaches it. It must not know vectors' files.

A bracket is found on a doubling scale and divided, every try of a round a row of the same batches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from steer_tools.engines.base import Engine
from steer_tools.errors import ArgumentError
from steer_tools.evaluation.damage import DamageMeter
from steer_tools.evaluation.questions import Question, propensities
from steer_tools.session.placement import Placed

_HALVINGS, _PARTS, _PRECISION = 10, 8, 0.01

Measure = Callable[[Sequence[float]], Sequence[float]]


@dataclass(frozen=True)
class Calibrated:
    """A strength, in the unit of the placed vector, and the value that it reaches."""

    strength: float
    reached: float


def calibrate(measure: Measure, target: float, largest: float) -> Calibrated:
    """Return the least strength at which `measure` reaches `target`, to one per cent of the strength.

    It is the least on a doubling scale, where `measure` does not only grow. That takes several strengths at once and is
    0 at strength 0; strengths up to `largest` are tried.

    Raises:
        ArgumentError: The target is not above 0, or no strength reaches it.
    """
    if not 0 < target < float("inf"):
        raise ArgumentError(f"The target is {target!r}", valid="a finite number above 0")
    tried, low = [largest / 2**halving for halving in reversed(range(_HALVINGS))], 0.0
    found: Calibrated | None = None
    while found is None or found.strength - low > _PRECISION * found.strength:
        if found is not None:
            tried = np.linspace(low, found.strength, _PARTS + 1)[1:-1].tolist()
        values = [*measure(tried)]
        above = next((index for index, value in enumerate(values) if value >= target), None)
        if above is not None:
            low, found = (tried[above - 1] if above else low), Calibrated(tried[above], values[above])
        elif found is not None:
            low = tried[-1]
        else:
            most = max(range(len(values)), key=values.__getitem__)
            reached = f"the most is {values[most]:.3g}, at {tried[most]:.3g}"
            raise ArgumentError(
                f"No strength up to {largest:.3g} reaches {target:g}; {reached}",
                valid="a smaller target",
                fix="Another layer may do more: sweep_steering shows all.",
            )
    return found


def divergence_of(meter: DamageMeter, placed: Placed) -> Measure:
    """Measure KL(unsteered‖steered), in nats a token."""
    return lambda strengths: meter.divergences([placed.plan(strength) for strength in strengths])


def effect_of(engine: Engine, placed: Placed, asked: Sequence[Question]) -> Measure:
    """Measure the mean change of the items' log-odds, in nats."""

    def measure(strengths: Sequence[float]) -> list[float]:
        unsteered, *steered = propensities(engine, asked, [(), *(placed.plan(strength) for strength in strengths)])
        return [float((own - unsteered).mean()) for own in steered]

    return measure
