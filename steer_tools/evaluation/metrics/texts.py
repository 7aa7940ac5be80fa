"""Token lists and log-probabilities → how much texts changed, repeat themselves or surprise the model."""

import math
from collections.abc import Sequence
from itertools import pairwise, zip_longest

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


def perplexity(log_probs: Sequence[Sequence[float]]) -> float | None:
    """Return exp of the mean negative log-probability over the tokens of all texts; None without tokens or too large.

    A text that loops has a low perplexity: read it together with `distinct_2`.
    """
    every = [value for one in log_probs for value in one]
    if not every:
        return None
    mean = -sum(every) / len(every)
    return math.exp(mean) if mean < _LARGEST_EXPONENT else None
