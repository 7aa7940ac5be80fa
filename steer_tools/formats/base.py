"""What a file format is, what a caller says where a file is silent, and the checks that all formats share."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from hashlib import sha256
from typing import ClassVar, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from steer_tools.core.site import Component
from steer_tools.core.vectors import SteeringVector, VectorInfo
from steer_tools.errors import ArgumentError, UnsupportedFeatureError, VectorFileError

ROWS = ("block_outputs", "block_inputs", "hidden_states")
# What a vector says beside the numbers of its directions, by the names that `VectorFormat.keeps` and `lost` use.
EVERYTHING = frozenset({"layer", "means", "erasers", *VectorInfo.model_fields})


@dataclass(frozen=True)
class Encoded:
    """The bytes of a file, and of the JSON file beside it where the format has one."""

    data: bytes
    sidecar: bytes | None = None


class UnmatchedFilesError(VectorFileError):
    """The file beside a vector's says that it describes another one: a writer may be between the two."""

    def __init__(self, name: str, beside: str) -> None:
        super().__init__(
            f"{beside} does not describe the array in {name}, but another one: one of the two was replaced alone",
            valid="two files that were saved together",
            fix=f"Save the vector again; or remove {beside}, if you know of which layer the array is, and say `layer`.",
        )


def digest_of(data: bytes) -> str:
    """Return what a file says of the one that it describes, the SHA-256 of its bytes."""
    return sha256(data).hexdigest()


@dataclass(frozen=True)
class Unsaid:
    """What a caller says about arrays that do not: the layer, what the rows of a stack are, which one of several.

    Raises:
        ArgumentError: `rows` is none of ROWS.
    """

    layer: int | None = None
    rows: str | None = None
    index: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rows is not None and self.rows not in ROWS:
            raise ArgumentError(f"rows is {self.rows!r}", valid=" or ".join(map(repr, ROWS)))

    def refuse_index(self, name: str) -> None:
        """Refuse an index into a file that says itself what each of its directions is.

        Raises:
            ArgumentError: There is one.
        """
        if self.index:
            raise ArgumentError(
                f"The path asks for {list(self.index)} of {name}, which says its layers itself",
                valid=f"{name!r}",
                fix="Choose one of them by `layer`.",
            )


@dataclass(frozen=True)
class Decoded:
    """The vector of a file, and what its reader should know about how it came to be that."""

    vector: SteeringVector
    notes: tuple[str, ...] = ()


class VectorFormat(ABC):
    """One file format; `convention` says in a clause how its layers and its unit map onto ours.

    `keeps` is what of EVERYTHING its files say; a component or a head that it has no place for, it refuses.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    convention: ClassVar[str]
    keeps: ClassVar[frozenset[str]]
    holds_several_layers: ClassVar[bool] = True

    def files(self, name: str) -> tuple[str, str | None]:
        """Return the names of the file and of the one beside it, where the format has one."""
        return name, None

    @abstractmethod
    def claims(self, data: bytes) -> bool:
        """Return whether a file that begins so is of this format, as far as its beginning tells."""

    def describes(self, data: bytes) -> bool:
        """Return whether that is what a file beside one of this format holds."""
        return False

    @abstractmethod
    def encode(self, vector: SteeringVector) -> Encoded:
        """Return the file's bytes, or raise `UnsupportedFeatureError` where the format cannot hold the vector."""

    def lost(self, vector: SteeringVector) -> tuple[str, ...]:
        """Return the names of what is known of `vector` and would be in no file of this format."""
        info, unknown = vector.info.model_dump(), VectorInfo().model_dump()
        known = ["layer", *(kind for kind in ("means", "erasers") if getattr(vector, kind))]
        known += [field for field in info if info[field] != unknown[field]]
        return tuple(name for name in known if name not in self.keeps)

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
    def parse(cls, text: bytes | str, name: str) -> Self:
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
