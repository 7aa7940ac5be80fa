"""A steering vector: directions of one component, by layer, with what is known of their making.

Tensors and facts come in, one frozen value leaves. It must not know files, models or what an engine does with it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Self, TypeVar, cast

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat
from torch import Tensor

from steer_tools.core.site import Component
from steer_tools.core.vectors.certificate import Certificate, ChosenCell
from steer_tools.errors import ArgumentError, DirectionError, ForeignVectorError, LayerError, StrengthError, quoted


class VectorInfo(BaseModel):
    """What a vector remembers of its making; every field may be unknown, as in a bare array from elsewhere.

    All mappings are by layer: `contrast_norms` is |μ₊ − μ₋|, `residual_norms` the model's typical norm at the site,
    `positive_projections` and `negative_projections` are û·μ₊ and û·μ₋ for the unit direction û, and above `thresholds`
    the projection û·h of an activation counts as positive, which errs on the shares `misses` and `false_alarms` of the
    held-out positive and negative prompts. `chosen` and `certificate` are for these directions: a vector that is made
    of them has none.
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
    certificate: Certificate | None = None
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
        }
        return self.unchosen().model_copy(update=swapped)

    def unchosen(self) -> "VectorInfo":
        """Return what is true of other directions that are made of these, whose cell nobody chose or proved."""
        return self.model_copy(update={"chosen": None, "certificate": None})

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
    """Directions (width,) in float32 on the CPU by layer, all finite and of one width: `SteeringVector({15: tensor})`.

    What is given is copied and checked: tensors or arrays of floats, (width,) or (1, width). `2 * helpful - concise`,
    `-helpful` and `sum([helpful, concise])` are steering vectors too, as `combine` says; `vector[15]` is the direction
    at layer 15, and two vectors are equal that have the same bits at the same layers of the same component.

    Attributes:
        directions: By layer, ascending.
        component: What is edited there.
        head: The one head, where the component is `attention` and the width that of a head.
        info: Where they came from.
        means: By layer, (width,): the middle of the two classes' mean activations, where it is known.
        erasers: By layer, (width,): w with w·û = 1 for the unit direction û, so that h − û·(w·(h − mean)) is the least
            edit after which no linear probe tells the classes (LEACE); only where û is the mean difference's direction.

    Raises:
        DirectionError: There is no direction, or one is not a finite vector of the others' width, or is all zero.
        LayerError: A layer is negative, or one of `means` or `erasers` has no direction; negative layers need a model
            to be counted from.
        ArgumentError: A head is named for another component than attention.
    """

    directions: Mapping[int, Tensor]
    component: Component = "residual"
    info: VectorInfo = field(default_factory=VectorInfo)
    head: int | None = None
    means: Mapping[int, Tensor] = field(default_factory=lambda: MappingProxyType({}))
    erasers: Mapping[int, Tensor] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        if not self.directions:
            raise DirectionError("There is no direction", valid="at least one layer with a tensor")
        if self.head is not None and (self.component != "attention" or self.head < 0):
            raise ArgumentError(
                f"head is {self.head} and component is {self.component!r}",
                valid="a head, from 0, of the component 'attention'",
            )
        checked, *others = (
            {layer: _checked(array, name.removesuffix("s"), layer) for layer, array in getattr(self, name).items()}
            for name in ("directions", "means", "erasers")
        )
        if strangers := set[int]().union(*others) - set(checked):
            raise LayerError(f"There are means or erasers, but no directions, for the layers {sorted(strangers)}")
        widths = {len(tensor) for tensors in (checked, *others) for tensor in tensors.values()}
        if len(widths) > 1:
            raise DirectionError(
                f"The directions have different widths {sorted(widths)}", valid="one width, the model's"
            )
        for name, tensors in zip(("directions", "means", "erasers"), (checked, *others), strict=True):
            object.__setattr__(self, name, MappingProxyType(dict(sorted(tensors.items()))))

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
    ) -> Self:
        """Return a vector of these, where what is None is not known."""
        return cls(directions, component, info or VectorInfo(), head, means or {}, erasers or {})

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that have a direction, ascending."""
        return tuple(self.directions)

    @property
    def width(self) -> int:
        """The number of elements of each direction."""
        return len(next(iter(self.directions.values())))

    @property
    def layer(self) -> int:
        """The only layer that has a direction.

        Raises:
            LayerError: There are several.
        """
        if len(self.directions) > 1:
            raise LayerError(
                f"The vector has the layers {list(self.layers)}",
                valid="one of them: vector[layer] is its direction, vector.layers are all",
            )
        return self.layers[0]

    @property
    def vector(self) -> Tensor:
        """The only direction; raises as `layer` does."""
        return self.directions[self.layer]

    def norm(self) -> float:
        """Return the norm of the only direction; raises as `layer` does."""
        return self.magnitude(self.layer)

    def __len__(self) -> int:
        return len(self.directions)

    def __getitem__(self, layer: int) -> Tensor:
        if layer not in self.directions:
            raise LayerError(f"The vector has no direction for layer {layer}", valid=f"its layers {list(self.layers)}")
        return self.directions[layer]

    def __iter__(self) -> Iterator[int]:
        return iter(self.directions)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """Return the directions as NumPy's: (width,) of one layer, else (layers, width)."""
        stacked = self.vector if len(self) == 1 else torch.stack(list(self.directions.values()))
        return stacked.numpy().astype(dtype or "float32")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SteeringVector):
            return NotImplemented
        places = [(v.component, v.head, v.layers) for v in (self, other)]
        return places[0] == places[1] and all(torch.equal(self[layer], other[layer]) for layer in self)

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapping proxy cannot be pickled.
        tensors = [dict(getattr(self, name)) for name in ("directions", "means", "erasers")]
        return type(self), (tensors[0], self.component, self.info, self.head, *tensors[1:])

    def __hash__(self) -> int:
        return hash((self.component, self.head, self.layers, self.width))

    def __repr__(self) -> str:
        at = (
            f"layer {self.layers[0]}"
            if len(self) == 1
            else f"{len(self)} layers, {self.layers[0]} to {self.layers[-1]}"
        )
        norms = sorted({f"{self.magnitude(layer):.4g}" for layer in self}, key=float)
        norm = f"norm {norms[0]}" if len(norms) == 1 else f"norms {norms[0]} to {norms[-1]}"
        where = "" if self.component == "residual" else f" of {self.component}"
        head = "" if self.head is None else f" head {self.head}"
        told = [f"{at}{where}{head}", f"width {self.width}", norm, self.info.method, self.info.model_name]
        return f"SteeringVector({', '.join(part for part in told if part)})"

    def magnitude(self, layer: int) -> float:
        """Return the norm of the direction at `layer`, as it is."""
        return float(self.directions[layer].double().norm())

    def contrast_norm(self, layer: int) -> float | None:
        """Return the norm of the contrast that the direction at `layer` came from, if it is known."""
        return self.info.contrast_norms.get(layer)

    def normalized(self) -> "SteeringVector":
        """Return the same directions at length 1; the contrast's own norms stay in the info."""
        unit = {n: (direction.double() / direction.double().norm()).float() for n, direction in self.directions.items()}
        return replace(self, directions=unit, info=self.info.unchosen().model_copy(update={"is_unit": True}))

    def cosine_similarity(self, other: "SteeringVector") -> float:
        """Return the cosine with another vector, both of one layer; raises as `layer` and `require_alike` do."""
        require_alike((self, other))
        return float(torch.cosine_similarity(self.vector.double(), other.vector.double(), dim=0))

    def __add__(self, other: object) -> Self:
        if not isinstance(other, SteeringVector):
            return NotImplemented
        return cast(Self, combine((self, other), (1.0, 1.0)))

    def __radd__(self, other: object) -> Self:
        # What `sum` starts from.
        if not isinstance(other, int) or other != 0:
            return NotImplemented
        return self

    def __sub__(self, other: object) -> Self:
        if not isinstance(other, SteeringVector):
            return NotImplemented
        return cast(Self, combine((self, other), (1.0, -1.0)))

    def __mul__(self, factor: float) -> Self:
        return combine((self,), (factor,))

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Self:
        if divisor == 0:
            raise StrengthError("A steering vector is divided by 0", valid="a finite number but 0")
        return combine((self,), (1 / divisor,))

    def __neg__(self) -> Self:
        return combine((self,), (-1.0,))


