"""Bare tensors in a `.pt` file: one (width,) tensor, as CAA's `vec_layer_13_<model>.pt`; a stack of rows, as the
persona vectors' (layers + 1, width); or a dict of layer to tensor, as steering-vectors' `layer_activations`.

Index: a tensor says none. CAA's layer, given by the caller, is the block whose output it is, from 0; what the rows of a
stack are is told by the caller too (see bare.py); a dict's keys are blocks whose output is steered, from 0. Unit:
strength 1 adds the tensor. One tensor is written.
"""

from typing import ClassVar

from steer_tools.core.vectors import SteeringVector
from steer_tools.formats.bare_array import decode_bare
from steer_tools.formats.base import Decoded, Encoded, Unsaid, require_residual
from steer_tools.formats.tensor_file import read_tensors, write_tensor


class PtFormat:
    """`.pt`, one tensor, or when reading several by layer."""

    name: ClassVar[str] = "pt"
    suffix: ClassVar[str] = ".pt"
    convention: ClassVar[str] = (
        "one tensor does not say its layer, a dict says them as keys, from 0; strength 1 adds it"
    )
    holds_several_layers: ClassVar[bool] = False

    def files(self, name: str) -> tuple[str, str | None]:
        """Return the one name."""
        return name, None

    def encode(self, vector: SteeringVector) -> Encoded:
        """Serialise the only layer."""
        require_residual(vector, self.name)
        (direction,) = vector.directions.values()
        return Encoded(write_tensor(direction))

    def decode(self, encoded: Encoded, name: str, unsaid: Unsaid) -> Decoded:
        """Read the tensor, or the tensors by layer."""
        tensors = read_tensors(encoded.data, name)
        if isinstance(tensors, dict):
            return Decoded(SteeringVector.from_directions(tensors))
        return decode_bare(tensors, name, unsaid)
