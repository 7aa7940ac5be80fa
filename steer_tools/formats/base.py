"""What a file format is, the checks that all formats share, and the array that says nothing about itself.

One vector (width,) needs its layer from the caller. A stack (rows, width) needs to be told what its rows are, since the
number of rows alone does not say it: `block_outputs`, where row i is the output of block i, or `hidden_states`, as
transformers' `output_hidden_states`, where row i is the *input* of block i, so that row i + 1 is the output of block i.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from steer_tools.core.site import Component
from steer_tools.core.vectors import SteeringVector, VectorInfo
from steer_tools.errors import ArgumentError, DirectionError, UnsupportedFeatureError, VectorFileError

ROWS = ("block_outputs", "hidden_states")


@dataclass(frozen=True)
class Encoded:
    """The bytes of a file, and of the JSON file beside it where the format has one."""

    data: bytes
    sidecar: bytes | None = None


@dataclass(frozen=True)
class Unsaid:
    """What a caller says about an array that says nothing itself: its layer, or what the rows of a stack are.

    Raises:
        ArgumentError: `rows` is none of ROWS.
    """

    layer: int | None = None
    rows: str | None = None

    def __post_init__(self) -> None:
        if self.rows is not None and self.rows not in ROWS:
            raise ArgumentError(f"rows is {self.rows!r}", valid=" or ".join(map(repr, ROWS)))


@dataclass(frozen=True)
class Decoded:
    """The vector of a file, and what its reader should know about how it came to be that."""

    vector: SteeringVector
    notes: tuple[str, ...] = ()


class VectorFormat(ABC):
    """One file format; `convention` says in a clause how its layers and its unit map onto ours."""

    name: ClassVar[str]
    suffix: ClassVar[str]
    convention: ClassVar[str]
    holds_several_layers: ClassVar[bool] = True

    def files(self, name: str) -> tuple[str, str | None]:
        """Return the names of the file and of the one beside it, where the format has one."""
        return name, None

    @abstractmethod
    def encode(self, vector: SteeringVector) -> Encoded:
        """Return the file's bytes, or raise `UnsupportedFeatureError` where the format cannot hold the vector."""

    @abstractmethod
    def decode(self, encoded: Encoded, name: str, unsaid: Unsaid) -> Decoded:
        """Return the vector, or raise `VectorFileError` naming the file."""


class Header(BaseModel):
    """What our files say beside the numbers, as JSON; readers ignore keys that they do not know."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal["steer-tools/1"] = "steer-tools/1"
    component: Component = "residual"
    head: int | None = Field(default=None, ge=0)
    layers: tuple[int, ...]
    info: VectorInfo

    @classmethod
    def of(cls, vector: SteeringVector) -> "Header":
        """Describe `vector`."""
        return cls(component=vector.component, head=vector.head, layers=vector.layers, info=vector.info)

    @classmethod
    def parse(cls, text: bytes | str, name: str) -> "Header":
        """Read a header.

        Raises:
            VectorFileError: It is no JSON of this form.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "the whole text"
            raise VectorFileError(
                f"The description of {name} is malformed at {where}: {first['msg']}", fix="Create the vector again."
            ) from error


def require_residual(vector: SteeringVector, format_name: str) -> None:
    """Refuse another component than the residual stream.

    Raises:
        UnsupportedFeatureError: The format has no place for it, so that a reader would steer the residual stream.
    """
    if vector.component != "residual":
        raise UnsupportedFeatureError(
            f"A {format_name} file cannot say that its directions belong to the component {vector.component!r}",
            valid="vectors of the component 'residual'",
            fix="Save to a path that ends in .safetensors.",
        )


def tensor_of(data: bytes | memoryview, dtype: torch.dtype) -> torch.Tensor:
    """Return the little-endian numbers in `data` as a tensor of its own memory, shape (count,)."""
    return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)


def decode_bare(array: Tensor, name: str, unsaid: Unsaid) -> Decoded:
    """Return the vector of one array.

    Raises:
        VectorFileError: It is one vector and its layer is not known.
        DirectionError: It is a stack and nobody says what its rows are, or a row that counts is no direction.
        ArgumentError: It is one vector and rows are explained.
    """
    shape = tuple(array.shape)
    if len(shape) == 2:
        return _stack(array, name, unsaid.rows)
    if unsaid.rows is not None:
        raise ArgumentError(
            f"rows is {unsaid.rows!r}, but {name} holds an array of the shape {shape}, which has no rows",
            valid="rows for a stack, shape (rows, width)",
            fix="Leave rows out and give the layer, counted from 0 by the block whose output it belongs to.",
        )
    if unsaid.layer is None:
        raise VectorFileError(
            f"{name} is a bare array, and nothing beside it says where it belongs, so its layer is not known",
            valid="a layer from the one who made it",
            fix="Give `layer` as a number.",
        )
    return Decoded(SteeringVector.from_directions({unsaid.layer: array}))


def _stack(array: Tensor, name: str, rows: str | None) -> Decoded:
    count = len(array)
    if rows is None:
        raise DirectionError(
            f"{name} holds an array of the shape {tuple(array.shape)}, and nothing says what its rows are",
            valid="one vector, shape (width,), or a stack with rows='block_outputs' (row i is the output of block i) "
            "or rows='hidden_states' (row 0 is the embedding, one row more than the model has blocks)",
            fix="Say which of the two it is, or save one row alone.",
        )
    if rows == "block_outputs":
        info = VectorInfo(model_layers=count or None)
        return Decoded(SteeringVector.from_directions(dict(enumerate(array)), info=info))
    if count < 3:
        raise DirectionError(
            f"{name} has {count} rows, and of hidden states neither the first nor the last is an output of a block",
            valid="at least 3 rows",
            fix="Say rows='block_outputs' if row i is the output of block i.",
        )
    vector = SteeringVector.from_directions(dict(enumerate(array[1:-1])), info=VectorInfo(model_layers=count - 1))
    note = (
        f"Of {count} rows, row 0 (the embedding) and row {count - 1} (the last block after the final norm, which is "
        "another space than the stream) are left out."
    )
    return Decoded(vector, (note,))
