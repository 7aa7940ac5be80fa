"""NumPy's `.npy` with one direction, and all that we know of it in `<name>.npy.json` beside it.

Index: the decoder block whose output is steered, from 0, in the sidecar; a bare array says none. Unit: strength 1
adds the array as it is. A bare array may be a stack of one row a layer (see arrays.py).
"""

import base64
import io
from collections.abc import Mapping
from tokenize import TokenError
from typing import IO, Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.lib import format as npy_format
from pydantic import AfterValidator, Base64Bytes, Field
from torch import Tensor
from typing_extensions import override

from steer_tools.core.vectors import SteeringVector
from steer_tools.errors import VectorFileError
from steer_tools.formats.arrays import decode_arrays
from steer_tools.formats.base import (
    EVERYTHING,
    Decoded,
    Encoded,
    Header,
    UnmatchedFilesError,
    Unsaid,
    VectorFormat,
    digest_of,
    tensor_of,
)


class NpyFormat(VectorFormat):
    """`.npy`, one layer."""

    name: ClassVar[str] = "npy"
    suffix: ClassVar[str] = ".npy"
    convention: ClassVar[str] = "the layer stands in the .json file beside it; strength 1 adds the array"
    keeps: ClassVar[frozenset[str]] = EVERYTHING
    holds_several_layers: ClassVar[bool] = False

    @override
    def files(self, name: str) -> tuple[str, str | None]:
        return name, f"{name}.json"

    @override
    def claims(self, data: bytes) -> bool:
        return data.startswith(b"\x93NUMPY")

    @override
    def describes(self, data: bytes) -> bool:
        try:
            _Sidecar.parse(data, self.name)
        except VectorFileError:
            return False
        return True

    @override
    def encode(self, vector: SteeringVector) -> Encoded:
        (direction,) = vector.directions.values()
        buffer = io.BytesIO()
        np.save(buffer, direction.numpy(), allow_pickle=False)
        data = buffer.getvalue()
        return Encoded(data, _Sidecar.beside(data, vector).model_dump_json(indent=1).encode())

    @override
    def decode(self, encoded: Encoded, name: str, unsaid: Unsaid) -> Decoded:
        """Read the array, after its header has been held against the size of the file."""
        header = None
        if encoded.sidecar is not None:
            unsaid.refuse_index(name)
            header = _Sidecar.parse(encoded.sidecar, f"{name}.json")
            if header.array_sha256 not in (None, digest_of(encoded.data)):
                raise UnmatchedFilesError(name, f"{name}.json")
        array = array_of(encoded.data, name)
        if array.dtype.kind not in "fiub":
            raise VectorFileError(f"{name} holds {array.dtype}", valid="one float vector, shape (width,)")
        direction = torch.from_numpy(array)
        if header is None:
            return decode_arrays(direction, name, unsaid)
        if len(header.layers) != 1:
            raise VectorFileError(f"{name}.json names {len(header.layers)} layers", valid="one layer")
        vector = SteeringVector.from_directions(
            {header.layers[0]: direction},
            component=header.component,
            head=header.head,
            info=header.info,
            means=_tensors(header.means),
            erasers=_tensors(header.erasers),
        )
        return Decoded(vector)


def _packed(tensor: Tensor) -> bytes:
    return base64.b64encode(tensor.numpy().astype("<f4").tobytes())


def _whole_numbers(data: bytes) -> bytes:
    if len(data) % 4:
        raise ValueError("it is no whole number of float32 numbers")
    return data


# By layer, float32 in base64: as JSON numbers they would fill thousands of lines.
_Numbers = Annotated[Base64Bytes, AfterValidator(_whole_numbers)]


class _Sidecar(Header):
    """The header, the array's digest, which older files lack, and the vectors that belong to the direction."""

    array_sha256: str | None = None
    means: dict[int, _Numbers] = Field(default_factory=dict)
    erasers: dict[int, _Numbers] = Field(default_factory=dict)

    @classmethod
    def beside(cls, data: bytes, vector: SteeringVector) -> "_Sidecar":
        kinds = {"means": vector.means, "erasers": vector.erasers}
        packed = {kind: {n: _packed(tensor) for n, tensor in tensors.items()} for kind, tensors in kinds.items()}
        return cls.model_validate(dict(Header.of(vector)) | packed | {"array_sha256": digest_of(data)})


def _tensors(packed: Mapping[int, bytes]) -> dict[int, Tensor]:
    return {layer: tensor_of(data, torch.float32) for layer, data in packed.items()}


def array_of(data: bytes, name: str) -> np.ndarray:
    """Parse an `.npy` file without ever allocating more than it holds, and without unpickling.

    Raises:
        VectorFileError: It is none, holds objects or numbers that NumPy has no name for, or claims more than there is.
    """
    stream = io.BytesIO(data)
    shape, is_fortran, dtype = read_array_header(stream, name)
    claimed, present = int(np.prod(shape, dtype=object)) * dtype.itemsize, len(data) - stream.tell()
    if claimed != present or any(not 0 <= length <= len(data) for length in shape):
        raise VectorFileError(
            f"{name} says that its array takes {claimed:,} bytes, but {present:,} follow: it is truncated or forged",
            fix="Get it again.",
        )
    array = np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape, order="F" if is_fortran else "C")
    return array.astype(dtype.newbyteorder("="), order="C")


def read_array_header(stream: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return an array's shape, whether its first index runs fastest, and its dtype; the numbers follow in `stream`.

    Raises:
        VectorFileError: It is no `.npy` file, or holds objects or numbers that NumPy has no name for.
    """
    try:
        version = npy_format.read_magic(stream)
        read_header = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
        shape, is_fortran, dtype = read_header(stream)
    # NumPy parses the header as Python and lets through what its parser raises at hostile ones.
    except (ValueError, EOFError, TypeError, IndexError, MemoryError, RecursionError, TokenError, SyntaxError) as error:
        raise VectorFileError(
            f"{name} is no .npy file ({error})",
            valid="a float array saved by numpy.save(..., allow_pickle=False)",
            fix="Get it again.",
        ) from error
    if dtype.hasobject:
        raise VectorFileError(
            f"{name} holds pickled objects, which are never loaded, since a pickle can run code",
            valid="a float array saved by numpy.save(..., allow_pickle=False)",
            fix="If you trust the file, load what was saved, "
            f"`loaded = numpy.load({name!r}, allow_pickle=True){'' if shape else '.item()'}`, and save its arrays by "
            "layer: `save_vector(SteeringVector.from_directions({layer: torch.as_tensor(array)}), path)`.",
        )
    if dtype.kind == "f" and dtype.itemsize > 8:
        raise VectorFileError(
            f"{name} holds {dtype}",
            valid="one float vector of at most 64 bits a number",
            fix="Save it again as numpy.save(path, array.astype('float32')).",
        )
    if dtype.kind == "V":
        raise VectorFileError(
            f"{name} holds {dtype}, which NumPy has no name for, and which may be bfloat16",
            valid="floats of 16, 32 or 64 bits",
            fix="Where it is bfloat16, save it again: torch.save(torch.from_numpy("
            f"numpy.load({name!r}).view('int16')).view(torch.bfloat16), 'new.pt').",
        )
    return shape, is_fortran, dtype
