"""How steering vectors lie to each other, and a vector without its part along others. It must not know models."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from steer_tools.core.vectors.vector import CANCELLED, SteeringVector, VectorInfo, require_alike, require_equal_layers
from steer_tools.errors import ArgumentError, DirectionError, LayerError

# Below this cosine one vector mostly undoes the other.
OPPOSED = -0.5


@dataclass(frozen=True)
class Opposition:
    """Vectors `first` and `second`, by their places in the list, that mostly undo each other at a layer."""

    first: int
    second: int
    layer: int
    cosine: float


def orthogonalized(vector: SteeringVector, against: Sequence[SteeringVector]) -> SteeringVector:
    """Return `vector` without its part in the span of the others, layer by layer, in float64.

    Raises:
        ArgumentError: There are no others, or as `require_alike` does.
        ForeignVectorError: As `require_alike` does.
        LayerError: They have different layers.
        DirectionError: It lies in that span.
    """
    if not against:
        raise ArgumentError("There is no vector to be orthogonal to", valid="at least one")
    vectors = (vector, *against)
    require_alike(vectors)
    require_equal_layers(vectors)
    directions: dict[int, Tensor] = {}
    for layer in vector.layers:
        direction = vector.directions[layer].double()
        # By singular values, since parallel vectors span less than their number.
        _, sizes, basis = torch.linalg.svd(_units(v.directions[layer] for v in against), full_matrices=False)
        basis = basis[sizes > CANCELLED * sizes[0]]  # (rank, width)
        directions[layer] = direction - basis.T @ (basis @ direction)
        if directions[layer].norm() <= CANCELLED * direction.norm():
            raise DirectionError(
                f"At layer {layer} the vector lies in the span of the others, so nothing of it is left",
                valid="others that do not contain it",
            )
    info = VectorInfo.shared_by([v.info for v in vectors], method="orthogonalized")
    return SteeringVector.from_directions(directions, component=vector.component, head=vector.head, info=info)


def cosines(vectors: Sequence[SteeringVector], layer: int) -> Tensor:
    """Return the cosine of each pair at `layer`, (vectors, vectors) float64.

    Raises:
        ArgumentError, ForeignVectorError: As `require_alike` does.
        LayerError: One of them lacks the layer.
    """
    require_alike(vectors)
    for vector in vectors:
        if layer not in vector.directions:
            raise LayerError(f"A vector has no direction for layer {layer}", valid=f"its layers {list(vector.layers)}")
    units = _units(vector.directions[layer] for vector in vectors)
    return units @ units.T


def layer_cosines(vector: SteeringVector) -> Tensor:
    """Return the cosine of each pair of the vector's layers in their order, (layers, layers) float64."""
    units = _units(vector.directions.values())
    return units @ units.T


def oppositions(vectors: Sequence[SteeringVector], weights: Sequence[float]) -> tuple[Opposition, ...]:
    """Return the pairs whose weighted directions have a cosine below OPPOSED, at the layers that all have.

    Raises:
        ArgumentError, ForeignVectorError: As `require_alike` does.
    """
    signs = torch.tensor(weights, dtype=torch.float64).sign()
    shared = sorted(set[int].intersection(*(set(vector.layers) for vector in vectors)))
    signed = {layer: (cosines(vectors, layer) * signs[:, None] * signs).tolist() for layer in shared}
    pairs = list(combinations(range(len(vectors)), 2))
    every = (Opposition(i, j, layer, signed[layer][i][j]) for layer in shared for i, j in pairs)
    return tuple(opposition for opposition in every if opposition.cosine < OPPOSED)


def _units(directions: Iterable[Tensor]) -> Tensor:
    """Return (directions, width) float64 of length 1."""
    return normalize(torch.stack([direction.double() for direction in directions]), dim=1, eps=0.0)
