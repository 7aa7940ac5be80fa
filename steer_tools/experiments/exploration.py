"""What was written at some cells of a grid → which cells to write next, until no other can be chosen.

A text costs as much as fifty tokens, so that only cells are written whose texts can still decide: strengths beyond one
that breaks the model break it, too, and a cell that does little is not far from others that do little. It must not know
models or texts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

# The chosen cell is the gentlest that has at least this share of the largest effect of all that pass.
ENOUGH = 0.8
# A next strength may have so many times the effect of the one before, and so much more where that is about nothing.
_GROWTH, _ONSET = 2.5, 0.1


@dataclass(frozen=True, order=True)
class Lane:
    """Cells that differ in how strongly they steer only: a layer, the steered tokens, and a sign."""

    layer: int
    positions: str
    sign: int


@dataclass(frozen=True)
class Outcome:
    """What texts at a cell show, in the direction that is wanted, and whether they pass as texts."""

    effect: float
    passes: bool


Key = tuple[Lane, float]


def next_cells(lanes: Sequence[Lane], strengths: Sequence[float], known: Mapping[Key, Outcome]) -> list[Key]:
    """Return the cells to write next; none where the choice is made.

    `strengths` grow. The middle one of each lane comes first, then stronger ones as long as texts pass and their effect
    may grow to the largest, and gentler ones as long as they may do enough. The opposite sign is tried where the first
    one moves texts the wrong way.
    """
    middle = strengths[len(strengths) // 2]
    best, found = chosen(known), list[Key]()
    largest = max((own.effect for own in known.values() if own.passes), default=0.0)
    for lane in dict.fromkeys([*lanes, *(lane for lane, _ in known)]):
        own = {strength: known[lane, strength] for strength in strengths if (lane, strength) in known}
        if not own:
            found.append((lane, middle))
            continue
        if all(outcome.effect < -_ONSET for outcome in own.values()):
            opposite = replace(lane, sign=-lane.sign)
            if (opposite, middle) not in known:
                found.append((opposite, middle))
            continue
        low, high = min(own), max(own)
        stronger, gentler = strengths[strengths.index(high) + 1 :], strengths[: strengths.index(low)]
        if stronger and own[high].passes and _most(own[high].effect, len(stronger)) > largest:
            found.append((lane, stronger[0]))
        if gentler and (
            not own[low].passes or (own[low].effect >= ENOUGH * largest and best is not None and gentler[-1] <= best[1])
        ):
            found.append((lane, gentler[-1]))
    return found


def chosen(known: Mapping[Key, Outcome]) -> Key | None:
    """Return the gentlest cell that passes with ENOUGH of the largest effect, of equal ones that which does most.

    None where no cell passes with an effect above 0.
    """
    largest = max((own.effect for own in known.values() if own.passes), default=0.0)
    enough = [key for key, own in known.items() if own.passes and own.effect > 0 and own.effect >= ENOUGH * largest]
    return min(enough, key=lambda key: (key[1], -known[key].effect, key[0]), default=None)


def _most(effect: float, steps: int) -> float:
    """Return the most that an effect may be after so many more steps."""
    for _ in range(steps):
        effect = max(effect, 0.0) * _GROWTH + _ONSET
    return effect
