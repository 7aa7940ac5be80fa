"""Small shapes that several tools' results share."""

import math
from collections.abc import Sequence
from typing import TypeVar, cast

from steer_tools.evaluation.intervals import Interval

_Item = TypeVar("_Item")
_Figure = TypeVar("_Figure", float, float | None)


def one_or_list(items: Sequence[_Item]) -> _Item | list[_Item]:
    """Return the only item, or a list of several: what was asked for one layer is answered with one value."""
    return items[0] if len(items) == 1 else list(items)


def rounded(value: float | None) -> float | None:
    """Return `value` with six significant digits; None for NaN and infinity, which JSON has no word for."""
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None


def short(value: float) -> float:
    """Return `value` with four significant digits, for figures that come in tables and with intervals."""
    return float(f"{value:.4g}")


def short_interval(interval: Interval | None) -> list[float] | None:
    """Return both ends of an interval with four significant digits."""
    return None if interval is None else [short(interval.low), short(interval.high)]


def one_or_list_rounded(values: Sequence[_Figure]) -> _Figure | list[_Figure]:
    """Return figures with six significant digits, and None for those that are not known, one or a list of several."""
    return one_or_list([cast(_Figure, rounded(value)) for value in values])
