"""Steering vectors, what is known of them, and their algebra. Tensors and facts come in, frozen values leave.

It must not know files, models or what an engine does with a vector.
"""

from steer_tools.core.vectors.algebra import cosines, layer_cosines, oppositions, orthogonalized
from steer_tools.core.vectors.certificate import (
    Certificate,
    ChosenCell,
    Proof,
    ProvedControls,
    ProvedTexts,
    Unit,
    Verdict,
)
from steer_tools.core.vectors.sealing import certified, proof_of
from steer_tools.core.vectors.vector import SteeringVector, VectorInfo, combine

__all__ = [
    "Certificate",
    "ChosenCell",
    "Proof",
    "ProvedControls",
    "ProvedTexts",
    "SteeringVector",
    "Unit",
    "VectorInfo",
    "Verdict",
    "certified",
    "combine",
    "cosines",
    "layer_cosines",
    "oppositions",
    "orthogonalized",
    "proof_of",
]
