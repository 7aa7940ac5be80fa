"""A steering vector: directions of one component, by layer, with where they came from.

Tensors and facts come in, one frozen value leaves. It must not know files, models or what an engine does with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat
from torch import Tensor

from steer_tools.errors import ArgumentError, DirectionError, LayerError
from steer_tools.sites import Component

_NOTHING: Mapping[int, Tensor] = MappingProxyType({})


class VectorInfo(BaseModel):
    """What a vector remembers of its making; every field may be unknown, as in a bare array from elsewhere.

    All mappings are by layer: `contrast_norms` is |μ₊ − μ₋|, `residual_norms` the model's typical norm at the site,
    `positive_projections` and `negative_projections` are û·μ₊ and û·μ₋ for the unit direction û, and above `thresholds`
    the projection û·h of an activation counts as positive.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    method: str | None = None
    pooling: str | None = None
    is_unit: bool = False
    positive_count: int | None = Field(default=None, ge=0)
    negative_count: int | None = Field(default=None, ge=0)
    contrast_norms: dict[int, PositiveFloat] = Field(default_factory=dict)
    residual_norms: dict[int, PositiveFloat] = Field(default_factory=dict)
    positive_projections: dict[int, float] = Field(default_factory=dict)
    negative_projections: dict[int, float] = Field(default_factory=dict)
    thresholds: dict[int, float] = Field(default_factory=dict)
    model_name: str | None = None
    model_family: str | None = None
    model_fingerprint: str | None = None
    model_layers: int | None = Field(default=None, ge=1)


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """Directions (width,) in float32 on the CPU by layer, all finite and of one width; build by `from_directions`.

    Attributes:
        directions: By layer.
        component: What is edited there.
        head: The one head, where the component is `attention` and the width that of a head.
        info: Where they came from.
        means: By layer, (width,): the middle of the two classes' mean activations, where it is known.
        erasers: By layer, (width,): w with w·û = 1 for the unit direction û, so that h − û·(w·(h − mean)) is the least
            edit after which no linear probe tells the classes (LEACE); only where û is the mean difference's direction.
    """

    directions: Mapping[int, Tensor]
    component: Component = "residual"
    info: VectorInfo = field(default_factory=VectorInfo)
    head: int | None = None
    means: Mapping[int, Tensor] = field(default_factory=lambda: _NOTHING)
    erasers: Mapping[int, Tensor] = field(default_factory=lambda: _NOTHING)

    @classmethod
    def from_directions(
        cls,
        directions: Mapping[int, Tensor],
        *,
        component: Component = "residual",
        head: int | None = None,
        info: VectorInfo | None = None,
        means: Mapping[int, Tensor] | None = None,
        erasers: Mapping[int, Tensor] | None = None,
    ) -> "SteeringVector":
        """Copy and check the directions, and what belongs to them.

        Raises:
            DirectionError: There is none, or one is not a finite vector of the others' width, or is all zero.
            LayerError: A layer is negative, or one of `means` or `erasers` has no direction; negative layers need a
                model to be counted from.
            ArgumentError: A head is named for another component than attention.
        """
        if not directions:
            raise DirectionError("There is no direction", valid="at least one layer with a tensor", fix="")
        if head is not None and (component != "attention" or head < 0):
            raise ArgumentError(
                f"head is {head} and component is {component!r}", valid="a head, from 0, of the component 'attention'"
            )
        checked = {layer: _checked(directions[layer], "direction", layer) for layer in sorted(directions)}
        kept = [
            {n: _checked(t, what, n) for n, t in (given or {}).items()}
            for what, given in (("mean", means), ("eraser", erasers))
        ]
        if strangers := {layer for tensors in kept for layer in tensors} - set(checked):
            raise LayerError(f"There are means or erasers, but no directions, for the layers {sorted(strangers)}")
        widths = {len(tensor) for tensors in (checked, *kept) for tensor in tensors.values()}
        if len(widths) > 1:
            raise DirectionError(
                f"The directions have different widths {sorted(widths)}", valid="one width, the model's", fix=""
            )
        frozen = [MappingProxyType(tensors) for tensors in (checked, *kept)]
        return cls(frozen[0], component, info or VectorInfo(), head, frozen[1], frozen[2])

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
        unit = {n: (direction.double() / direction.double().norm()).float() for n, direction in self.directions.items()}
        return replace(self, directions=MappingProxyType(unit), info=self.info.model_copy(update={"is_unit": True}))


def _checked(tensor: Tensor, what: str, layer: int) -> Tensor:
    if layer < 0:
        raise LayerError(f"The {what}'s layer is {layer}", valid="0 and above", fix="Count from the first block.")
    if tensor.dim() != 1 or len(tensor) == 0:
        raise DirectionError(
            f"The {what} of layer {layer} has the shape {tuple(tensor.shape)}",
            valid="one vector, shape (width,)",
            fix="A (1, width) array is refused, since it would broadcast: take its row 0.",
        )
    if not tensor.is_floating_point():
        raise DirectionError(f"The {what} of layer {layer} has dtype {tensor.dtype}", valid="floats", fix="")
    copied = tensor.detach().to("cpu", torch.float32, copy=True)
    if not copied.isfinite().all():
        raise DirectionError(f"The {what} of layer {layer} holds NaN or infinity", valid="finite floats", fix="")
    if not copied.any():
        raise DirectionError(f"The {what} of layer {layer} is all zero", valid="a vector of some length", fix="")
    return copied
