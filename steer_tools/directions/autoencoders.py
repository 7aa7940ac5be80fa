"""A sparse autoencoder's file → one feature's decoder direction, without reading the rest of the file.

Files are safetensors as SAELens saves them (`W_dec`, one row a feature, with `cfg.json` beside it) or with a decoder
of another name. It must not know models.
"""

import json
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from steer_tools.core.site import Component, Site
from steer_tools.errors import ArgumentError, VectorFileError
from steer_tools.workspace import Workspace

# What decoders are called: one row a feature, or as the weight of a linear layer one column a feature.
_ROWS, _COLUMNS = ("W_dec", "decoder"), ("decoder.weight",)
_WEIGHTS, _CONFIG = "sae_weights.safetensors", "cfg.json"
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_MOST_HEADER_BYTES = 16 * 2**20
# TransformerLens' names of places, in which SAELens says where it read.
_HOOK = re.compile(r"blocks\.(\d+)\.hook_(resid_pre|resid_post|attn_out|mlp_out)")


def feature_direction(workspace: Workspace, path: str, feature: int) -> Tensor:
    """Return decoder row `feature` (width,) float32 of the file at `path`, or of the SAELens folder there.

    Raises:
        VectorFileError: The file is missing or malformed, or has no decoder.
        ArgumentError: It has no such feature.
    """
    name = _weights_path(path)
    with workspace.opened(name) as file:
        tensors, start = _header(file, name)
        key = next((key for key in (*_ROWS, *_COLUMNS) if key in tensors), None)
        if key is None:
            raise VectorFileError(
                f"{name} has no decoder among its tensors {sorted(tensors)[:8]}",
                valid=f"a safetensors file with one of {', '.join(map(repr, (*_ROWS, *_COLUMNS)))}",
            )
        dtype, shape, begin, end = _entry(tensors[key], key, name)
        features, width = shape if key in _ROWS else shape[::-1]
        if type(feature) is not int or not 0 <= feature < features:
            raise ArgumentError(f"feature is {feature!r}", valid=f"0 to {features - 1} in {name}")
        size = dtype.itemsize
        if file.seek(0, 2) < start + end or end - begin != features * width * size:
            raise VectorFileError(
                f"{name} is truncated or forged: its decoder does not fit into it", fix="Get it again."
            )
        if key in _ROWS:
            data = _read(file, start + begin + feature * width * size, width * size)
        else:
            data = b"".join(_read(file, start + begin + (i * features + feature) * size, size) for i in range(width))
    return torch.frombuffer(bytearray(data), dtype=dtype).float()


def feature_site(workspace: Workspace, path: str) -> Site | None:
    """Return where a SAELens folder says that its autoencoder reads; None where nothing says it.

    The stream before block l is the output of block l − 1, and before block 0 the embedding.
    """
    config = str(PurePath(_weights_path(path)).with_name(_CONFIG))
    if not workspace.holds(config):
        return None
    try:
        found = json.loads(workspace.read(config))
    except ValueError as error:
        raise VectorFileError(f"{config} is no JSON ({error})", fix="Get it again.") from error
    match = _HOOK.search(json.dumps(found))
    if match is None:
        return None
    layer, place = int(match[1]), match[2]
    if place == "resid_pre":
        return Site(layer - 1) if layer else Site(0, "embedding")
    components: dict[str, Component] = {"resid_post": "residual", "attn_out": "attention", "mlp_out": "mlp"}
    return Site(layer, components[place])


def _weights_path(path: str) -> str:
    return path if path.endswith(".safetensors") else str(PurePath(path) / _WEIGHTS)


def _header(file: BinaryIO, name: str) -> tuple[dict[str, Any], int]:
    """Return a safetensors file's table of tensors, and where their bytes start."""
    length = int.from_bytes(file.read(8), "little")
    try:
        if not 2 <= length <= _MOST_HEADER_BYTES:
            raise ValueError(f"a header of {length} bytes")
        tensors = json.loads(_read(file, 8, length))
        if not isinstance(tensors, dict):
            raise ValueError("a header that is no table")
    except (ValueError, RecursionError) as error:
        raise VectorFileError(f"{name} is no safetensors file ({error})", fix="Get it again.") from error
    return cast(dict[str, Any], tensors), 8 + length


def _entry(entry: object, key: str, name: str) -> tuple[torch.dtype, tuple[int, int], int, int]:
    table = cast(Mapping[str, Any], entry) if isinstance(entry, Mapping) else {}
    dtype, shape, place = _DTYPES.get(table.get("dtype", "")), table.get("shape"), table.get("data_offsets")
    numbers = [*(shape or ()), *(place or ())] if isinstance(shape, list) and isinstance(place, list) else []
    are_counts = all(type(n) is int and 0 <= n < 2**48 for n in numbers)
    if dtype is None or len(numbers) != 4 or not are_counts or 0 in numbers[:2]:
        raise VectorFileError(
            f"The tensor {key!r} of {name} is {table.get('dtype')} {shape}",
            valid="a matrix of floats, one row or column a feature",
        )
    features, width, begin, end = numbers
    return dtype, (features, width), begin, end


def _read(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    data = file.read(length)
    if len(data) != length:
        raise ValueError(f"{length} bytes are said to be there, and {len(data)} are")
    return data
