"""A vector on every layer and strength of a grid → the effect and damage of each cell, and which cell to take.

Cells are chosen on some items and never on those that judge them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from steer_tools.core.plan import Plan
from steer_tools.engines.base import Engine
from steer_tools.errors import StrengthError, quoted
from steer_tools.evaluation.damage import Budget, Damage, DamageMeter
from steer_tools.evaluation.intervals import Floats
from steer_tools.evaluation.questions import Question, propensities
from steer_tools.experiments.exploration import ENOUGH
from steer_tools.limits import CELLS as CELLS_LIMIT
from steer_tools.limits import STRENGTHS as STRENGTHS_LIMIT
from steer_tools.session.placement import Placed

STRENGTHS = (0.05, 0.1, 0.2, 0.4, 0.8)


@dataclass(frozen=True)
class Cell:
    """A layer at a strength; `strength` is above 0, and its opposite was measured beside it.

    Attributes:
        strength: In the unit of the grid.
        effects: (items,) change of each choosing item's log-odds, in nats.
        opposite_effects: The same at the strength with the other sign.
    """

    layer: int
    strength: float
    effects: Floats
    opposite_effects: Floats
    damage: Damage

    @property
    def effect(self) -> float:
        """The mean effect, in nats."""
        return float(self.effects.mean())

    @property
    def opposite_effect(self) -> float:
        """The mean effect of the strength with the other sign."""
        return float(self.opposite_effects.mean())


@dataclass(frozen=True)
class Window:
    """The strengths of a layer, from the least to the largest, that are within the budget and have enough effect."""

    layer: int
    least: float
    largest: float


@dataclass(frozen=True)
class Grid:
    """All cells, with the budget by which they are judged."""

    cells: tuple[Cell, ...]
    budget: Budget

    @property
    def within(self) -> list[Cell]:
        """The cells that move the items the way that was asked, within the budget."""
        return [cell for cell in self.cells if cell.effect > 0 and cell.damage.is_within(self.budget)]

    @property
    def enough(self) -> list[Cell]:
        """The cells within the budget that have at least ENOUGH of the largest effect there."""
        largest = max((cell.effect for cell in self.within), default=0.0)
        return [cell for cell in self.within if cell.effect >= ENOUGH * largest]

    @property
    def window(self) -> list[Window]:
        """The strengths to work with, layer by layer."""
        found = {layer: [cell.strength for cell in cells] for layer, cells in by_layer(self.enough).items()}
        return [Window(layer, min(strengths), max(strengths)) for layer, strengths in found.items()]

    def choose(self) -> Cell:
        """Return the gentlest cell that does enough, and of equal strengths the one that does most.

        Log-odds have no ceiling where behaviour has one: the cell of the largest effect lies next to where texts break.
        Where no cell is within the budget, the one with the largest effect is returned.
        """
        if self.enough:
            return min(self.enough, key=lambda cell: (cell.strength, -cell.effect))
        return max(self.cells, key=lambda cell: cell.effect)


def measure_layer(
    engine: Engine, placed: Placed, asked: Sequence[Question], strengths: Sequence[float], meter: DamageMeter
) -> list[Cell]:
    """Measure one layer at each strength and its opposite, all of them rows of shared batches."""
    plans: list[Plan] = [(), *(placed.plan(sign * s) for sign in (1, -1) for s in strengths)]
    measured = propensities(engine, asked, plans)
    effects, opposite_effects = (measured[1:] - measured[0]).reshape(2, len(strengths), len(asked))
    damages = meter.damages([placed.plan(s) for s in strengths])
    (layer,) = placed.layers
    return [Cell(layer, *parts) for parts in zip(strengths, effects, opposite_effects, damages, strict=True)]


def magnitudes(strengths: Sequence[float] | None) -> list[float]:
    """Return the strengths of a grid, from small to large; each is measured with both signs.

    0 among others is left out: it is the unsteered model, which each of them is held against.

    Raises:
        StrengthError: There are none but 0, or one is not finite.
    """
    given = STRENGTHS if strengths is None else strengths
    found = sorted({abs(s) for s in given} - {0.0})
    if not found or not all(0 < s < float("inf") for s in found):
        raise StrengthError(f"strengths is {quoted(given)}", valid="finite numbers other than 0, such as [0.1, 0.2]")
    STRENGTHS_LIMIT.require(len(found), "strengths has", StrengthError)
    return found


def require_cells(layers: Sequence[int], strengths: Sequence[float]) -> None:
    """Refuse a grid of too many cells.

    Raises:
        ArgumentError: It has.
    """
    CELLS_LIMIT.require(len(layers) * len(strengths), "The grid has", fix="Give fewer layers or strengths.")


def spread_layers(engine: Engine, most: int = 8) -> list[int]:
    """Return the layers to try where none are given: all but the last, or `most` of them at even distances.

    What the last block puts out meets only the unembedding.
    """
    layers = engine.info.steerable_layers[:-1] or engine.info.steerable_layers
    places = np.linspace(0, len(layers) - 1, min(most, len(layers)))
    return [layers[round(float(place))] for place in places]


class _Layered(Protocol):
    @property
    def layer(self) -> int: ...


_AnyCell = TypeVar("_AnyCell", bound=_Layered)


def by_layer(cells: Sequence[_AnyCell]) -> dict[int, list[_AnyCell]]:
    """Return the cells of each layer."""
    found: dict[int, list[_AnyCell]] = {}
    for cell in cells:
        found.setdefault(cell.layer, []).append(cell)
    return found


def cell_of(document: Mapping[str, Any]) -> Cell:
    """Return a cell as it was saved."""
    return Cell(
        int(document["layer"]),
        float(document["strength"]),
        np.asarray(document["effects"], dtype=np.float64),
        np.asarray(document["opposite_effects"], dtype=np.float64),
        Damage(**document["damage"]),
    )
