"""A method and activations, at once or block after block → a direction of settled length and sign, with its figures.

It must not know models or files.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from steer_tools.directions.methods.base import Method
from steer_tools.directions.moments import Moments
from steer_tools.directions.separation import HeldOut, best_threshold, held_out, mean_pair_cosine
from steer_tools.directions.statistics import Activations, Examples
from steer_tools.errors import DirectionError, PromptError

# Below this share of the activations' own norm a mean difference is rounding noise, also in float32.
_ZERO_CONTRAST = 1e-6
# Above this cosine a direction is the mean difference, but for rounding.
_PARALLEL = 1 - 1e-12
# Blocks are kept until a class has this many examples; what comes later only enters the moments.
KEPT_EXAMPLES = 512


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedDirection(HeldOut):
    """A direction with what was measured while it was found, also on held-out folds.

    Direction, projections and mean are those of all examples. Of a long stream the other figures, and the eraser's
    covariance, are those of its first examples (KEPT_EXAMPLES), unless the method keeps all.

    Attributes:
        direction: (width,) float32; û is it at length 1. Its own length is û·(μ₊ − μ₋), a control's |μ₊ − μ₋|.
        contrast_norm: |μ₊ − μ₋|.
        mean: (width,) float32, (μ₊ + μ₋)/2.
        positive_projection: û·μ₊.
        negative_projection: û·μ₋.
        threshold: Above it û·h counts as positive: the method's own, or else that of least balanced error.
        eraser: (width,) float32, w with w·û = 1, so that h − û·(w·(h − mean)) is the least edit after which no linear
            probe tells the classes (LEACE, Belrose et al. 2023, arXiv 2306.03819); None unless û is the contrast's.
        pair_agreement: Mean cosine between the differences of two pairs; None without pairs, or with one.
    """

    direction: Tensor
    contrast_norm: float
    mean: Tensor
    positive_projection: float
    negative_projection: float
    threshold: float
    eraser: Tensor | None
    pair_agreement: float | None


class Fitter:
    """Takes in blocks of activations and finds the direction of all of them.

    `precision` is the relative rounding step of the dtype that they were computed in. Equal tokens read in batches of
    other shapes differ by about one step, and the mean of n such differences by that over √n; no more is no contrast.
    """

    def __init__(self, method: Method, *, precision: float = 0.0) -> None:
        self._method, self._precision = method, precision
        self._kept: tuple[list[Tensor], list[Tensor]] = ([], [])
        self._moments: Moments | None = None
        self._width: int | None = None

    def add(self, positive: Tensor, negative: Tensor) -> None:
        """Take in activations (n, width) and (m, width), one row an example; n or m may be 0 for unpaired methods.

        Raises:
            PromptError: The method works on pairs and n is not m.
            DirectionError: An activation is not finite, or a block has another shape than (n, width).
        """
        self._check(positive, negative)
        positive, negative = (block.detach().to("cpu", torch.float64, copy=True) for block in (positive, negative))
        self._width = positive.shape[1]
        are_full = [self._method.needs != "examples" and sum(map(len, side)) >= KEPT_EXAMPLES for side in self._kept]
        if self._moments is None and any(are_full):
            self._moments = Moments(self._width, self._method.needs)
            self._moments.add(*map(torch.cat, self._kept))
        if self._moments is not None:
            self._moments.add(positive, negative)
        for side, block, is_full in zip(self._kept, (positive, negative), are_full, strict=True):
            if not is_full:
                side.append(block)

    def finish(self) -> FittedDirection:
        """Find the direction of what was taken in.

        Raises:
            PromptError: A class has fewer examples than the method needs, or more than it takes.
            DirectionError: The classes do not differ, or the direction does not tell them apart at all.
        """
        if self._width is None:
            raise _unsuitable_counts(self._method, (0, 0))
        kept = Examples(*map(torch.cat, self._kept))
        data = kept if self._moments is None else self._moments
        counts = data.counts
        if min(counts) < self._method.fewest or max(counts) > (self._method.most or max(counts)):
            raise _unsuitable_counts(self._method, counts)
        contrast_norm = float(data.contrast.norm())
        noise = 2 * self._precision / min(counts) ** 0.5
        if contrast_norm <= max(_ZERO_CONTRAST, noise) * data.typical_norm:
            raise DirectionError(
                "The mean activations of the positive and the negative prompts are equal, so there is no direction",
                valid="two sets that differ in the behaviour to steer, also at the token that is read",
                fix="Change the prompts, or read other tokens: pooling='mean' instead of 'last', for instance.",
            )
        return _measured(self._method, data, kept, contrast_norm)

    def _check(self, positive: Tensor, negative: Tensor) -> None:
        widths = {*positive.shape[1:], *negative.shape[1:], *([] if self._width is None else [self._width])}
        if positive.dim() != 2 or negative.dim() != 2 or len(widths) != 1:
            raise DirectionError(
                f"The activations have the shapes {tuple(positive.shape)} and {tuple(negative.shape)}"
                + (f" after others of width {self._width}" if self._width is not None else ""),
                valid="two tables of one row an example, of one width",
            )
        if self._method.is_paired and len(positive) != len(negative):
            raise PromptError(
                f"The method {self._method.name!r} works on pairs, but there are {len(positive)} positive and "
                f"{len(negative)} negative examples",
                valid="as many positive as negative examples, in the same order",
                fix="Make them equally many, or use 'mean_difference', which needs no pairs.",
            )
        if not (positive.isfinite().all() and negative.isfinite().all()):
            raise DirectionError(
                "The model's activations on these prompts hold NaN or infinity",
                fix="Load the model in float32 or bfloat16, or use another layer.",
            )


def _measured(method: Method, data: Activations, kept: Examples, contrast_norm: float) -> FittedDirection:
    raw, threshold = method.raw_with_threshold(data)
    norm = float(raw.norm())
    along = float(raw @ data.contrast)
    takes_sign = not (method.is_control or method.keeps_length)
    if norm == 0 or (takes_sign and abs(along) <= _ZERO_CONTRAST * norm * contrast_norm):
        raise DirectionError(
            f"The method {method.name!r} finds no direction along which the two sets differ",
            fix="Use 'mean_difference', or more and more varied prompts.",
        )
    # Written so that it is exactly the contrast where raw is the contrast.
    projected = contrast_norm / norm if method.is_control else along / float(raw @ raw)
    direction = raw if method.keeps_length else raw * projected
    unit = direction / direction.norm()
    eraser = None
    if abs(along) >= _PARALLEL * norm * contrast_norm:
        # Σ within the classes does for LEACE's total covariance: their inverses take the contrast to one line.
        whitened = kept.solve_within(data.contrast)
        eraser = (whitened / (whitened @ unit)).float()
    return FittedDirection(
        **vars(held_out(method, kept) or HeldOut()),
        direction=direction.float(),
        contrast_norm=contrast_norm,
        mean=((data.positive_mean + data.negative_mean) / 2).float(),
        positive_projection=float(unit @ data.positive_mean),
        negative_projection=float(unit @ data.negative_mean),
        threshold=best_threshold(kept.positive @ unit, kept.negative @ unit) if threshold is None else threshold / norm,
        eraser=eraser,
        pair_agreement=mean_pair_cosine(kept.positive - kept.negative) if method.is_paired else None,
    )


def _unsuitable_counts(method: Method, counts: tuple[int, int]) -> PromptError:
    if method.most is None:
        valid = f"at least {method.fewest} of each"
    elif method.most == method.fewest:
        valid = f"exactly {method.most} of each"
    else:
        valid = f"{method.fewest} to {method.most} of each"
    return PromptError(
        f"The method {method.name!r} does not work on {counts[0]} positive and {counts[1]} negative examples",
        valid=valid,
        fix="Give as many, or use 'mean_difference', which takes any number." if max(counts) else "Add some.",
    )
