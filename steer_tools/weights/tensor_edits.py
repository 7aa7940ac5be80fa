"""The edits of a checkpoint: which tensors change and how, and what is new. It must not know models."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from steer_tools.engines.huggingface.output_parameters import project_out
from steer_tools.weights.shards import FLOATS, Place

# What is computed at once: float32 copies of it take ten times as much.
_SLICE_BYTES = 2**22


@dataclass(frozen=True, eq=False)
class ProjectedOut:
    """W − û(ûᵀW), with `axis` along the residual stream and `along` the unit vector û (width,)."""

    axis: int
    along: Tensor

    @property
    def free_axis(self) -> int:
        """The first axis that is not summed over: along it the parts of the tensor change by themselves."""
        return 1 if self.axis == 0 else 0

    def apply(self, tensor: Tensor) -> Tensor:
        """Return the changed copy, in the same dtype."""
        return project_out(tensor, self.axis, self.along)


@dataclass(frozen=True, eq=False)
class Increased:
    """b + `by`, both (width,)."""

    by: Tensor
    free_axis: int = 1

    def apply(self, tensor: Tensor) -> Tensor:
        """Add in float64."""
        return (tensor.double() + self.by).to(tensor.dtype)


TensorEdit: TypeAlias = ProjectedOut | Increased


@dataclass(frozen=True)
class CheckpointEdits:
    """What becomes of a checkpoint.

    Attributes:
        changed: Tensor → how it changes, new ones included.
        zeros: New tensor → its shape.
        copies: New tensor → the one whose values it has before any change.
        config: Entries of the config to set.
    """

    changed: Mapping[str, TensorEdit]
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


def slices(place: Place, edit: TensorEdit) -> Iterator[int]:
    """Yield how many bytes of a tensor are read and written at once: the whole, where its first axis is summed."""
    rows = _rows_at_once(place.shape, place.size) if edit.free_axis == 0 else place.shape[0]
    for start in range(0, place.shape[0], rows):
        yield place.size // place.shape[0] * min(rows, place.shape[0] - start)


def change_slice(data: bytearray, place: Place, edit: TensorEdit) -> None:
    """Change the bytes of a slice where they are, in pieces."""
    tensor = torch.frombuffer(data, dtype=FLOATS[place.dtype]).view(-1, *place.shape[1:])
    axis = edit.free_axis
    pieces = tensor.split(_rows_at_once(tensor.shape, len(data), axis), dim=axis) if axis < tensor.ndim else [tensor]
    for piece in pieces:
        piece.copy_(edit.apply(piece))


def _rows_at_once(shape: Sequence[int], size: int, axis: int = 0) -> int:
    return max(1, _SLICE_BYTES * shape[axis] // size)