# No model has as many; a file that says so is forged.
_MOST_LAYERS = 2**16
# A vector of a class that adds to `SteeringVector` stays one of it.
_AnyVector = TypeVar("_AnyVector", bound=SteeringVector)


def combine(vectors: Sequence[_AnyVector], weights: Sequence[float]) -> _AnyVector:
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
        return type(first).from_directions(directions, component=first.component, head=first.head, info=info)
    (weight,) = weights
    info = first.info if weight > 0 else first.info.negated()
    return type(first).from_directions(
        directions,
        component=first.component,
        head=first.head,
        info=info.unchosen().model_copy(update={"is_unit": info.is_unit and abs(weight) == 1}),
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


def _tensor_of(array: object, what: str, layer: int) -> Tensor:
    """Return what NumPy makes a plain array of, such as numbers in lists."""
    try:
        numbers = np.array(array)
    except (ValueError, RecursionError) as error:
        raise DirectionError(f"The {what} of layer {layer} is {quoted(array)}", valid="one vector of floats") from error
    if numbers.dtype.kind not in "biuf":
        raise DirectionError(f"The {what} of layer {layer} has dtype {numbers.dtype}", valid="floats")
    return torch.as_tensor(numbers)


def _checked(array: object, what: str, layer: object) -> Tensor:
    """Return a copy of one vector; a (1, width) array, which would broadcast, is its row."""
    if not isinstance(layer, int) or not 0 <= layer < _MOST_LAYERS:
        raise LayerError(
            f"The {what}'s layer is {quoted(layer)}",
            valid=f"0 and above, below {_MOST_LAYERS}",
            fix="Count from the first block.",
        )
    tensor = array if isinstance(array, Tensor) else _tensor_of(array, what, layer)
    if tensor.is_meta or tensor.layout != torch.strided:
        raise DirectionError(
            f"The {what} of layer {layer} is a {tensor.layout} tensor on the device {tensor.device}",
            valid="a dense tensor that holds its numbers",
        )
    if tensor.dim() == 2 and len(tensor) == 1:
        tensor = tensor[0]
    if tensor.dim() != 1 or len(tensor) == 0:
        raise DirectionError(
            f"The {what} of layer {layer} has the shape {tuple(tensor.shape)}", valid="one vector, shape (width,)"
        )
    if not tensor.is_floating_point():
        raise DirectionError(f"The {what} of layer {layer} has dtype {tensor.dtype}", valid="floats")
    copied = tensor.detach().to("cpu", torch.float32, copy=True)
    if not copied.isfinite().all():
        raise DirectionError(f"The {what} of layer {layer} holds NaN or infinity", valid="finite floats")
    if not copied.any():
        raise DirectionError(f"The {what} of layer {layer} is all zero", valid="a vector of some length")
    return copied
