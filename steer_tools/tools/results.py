"""Small shapes that several tools' results share."""

import math
from collections.abc import Sequence
from typing import TypeVar

_Item = TypeVar("_Item")


def one_or_list(items: Sequence[_Item]) -> _Item | list[_Item]:
    """Return the only item, or a list of several: what was asked for one layer is answered with one value."""
    return items[0] if len(items) == 1 else list(items)


def finite(value: float) -> float | None:
    """Return `value`, or None for NaN and infinity, which JSON has no word for."""
    return value if math.isfinite(value) else None
