"""A sparse autoencoder's file → one feature's decoder direction, without reading the rest of the file.

Files are safetensors as SAELens saves them (`W_dec`, one row a feature, with `cfg.json` beside it) or with a decoder
of another name, or NumPy's archives of the same, as Gemma Scope's `params.npz`. It must not know models.
"""

import io
import json
import re
import zipfile
import zlib
from collections.abc import Collection, Mapping
from math import prod
from pathlib import PurePath
from typing import IO, Any, BinaryIO, cast

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from steer_tools.core.site import Component, Site
from steer_tools.errors import ArgumentError, VectorFileError
from steer_tools.formats.npy_format import read_array_header
from steer_tools.limits import AUTOENCODER_ARCHIVE_BYTES, AUTOENCODER_WIDTH, JSON_BYTES, parsed_json
from steer_tools.workspace import Workspace

# What decoders are called: one row a feature, or as the weight of a linear layer one column a feature.
_ROWS, _COLUMNS = ("W_dec", "decoder"), ("decoder.weight",)
_WEIGHTS, _CONFIG, _ARCHIVE = "sae_weights.safetensors", "cfg.json", "params.npz"
_ENDINGS = (".safetensors", ".npz")
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# TransformerLens' names of places, in which SAELens says where it read.
_HOOK = re.compile(r"blocks\.(\d+)\.hook_(resid_pre|resid_post|attn_out|mlp_out)")


def feature_direction(workspace: Workspace, path: str, feature: int) -> Tensor:
    """Return decoder row `feature` (width,) float32 of the file at `path`, or of the folder there.

    Raises:
        VectorFileError: The file is missing or malformed, or has no decoder.
        ArgumentError: It has no such feature.
    """
    name = _weights_path(workspace, path)
    with workspace.opened(name) as file:
        is_archive = file.read(4) == b"PK\x03\x04"
        file.seek(0)
        return _in_archive(file, name, feature) if is_archive else _in_safetensors(file, name, feature)


def feature_site(workspace: Workspace, path: str) -> Site | None:
    """Return where a SAELens folder says that its autoencoder reads; None where nothing says it.

    The stream before block l is the output of block l − 1, and before block 0 the embedding.
    """
    config = str(PurePath(_weights_path(workspace, path)).with_name(_CONFIG))
    if not workspace.holds(config):
        return None
    found = parsed_json(workspace.read(config), config, VectorFileError)
    match = _HOOK.search(json.dumps(found))
    if match is None:
        return None
    layer, place = int(match[1]), match[2]
    if place == "resid_pre":
        return Site(layer - 1) if layer else Site(0, "embedding")
    components: dict[str, Component] = {"resid_post": "residual", "attn_out": "attention", "mlp_out": "mlp"}
    return Site(layer, components[place])


def _weights_path(workspace: Workspace, path: str) -> str:
    """Return the path of a file, or of the one that holds the weights in a folder of SAELens or Gemma Scope."""
    if path.endswith(_ENDINGS) or workspace.holds(path):
        return path
    inside = [str(PurePath(path) / name) for name in (_WEIGHTS, _ARCHIVE)]
    return next((name for name in inside if workspace.holds(name)), inside[0])


def _decoder_in(names: Collection[str], name: str) -> str:
    key = next((key for key in (*_ROWS, *_COLUMNS) if key in names), None)
    if key is None:
        raise VectorFileError(
            f"{name} has no decoder among its tensors {sorted(names)[:8]}",
            valid=f"a file with one of {', '.join(map(repr, (*_ROWS, *_COLUMNS)))}",
        )
    return key


def _in_safetensors(file: BinaryIO, name: str, feature: int) -> Tensor:
    tensors, start = _header(file, name)
    key = _decoder_in(tensors, name)
    dtype, shape, begin, end = _entry(tensors[key], key, name)
    if file.seek(0, 2) < start + end or end - begin != prod(shape) * dtype.itemsize:
        raise VectorFileError(f"{name} is truncated or forged: its decoder does not fit into it", fix="Get it again.")
    data = _feature(file, start + begin, shape, feature, dtype.itemsize, is_row=key in _ROWS, name=name)
    return torch.frombuffer(bytearray(data), dtype=dtype).float()


