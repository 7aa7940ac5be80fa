"""A steering vector: directions of one component, by layer, with what is known of their making.

Tensors and facts come in, one frozen value leaves. It must not know files, models or what an engine does with it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat
from torch import Tensor

from steer_tools.core.site import Component
from steer_tools.errors import ArgumentError, DirectionError, ForeignVectorError, LayerError, StrengthError

# What a strength of 1 is: what the file holds, one mean difference, or the model's typical norm at the site.
Unit: TypeAlias = Literal["vector", "contrast", "residual"]


class ChosenCell(BaseModel):
    """Where and how strongly an experiment chose to add a vector: what is taken where a caller does not say."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    layer: int = Field(ge=0)
    strength: float
    unit: Unit
    positions: str


class VectorInfo(BaseModel):
    """What a vector remembers of its making; every field may be unknown, as in a bare array from elsewhere.

    All mappings are by layer: `contrast_norms` is |μ₊ − μ₋|, `residual_norms` the model's typical norm at the site,
    `positive_projections` and `negative_projections` are û·μ₊ and û·μ₋ for the unit direction û, and above `thresholds`
    the projection û·h of an activation counts as positive, which errs on the shares `misses` and `false_alarms` of the
    held-out positive and negative prompts. `chosen` is for these directions: a vector that is made of them has none.
    `template_options` is what the chat template was given with each chat.
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
    misses: dict[int, float] = Field(default_factory=dict)
    false_alarms: dict[int, float] = Field(default_factory=dict)
    model_name: str | None = None
    model_family: str | None = None
    model_fingerprint: str | None = None
    model_layers: int | None = Field(default=None, ge=1)
    chosen: ChosenCell | None = None
    template_options: dict[str, Any] = Field(default_factory=dict)

    def negated(self) -> "VectorInfo":
        """Return what is true of −û, whose positive prompts are the negative ones."""
        swapped = {
            "positive_count": self.negative_count,
            "negative_count": self.positive_count,
            "positive_projections": {layer: -value for layer, value in self.negative_projections.items()},
            "negative_projections": {layer: -value for layer, value in self.positive_projections.items()},
            "thresholds": {layer: -value for layer, value in self.thresholds.items()},
            "misses": self.false_alarms,
            "false_alarms": self.misses,
            "chosen": None,
        }
        return self.model_copy(update=swapped)

    @staticmethod
    def shared_by(infos: "Sequence[VectorInfo]", *, method: str | None) -> "VectorInfo":
        """Return what holds for a direction that mixes several: facts of the model and the reading on which all agree.

        It belongs to no contrast, so it has neither counts nor contrast norms, projections or thresholds.
        """
        of_model = ("model_name", "model_family", "model_fingerprint", "model_layers", "template_options")
        kept = ("pooling", "residual_norms", *of_model)
        first, *others = infos
        agreed = {name for name in kept if all(getattr(info, name) == getattr(first, name) for info in others)}
        return VectorInfo(method=method, **first.model_dump(include=agreed))


# What is left of float32 vectors that cancel is at most this share of their lengths.
CANCELLED = 1e-6


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """Directions (width,) in float32 on the CPU by layer, all finite and of one width; build by `from_directions`.

    `2 * helpful - concise` and `-helpful` are steering vectors too, as `combine` says.

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
    means: Mapping[int, Tensor] = field(default_factory=lambda: MappingProxyType({}))
    erasers: Mapping[int, Tensor] = field(default_factory=lambda: MappingProxyType({}))

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
            raise DirectionError("There is no direction", valid="at least one layer with a tensor")
        if head is not None and (component != "attention" or head < 0):
            raise ArgumentError(
                f"head is {head} and component is {component!r}", valid="a head, from 0, of the component 'attention'"
            )
        given = {"direction": dict(sorted(directions.items())), "mean": means or {}, "eraser": erasers or {}}
        checked, *others = (
            MappingProxyType({layer: _checked(tensor, what, layer) for layer, tensor in tensors.items()})
            for what, tensors in given.items()
        )
        if strangers := set[int]().union(*others) - set(checked):
            raise LayerError(f"There are means or erasers, but no directions, for the layers {sorted(strangers)}")
        widths = {len(tensor) for tensors in (checked, *others) for tensor in tensors.values()}
        if len(widths) > 1:
            raise DirectionError(
                f"The directions have different widths {sorted(widths)}", valid="one width, the model's"
            )
        return cls(checked, component, info or VectorInfo(), head, *others)

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
        return replace(
            self, directions=MappingProxyType(unit), info=self.info.model_copy(update={"is_unit": True, "chosen": None})
        )

    def __add__(self, other: object) -> "SteeringVector":
        return combine((self, other), (1.0, 1.0)) if isinstance(other, SteeringVector) else NotImplemented

    def __sub__(self, other: object) -> "SteeringVector":
        return combine((self, other), (1.0, -1.0)) if isinstance(other, SteeringVector) else NotImplemented

    def __mul__(self, factor: float) -> "SteeringVector":
        return combine((self,), (factor,))

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> "SteeringVector":
        if divisor == 0:
            raise StrengthError("A steering vector is divided by 0", valid="a finite number but 0")
        return combine((self,), (1 / divisor,))

    def __neg__(self) -> "SteeringVector":
        return combine((self,), (-1.0,))


