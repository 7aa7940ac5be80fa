"""How well a direction tells the classes apart, on examples that it was not fitted on. It must not know lengths."""

from dataclasses import dataclass

import torch
from torch import Tensor

from steer_tools.directions.methods.base import Method
from steer_tools.directions.statistics import Examples

_FOLDS = 4
MIN_PER_CLASS_FOR_SEPARATION = 2 * _FOLDS


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Figures of the held-out folds together; all None with too few examples to hold out.

    Attributes:
        separation: Mean area under the ROC curve, in [0, 1], 0.5 being chance.
        d_prime: Distance of the classes' mean projections in their typical standard deviation; None where that is 0.
        misses: Share of the positive examples at or below the threshold of the other folds.
        false_alarms: Share of the negative examples above it.
    """

    separation: float | None = None
    d_prime: float | None = None
    misses: float | None = None
    false_alarms: float | None = None


def held_out(method: Method, data: Examples) -> HeldOut | None:
    """Measure each fold with a direction and a threshold fitted on the others; None with too few examples.

    In-sample the separation is always 1 when there are fewer examples than dimensions. Example i of either class is in
    fold i mod 4, which keeps pairs together.
    """
    if min(data.counts) < MIN_PER_CLASS_FOR_SEPARATION:
        return None
    high, low = list[Tensor](), list[Tensor]()
    for fold in range(_FOLDS):
        held_positive, held_negative = (torch.arange(count) % _FOLDS == fold for count in data.counts)
        training = Examples(data.positive[~held_positive], data.negative[~held_negative])
        raw, threshold = method.raw_with_threshold(training)
        norm = float(raw.norm())
        sign = -1 if not method.is_control and float(raw @ training.contrast) < 0 else 1
        # Where the method finds nothing the direction is zero, so that it tells nothing.
        unit = raw if norm == 0 else raw * (sign / norm)
        if threshold is None or norm == 0:
            threshold = best_threshold(training.positive @ unit, training.negative @ unit)
        else:
            threshold /= norm
        high.append(data.positive[held_positive] @ unit - threshold)
        low.append(data.negative[held_negative] @ unit - threshold)
    areas = [roc_area(*fold) for fold in zip(high, low, strict=True)]
    positive, negative = torch.cat(high), torch.cat(low)
    spread = ((positive.var() + negative.var()) / 2).sqrt()
    return HeldOut(
        separation=float(torch.stack(areas).mean()),
        d_prime=float((positive.mean() - negative.mean()) / spread) if spread > 0 else None,
        misses=float((positive <= 0).double().mean()),
        false_alarms=float((negative > 0).double().mean()),
    )


def roc_area(high: Tensor, low: Tensor) -> Tensor:
    """Return the share of pairs in which the positive projection is higher, ties counting half."""
    return ((high[:, None] > low).double() + 0.5 * (high[:, None] == low).double()).mean()


def best_threshold(high: Tensor, low: Tensor) -> float:
    """Return the threshold between two projections (n,), (m,) of least balanced error, `high` being the positive class.

    Of several it is the middle of the widest gap; where all projections are equal it is their value.
    """
    values, order = torch.cat([high, low]).sort()
    is_positive = order < len(high)
    misses = is_positive.cumsum(0)[:-1]
    false_alarms = len(low) - (~is_positive).cumsum(0)[:-1]
    gaps = values.diff()
    # In whole numbers, so that equal errors are equal.
    errors = misses * len(low) + false_alarms * len(high)
    errors = torch.where(gaps > 0, errors, 2 * len(high) * len(low) + 1)
    best = torch.where(errors == errors.min(), gaps, -1).argmax()
    return float(values[best] + gaps[best] / 2)


def mean_pair_cosine(differences: Tensor) -> float | None:
    """Return the mean cosine of every two of the differences (n, width), i ≠ j; None for fewer than two.

    It foretells how well a mean difference steers (Braun et al. 2025, arXiv 2505.22637). A difference that is zero
    agrees with none.
    """
    count = len(differences)
    if count < 2:
        return None
    units = torch.nn.functional.normalize(differences, dim=1, eps=torch.finfo(torch.float64).tiny)
    # |Σu|² counts every two of them twice, and each with itself once.
    return float((units.sum(dim=0).square().sum() - units.square().sum()) / (count * (count - 1)))
