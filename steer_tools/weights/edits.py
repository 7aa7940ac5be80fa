"""The edits of a checkpoint: which tensors change and how, and what is new. It must not know models or files."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from steer_tools.engines.writers import project_out

# What is in memory at once, unless a tensor cannot be cut without being summed over.
_SLICE_BYTES = 2**23


class Change(Protocol):
    """How one tensor changes."""

    def apply(self, tensor: Tensor) -> Tensor:
        """Return the changed copy, in the same dtype."""
        ...

    def slices(self, shape: tuple[int, ...], itemsize: int) -> Iterator[int]:
        """Yield how many bytes may be changed by themselves, one slice after the other."""
        ...


@dataclass(frozen=True, eq=False)
class ProjectedOut:
    """W − û(ûᵀW), with `axis` along the residual stream and `along` the unit vector û (width,)."""

    axis: int
    along: Tensor

    def apply(self, tensor: Tensor) -> Tensor:
        """Project."""
        return project_out(tensor, self.axis, self.along)

    def slices(self, shape: tuple[int, ...], itemsize: int) -> Iterator[int]:
        """Cut the first axis, unless that is the one to be summed over."""
        row = prod(shape[1:]) * itemsize
        rows = shape[0] if self.axis == 0 else max(1, _SLICE_BYTES // row)
        yield from (row * min(rows, shape[0] - start) for start in range(0, shape[0], rows))


@dataclass(frozen=True, eq=False)
class Increased:
    """b + `by`, of one shape."""

    by: Tensor

    def apply(self, tensor: Tensor) -> Tensor:
        """Add in float64."""
        return (tensor.double() + self.by).to(tensor.dtype)

    def slices(self, shape: tuple[int, ...], itemsize: int) -> Iterator[int]:
        """Take it whole."""
        yield prod(shape) * itemsize


@dataclass(frozen=True)
class CheckpointEdits:
    """What becomes of a checkpoint.

    Attributes:
        changed: Tensor → how it changes, new ones included.
        zeros: New tensor → its shape.
        copies: New tensor → the one whose values it has before any change.
        config: Entries of the config to set.
    """

    changed: Mapping[str, Change]
    zeros: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    copies: Mapping[str, str] = field(default_factory=dict[str, str])
    config: Mapping[str, bool] = field(default_factory=dict[str, bool])

    def renamed(self, name: Callable[[str], str]) -> "CheckpointEdits":
        """Return the same edits of tensors with other names."""
        return CheckpointEdits(
            {name(old): change for old, change in self.changed.items()},
            {name(old): shape for old, shape in self.zeros.items()},
            {name(new): name(source) for new, source in self.copies.items()},
            self.config,
        )


def changed_bytes(data: bytearray, dtype: torch.dtype, shape: tuple[int, ...], change: Change) -> bytes:
    """Return a slice's bytes after the change; `shape` is the whole tensor's."""
    numbers = torch.frombuffer(data, dtype=dtype)
    after = change.apply(numbers.view(-1, *shape[1:]))
    return after.contiguous().view(torch.uint8).numpy().tobytes()
