"""The intervention that turns hidden states in one plane and keeps their norm."""

import math
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor

from steer_tools.core.interventions.base import finite_target, known, plus, projection, unit_of
from steer_tools.core.values import Value
from steer_tools.core.vectors import SteeringVector
from steer_tools.errors import DirectionError

_QUARTER_TURN = 90.0
# Two float32 vectors that are nearer to parallel than this span a plane of rounding noise.
_PARALLEL = 1e-5


@dataclass(frozen=True, eq=False)
class Rotate(Value):
    """The part of h in one plane turned by strength · angle from `second` towards `direction`; the rest is untouched.

    The plane and the norm are kept as in Angular Steering (Vu and Nguyen 2025, arXiv 2510.26243), which turns *to* an
    angle; this turns *by* one, so that strength 0 is the identity and turns add up.

    Attributes:
        direction: (width,).
        second: (width,), any vector on the far side of the plane; its part along `direction` does not count.
        angle: Degrees at strength 1.
    """

    name: ClassVar[str] = "rotate"
    scales_direction: ClassVar[bool] = False
    direction: Tensor
    second: Tensor
    angle: float = _QUARTER_TURN

    def __post_init__(self) -> None:
        if _orthogonal_part(self.second, self.direction).norm() <= _PARALLEL * self.second.double().norm():
            raise DirectionError(
                "The direction and the second vector are parallel, so there is no plane to turn in",
                valid="two vectors of different directions",
            )

    @classmethod
    def from_vector(cls, vector: SteeringVector, layer: int, target: float | None) -> Self:
        """Turn from the prompts' mean activation towards the direction, by `target` degrees, 90 by default."""
        mean = known(vector.means.get(layer), cls.name, "the prompts' mean activation", layer)
        angle = _QUARTER_TURN if target is None else finite_target(cls.name, target)
        return cls(vector.directions[layer], mean, angle)

    def edit(self, hidden: Tensor, strength: Tensor) -> Tensor:
        """Turn each token by `strength` times the angle, and keep its length."""
        along = unit_of(self.direction, hidden)
        across = unit_of(_orthogonal_part(self.second, self.direction), hidden)
        turn = math.radians(self.angle) * strength
        x, y = projection(hidden, along), projection(hidden, across)  # (tokens, 1)
        shortening, sine = turn.cos() - 1, turn.sin()
        return plus(hidden, (x * shortening + y * sine) * along + (y * shortening - x * sine) * across)


def _orthogonal_part(second: Tensor, direction: Tensor) -> Tensor:
    """Return `second` without its part along `direction`, in float64."""
    second, along = second.double(), unit_of(direction, direction.double())
    return second - (second @ along) * along
