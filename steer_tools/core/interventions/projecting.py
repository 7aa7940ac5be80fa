"""Interventions on the one component along the direction; whole at strength 1, whatever the direction's length."""

import math
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor

from steer_tools.core.interventions.base import Intervention, finite_target, known, plus, projection, unit_of
from steer_tools.core.vectors import SteeringVector
from steer_tools.errors import ArgumentError, DirectionError

# An eraser is float32, and in a badly conditioned space it is long.
_ERASER_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class ProjectOut(Intervention):
    """h − û(û·h): directional ablation (Arditi et al. 2024, arXiv 2406.11717); `direction` is (width,)."""

    name: ClassVar[str] = "project_out"
    direction: Tensor

    def edit(self, hidden: Tensor, strength: Tensor) -> Tensor:
        """Take away the share `strength` of the component."""
        along = unit_of(self.direction, hidden)
        return plus(hidden, -strength * projection(hidden, along) * along)


@dataclass(frozen=True, eq=False)
class Affine(Intervention):
    """h − û(û·h) + û·reference: affine concept editing (Marshall et al. 2024, arXiv 2411.09003).

    Attributes:
        direction: (width,).
        reference: The projection û·h that every token gets.
    """

    name: ClassVar[str] = "affine"
    direction: Tensor
    reference: float

    @classmethod
    def from_vector(cls, vector: SteeringVector, layer: int, target: float | None) -> Self:
        """Refer to û·μ₋ + target · û·(μ₊ − μ₋), so that 0, the default, is the negative prompts and 1 the positive."""
        info = vector.info
        negative = known(info.negative_projections.get(layer), cls.name, "the negative prompts' projection", layer)
        positive = known(info.positive_projections.get(layer), cls.name, "the positive prompts' projection", layer)
        share = 0.0 if target is None else finite_target(cls.name, target)
        return cls(vector.directions[layer], negative + share * (positive - negative))

    def edit(self, hidden: Tensor, strength: Tensor) -> Tensor:
        """Bring the component the share `strength` of the way to the reference."""
        along = unit_of(self.direction, hidden)
        return plus(hidden, strength * (self.reference - projection(hidden, along)) * along)


@dataclass(frozen=True, eq=False)
class Clamp(Intervention):
    """The component û·h brought into [low, high]; a token that is inside keeps every bit.

    Attributes:
        direction: (width,).
        low: Least û·h; −inf for no bound.
        high: Greatest û·h; inf for no bound.
    """

    name: ClassVar[str] = "clamp"
    direction: Tensor
    low: float
    high: float

    def __post_init__(self) -> None:
        if not (self.low <= self.high and (math.isfinite(self.low) or math.isfinite(self.high))):
            raise ArgumentError(
                f"The clamp is from {self.low} to {self.high}", valid="low <= high, and at least one of them finite"
            )

    @classmethod
    def from_vector(cls, vector: SteeringVector, layer: int, target: float | None) -> Self:
        """Hold û·h at `target`, by default at û·μ₊."""
        if target is None:
            positive = vector.info.positive_projections.get(layer)
            target = known(positive, cls.name, "the positive prompts' projection, or a target,", layer)
        finite_target(cls.name, target)
        return cls(vector.directions[layer], target, target)

    def edit(self, hidden: Tensor, strength: Tensor) -> Tensor:
        """Bring the component the share `strength` of the way to the nearest value that is allowed."""
        along = unit_of(self.direction, hidden)
        now = projection(hidden, along)
        return plus(hidden, strength * (now.clamp(self.low, self.high) - now) * along)


@dataclass(frozen=True, eq=False)
class Erase(Intervention):
    """h − û(w·(h − mean)): the least edit after which no linear probe tells the classes (LEACE).

    Belrose et al. 2023, arXiv 2306.03819; for two classes the map has rank one.

    Attributes:
        direction: (width,), along μ₊ − μ₋.
        eraser: w (width,), with w·û = 1.
        mean: (width,), what stays as it is.
    """

    name: ClassVar[str] = "erase"
    direction: Tensor
    eraser: Tensor
    mean: Tensor

    def __post_init__(self) -> None:
        product = float(unit_of(self.direction, self.eraser) @ self.eraser)
        if not abs(product - 1) <= _ERASER_TOLERANCE:
            raise DirectionError(
                f"The eraser's product with the unit direction is {product:g}",
                valid="1, or the concept is not erased",
                fix="Create the vector again.",
            )

    def edit(self, hidden: Tensor, strength: Tensor) -> Tensor:
        """Take away the share `strength` of what a linear probe could find."""
        along, w = unit_of(self.direction, hidden), self.eraser.to(hidden)
        return plus(hidden, -strength * projection(hidden - self.mean.to(hidden), w) * along)
