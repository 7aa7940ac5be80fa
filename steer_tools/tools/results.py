"""Small shapes that several tools' results share."""

import math
from collections.abc import Sequence
from typing import TypeVar

_Item = TypeVar("_Item")


def one_or_list(items: Sequence[_Item]) -> _Item | list[_Item]:
    """Return the only item, or a list of several: what was asked for one layer is answered with one value."""
    return items[0] if len(items) == 1 else list(items)


def rounded(value: float | None) -> float | None:
    """Return `value` with six significant digits; None for NaN and infinity, which JSON has no word for."""
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None


def one_or_list_rounded(values: Sequence[float]) -> float | list[float]:
    """Return finite figures with six significant digits, one or a list of several."""
    return one_or_list([float(f"{value:.6g}") for value in values])
