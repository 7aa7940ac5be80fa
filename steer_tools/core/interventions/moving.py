"""Interventions that move the hidden state: along a direction, to one end for all tokens, or around in a plane."""

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from steer_tools.core.interventions.base import MEAN, Intervention, finite_target, known, plus, projection, unit_of
from steer_tools.core.vectors import SteeringVector
from steer_tools.errors import DirectionError


@dataclass(frozen=True, eq=False)
class Add(Intervention):
    """hidden + strength · direction (Turner et al. 2023, arXiv 2308.10248); `direction` is (width,)."""

    name: ClassVar[str] = "add"
    scales_direction: ClassVar[bool] = True
    direction: Tensor

    def edit(self, hidden: Tensor, strength: Tensor) -> Tensor:
        """Add the direction at full length, a multiple a token."""
        return plus(hidden, strength * self.direction.to(hidden))


@dataclass(frozen=True, eq=False)
class AddKeepingNorm(Intervention):
    """Addition, then each token's own norm again; a token that the addition makes zero stays as it was."""

    name: ClassVar[str] = "add_keeping_norm"
    scales_direction: ClassVar[bool] = True
    direction: Tensor

    def edit(self, hidden: Tensor, strength: Tensor) -> Tensor:
        """Add, and give each token its length back."""
        moved = plus(hidden, strength * self.direction.to(hidden))
        # In float64, where the squares of what float32 holds are finite.
        own, length = (h.double().norm(dim=-1, keepdim=True) for h in (hidden, moved))  # (tokens, 1)
        is_zero = length == 0
        # The 1 keeps gradients finite in the branch that is not taken.
        rescaled = moved * (own / torch.where(is_zero, 1.0, length)).to(hidden.dtype)
        return torch.where(is_zero, hidden, rescaled)


@dataclass(frozen=True, eq=False)
class Replace(Intervention):
    """The direction, as long as it is saved, in place of the hidden state; `direction` is (width,)."""

    name: ClassVar[str] = "replace"
    direction: Tensor

    def edit(self, hidden: Tensor, strength: Tensor) -> Tensor:
        """Go the share `strength` of the way; at 1 nothing of `hidden` is left."""
        return _towards(self.direction, hidden, strength)


@dataclass(frozen=True, eq=False)
class Zero(Intervention):
    """Zero in place of the hidden state."""

    name: ClassVar[str] = "zero"

    def edit(self, hidden: Tensor, strength: Tensor) -> Tensor:
        """Shrink each token by the share `strength`."""
        return _towards(torch.zeros(hidden.shape[-1]), hidden, strength)


@dataclass(frozen=True, eq=False)
class Mean(Intervention):
    """The mean activation of the vector's own prompts in place of the hidden state; `mean` is (width,)."""

    name: ClassVar[str] = "mean"
    mean: Tensor

    def edit(self, hidden: Tensor, strength: Tensor) -> Tensor:
        """Go the share `strength` of the way; at 1 nothing of `hidden` is left."""
        return _towards(self.mean, hidden, strength)


def _towards(end: Tensor, hidden: Tensor, strength: Tensor) -> Tensor:
    """Return hidden + strength · (end − hidden), written so that it is exactly `end` at strength 1."""
    return plus((1 - strength) * hidden, strength * end.to(hidden))


_QUARTER_TURN = 90.0
# Two float32 vectors that are nearer to parallel than this span a plane of rounding noise.
_PARALLEL = 1e-5


@dataclass(frozen=True, eq=False)
class Rotate(Intervention):
    """The part of h in one plane turned by strength · angle from `second` towards `direction`; the rest is untouched.

    The plane and the norm are kept as in Angular Steering (Vu and Nguyen 2025, arXiv 2510.26243), which turns *to* an
    angle; this turns *by* one, so that strength 0 is the identity and turns add up.

    Attributes:
        direction: (width,).
        second: (width,), any vector on the far side of the plane; its part along `direction` does not count.
        angle: Degrees at strength 1.
    """

    name: ClassVar[str] = "rotate"
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
        mean = known(vector.means.get(layer), cls.name, MEAN, layer)
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
    second, along = second.double(), unit_of(direction, direction.double())
    return second - (second @ along) * along
