"""A placed vector and a target, or what texts show → the strength. It must not know vectors' files.

For a target a bracket is found on a doubling scale and divided, every try of a round a row of the same batches.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from steer_tools.engines.base import Engine
from steer_tools.errors import ArgumentError
from steer_tools.evaluation.damage import DamageMeter
from steer_tools.evaluation.questions import Question, propensities
from steer_tools.experiments.exploration import Key, Lane, Outcome, chosen, next_cells
from steer_tools.experiments.text_meter import TextMeter
from steer_tools.session.placement import Placed

_HALVINGS, _PARTS, _PRECISION = 10, 8, 0.01
# Texts are few, and tell strengths apart to a factor of two, which is divided so often.
_DOUBLINGS, _DIVISIONS = 8, 2

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


@dataclass(frozen=True)
class CalibratedByTexts:
    """Strengths in the unit of the placed vector, with its sign.

    Attributes:
        strength: The gentlest whose texts pass and show at least ENOUGH of the most that any that pass do.
        unbroken: The strongest whose texts pass.
        is_unbounded: Whether texts pass at the largest strength that was tried, so that stronger ones may, too.
    """

    strength: float
    unbroken: float
    is_unbounded: bool


def calibrate_by_texts(meter: TextMeter, placed: Placed, sign: int, largest: float) -> CalibratedByTexts:
    """Write texts at strengths of one sign up to `largest`, doubled from one to the next and then divided.

    Raises:
        ArgumentError: No strength makes texts that pass show more of the behaviour, or less where `sign` is below 0.
    """
    (placement,) = placed.unit_placements
    lane, known = Lane(placement.site.layer, str(placement.positions), 1), dict[Key, Outcome]()

    def write(strengths: Sequence[float]) -> None:
        measured = meter.measure([placed.plan(sign * strength) for strength in strengths])
        for strength, own in zip(strengths, measured, strict=True):
            known[lane, strength] = Outcome(sign * own.effect, own.checked.passes)

    tried = [largest / 2**halving for halving in reversed(range(_DOUBLINGS))]
    while following := [strength for own, strength in next_cells([lane], tried, known) if own == lane]:
        write(following)
    for _ in range(_DIVISIONS):
        # Between the last that passes and the first that does not, and below the gentlest that does enough.
        strengths, best = sorted(strength for _, strength in known), chosen(known)
        ends = {_last_that_passes(known, lane), None if best is None else strengths.index(best[1]) - 1}
        gaps = {
            (strengths[end], strengths[end + 1]) for end in ends if end is not None and 0 <= end < len(strengths) - 1
        }
        if gaps:
            write(sorted({sqrt(low * high) for low, high in gaps}))
    best, strengths = chosen(known), sorted(strength for _, strength in known)
    last = _last_that_passes(known, lane)
    if best is None or last is None:
        raise ArgumentError(
            f"At no strength up to {largest:.3g} do texts that pass show {'more' if sign > 0 else 'less'} of it",
            valid="a vector that changes texts",
            fix="steering_experiment tries layers, and says why texts do not pass.",
        )
    return CalibratedByTexts(sign * best[1], sign * strengths[last], is_unbounded=last == len(strengths) - 1)


def _last_that_passes(known: Mapping[Key, Outcome], lane: Lane) -> int | None:
    """Return the place, among the strengths in order, of the last before the first whose texts are broken."""
    passes = [known[lane, strength].passes for strength in sorted(strength for _, strength in known)]
    return (passes.index(False) if False in passes else len(passes)) - 1 if passes[:1] == [True] else None


def divergence_of(meter: DamageMeter, placed: Placed) -> Measure:
    """Measure KL(unsteered‖steered), in nats a token."""
    return lambda strengths: meter.divergences([placed.plan(strength) for strength in strengths])


def effect_of(engine: Engine, placed: Placed, asked: Sequence[Question]) -> Measure:
    """Measure the mean change of the items' log-odds, in nats."""

    def measure(strengths: Sequence[float]) -> list[float]:
        unsteered, *steered = propensities(engine, asked, [(), *(placed.plan(strength) for strength in strengths)])
        return [float((own - unsteered).mean()) for own in steered]

    return measure
