"""Interventions that add the direction, `strength` times as long as it is saved."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from steer_tools.core.interventions.base import OfDirection, plus


@dataclass(frozen=True, eq=False)
class Add(OfDirection):
    """hidden + strength · direction (Turner et al. 2023, arXiv 2308.10248); `direction` is (width,)."""

    name: ClassVar[str] = "add"
    scales_direction: ClassVar[bool] = True

    def edit(self, hidden: Tensor, strength: Tensor) -> Tensor:
        """Add the direction at full length, a multiple a token."""
        return plus(hidden, strength * self.direction.to(hidden))


@dataclass(frozen=True, eq=False)
class AddKeepingNorm(OfDirection):
    """Addition, then each token's own norm again; a token that the addition makes zero stays as it was."""

    name: ClassVar[str] = "add_keeping_norm"
    scales_direction: ClassVar[bool] = True

    def edit(self, hidden: Tensor, strength: Tensor) -> Tensor:
        """Add, and give each token its length back."""
        moved = plus(hidden, strength * self.direction.to(hidden))
        # In float64, where the squares of what float32 holds are finite.
        own, length = (h.double().norm(dim=-1, keepdim=True) for h in (hidden, moved))  # (tokens, 1)
        is_zero = length == 0
        # The 1 keeps gradients finite in the branch that is not taken.
        rescaled = moved * (own / torch.where(is_zero, 1.0, length)).to(hidden.dtype)
        return torch.where(is_zero, hidden, rescaled)
