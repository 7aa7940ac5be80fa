"""Pure figures without a judge: how much texts changed or repeat themselves, and what steering did to items.

Numbers come in and numbers go out. It must not know models.
"""

import math
from collections.abc import Hashable, Sequence
from itertools import pairwise, zip_longest

import numpy as np
from numpy.typing import ArrayLike

from steer_tools.errors import ArgumentError
from steer_tools.evaluation.intervals import Floats, finite, numbered

_LARGEST_EXPONENT = 700.0


def changed_share(tokens: Sequence[Sequence[int]], reference: Sequence[Sequence[int]]) -> float | None:
    """Return the share of places at which two sets of token lists differ; a place that one lacks differs.

    None where there is no token at all.
    """
    places = [pair for a, b in zip(tokens, reference, strict=True) for pair in zip_longest(a, b)]
    return sum(a != b for a, b in places) / len(places) if places else None


def distinct_2(tokens: Sequence[Sequence[int]]) -> float | None:
    """Return distinct adjacent token pairs over all of them, taken list by list and averaged (Li et al. 2016).

    Repetition loops lower it. None where no list has two tokens.
    """
    shares = [len(set(pairwise(one))) / (len(one) - 1) for one in tokens if len(one) > 1]
    return sum(shares) / len(shares) if shares else None


def pooled_distinct_2(tokens: Sequence[Sequence[int]]) -> float | None:
    """Return the different adjacent token pairs of all lists together, as a share of all pairs.

    It falls, unlike `distinct_2`, where the lists are alike. None where no list has two tokens.
    """
    pairs = [pair for one in tokens for pair in pairwise(one)]
    return len(set(pairs)) / len(pairs) if pairs else None


def perplexity(log_probs: Sequence[Sequence[float]]) -> float | None:
    """Return exp of the mean negative log-probability over the tokens of all texts; None without tokens or too large.

    A text that loops has a low perplexity: read it together with `distinct_2`.
    """
    every = [value for one in log_probs for value in one]
    if not every:
        return None
    mean = -sum(every) / len(every)
    return math.exp(mean) if mean < _LARGEST_EXPONENT else None


_LEAST_PART_OF_MEDIAN = 1 / 4


def slopes(propensities: ArrayLike, strengths: ArrayLike) -> Floats:
    """Return (items,) the least-squares slope of `propensities` (strengths, items) over `strengths` (strengths,).

    In units of propensity for a strength of 1: an item's steerability (Tan et al. 2024, arXiv 2407.12404).
    """
    y, x = finite(propensities, "propensities", 2), finite(strengths, "strengths")
    if len(x) != len(y):
        raise ArgumentError(f"There are {len(x)} strengths and {len(y)} rows", valid="one row for each strength")
    if len(set(x.tolist())) < 2:
        raise ArgumentError(f"strengths are {x.tolist()}", valid="at least two that differ")
    centred = x - x.mean()
    return centred @ y / (centred @ centred)


def anti_steerable_share(slopes: ArrayLike) -> float | None:
    """Return the share of items that steering moves the wrong way, with a slope (items,) below 0; None without items.

    Source: Tan et al. 2024, arXiv 2407.12404.
    """
    array = finite(slopes, "slopes")
    return float((array < 0).mean()) if len(array) else None


def empirical_p(effect: float, controls: ArrayLike) -> float:
    """Return (1 + controls that reach `effect`) / (1 + controls (n,)): one-sided, and never 0.

    Source: Phipson and Smyth 2010, arXiv 1603.05766.
    """
    reached = finite(controls, "controls") >= finite([effect], "effect")[0]
    return (1 + int(reached.sum())) / (1 + len(reached))


def paraphrase_share(values: ArrayLike, groups: Sequence[Hashable]) -> float | None:
    """Return the share, 0 to 1, of the variance of `values` (items,) that lies within groups: 1 − ICC(1).

    By the variance components of a one-way random-effects analysis with groups of unequal size; a negative component
    counts as 0. None where no group has two items, where there is one group, and where all values are equal.

    Source: Donner and Koval 1980; Shrout and Fleiss 1979.
    """
    array = finite(values, "values")
    number = numbered(groups, len(array))
    sizes = np.bincount(number).astype(np.float64)
    n, k = len(array), len(sizes)
    if k < 2 or n == k or np.ptp(array) == 0:
        return None
    means = np.bincount(number, weights=array) / sizes
    within = float(((array - means[number]) ** 2).sum()) / (n - k)
    between = float((sizes * (means - array.mean()) ** 2).sum()) / (k - 1)
    typical_size = (n - float((sizes**2).sum()) / n) / (k - 1)
    of_groups = max(0.0, (between - within) / typical_size)
    return within / (within + of_groups)


def robustness(effects: ArrayLike, groups: Sequence[Hashable]) -> float | None:
    """Return the share of groups in which every variant of every item moves by a quarter of the median effect or more.

    `effects` (variants, items) are positive where an item moved the way that was asked; the median is that of all of
    them. 0 where it is not positive; None without effects.
    """
    array = finite(effects, "effects", 2)
    number = numbered(groups, array.shape[1])
    if not array.size:
        return None
    median = float(np.median(array))
    if median <= 0:
        return 0.0
    weakest = np.full(number.max() + 1, np.inf)
    np.minimum.at(weakest, number, array.min(axis=0))
    return float((weakest >= _LEAST_PART_OF_MEDIAN * median).mean())
