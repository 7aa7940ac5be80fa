"""Values of two classes → between which bounds the area under the ROC curve lies. It must not know of what they are."""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from steer_tools.evaluation.metrics.grouping import finite
from steer_tools.evaluation.metrics.intervals import Interval, cluster_interval, share_interval


def roc_interval(
    high: ArrayLike, low: ArrayLike, high_groups: Sequence[Hashable], low_groups: Sequence[Hashable]
) -> Interval | None:
    """Return the 95 % interval of P(high > low) + P(high = low) / 2, drawing groups, which may hold values of both.

    Each value counts with its placement among the other class's, whose mean is the area; of an area of 0 or 1 nothing
    varies, and groups count as one item each. None where there are fewer than two groups.

    Source: DeLong, DeLong and Clarke-Pearson 1988 (placements); Obuchowski 1997 (groups); Wilson 1927 (0 and 1).
    """
    positive, negative = finite(high, "high"), finite(low, "low")
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    area, count = float(wins.mean()), wins.shape[0] + wins.shape[1]
    # Weighted so that the mean over all values is the area, and each class counts by its own number.
    values = area + np.concatenate(
        [(wins.mean(axis=1) - area) * count / len(positive), (wins.mean(axis=0) - area) * count / len(negative)]
    )
    groups = [*high_groups, *low_groups]
    if area in (0.0, 1.0):
        total = len(set(groups))
        return share_interval(round(area) * total, total) if total > 1 else None
    found = cluster_interval(values, groups)
    return None if found is None else Interval(max(0.0, found.low), min(1.0, found.high))
