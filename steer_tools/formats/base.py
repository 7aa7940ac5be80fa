"""What a file format is, and the checks that all formats share."""

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from steer_tools.errors import VectorFileError
from steer_tools.sites import Component
from steer_tools.vectors import SteeringVector, VectorInfo


@dataclass(frozen=True)
class Encoded:
    """The bytes of a file, and of the JSON file beside it where the format has one."""

    data: bytes
    sidecar: bytes | None = None


class VectorFormat(Protocol):
    """One file format."""

    suffix: ClassVar[str]
    holds_several_layers: ClassVar[bool]
    has_sidecar: ClassVar[bool]

    def encode(self, vector: SteeringVector) -> Encoded:
        """Return the file's bytes."""
        ...

    def decode(self, encoded: Encoded, name: str, layer_if_unknown: int | None) -> SteeringVector:
        """Return the vector, or raise `VectorFileError` naming the file."""
        ...


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
