"""How a direction is found: activations of two classes → one direction.

A new method is one frozen class with `name`, `is_paired` and `raw`, added to METHODS, and its name to the
parameter `Method`; length and sign are settled here, once for all. It must not know models, prompts or files.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from steer_tools.errors import ArgumentError, DirectionError

# Below this share of the activations' own norm a mean difference is rounding noise, also in float32.
_ZERO_CONTRAST = 1e-6
_FOLDS = 4
MIN_PER_CLASS_FOR_SEPARATION = 2 * _FOLDS


class Method(Protocol):
    """Finds a direction of any length and sign; `fit` settles both."""

    name: ClassVar[str]
    is_paired: ClassVar[bool]

    def raw(self, positive: Tensor, negative: Tensor) -> Tensor:
        """Return a direction (width,) from float64 activations (n, width) and (m, width)."""
        ...


@dataclass(frozen=True)
class MeanDifference:
    """μ₊ − μ₋ of two independent sets (Marks and Tegmark 2023, arXiv 2310.06824)."""

    name: ClassVar[str] = "mean_difference"
    is_paired: ClassVar[bool] = False

    def raw(self, positive: Tensor, negative: Tensor) -> Tensor:
        """Subtract the means."""
        return positive.mean(dim=0) - negative.mean(dim=0)


@dataclass(frozen=True)
class PairedMeanDifference:
    """Mean over pairs of x₊ᵢ − x₋ᵢ: contrastive activation addition (Rimsky et al. 2023, arXiv 2312.06681)."""

    name: ClassVar[str] = "paired_mean_difference"
    is_paired: ClassVar[bool] = True

    def raw(self, positive: Tensor, negative: Tensor) -> Tensor:
        """Average the differences of the pairs."""
        return (positive - negative).mean(dim=0)


METHODS: dict[str, Method] = {method.name: method for method in (MeanDifference(), PairedMeanDifference())}


@dataclass(frozen=True)
class FittedDirection:
    """A direction with what was measured while it was found.

    Attributes:
        direction: (width,) float32, of length û·(μ₊ − μ₋).
        contrast_norm: |μ₊ − μ₋|.
        separation: Area under the ROC curve on held-out folds, in [0, 1]; None with too few examples to hold out.
    """

    direction: Tensor
    contrast_norm: float
    separation: float | None


def method_named(name: object) -> Method:
    """Return the method called `name`.

    Raises:
        ArgumentError: There is none.
    """
    if isinstance(name, str) and name in METHODS:
        return METHODS[name]
    raise ArgumentError(f"method is {name!r}", valid=", ".join(map(repr, METHODS)), fix="")


def fit(method: Method, positive: Tensor, negative: Tensor, *, precision: float = 0.0) -> FittedDirection:
    """Find the direction from activations (n, width) and (m, width), one row an example.

    `precision` is the relative rounding step of the dtype that they were computed in. Equal tokens read in batches of
    other shapes differ by about one step, and the mean of n such differences by that over √n; no more is no contrast.

    Its length is û·(μ₊ − μ₋), so that strength 1.0 is one contrast for every method, and its sign points to the
    positive class.

    Raises:
        DirectionError: An activation is not finite, or the classes do not differ.
    """
    positive, negative = positive.double(), negative.double()
    if not (positive.isfinite().all() and negative.isfinite().all()):
        raise DirectionError(
            "The model's activations on these prompts hold NaN or infinity",
            fix="Load the model in float32 or bfloat16, or use another layer.",
        )
    contrast = positive.mean(dim=0) - negative.mean(dim=0)
    typical = torch.cat([positive, negative]).norm(dim=1).mean()
    noise = 2 * precision / min(len(positive), len(negative)) ** 0.5
    if contrast.norm() <= max(_ZERO_CONTRAST, noise) * typical:
        raise DirectionError(
            "The mean activations of the positive and the negative prompts are equal, so there is no direction",
            valid="two sets that differ in the behaviour to steer, also at the token that is read",
            fix="Change the prompts, or read other tokens: pooling='mean' instead of 'last', for instance.",
        )
    raw = method.raw(positive, negative)
    # û·contrast · û, written so that it is exactly the contrast where raw is the contrast.
    direction = raw * ((raw @ contrast) / (raw @ raw))
    return FittedDirection(direction.float(), float(contrast.norm()), held_out_separation(method, positive, negative))


def held_out_separation(method: Method, positive: Tensor, negative: Tensor) -> float | None:
    """Return the mean ROC area of held-out folds, 0.5 being chance.

    In-sample it is always 1 when there are fewer examples than dimensions, so each fold is scored by a direction
    fitted on the others; example i of either class is in fold i mod 4, which keeps pairs together.
    """
    if min(len(positive), len(negative)) < MIN_PER_CLASS_FOR_SEPARATION:
        return None
    areas: list[Tensor] = []
    for fold in range(_FOLDS):
        held_positive = torch.arange(len(positive)) % _FOLDS == fold
        held_negative = torch.arange(len(negative)) % _FOLDS == fold
        direction = method.raw(positive[~held_positive], negative[~held_negative])
        high, low = positive[held_positive] @ direction, negative[held_negative] @ direction
        wins = (high[:, None] > low).double() + 0.5 * (high[:, None] == low).double()
        areas.append(wins.mean())
    return float(torch.stack(areas).mean())
