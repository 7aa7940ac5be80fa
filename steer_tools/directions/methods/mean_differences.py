"""Methods whose direction is the difference of the classes' means. They must not know single examples."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from steer_tools.directions.methods.base import Method
from steer_tools.directions.statistics import Activations


@dataclass(frozen=True)
class MeanDifference(Method):
    """μ₊ − μ₋ of two independent sets (Marks and Tegmark 2023, arXiv 2310.06824)."""

    name: ClassVar[str] = "mean_difference"

    def raw(self, data: Activations) -> Tensor:
        """Subtract the means."""
        return data.contrast


@dataclass(frozen=True)
class PairedMeanDifference(Method):
    """Mean over pairs of x₊ᵢ − x₋ᵢ: contrastive activation addition (Rimsky et al. 2023, arXiv 2312.06681)."""

    name: ClassVar[str] = "paired_mean_difference"
    is_paired: ClassVar[bool] = True

    def raw(self, data: Activations) -> Tensor:
        """Subtract the means, which averages the differences."""
        return data.contrast


@dataclass(frozen=True)
class ActivationAddition(Method):
    """x₊ − x₋ of one pair (Turner et al. 2023, arXiv 2308.10248)."""

    name: ClassVar[str] = "act_add"
    is_paired: ClassVar[bool] = True
    most: ClassVar[int | None] = 1

    def raw(self, data: Activations) -> Tensor:
        """Subtract."""
        return data.contrast
