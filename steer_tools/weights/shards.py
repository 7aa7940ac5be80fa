"""A folder of safetensors files ↔ the places of its tensors: bytes are read and written where they lie.

Nothing is loaded as a whole, so that a checkpoint may be larger than the memory. It must not know what tensors mean.
"""

import json
import os
import shutil
import struct
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import BinaryIO, TypeAlias

import torch
from pydantic import BaseModel, NonNegativeInt, TypeAdapter, ValidationError

from steer_tools.errors import BakingError, quoted
from steer_tools.limits import JSON_BYTES, TENSORS, require_json
from steer_tools.workspace import refuse_pointer

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_CHUNK = 2**24
# How a file is opened for reading: a confined workspace follows no link.
Opening: TypeAlias = Callable[[Path], AbstractContextManager[BinaryIO]]


class _Entry(BaseModel):
    dtype: str
    shape: tuple[NonNegativeInt, ...]
    data_offsets: tuple[NonNegativeInt, NonNegativeInt]


class _Index(BaseModel):
    weight_map: dict[str, str]


_HEADER = TypeAdapter(dict[str, _Entry | dict[str, str]])


@contextmanager
def open_file(path: Path) -> Generator[BinaryIO]:
    """Open any file for reading, other than a pointer of Git LFS."""
    with path.open("rb") as file:
        refuse_pointer(file.peek(), path)
        yield file


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: `size` bytes of `file`, from byte `start` on."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int
    opened: Opening = field(default=open_file, repr=False, compare=False)

    @property
    def chunks(self) -> Iterator[bytes]:
        """Its bytes in pieces, read anew each time."""
        with self.opened(self.file) as file:
            file.seek(self.start)
            for at in range(0, self.size, _CHUNK):
                yield file.read(min(_CHUNK, self.size - at))

    def overwrite(self, chunks: Iterable[bytes]) -> None:
        """Write bytes over its own, where it lies."""
        with self.file.open("r+b") as file:
            file.seek(self.start)
            for chunk in chunks:
                file.write(chunk)


@dataclass(frozen=True)
class NewTensor:
    """A tensor to be written; `chunks` yields as many bytes as its shape and dtype take."""

    dtype: str
    shape: tuple[int, ...]
    size: int
    chunks: Iterable[bytes]


def find_tensors(folder: Path, opened: Opening = open_file) -> dict[str, Place]:
    """Return every tensor of a checkpoint by name.

    Raises:
        BakingError: The folder holds no safetensors checkpoint, or a file of it is broken or missing.
    """
    files = [folder / name for name in weight_files(folder, opened)]
    # Path.is_file raises where a name is too long.
    if missing := [file for file in files if not os.path.isfile(file)]:  # noqa: PTH113
        raise BakingError(
            f"{folder} lacks {missing[0].name:.80}, which its index names", fix="Download or save it again."
        )
    return {name: place for file in files for name, place in read_header(file, opened)[0].items()}


def weight_files(folder: Path, opened: Opening = open_file) -> list[str]:
    """Return the names of a checkpoint's weight files, as transformers would choose them."""
    if (folder / SINGLE).is_file():
        return [SINGLE]
    index = folder / INDEX
    if not index.is_file():
        raise BakingError(f"{folder} holds no safetensors checkpoint", valid=f"a folder with {SINGLE} or {INDEX}")
    with opened(index) as file:
        JSON_BYTES.require(os.fstat(file.fileno()).st_size, f"{index} has", BakingError)
        return files_of_index(file.read(), index)


def files_of_index(text: bytes, index: Path) -> list[str]:
    """Return the names of the weight files that the text of an index names.

    Raises:
        BakingError: It is none, or names files elsewhere.
    """
    require_json(text, str(index), BakingError)
    try:
        names = sorted(set(_Index.model_validate_json(text).weight_map.values()))
    except ValidationError as error:
        raise BakingError(f"{index} is no index of a checkpoint", fix="Download or save it again.") from error
    if strangers := [name for name in names if Path(name).name != name or "\0" in name]:
        raise BakingError(f"{index} names the file {quoted(strangers[0])}", valid="names of files in the same folder")
    return names


def read_header(path: Path, opened: Opening = open_file) -> tuple[dict[str, Place], dict[str, str]]:
    """Return the tensors of one file, and its metadata.

    Raises:
        BakingError: It is no whole safetensors file.
    """
    with opened(path) as file:
        total = os.fstat(file.fileno()).st_size
        (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\xff"))
        if length > total - 8:
            raise BakingError(
                f"{path} is no whole safetensors file", valid="a safetensors file", fix="Download or save it again."
            )
        JSON_BYTES.require(length, f"The header of {path} has", BakingError)
        document = file.read(length)
        # Each opens a brace, and to count these costs nothing.
        TENSORS.require(document.count(b"{") - 1, f"{path} has", BakingError)
        require_json(document, f"The header of {path}", BakingError)
        try:
            header = _HEADER.validate_json(document)
        except ValidationError as error:
            raise BakingError(f"{path} is no safetensors file", fix="Download or save it again.") from error
    places, metadata = dict[str, Place](), dict[str, str]()
    for name, entry in header.items():
        if isinstance(entry, dict):
            metadata |= entry
        else:
            start, end = entry.data_offsets
            if end < start:
                raise BakingError(f"{path} is no safetensors file: {name!r}", fix="Download or save it again.")
            places[name] = Place(path, entry.dtype, entry.shape, 8 + length + start, end - start, opened)
    for name, place in places.items():
        itemsize = FLOATS[place.dtype].itemsize if place.dtype in FLOATS else None
        if place.start + place.size > total or (itemsize and place.size != itemsize * prod(place.shape)):
            raise BakingError(f"{path} is no whole safetensors file: {name!r}", fix="Download or save it again.")
    return places, metadata


def write_file(path: Path, tensors: Mapping[str, NewTensor | Place], metadata: Mapping[str, str]) -> None:
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


def refuse_full_disk(folder: Path, needed: int) -> None:
    """Refuse to begin what the disk of a folder has no room for.

    Raises:
        BakingError: It has not as many bytes free as are needed.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise BakingError(
            f"The disk of {folder.parent} has {free:,} bytes free, and {needed:,} are needed",
            fix="Make room on it, and run it again; nothing was changed.",
        )


def zeros(shape: tuple[int, ...], dtype: str) -> NewTensor:
    """Return a new tensor of zeros."""
    size = prod(shape) * FLOATS[dtype].itemsize
    return NewTensor(dtype, shape, size, (bytes(min(_CHUNK, size - at)) for at in range(0, size, _CHUNK)))
