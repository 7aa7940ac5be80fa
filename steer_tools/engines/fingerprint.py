"""Which weights a model has, told by what any runtime can read: the tensors of its safetensors checkpoint.

A few bytes of each tensor stand for it, with its dtype and shape; names, files and their order do not count, nor
does how often a tied tensor is stored. It must not know any runtime.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any

# Elements at either end of a tensor that stand for it.
SAMPLED = 16
_DIGITS = 16
# Places all over a packed file.
_SPREAD = 4096
_BITS = {"F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "BF16": 16, "F16": 16, "I16": 16, "U16": 16}
_LONGEST_HEADER = 100_000_000


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
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > _LONGEST_HEADER:
            return
        header: dict[str, Any] = json.loads(file.read(size))
        header.pop("__metadata__", None)
        for entry in header.values():
            dtype, shape = str(entry["dtype"]), [int(size) for size in entry["shape"]]
            begin, end = (8 + size + int(offset) for offset in entry["data_offsets"])
            length = min(SAMPLED, prod(shape)) * _BITS.get(dtype, 8) // 8
            file.seek(begin)
            first = file.read(length)
            file.seek(end - length)
            yield content_of(dtype, shape, first, file.read(length))
