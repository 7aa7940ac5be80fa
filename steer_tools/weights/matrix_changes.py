"""A matrix before and after, in slices → what kind of change it is. Pure: it must not know files or names.

W and W' are (rows, width), with the residual stream along the width; D = W' − W. A direction û is projected out where
D = −s(Wû)ûᵀ, with s = 1 for the whole of it: that D has rank one does not say so yet.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from operator import add
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import normalize

# Yields W and W' slice by slice, (some rows, width) float64; each call starts again.
Slices: TypeAlias = Callable[[], Iterator[tuple[Tensor, Tensor]]]
_SKETCHED = 8


@dataclass(frozen=True, eq=False)
class Change:
    """What is found in D by itself.

    Attributes:
        rows: How many there are.
        squared: |D|².
        before: |W|².
        after: |W'|².
        share: Of |D|² along its first singular direction; at least, where D is far from low rank.
        direction: That one, (width,) of length 1; its sign is arbitrary.
        law: The squared cosine of D and −(Wû)ûᵀ for it; 0 where D adds to the direction.
        part: The s that explains most of D.
        dominance: |Wû|² / |W|²: how much of W lies along it.
        peak: The largest share of |D|² in one row, or along one element of the direction.
    """

    rows: int
    squared: float
    before: float
    after: float
    share: float
    direction: Tensor
    law: float
    part: float
    dominance: float
    peak: float


@dataclass(frozen=True)
class Removal:
    """What is found in D along a given û: |D|², |Wû|², |W'û|² and (W'û − Wû)·(Wû)."""

    squared: float = 0.0
    had: float = 0.0
    kept: float = 0.0
    along: float = 0.0

    def __add__(self, other: "Removal") -> "Removal":
        return Removal(*map(add, astuple(self), astuple(other)))

    @property
    def explained(self) -> float:
        """The squared cosine of D and −(Wû)ûᵀ; 0 where D adds to the direction."""
        return _law(self.along, self.had, self.squared)

    def remainder(self, part: float) -> float:
        """Return |D + part · (Wû)ûᵀ|²: what is left of the change beside the removal of a part of the direction."""
        return self.squared + 2 * part * self.along + part**2 * self.had

    @property
    def left(self) -> float:
        """|W'û| / |Wû|: 0 where nothing of the direction can be written any more."""
        return (self.kept / self.had) ** 0.5 if self.had else 0.0


def measure(slices: Slices) -> Change | None:
    """Measure a change by itself, in two passes; None where its squares are no numbers above 0.

    The first singular direction comes from a random range of D with one step of subspace iteration (Halko, Martinsson
    and Tropp 2011, arXiv 0909.4061, algorithm 4.4), which is exact but for rounding where D has a low rank.
    """
    generator = torch.Generator().manual_seed(0)
    sketch = torch.zeros(())
    for before, after in slices():
        drawn = torch.randn(_SKETCHED, len(before), generator=generator, dtype=torch.float64)
        sketch = sketch + drawn @ (after - before)  # (sketched, width)
    if not sketch.isfinite().all():
        return None
    basis: Tensor = torch.linalg.qr(sketch.T).Q.T  # (sketched, width)
    pull, gram, cross, own = (torch.zeros((), dtype=torch.float64) for _ in range(4))
    rows, squared, had, has, peak = 0, 0.0, 0.0, 0.0, 0.0
    for before, after in slices():
        difference = after - before
        # In this order, since slices that are views of columns are multiplied thirty times slower the other way.
        inside, within = basis @ difference.T, basis @ before.T  # (sketched, rows)
        pull = pull + inside @ difference  # basis · DᵀD
        gram, cross, own = gram + inside @ inside.T, cross + inside @ within.T, own + within @ within.T
        lengths = difference.square().sum(dim=1)  # (rows,)
        squared, peak = squared + float(lengths.sum()), max(peak, float(lengths.max()))
        had, has = had + float(before.square().sum()), has + float(after.square().sum())
        rows += len(before)
    if not (squared > 0 and math.isfinite(squared) and math.isfinite(had) and math.isfinite(has)):
        return None
    first = torch.linalg.eigh(gram).eigenvectors[:, -1]
    pulled = first @ pull  # (width,), at most as long as the largest eigenvalue of DᵀD
    direction = normalize(pulled, dim=0, eps=0.0)
    along, kept = float(first @ cross @ first), float(first @ own @ first)
    return Change(
        rows=rows,
        squared=squared,
        before=had,
        after=has,
        share=min(1.0, float(pulled.norm()) / squared),
        direction=direction,
        law=_law(along, kept, squared),
        part=-along / kept if kept else 0.0,
        dominance=kept / had if had else 0.0,
        peak=max(peak / squared, float(direction.square().max())),
    )


def removal(slices: Slices, along: Tensor) -> Removal:
    """Measure what a change takes away along the unit vector `along`, (width,), in one pass."""
    found = Removal()
    for before, after in slices():
        had, kept = before @ along, after @ along  # (rows,)
        squared = float((after - before).square().sum())
        found += Removal(squared, float(had @ had), float(kept @ kept), float((kept - had) @ had))
    return found


def rounding(change: Change, dtype: torch.dtype) -> float:
    """Return the share of |D|² that rounding W' to `dtype` may have made: steps of at most eps·|w|, spread evenly."""
    return torch.finfo(dtype).eps ** 2 * change.after / (12 * change.squared)


def common_direction(directions: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the unit vector, (width,), that lies best along all of them, whatever their signs.

    The sign is arbitrary; the largest element is made positive, so that it is the same each time.
    """
    stacked = torch.stack([weight**0.5 * direction for direction, weight in zip(directions, weights, strict=True)])
    first = torch.linalg.svd(stacked, full_matrices=False).Vh[0]
    return first * first[first.abs().argmax()].sign()


def _law(along: float, had: float, squared: float) -> float:
    return along / had * (along / squared) if along < 0 and had > 0 and squared > 0 else 0.0
