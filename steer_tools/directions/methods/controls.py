"""Directions that know nothing of the labels, to compare with: an effect that they have too is no effect.

They must not see which class is which; each seed is another one, and one is no null distribution.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from steer_tools.directions.methods.base import Method, Statistics, whole_option
from steer_tools.directions.statistics import Activations, Examples


@dataclass(frozen=True)
class RandomDirection(Method):
    """A direction that any other is as likely as."""

    name: ClassVar[str] = "random"
    is_control: ClassVar[bool] = True
    seed: int = whole_option(0, least=0)

    def raw(self, data: Activations) -> Tensor:
        """Draw standard normal numbers."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(len(data.contrast), generator=generator, dtype=torch.float64)


@dataclass(frozen=True)
class CovarianceDirection(Method):
    """A normal draw that has the examples' covariance within the classes: where activations vary by themselves.

    In the covariance of both classes together the contrast is often what varies most, and the control would be it.
    """

    name: ClassVar[str] = "random_covariance"
    is_control: ClassVar[bool] = True
    needs: ClassVar[Statistics] = "examples"
    fewest: ClassVar[int] = 2
    seed: int = whole_option(0, least=0)

    def raw(self, data: Activations) -> Tensor:
        """Add up the centred examples, each times a normal number, which needs no covariance matrix."""
        assert isinstance(data, Examples)
        examples = torch.cat([side - side.mean(dim=0) for side in (data.positive, data.negative)])
        generator = torch.Generator().manual_seed(self.seed)
        weights = torch.randn(len(examples), generator=generator, dtype=torch.float64)
        return weights @ examples / len(examples) ** 0.5


@dataclass(frozen=True)
class BalancedShuffle(Method):
    """The mean difference after exactly half of the labels were exchanged, so that the contrast cancels.

    Lists of equal length exchange within half of the pairs (i, i); others exchange half of each class. Of an odd number
    of pairs, or of a class, one example drawn at random is left out. A plain shuffle would keep a part of the contrast.
    """

    name: ClassVar[str] = "balanced_shuffle"
    is_control: ClassVar[bool] = True
    needs: ClassVar[Statistics] = "examples"
    fewest: ClassVar[int] = 2
    seed: int = whole_option(0, least=0)

    def raw(self, data: Activations) -> Tensor:
        """Exchange and subtract the means."""
        assert isinstance(data, Examples)
        generator = torch.Generator().manual_seed(self.seed)
        if len(data.positive) == len(data.negative):
            kept, swapped = _halves(data.positive - data.negative, generator)
            return (kept.mean(dim=0) - swapped.mean(dim=0)) / 2
        (kept_positive, moved_positive), (kept_negative, moved_negative) = (
            _halves(side, generator) for side in (data.positive, data.negative)
        )
        ours, theirs = torch.cat([kept_positive, moved_negative]), torch.cat([kept_negative, moved_positive])
        return ours.mean(dim=0) - theirs.mean(dim=0)


def _halves(rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    shuffled = rows[torch.randperm(len(rows), generator=generator)]
    half = len(rows) // 2
    return shuffled[:half], shuffled[half : 2 * half]
