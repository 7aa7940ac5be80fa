"""Items that share a group → one number a group, and the checks that all figures over groups share."""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from steer_tools.errors import ArgumentError

Floats = NDArray[np.float64]


def finite(values: ArrayLike, name: str, dimensions: int = 1) -> Floats:
    """Return `values` as float64.

    Raises:
        ArgumentError: They have another number of dimensions, or one of them is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != dimensions:
        raise ArgumentError(f"{name} has the shape {array.shape}", valid=f"{dimensions} dimension(s)")
    if not np.isfinite(array).all():
        wrong = np.argwhere(~np.isfinite(array))[0].tolist()
        raise ArgumentError(f"{name} holds {array[tuple(wrong)]} at {wrong}", fix="Leave missing values out first.")
    return array


def numbered(groups: Sequence[Hashable], items: int) -> NDArray[np.intp]:
    """Return (items,) the number of each item's group, counted from 0 in the order of appearance.

    Raises:
        ArgumentError: There is not one group for each item.
    """
    if len(groups) != items:
        raise ArgumentError(f"There are {len(groups)} groups and {items} items", valid="one group for each item")
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.intp)
