"""Our own format: safetensors with one float32 tensor a layer, `layer.<n>`, and a JSON header as metadata.

Index: n is the decoder block whose output is steered, from 0. Unit: strength 1 adds the tensor as it is. Where they are
known, `mean.<n>` and `eraser.<n>` stand beside it. Files from elsewhere are arrays by name (see arrays.py).
"""

import json
from typing import ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from typing_extensions import override

from steer_tools.core.vectors import SteeringVector
from steer_tools.errors import VectorFileError
from steer_tools.formats.arrays import decode_arrays
from steer_tools.formats.base import EVERYTHING, Decoded, Encoded, Header, Unsaid, VectorFormat
from steer_tools.limits import TENSORS, require_json

_METADATA_KEY = "steer_tools"
# In the metadata of a file of activations, which has tensors of the same names.
ACTIVATIONS_KEY = "steer_tools_activations"


class SafetensorsFormat(VectorFormat):
    """`.safetensors`, any number of layers."""

    name: ClassVar[str] = "safetensors"
    suffix: ClassVar[str] = ".safetensors"
    convention: ClassVar[str] = "`layer.<n>` acts on the output of block n, from 0; strength 1 adds the tensor"
    keeps: ClassVar[frozenset[str]] = EVERYTHING

    @override
    def claims(self, data: bytes) -> bool:
        # Eight bytes of the header's length, then the header; the library's own limit is a hundred million.
        return data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= 100_000_000

    @override
    def encode(self, vector: SteeringVector) -> Encoded:
        kinds = {"layer": vector.directions, "mean": vector.means, "eraser": vector.erasers}
        tensors = {
            f"{kind}.{n}": tensor.contiguous() for kind, by_layer in kinds.items() for n, tensor in by_layer.items()
        }
        return Encoded(save(tensors, metadata={_METADATA_KEY: Header.of(vector).model_dump_json()}))

    @override
    def decode(self, encoded: Encoded, name: str, unsaid: Unsaid) -> Decoded:
        """Read all layers; the library checks shapes and offsets against the file's size before it allocates."""
        require_header(encoded.data, name)
        try:
            tensors = load(encoded.data)
            metadata = metadata_of(encoded.data)
        except (SafetensorError, ValueError, KeyError) as error:
            raise VectorFileError(
                f"{name} is no valid safetensors file ({error})", valid="a whole safetensors file", fix="Get it again."
            ) from error
        description = metadata.get(_METADATA_KEY)
        if ACTIVATIONS_KEY in metadata:
            raise VectorFileError(
                f"{name} holds the activations of prompts",
                valid="the file of a vector",
                fix="load_activations reads it.",
            )
        if description is None:
            # A lone `layer.<n>` is our own file without its description: whoever made it may count otherwise.
            if not unsaid.index and len(tensors) == 1 and (alone := next(iter(tensors))).startswith("layer."):
                raise VectorFileError(
                    f"{name} is a safetensors file, but not a steering vector of ours: its metadata has no "
                    f"{_METADATA_KEY!r} entry",
                    valid=f"the path with the tensor's name, '{name}[{alone}]', and `layer`",
                )
            return decode_arrays({**tensors}, name, unsaid)
        unsaid.refuse_index(name)
        header = Header.parse(description, name)
        expected = {f"layer.{layer}" for layer in header.layers}
        optional = {f"{kind}.{layer}" for kind in ("mean", "eraser") for layer in header.layers}
        if not expected <= set(tensors) <= expected | optional:
            raise VectorFileError(
                f"{name} says that it holds {sorted(expected)}, but it holds {sorted(tensors)}", fix="Create it again."
            )

        def by_layer(kind: str) -> dict[int, torch.Tensor]:
            return {n: tensors[f"{kind}.{n}"] for n in header.layers if f"{kind}.{n}" in tensors}

        vector = SteeringVector.from_directions(
            by_layer("layer"),
            component=header.component,
            head=header.head,
            info=header.info,
            means=by_layer("mean"),
            erasers=by_layer("eraser"),
        )
        return Decoded(vector)


def require_header(data: bytes, name: str) -> None:
    """Refuse a file whose header takes too much to be parsed, which is done before its numbers are looked at.

    Raises:
        VectorFileError: It has too many bytes, values, levels or tensors.
    """
    table = data[8 : 8 + int.from_bytes(data[:8], "little")]
    require_json(table, f"The header of {name}", VectorFileError)
    TENSORS.require(table.count(b"{") - 1, f"{name} has", VectorFileError)


def metadata_of(data: bytes) -> dict[str, str]:
    """Return the metadata of a file that `load` has accepted: 8 bytes of length, then JSON."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]).get("__metadata__") or {}
