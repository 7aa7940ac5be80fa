"""One tensor, or several by layer, ↔ the bytes of a `.pt` file, as `torch.save(tensor, path)` writes them.

Such a file is a zip archive of numbers and a pickle that says how to put them together. The pickle is read here as a
description and never run: `torch.load(weights_only=True)` runs no foreign code, but it does run `bytearray(10**12)`.
It must not know what the numbers mean.
"""

import io
import zipfile
from math import prod

import torch
from torch import Tensor

from steer_tools.errors import VectorFileError
from steer_tools.formats.base import tensor_of
from steer_tools.formats.tensor_pickle import Description, NotATensorError, describe

_WAY_OUT = (
    "Save the tensors alone: torch.save(vector.layer_activations, path) for the package steering-vectors. Or, if you "
    "trust the file, load it yourself: `vector = torch.load(path, weights_only=False)`, then "
    "`save_vector(steer_tools.formats.from_steering_vectors(vector), target)`."
)
# One tensor is described in 150 bytes, in an archive of seven records.
_MOST_PICKLE_BYTES, _MOST_RECORDS = 2**16, 1000


def write_tensor(tensor: Tensor) -> bytes:
    """Return what `torch.save` writes; a view is saved alone."""
    buffer = io.BytesIO()
    torch.save(tensor.clone(), buffer)
    return buffer.getvalue()


def read_tensors(data: bytes, name: str) -> Tensor | dict[int, Tensor]:
    """Return the float tensor of at most two dimensions that the file holds, or the dict of such by a number.

    Nothing in the file is run, and nothing is returned that is larger than the file.

    Raises:
        VectorFileError: It holds something else, or claims what it does not hold.
    """
    if not data.startswith(b"PK\x03\x04"):
        raise VectorFileError(
            f"{name} is no zip archive, as torch.save writes since version 1.6: it is truncated, or a bare pickle",
            valid="one float tensor saved by torch.save(tensor, path)",
            fix="A pickle is never loaded, since it can run code: save the tensor again.",
        )
    try:
        return _tensors(data)
    except NotATensorError as error:
        raise VectorFileError(
            f"{name} holds no plain tensors, but {error}",
            valid="one float tensor, or a dict of layer to tensor, saved by torch.save",
            fix=_WAY_OUT,
        ) from error
    # What zipfile and pickletools let through at hostile bytes.
    except (
        zipfile.BadZipFile,
        ValueError,
        LookupError,
        EOFError,
        OverflowError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise VectorFileError(
            f"{name} is truncated or forged ({error})", fix="Save the tensor again by torch.save(tensor, path)."
        ) from error


def _tensors(data: bytes) -> Tensor | dict[int, Tensor]:
    # zipfile makes an object of half a kilobyte of each entry, which is ten times what the entry takes.
    if data.count(b"PK\x01\x02") > _MOST_RECORDS:
        raise NotATensorError("more records than a tensor has")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        prefix = archive.namelist()[0].partition("/")[0]
        if f"{prefix}/byteorder" in archive.namelist() and _record(archive, f"{prefix}/byteorder", 8) != b"little":
            raise NotATensorError("numbers of a big-endian machine")
        described = describe(_record(archive, f"{prefix}/data.pkl", _MOST_PICKLE_BYTES))
        each = described.values() if isinstance(described, dict) else [described]
        # Views may repeat their numbers and share them, and would then be larger than the file.
        if sum(prod(one.shape) * one.storage.dtype.itemsize for one in each) > len(data):
            raise ValueError(f"it claims more numbers than {len(data):,} bytes can hold")
        paths = {one.storage.key: f"{prefix}/data/{one.storage.key}" for one in each}
        if sum(archive.getinfo(path).file_size for path in paths.values()) > len(data):
            raise ValueError("its records overlap")
        records = {key: _record(archive, path, len(data)) for key, path in paths.items()}
    if isinstance(described, dict):
        return {number: _tensor(one, records[one.storage.key]) for number, one in described.items()}
    return _tensor(described, records[described.storage.key])


def _tensor(described: Description, numbers: bytes) -> Tensor:
    storage = described.storage
    if storage.length * storage.dtype.itemsize != len(numbers):
        raise ValueError(f"it claims {storage.length:,} numbers and holds {len(numbers):,} bytes")
    # torch refuses a view that leaves its numbers, by a RuntimeError.
    return tensor_of(numbers, storage.dtype).as_strided(described.shape, described.strides, described.offset)


def _record(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """Return a record that is stored as it is: what unpacks could be larger than the file, or want a large window."""
    record = archive.getinfo(name)
    if (
        record.compress_type != zipfile.ZIP_STORED
        or record.file_size != record.compress_size
        or record.file_size > most
    ):
        raise ValueError(f"the record {name[:80]!r} is compressed or claims {record.file_size:,} bytes")
    return archive.read(record)
