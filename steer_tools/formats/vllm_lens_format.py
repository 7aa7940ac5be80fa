"""The JSON in which vllm-lens sends a steering vector: base64 of the numbers, plain or packed by zstd.

Index: `layer_indices[i]` is the block, from 0, whose output row i of `activations` is added to, so it is our layer.
Unit: `scale` times the row is what strength 1 adds. Two things that it can say have no counterpart and are refused: one
row a position (three dimensions), and `norm_match`, whose unit is each token's own norm. Plain float32 is written,
which every version of vllm-lens reads.
"""

import base64
import binascii
from math import prod
from typing import ClassVar, Literal

import numpy as np
import torch
import zstandard
from pydantic import BaseModel, ConfigDict, ValidationError
from typing_extensions import override

from steer_tools.core.vectors import SteeringVector
from steer_tools.errors import DirectionError, UnsupportedFeatureError, VectorFileError
from steer_tools.formats.base import Decoded, Encoded, Unsaid, VectorFormat, require_residual, tensor_of
from steer_tools.limits import UNPACKED_BYTES

_MOST_SPACE = 100
_DTYPES = {
    ("float32", "torch.float32"): torch.float32,
    ("float64", "torch.float64"): torch.float64,
    ("float16", "torch.float16"): torch.float16,
    ("int16", "torch.bfloat16"): torch.bfloat16,
}


class VllmLensFormat(VectorFormat):
    """`.json`, any number of layers."""

    name: ClassVar[str] = "vllm-lens"
    suffix: ClassVar[str] = ".json"
    convention: ClassVar[str] = (
        "`layer_indices` are the blocks whose output is steered, from 0; strength 1 adds scale x row"
    )
    keeps: ClassVar[frozenset[str]] = frozenset({"layer"})

    @override
    def claims(self, data: bytes) -> bool:
        return data[:_MOST_SPACE].lstrip().startswith(b"{")

    @override
    def encode(self, vector: SteeringVector) -> Encoded:
        """Serialise all layers, unpacked, at scale 1."""
        require_residual(vector, self.name)
        rows = np.stack([direction.numpy() for direction in vector.directions.values()]).astype("<f4")
        numbers = _Numbers(data=base64.b64encode(rows.tobytes()).decode(), shape=rows.shape)
        wire = _Wire(activations=numbers, layer_indices=vector.layers)
        return Encoded(wire.model_dump_json(exclude={"activations": {"compression"}}).encode())

    @override
    def decode(self, encoded: Encoded, name: str, unsaid: Unsaid) -> Decoded:
        """Read all layers, after what is claimed has been held against what is there."""
        unsaid.refuse_index(name)
        wire = _parse(encoded.data, name)
        shape, layers = wire.activations.shape, wire.layer_indices
        if wire.norm_match or len(shape) == 3:
            what = "norm_match, which scales by each token's own norm" if wire.norm_match else "one row a position"
            raise UnsupportedFeatureError(
                f"{name} asks for {what}, which a steering vector does not have",
                valid="activations of the shape (layers, width) without norm_match",
                fix="Save it without, and give strengths in the unit 'residual'.",
            )
        if len(shape) != 2 or shape[0] != len(layers) or len(set(layers)) != len(layers):
            raise DirectionError(
                f"{name} has activations of the shape {shape[:8]} for the layers {layers[:8]}",
                valid="one row a layer, and each layer once",
            )
        rows = _numbers(wire.activations, name).reshape(shape)
        directions = {layer: wire.scale * row for layer, row in zip(layers, rows, strict=True)}
        notes = () if wire.scale == 1 else (f"Its scale, {wire.scale:g}, is multiplied into the directions.",)
        return Decoded(SteeringVector.from_directions(directions), notes)


class _Numbers(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    data: str
    dtype: str = "float32"
    original_dtype: str = "torch.float32"
    shape: tuple[int, ...]
    compression: Literal["zstd"] | None = None


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)

    activations: _Numbers
    layer_indices: tuple[int, ...]
    scale: float = 1.0
    norm_match: bool = False
    position_indices: tuple[int, ...] | None = None


def _parse(text: bytes, name: str) -> _Wire:
    UNPACKED_BYTES.require(len(text), f"{name} has", VectorFileError)
    try:
        return _Wire.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole text"
        raise VectorFileError(
            f"{name} is no steering vector in JSON: {where}: {first['msg']}",
            valid="vllm-lens' `activations` and `layer_indices`, or rotalabs' `behavior`, `layer_index`, `model_name` "
            "and `vector_shape` with a .pt file beside it",
            fix="A description beside an .npy file is read with it: give the path of the array. Of a set that "
            "rotalabs-steer saved, give the folder.",
        ) from error


def _numbers(given: _Numbers, name: str) -> torch.Tensor:
    """Return the numbers, shape (count,), without ever unpacking more than the shape says."""
    dtype = _DTYPES.get((given.dtype, given.original_dtype))
    if dtype is None:
        raise VectorFileError(
            f"The activations of {name} are {given.dtype[:40]!r} that were {given.original_dtype[:40]!r}",
            valid=", ".join(original for _, original in _DTYPES),
        )
    expected = prod(given.shape) * dtype.itemsize
    if min(given.shape) < 0 or expected > UNPACKED_BYTES.most:
        raise VectorFileError(
            f"{name} claims activations of the shape {given.shape}", valid=f"at most {UNPACKED_BYTES.most:,} bytes"
        )
    try:
        numbers = base64.b64decode(given.data, validate=True)
        if given.compression is not None:
            unpacking = zstandard.ZstdDecompressor(max_window_size=UNPACKED_BYTES.most)
            numbers = unpacking.stream_reader(numbers).read(expected + 1)
    except (binascii.Error, ValueError, zstandard.ZstdError) as error:
        raise VectorFileError(f"The numbers in {name} are damaged ({error})", fix="Save it again.") from error
    if len(numbers) != expected:
        raise VectorFileError(
            f"{name} says that its numbers take {expected:,} bytes, but there are {len(numbers):,}"
            f"{' or more' if len(numbers) > expected else ''}: it is truncated or forged",
            fix="Save it again.",
        )
    return tensor_of(numbers, dtype)