def combine(vectors: Sequence[SteeringVector], weights: Sequence[float]) -> SteeringVector:
    """Return Σ weightᵢ · vectorᵢ, layer by layer, summed in float64.

    One vector alone keeps what is known of it, and with a negative weight its two classes change sides. Of several
    only what `VectorInfo.shared_by` says is kept: their sum has no means and no erasers.

    Raises:
        ArgumentError: There is no vector, or not one weight for each, or as `require_alike` does.
        ForeignVectorError: As `require_alike` does.
        StrengthError: A weight is no finite number.
        LayerError: They have different layers.
        DirectionError: They cancel, or the sum is too large for float32.
    """
    if not vectors or len(vectors) != len(weights):
        raise ArgumentError(
            f"There are {len(vectors)} vectors and {len(weights)} weights", valid="one weight for each, at least one"
        )
    # In float32, as the engine multiplies by a strength, so that a weight and a strength give the same bits.
    rounded = torch.tensor(weights, dtype=torch.float32)
    if not rounded.isfinite().all():
        raise StrengthError(f"The weights are {list(weights)}", valid="finite numbers that float32 can hold")
    require_alike(vectors)
    require_equal_layers(vectors)
    first = vectors[0]
    directions: dict[int, Tensor] = {}
    for layer in first.layers:
        terms = rounded[:, None].double() * torch.stack([vector.directions[layer] for vector in vectors])
        directions[layer] = terms.sum(dim=0)
        if directions[layer].norm() <= CANCELLED * terms.norm(dim=1).sum():
            raise DirectionError(
                f"Nothing is left of the weighted sum at layer {layer}",
                valid="weights that are not all 0, and vectors that do not cancel",
            )
    if len(vectors) > 1:
        info = VectorInfo.shared_by([vector.info for vector in vectors], method="combined")
        return SteeringVector.from_directions(directions, component=first.component, head=first.head, info=info)
    (weight,) = weights
    info = first.info if weight > 0 else first.info.negated()
    return SteeringVector.from_directions(
        directions,
        component=first.component,
        head=first.head,
        info=info.model_copy(update={"is_unit": info.is_unit and abs(weight) == 1, "chosen": None}),
        means=first.means,
        # w·û stays 1.
        erasers={layer: math.copysign(1.0, weight) * eraser for layer, eraser in first.erasers.items()},
    )


def require_alike(vectors: Sequence[SteeringVector]) -> None:
    """Refuse vectors that do not live in one space.

    Raises:
        ArgumentError: They are of different components, heads or widths.
        ForeignVectorError: They were made on models of different families or depths.
    """
    places = {(vector.component, vector.head, vector.width) for vector in vectors}
    if len(places) > 1:
        found = "; ".join(
            f"{component}{'' if head is None else f' head {head}'}, width {width}"
            for component, head, width in sorted(places, key=str)
        )
        raise ArgumentError(f"The vectors act at different places: {found}", valid="one component, head and width")
    infos = [vector.info for vector in vectors]
    for known in ({info.model_family for info in infos}, {info.model_layers for info in infos}):
        if len(known - {None}) > 1:
            models = sorted({f"{i.model_name} ({i.model_family}, {i.model_layers} layers)" for i in infos})
            raise ForeignVectorError(
                f"The vectors were made on different models: {', '.join(models)}",
                valid="vectors that were made on one kind of model",
                fix="Create them again with the model that is to be steered.",
            )


def require_equal_layers(vectors: Sequence[SteeringVector]) -> None:
    """Refuse vectors of different layers.

    Raises:
        LayerError: One has a layer that another lacks.
    """
    if len({vector.layers for vector in vectors}) > 1:
        layers = ", ".join(str(list(vector.layers)) for vector in vectors)
        raise LayerError(
            f"The vectors have different layers: {layers}",
            valid="vectors with the same layers",
            fix="Create them again at the same layers.",
        )


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
        raise DirectionError(f"The {what} of layer {layer} has dtype {tensor.dtype}", valid="floats")
    copied = tensor.detach().to("cpu", torch.float32, copy=True)
    if not copied.isfinite().all():
        raise DirectionError(f"The {what} of layer {layer} holds NaN or infinity", valid="finite floats")
    if not copied.any():
        raise DirectionError(f"The {what} of layer {layer} is all zero", valid="a vector of some length")
    return copied
