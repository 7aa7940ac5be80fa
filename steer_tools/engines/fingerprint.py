"""Which weights a model has, told by what any runtime can read: the tensors of its safetensors checkpoint.

A few bytes of each tensor stand for it, with its dtype and shape; names, files and their order do not count, nor
does how often a tied tensor is stored. It must not know any runtime.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from math import prod
from pathlib import Path

from pydantic import BaseModel, NonNegativeInt, TypeAdapter, ValidationError

from steer_tools.limits import JSON_BYTES

# Elements at either end of a tensor that stand for it.
SAMPLED = 16
_DIGITS = 16
# Places all over a packed file.
_SPREAD = 4096
_BITS = {"F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "BF16": 16, "F16": 16, "I16": 16, "U16": 16}


def content_of(dtype: str, shape: Sequence[int], first: bytes, last: bytes) -> bytes:
    """Return what stands for a tensor; `dtype` is safetensors' name of it, the bytes are of its two ends."""
    return hashlib.sha256(f"{dtype} {tuple(shape)} ".encode() + first + b" " + last).digest()


def fingerprint_of(contents: Iterable[bytes]) -> str:
    """Return 16 hex digits that change when any tensor is fine-tuned, merged or quantised."""
    return hashlib.sha256(b"".join(sorted(set(contents)))).hexdigest()[:_DIGITS]


def contents_of_checkpoint(place: Path) -> frozenset[bytes]:
    """Return what stands for each tensor of a folder's checkpoint, or for a GGUF file; nothing where it has neither."""
    files = [place] if place.is_file() else sorted(place.glob("*.safetensors")) or sorted(place.glob("*.gguf"))
    return frozenset(
        content
        for path in files
        for content in (_contents_of_file(path) if path.suffix == ".safetensors" else [_spread_bytes(path)])
    )


class _Entry(BaseModel):
    dtype: str
    shape: list[NonNegativeInt]
    data_offsets: tuple[NonNegativeInt, NonNegativeInt]


_HEADER = TypeAdapter(dict[str, _Entry | dict[str, str]])


def _spread_bytes(path: Path) -> bytes:
    """Return what stands for a file whose tensors are packed, in types that each runtime has its own reader for."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for offset in range(0, size, max(1, size // _SPREAD)):
            file.seek(offset)
            digest.update(file.read(SAMPLED))
    return digest.digest()


def _contents_of_file(path: Path) -> Iterator[bytes]:
    """Yield what stands for each tensor of a safetensors file; one that is none has nothing."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > min(os.fstat(file.fileno()).st_size, JSON_BYTES.most):
            return
        try:
            header = _HEADER.validate_json(file.read(size))
        except ValidationError:
            return
        for entry in header.values():
            if isinstance(entry, dict):
                continue
            begin, end = (8 + size + offset for offset in entry.data_offsets)
            length = min(SAMPLED, prod(entry.shape)) * _BITS.get(entry.dtype, 8) // 8
            file.seek(begin)
            first = file.read(length)
            file.seek(max(begin, end - length))
            yield content_of(entry.dtype, entry.shape, first, file.read(length))
