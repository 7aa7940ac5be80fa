"""NumPy's `.npy` with one direction, and what we know of it in `<name>.npy.json` beside it.

Index: the decoder block whose output is steered, from 0, in the sidecar; a bare array says none. Unit: strength 1
adds the array as it is. A bare array may be a stack of one row a layer (see base.py).
"""

import io
from tokenize import TokenError
from typing import ClassVar

import numpy as np
import torch
from numpy.lib import format as npy_format
from typing_extensions import override

from steer_tools.core.vectors import SteeringVector
from steer_tools.errors import VectorFileError
from steer_tools.formats.base import Decoded, Encoded, Header, Unsaid, VectorFormat, decode_bare


class NpyFormat(VectorFormat):
    """`.npy`, one layer."""

    name: ClassVar[str] = "npy"
    suffix: ClassVar[str] = ".npy"
    convention: ClassVar[str] = "the layer stands in the .json file beside it; strength 1 adds the array"
    holds_several_layers: ClassVar[bool] = False

    @override
    def files(self, name: str) -> tuple[str, str | None]:
        return name, f"{name}.json"

    @override
    def encode(self, vector: SteeringVector) -> Encoded:
        (direction,) = vector.directions.values()
        buffer = io.BytesIO()
        np.save(buffer, direction.numpy(), allow_pickle=False)
        return Encoded(buffer.getvalue(), Header.of(vector).model_dump_json(indent=1).encode())

    @override
    def decode(self, encoded: Encoded, name: str, unsaid: Unsaid) -> Decoded:
        """Read the array, after its header has been held against the size of the file."""
        direction = torch.from_numpy(_array(encoded.data, name))
        if encoded.sidecar is None:
            return decode_bare(direction, name, unsaid)
        header = Header.parse(encoded.sidecar, f"{name}.json")
        if len(header.layers) != 1:
            raise VectorFileError(f"{name}.json names {len(header.layers)} layers", valid="one layer")
        vector = SteeringVector.from_directions(
            {header.layers[0]: direction}, component=header.component, head=header.head, info=header.info
        )
        return Decoded(vector)


def _array(data: bytes, name: str) -> np.ndarray:
    """Parse `data` without ever allocating more than the file holds, and without unpickling."""
    stream = io.BytesIO(data)
    try:
        version = npy_format.read_magic(stream)
        read_header = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
        shape, _, dtype = read_header(stream)
    # NumPy parses the header as Python and lets through what its parser raises at hostile ones.
    except (ValueError, EOFError, TypeError, IndexError, MemoryError, RecursionError, TokenError, SyntaxError) as error:
        raise VectorFileError(
            f"{name} is no .npy file ({error})",
            valid="a float array saved by numpy.save(..., allow_pickle=False)",
            fix="A pickle is never loaded, since it can run code: save the array again.",
        ) from error
    if dtype.kind != "f" or dtype.itemsize > 8:
        raise VectorFileError(
            f"{name} holds {'pickled objects' if dtype.hasobject else dtype}",
            valid="one float vector, shape (width,)",
            fix="Save it again as numpy.save(path, array.astype('float32')).",
        )
    claimed, present = int(np.prod(shape, dtype=object)) * dtype.itemsize, len(data) - stream.tell()
    if claimed != present or any(not 0 <= length <= len(data) for length in shape):
        raise VectorFileError(
            f"{name} says that its array takes {claimed:,} bytes, but {present:,} follow: it is truncated or forged",
            fix="Create it again.",
        )
    return np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape).astype(dtype.newbyteorder("="))
