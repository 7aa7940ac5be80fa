"""NumPy's `.npz`, a zip archive of `.npy` files by name; others' hold one or several of any names (see arrays.py).

Index: a name that is a number is the block whose output is steered, from 0. Unit: strength 1 adds the array.
"""

import io
import zipfile
import zlib
from typing import ClassVar

import numpy as np
import torch
from typing_extensions import override

from steer_tools.core.vectors import SteeringVector
from steer_tools.errors import VectorFileError
from steer_tools.formats.arrays import Contents, decode_arrays
from steer_tools.formats.base import Decoded, Encoded, Unsaid, VectorFormat, require_residual
from steer_tools.formats.npy_format import array_of
from steer_tools.limits import ARRAYS, UNPACKED_BYTES

_ENDING = ".npy"


class NpzFormat(VectorFormat):
    """`.npz`, any number of layers."""

    name: ClassVar[str] = "npz"
    suffix: ClassVar[str] = ".npz"
    convention: ClassVar[str] = "the array `<n>` acts on the output of block n, from 0; strength 1 adds the array"
    keeps: ClassVar[frozenset[str]] = frozenset({"layer"})

    @override
    def claims(self, data: bytes) -> bool:
        # After 30 bytes of sizes and dates stands the first record's name.
        length = int.from_bytes(data[26:28], "little")
        return data.startswith(b"PK\x03\x04") and data[30 : 30 + length].endswith(_ENDING.encode())

    @override
    def encode(self, vector: SteeringVector) -> Encoded:
        require_residual(vector, self.name)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for layer, direction in vector.directions.items():
                record = io.BytesIO()
                np.save(record, direction.numpy(), allow_pickle=False)
                # Without the time of day, by which two files of one vector would differ.
                archive.writestr(zipfile.ZipInfo(f"{layer}{_ENDING}"), record.getvalue())
        return Encoded(buffer.getvalue())

    @override
    def decode(self, encoded: Encoded, name: str, unsaid: Unsaid) -> Decoded:
        try:
            arrays = _arrays(encoded.data, name)
        # What zipfile and zlib let through at hostile bytes.
        except (zipfile.BadZipFile, zlib.error, ValueError, LookupError, EOFError, RuntimeError, OSError) as error:
            raise VectorFileError(
                f"{name} is truncated or forged ({error})", valid="what numpy.savez wrote", fix="Get it again."
            ) from error
        return decode_arrays(arrays, name, unsaid)


def _arrays(data: bytes, name: str) -> dict[str | int, Contents]:
    """Return the arrays by name, and texts for those that hold no numbers."""
    if data.count(b"PK\x01\x02") > ARRAYS.most:
        raise ValueError("it has more records than a vector has layers")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        records = [record for record in archive.infolist() if record.filename.endswith(_ENDING)]
        names = {record.filename.removesuffix(_ENDING) for record in records}
        if {"W_dec", "W_enc"} <= names:
            raise VectorFileError(
                f"{name} is a sparse autoencoder, which has a direction for each feature",
                valid="one feature of it",
                fix="Use create_steering_vector with method='sae_feature' and "
                f"options={{'sae': {name!r}, 'feature': <number>}}.",
            )
        if sum(record.file_size for record in records) > max(len(data), UNPACKED_BYTES.most):
            raise ValueError("it claims more numbers than a vector has")
        contents = dict[str | int, Contents]()
        for record in records:
            # Others of zip's ways to pack may want any memory, and NumPy writes none of them.
            if record.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"the record {record.filename[:80]!r} is packed in another way than NumPy's")
            array = array_of(archive.read(record), f"{record.filename[:80]} in {name}")
            contents[record.filename.removesuffix(_ENDING)] = (
                torch.from_numpy(array) if array.dtype.kind in "fiub" else str(array.dtype)
            )
    return contents
