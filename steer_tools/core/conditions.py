"""Whether a row is edited at all: what its prompt has at some sites → yes or no, purely.

A condition is decided once for each row, on the prompt as the unsteered model reads it (CAST; Lee et al. 2024, arXiv
2409.05907). A new condition is one frozen class with `readings` and `holds`. It must not know hooks, models or files.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from steer_tools.core.positions import Pooling
from steer_tools.core.site import Site
from steer_tools.core.values import Value


class Reading(NamedTuple):
    """One activation of a prompt."""

    site: Site
    pooling: Pooling


class Condition(Protocol):
    """A question about a prompt."""

    @property
    def readings(self) -> frozenset[Reading]:
        """What must be read to answer it."""
        ...

    def holds(self, read: Mapping[Reading, Tensor]) -> Tensor:
        """Return (rows,) bool from activations (rows, width) float32."""
        ...


@dataclass(frozen=True, eq=False)
class Threshold(Value):
    """Whether the projection û·h is above a number; `direction` (width,) may have any length.

    Attributes:
        reading: Where the prompt is read, and at which tokens.
        direction: (width,) float32.
        threshold: In the units of the activations.
    """

    reading: Reading
    direction: Tensor
    threshold: float

    @property
    def readings(self) -> frozenset[Reading]:
        """The one reading."""
        return frozenset({self.reading})

    def holds(self, read: Mapping[Reading, Tensor]) -> Tensor:
        """Return whether each row's projection is above the threshold."""
        direction = self.direction.double()
        return read[self.reading].double() @ (direction / direction.norm()) > self.threshold


@dataclass(frozen=True, eq=False)
class Not(Value):
    """The opposite of a condition."""

    condition: Condition

    @property
    def readings(self) -> frozenset[Reading]:
        """Those of the condition."""
        return self.condition.readings

    def holds(self, read: Mapping[Reading, Tensor]) -> Tensor:
        """Return the rows of which the condition does not hold."""
        return ~self.condition.holds(read)


@dataclass(frozen=True, eq=False)
class _OfTwo(Value):
    first: Condition
    second: Condition

    @property
    def readings(self) -> frozenset[Reading]:
        """Those of either."""
        return self.first.readings | self.second.readings


class Both(_OfTwo):
    """Whether two conditions hold."""

    def holds(self, read: Mapping[Reading, Tensor]) -> Tensor:
        """Return the rows of which both hold."""
        return self.first.holds(read) & self.second.holds(read)


class Either(_OfTwo):
    """Whether at least one of two conditions holds."""

    def holds(self, read: Mapping[Reading, Tensor]) -> Tensor:
        """Return the rows of which at least one holds."""
        return self.first.holds(read) | self.second.holds(read)