def _in_archive(file: BinaryIO, name: str, feature: int) -> Tensor:
    try:
        table = _Table(file)
        with zipfile.ZipFile(table) as archive:
            table.is_read = True
            names = [record.removesuffix(".npy") for record in archive.namelist() if record.endswith(".npy")]
            if not names:
                raise VectorFileError(
                    f"{name} is an archive without arrays of NumPy, as torch.save writes it",
                    valid="a safetensors file, or an .npz file",
                    fix=f"Save it as one: safetensors.torch.save_file(torch.load({name!r}, weights_only=True), "
                    "'sae.safetensors').",
                )
            key = _decoder_in(names, name)
            record = archive.getinfo(f"{key}.npy")
            with archive.open(record) as stream:
                shape, is_fortran, dtype = read_array_header(stream, f"{key} of {name}")
                begin = stream.tell()
                is_matrix = len(shape) == 2 and 0 not in shape and max(shape) <= AUTOENCODER_WIDTH.most
                if not is_matrix or dtype.str not in ("<f2", "<f4", "<f8"):
                    raise VectorFileError(
                        f"The array {key!r} of {name} is {dtype} {shape[:8]}",
                        valid="a matrix of floats, one row or column a feature",
                    )
                if record.file_size - begin != prod(shape) * dtype.itemsize:
                    raise ValueError("its decoder does not fit into it")
                # In Fortran's order, what is read is the transposed matrix.
                rows, columns = shape[::-1] if is_fortran else shape
                is_row = (key in _ROWS) != is_fortran
                data = _feature(stream, begin, (rows, columns), feature, dtype.itemsize, is_row=is_row, name=name)
    # What zipfile and zlib let through at hostile bytes.
    except (zipfile.BadZipFile, zlib.error, ValueError, LookupError, EOFError, RuntimeError) as error:
        raise VectorFileError(f"{name} is truncated or forged ({error})", fix="Get it again.") from error
    return torch.from_numpy(np.frombuffer(data, dtype).astype(np.float32))


class _Table(io.RawIOBase):
    """A file that refuses, until its table of records is read, to read more at once than such a table takes.

    zipfile reads all of a table that a file claims, and makes half a kilobyte of each of its entries.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.is_read = file, False

    @override
    def read(self, size: int = -1, /) -> bytes:
        most = AUTOENCODER_ARCHIVE_BYTES.most
        if self.is_read or 0 <= size <= most:
            return self._file.read(size)
        data = self._file.read(most + 1)
        if len(data) > most:
            raise zipfile.BadZipFile(f"its table of arrays takes more than {most:,} bytes")
        return data

    @override
    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    @override
    def tell(self) -> int:
        return self._file.tell()

    @override
    def seekable(self) -> bool:
        return True

    @override
    def readable(self) -> bool:
        return True


def _feature(
    file: IO[bytes], begin: int, shape: tuple[int, int], feature: int, size: int, *, is_row: bool, name: str
) -> bytes:
    """Return the numbers of a feature, of `size` bytes each, out of a matrix whose rows follow each other in a file."""
    features, width = shape if is_row else shape[::-1]
    if type(feature) is not int or not 0 <= feature < features:
        raise ArgumentError(f"feature is {feature!r}", valid=f"0 to {features - 1} in {name}")
    if is_row:
        return _read(file, begin + feature * width * size, width * size)
    return b"".join(_read(file, begin + (i * features + feature) * size, size) for i in range(width))


def _header(file: BinaryIO, name: str) -> tuple[dict[str, Any], int]:
    """Return a safetensors file's table of tensors, and where their bytes start."""
    length = int.from_bytes(file.read(8), "little")
    try:
        if not 2 <= length <= JSON_BYTES.most:
            raise ValueError(f"a header of {length} bytes")
        tensors = parsed_json(_read(file, 8, length), f"The header of {name}", VectorFileError)
        if not isinstance(tensors, dict):
            raise ValueError("a header that is no table")
    except ValueError as error:
        raise VectorFileError(
            f"{name} is no safetensors file ({error})", valid="a safetensors or .npz file", fix="Get it again."
        ) from error
    return cast(dict[str, Any], tensors), 8 + length


def _entry(entry: object, key: str, name: str) -> tuple[torch.dtype, tuple[int, int], int, int]:
    table = cast(Mapping[str, Any], entry) if isinstance(entry, Mapping) else {}
    dtype, shape, place = _DTYPES.get(str(table.get("dtype"))), table.get("shape"), table.get("data_offsets")
    numbers = [*(shape or ()), *(place or ())] if isinstance(shape, list) and isinstance(place, list) else []
    are_counts = all(type(n) is int and 0 <= n < 2**48 for n in numbers)
    if dtype is None or len(numbers) != 4 or not are_counts or 0 in numbers[:2]:
        raise VectorFileError(
            f"The tensor {key!r} of {name} is {table.get('dtype')} {shape}",
            valid="a matrix of floats, one row or column a feature",
        )
    features, width, begin, end = numbers
    return dtype, (features, width), begin, end


def _read(file: IO[bytes], offset: int, length: int) -> bytes:
    file.seek(offset)
    data = file.read(length)
    if len(data) != length:
        raise ValueError(f"{length} bytes are said to be there, and {len(data)} are")
    return data
