"""Steering vectors, what is known of them, and their algebra. Tensors and facts come in, frozen values leave.

It must not know files, models or what an engine does with a vector.
"""

from steer_tools.core.vectors.algebra import cosines, layer_cosines, oppositions, orthogonalized
from steer_tools.core.vectors.vector import ChosenCell, SteeringVector, Unit, VectorInfo, combine

__all__ = [
    "ChosenCell",
    "SteeringVector",
    "Unit",
    "VectorInfo",
    "combine",
    "cosines",
    "layer_cosines",
    "oppositions",
    "orthogonalized",
]
