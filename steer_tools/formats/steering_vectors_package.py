"""The `SteeringVector` of the package steering-vectors, in memory; its pickles are never loaded.

Index: its number n of a layer type is the n-th such module, from 0, whose output is steered, so it is our layer. Unit:
its multiplier 1 adds the tensor. Its norms (`input_layernorm`, `post_attention_layernorm`) are no components of ours.
"""

from collections.abc import Mapping
from typing import Protocol, TypedDict

from torch import Tensor

from steer_tools.core.site import Component
from steer_tools.core.vectors import SteeringVector
from steer_tools.errors import UnsupportedFeatureError

_COMPONENTS: dict[str, Component] = {"decoder_block": "residual", "self_attn": "attention", "mlp": "mlp"}
_LAYER_TYPES = {component: layer_type for layer_type, component in _COMPONENTS.items()}


class LayerActivations(Protocol):
    """What is read of its object."""

    @property
    def layer_activations(self) -> Mapping[int, Tensor]:
        """By layer, (width,)."""
        ...

    @property
    def layer_type(self) -> str:
        """What is steered in each layer."""
        ...


class SteeringVectorFields(TypedDict):
    """The fields from which its class is made."""

    layer_activations: dict[int, Tensor]
    layer_type: str


def from_steering_vectors(loaded: LayerActivations) -> SteeringVector:
    """Return a copy of what the package's `SteeringVector` holds.

    Raises:
        UnsupportedFeatureError: It steers a layer type that is no component of ours.
        DirectionError: It holds no finite vectors of one width.
    """
    component = _COMPONENTS.get(loaded.layer_type)
    if component is None:
        raise UnsupportedFeatureError(
            f"The layer type is {loaded.layer_type!r}", valid=", ".join(map(repr, _COMPONENTS))
        )
    return SteeringVector.from_directions(loaded.layer_activations, component=component)


def to_steering_vectors(vector: SteeringVector) -> SteeringVectorFields:
    """Return the fields of the package's class: `steering_vectors.SteeringVector(**to_steering_vectors(vector))`.

    Raises:
        UnsupportedFeatureError: It has no such layer type, or no single head.
    """
    layer_type = _LAYER_TYPES.get(vector.component)
    if layer_type is None or vector.head is not None:
        raise UnsupportedFeatureError(
            f"The component is {vector.component!r} and the head {vector.head}",
            valid=f"{', '.join(map(repr, _LAYER_TYPES))}, of all heads",
        )
    return {
        "layer_activations": {layer: direction.clone() for layer, direction in vector.directions.items()},
        "layer_type": layer_type,
    }
