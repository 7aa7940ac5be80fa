"""Interventions after which every token is the same; whole at strength 1."""

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from steer_tools.core.interventions.base import OfDirection, known, plus, refuse_target
from steer_tools.core.values import Value
from steer_tools.core.vectors import SteeringVector


@dataclass(frozen=True, eq=False)
class Replace(OfDirection):
    """The direction, as long as it is saved, in place of the hidden state; `direction` is (width,)."""

    name: ClassVar[str] = "replace"
    scales_direction: ClassVar[bool] = False

    def edit(self, hidden: Tensor, strength: Tensor) -> Tensor:
        """Go the share `strength` of the way; at 1 nothing of `hidden` is left."""
        return _towards(self.direction, hidden, strength)


@dataclass(frozen=True, eq=False)
class Zero(Value):
    """Zero in place of the hidden state."""

    name: ClassVar[str] = "zero"
    scales_direction: ClassVar[bool] = False

    @classmethod
    def from_vector(cls, vector: SteeringVector, layer: int, target: float | None) -> Self:
        """Take nothing: the vector says only where."""
        refuse_target(cls.name, target)
        return cls()

    def edit(self, hidden: Tensor, strength: Tensor) -> Tensor:
        """Shrink each token by the share `strength`."""
        return _towards(torch.zeros(hidden.shape[-1]), hidden, strength)


@dataclass(frozen=True, eq=False)
class Mean(Value):
    """The mean activation of the vector's own prompts in place of the hidden state; `mean` is (width,)."""

    name: ClassVar[str] = "mean"
    scales_direction: ClassVar[bool] = False
    mean: Tensor

    @classmethod
    def from_vector(cls, vector: SteeringVector, layer: int, target: float | None) -> Self:
        """Take the mean, which only vectors made of prompts have."""
        refuse_target(cls.name, target)
        return cls(known(vector.means.get(layer), cls.name, "the prompts' mean activation", layer))

    def edit(self, hidden: Tensor, strength: Tensor) -> Tensor:
        """Go the share `strength` of the way; at 1 nothing of `hidden` is left."""
        return _towards(self.mean, hidden, strength)


def _towards(end: Tensor, hidden: Tensor, strength: Tensor) -> Tensor:
    """Return hidden + strength · (end − hidden), written so that it is exactly `end` at strength 1."""
    return plus((1 - strength) * hidden, strength * end.to(hidden))
