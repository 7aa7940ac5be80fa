"""The pair of files of rotalabs-steer, `<name>.pt` with the tensor and `<name>.json` with what is known of it, and the
folder of a set of them, one a layer.

Index: `layer_index` is the block, from 0, whose output is steered, so it is our layer. Unit: strength 1 adds the
tensor. Its behaviour and free metadata have no place in our vectors.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, TypeVar

from annotated_types import MinLen
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor
from typing_extensions import override

from steer_tools.core.vectors import SteeringVector, VectorInfo
from steer_tools.errors import DirectionError, VectorFileError, quoted
from steer_tools.formats.base import (
    Decoded,
    Encoded,
    UnmatchedFilesError,
    Unsaid,
    VectorFormat,
    digest_of,
    require_residual,
)
from steer_tools.formats.pt_format import read_arrays, write_tensor
from steer_tools.limits import PAIR_BYTES

# The file that tells the folder of a set from any other.
SET_DESCRIPTION = "metadata.json"
_UNKNOWN = "unknown"


class RotalabsFormat(VectorFormat):
    """`.pt` and `.json`, one layer."""

    name: ClassVar[str] = "rotalabs"
    suffix: ClassVar[str] = ".pt"
    convention: ClassVar[str] = (
        "`layer_index` in the .json file is the block whose output is steered, from 0; strength 1 adds the tensor"
    )
    keeps: ClassVar[frozenset[str]] = frozenset({"layer", "method", "model_name"})
    holds_several_layers: ClassVar[bool] = False

    @override
    def files(self, name: str) -> tuple[str, str | None]:
        """Return the tensor's name and the description's, whichever of the two is given."""
        stem, _, ending = name.rpartition(".")
        return (f"{stem}.pt", name) if ending.lower() == "json" else (name, f"{stem}.json")

    @override
    def claims(self, data: bytes) -> bool:
        return False  # Without its description, the tensor is any tensor.

    @override
    def describes(self, data: bytes) -> bool:
        return description_of(data) is not None

    @override
    def encode(self, vector: SteeringVector) -> Encoded:
        require_residual(vector, self.name)
        ((layer, direction),) = vector.directions.items()
        data = write_tensor(direction)
        description = PairDescription(
            behavior=_UNKNOWN,
            layer_index=layer,
            model_name=vector.info.model_name or _UNKNOWN,
            extraction_method=vector.info.method or _UNKNOWN,
            vector_shape=(vector.width,),
            tensor_sha256=digest_of(data),
        )
        return Encoded(data, description.model_dump_json(indent=2).encode())

    @override
    def decode(self, encoded: Encoded, name: str, unsaid: Unsaid) -> Decoded:
        """Read the pair, whose two halves must agree on the shape."""
        unsaid.refuse_index(name)
        description = description_of(encoded.sidecar)
        if description is None:
            raise VectorFileError(f"The description beside {name} is malformed", fix="Save the pair again.")
        if description.tensor_sha256 not in (None, digest_of(encoded.data)):
            raise UnmatchedFilesError(name, f"{name.rpartition('.')[0]}.json")
        tensor = read_arrays(encoded.data, name)
        if not isinstance(tensor, Tensor) or tuple(tensor.shape) != description.vector_shape:
            raise DirectionError(
                f"{name} does not hold the shape {description.vector_shape[:8]} that its description says",
                valid="a pair that was saved together",
                fix="Save it again.",
            )
        info = VectorInfo(method=_known(description.extraction_method), model_name=_known(description.model_name))
        vector = SteeringVector.from_directions({description.layer_index: tensor}, info=info)
        return Decoded(vector, (f"It is meant for the behaviour {quoted(description.behavior)}.",))


class PairDescription(BaseModel):
    """What the JSON file says of the tensor beside it; its package writes no digest, and reads over ours."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    behavior: str
    layer_index: int
    model_name: str
    extraction_method: str = _UNKNOWN
    vector_shape: tuple[int, ...]
    metadata: dict[str, object] = {}
    tensor_sha256: str | None = None


class SetDescription(BaseModel):
    """What the JSON file in a folder says of the pairs beside it, `layer_<n>.pt` and `layer_<n>.json`."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    behavior: str
    layers: Annotated[tuple[int, ...], MinLen(1)]

    @property
    def pairs(self) -> dict[int, str]:
        """The names of the tensors' files, by layer."""
        return {layer: f"layer_{layer}.pt" for layer in self.layers}


_Description = TypeVar("_Description", PairDescription, SetDescription)


def description_of(text: bytes | None) -> PairDescription | None:
    """Return what a JSON text says of such a pair; None where it is no description of one."""
    return _parsed(text, PairDescription)


def set_description_of(text: bytes | None) -> SetDescription | None:
    """Return what a JSON text says of a folder of such pairs; None where it is no description of one."""
    return _parsed(text, SetDescription)


def set_of(pairs: Mapping[int, Decoded], name: str) -> Decoded:
    """Return the vector whose directions are those of the pairs, by the layer that the set says.

    Raises:
        VectorFileError: A pair says another layer than the set.
        DirectionError: They have different widths.
    """
    for layer, pair in pairs.items():
        if pair.vector.layers != (layer,):
            raise VectorFileError(
                f"{name} says that layer_{layer} belongs to layer {layer}, and its own description says layer "
                f"{pair.vector.layers[0]}",
                valid="a set that was saved whole",
                fix="Save it again, or give the path of the one .pt file that is meant.",
            )
    infos = [pair.vector.info for pair in pairs.values()]
    methods = {info.method for info in infos}
    info = VectorInfo.shared_by(infos, method=methods.pop() if len(methods) == 1 else None)
    directions = {layer: pair.vector.directions[layer] for layer, pair in pairs.items()}
    notes = dict.fromkeys(note for pair in pairs.values() for note in pair.notes)
    return Decoded(SteeringVector.from_directions(directions, info=info), tuple(notes))


def _parsed(text: bytes | None, kind: type[_Description]) -> _Description | None:
    if text is None or len(text) > PAIR_BYTES.most:
        return None
    try:
        return kind.model_validate_json(text)
    except ValidationError:
        return None


def _known(text: str) -> str | None:
    return None if text == _UNKNOWN else text
