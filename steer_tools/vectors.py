"""A steering vector: directions of one component, by layer, with where they came from.

Tensors and facts come in, one frozen value leaves. It must not know files, models or what an engine does with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat
from torch import Tensor

from steer_tools.errors import DirectionError, LayerError
from steer_tools.sites import Component


class VectorInfo(BaseModel):
    """What a vector remembers of its making; every field may be unknown, as in a bare array from elsewhere.

    `contrast_norms` and `residual_norms` are by layer: |μ₊ − μ₋|, and the model's typical residual norm there.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    method: str | None = None
    pooling: str | None = None
    is_unit: bool = False
    positive_count: int | None = Field(default=None, ge=0)
    negative_count: int | None = Field(default=None, ge=0)
    contrast_norms: dict[int, PositiveFloat] = Field(default_factory=dict)
    residual_norms: dict[int, PositiveFloat] = Field(default_factory=dict)
    model_name: str | None = None
    model_family: str | None = None
    model_fingerprint: str | None = None
    model_layers: int | None = Field(default=None, ge=1)


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """Directions (width,) in float32 on the CPU by layer, all finite and of one width; build by `from_directions`."""

    directions: Mapping[int, Tensor]
    component: Component = "residual"
    info: VectorInfo = field(default_factory=VectorInfo)

    @classmethod
    def from_directions(
        cls,
        directions: Mapping[int, Tensor],
        *,
        component: Component = "residual",
        info: VectorInfo | None = None,
    ) -> "SteeringVector":
        """Copy and check the directions.

        Raises:
            DirectionError: There is none, or one is not a finite vector of the others' width, or is all zero.
            LayerError: A layer is negative; negative layers need a model to be counted from.
        """
        if not directions:
            raise DirectionError("There is no direction", valid="at least one layer with a tensor", fix="")
        checked = {layer: _checked(directions[layer], layer) for layer in sorted(directions)}
        widths = {len(direction) for direction in checked.values()}
        if len(widths) > 1:
            raise DirectionError(
                f"The directions have different widths {sorted(widths)}", valid="one width, the model's", fix=""
            )
        return cls(MappingProxyType(checked), component, info or VectorInfo())

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that have a direction, ascending."""
        return tuple(self.directions)

    @property
    def width(self) -> int:
        """The number of elements of each direction."""
        return len(next(iter(self.directions.values())))

    def magnitude(self, layer: int) -> float:
        """Return the norm of the direction at `layer`, as it is."""
        return float(self.directions[layer].double().norm())

    def contrast_norm(self, layer: int) -> float | None:
        """Return the norm of the contrast that the direction at `layer` came from, if it is known."""
        return self.info.contrast_norms.get(layer)

    def normalized(self) -> "SteeringVector":
        """Return the same directions at length 1; the contrast's own norms stay in the info."""
        return SteeringVector.from_directions(
            {layer: (direction.double() / direction.double().norm()) for layer, direction in self.directions.items()},
            component=self.component,
            info=self.info.model_copy(update={"is_unit": True}),
        )


def _checked(direction: Tensor, layer: int) -> Tensor:
    if layer < 0:
        raise LayerError(f"The direction's layer is {layer}", valid="0 and above", fix="Count from the first block.")
    if direction.dim() != 1 or len(direction) == 0:
        raise DirectionError(
            f"The direction of layer {layer} has the shape {tuple(direction.shape)}",
            valid="one vector, shape (width,)",
            fix="A (1, width) array is refused, since it would broadcast: take its row 0.",
        )
    if not direction.is_floating_point():
        raise DirectionError(f"The direction of layer {layer} has dtype {direction.dtype}", valid="floats", fix="")
    copied = direction.detach().to("cpu", torch.float32, copy=True)
    if not copied.isfinite().all():
        raise DirectionError(f"The direction of layer {layer} holds NaN or infinity", valid="finite floats", fix="")
    if not copied.any():
        raise DirectionError(f"The direction of layer {layer} is all zero", valid="a vector of some length", fix="")
    return copied
