"""A folder of safetensors files ↔ the places of its tensors: bytes are read and written where they lie.

Nothing is loaded as a whole, so that a checkpoint may be larger than the memory. It must not know what tensors mean.
"""

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from steer_tools.errors import BakingError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_CHUNK = 2**24
_MOST_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: `size` bytes of `file`, from byte `start` on."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int

    def chunks(self) -> Iterator[bytes]:
        """Yield its bytes in pieces."""
        with self.file.open("rb") as file:
            yield from _pieces(file, self.start, self.size)


@dataclass(frozen=True)
class NewTensor:
    """A tensor to be written; `chunks` yields as many bytes as its shape and dtype take."""

    dtype: str
    shape: tuple[int, ...]
    size: int
    chunks: Iterable[bytes]


def find_tensors(folder: Path) -> dict[str, Place]:
    """Return every tensor of a checkpoint by name.

    Raises:
        BakingError: The folder holds no safetensors checkpoint, or a file of it is broken.
    """
    return {name: place for file in weight_files(folder) for name, place in read_header(folder / file)[0].items()}


def weight_files(folder: Path) -> list[str]:
    """Return the names of a checkpoint's weight files, as transformers would choose them."""
    if (folder / SINGLE).is_file():
        return [SINGLE]
    index = folder / INDEX
    if not index.is_file():
        raise BakingError(f"{folder} holds no safetensors checkpoint", valid=f"a folder with {SINGLE} or {INDEX}")
    names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    if strangers := [name for name in names if Path(name).name != name]:
        raise BakingError(f"{index} names the file {strangers[0]!r}", valid="names of files in the same folder")
    return names


def read_header(path: Path) -> tuple[dict[str, Place], dict[str, str]]:
    """Return the tensors of one file, and its metadata.

    Raises:
        BakingError: It is no whole safetensors file.
    """
    total = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\xff"))
        if length > min(total - 8, _MOST_HEADER_BYTES):
            raise BakingError(f"{path} is no whole safetensors file", fix="Download or save it again.")
        try:
            header = cast(dict[str, Any], json.loads(file.read(length)))
        except ValueError as error:
            raise BakingError(f"{path} is no safetensors file ({error})", fix="Download or save it again.") from error
    metadata = cast(dict[str, str], header.pop("__metadata__", {}))
    places = {
        name: Place(
            path,
            entry["dtype"],
            tuple(entry["shape"]),
            8 + length + entry["data_offsets"][0],
            entry["data_offsets"][1] - entry["data_offsets"][0],
        )
        for name, entry in header.items()
    }
    if any(place.start + place.size > total for place in places.values()):
        raise BakingError(f"{path} is no whole safetensors file", fix="Download or save it again.")
    return places, metadata


def write_file(path: Path, tensors: Mapping[str, NewTensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, one piece of a tensor after the other."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset := offset + tensor.size],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            for chunk in tensor.chunks:
                file.write(chunk)


def copied(place: Place) -> NewTensor:
    """Return a new tensor with the bytes of one that is there."""
    return NewTensor(place.dtype, place.shape, place.size, place.chunks())


def zeros(shape: tuple[int, ...], dtype: str) -> NewTensor:
    """Return a new tensor of zeros."""
    size = prod(shape) * FLOATS[dtype].itemsize
    return NewTensor(dtype, shape, size, (bytes(min(_CHUNK, size - at)) for at in range(0, size, _CHUNK)))


def overwrite(place: Place, chunks: Iterable[bytes]) -> None:
    """Write bytes over those of a tensor, where it lies."""
    with place.file.open("r+b") as file:
        file.seek(place.start)
        for chunk in chunks:
            file.write(chunk)


def _pieces(file: BinaryIO, start: int, size: int) -> Iterator[bytes]:
    file.seek(start)
    for at in range(0, size, _CHUNK):
        yield file.read(min(_CHUNK, size - at))
