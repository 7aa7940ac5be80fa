"""A vector and its certificate ↔ digests by which both are known again.

A digest tells what was changed, by whomever: it is no signature, and whoever forges a certificate forges it as well.
That is why a certificate says what it takes to measure anew. It must not know files or models.
"""

from dataclasses import replace
from hashlib import sha256

from torch import Tensor

from steer_tools.core.vectors.certificate import Certificate, ChosenCell, Proof
from steer_tools.core.vectors.vector import SteeringVector


def certified(vector: SteeringVector, certificate: Certificate) -> SteeringVector:
    """Return a vector that holds a certificate of its chosen cell, sealed.

    It must have a direction at the cell, and know its model.
    """
    info, cell = vector.info, vector.info.chosen
    assert cell is not None
    assert info.model_fingerprint is not None
    unsealed = certificate.model_copy(update={"vector": _digest_of(vector.directions[cell.layer])})
    sealed = unsealed.model_copy(update={"seal": _seal(vector, cell, unsealed)})
    return replace(vector, info=info.model_copy(update={"certificate": sealed}))


def proof_of(vector: SteeringVector) -> Proof | None:
    """Return what a vector's certificate says, held against the vector; None where it has none."""
    info, cell = vector.info, vector.info.chosen
    if info.certificate is None:
        return None
    return Proof(
        certificate=info.certificate,
        cell=cell or ChosenCell(layer=0, strength=0.0, unit="vector", positions=""),
        component=vector.component,
        fingerprint=info.model_fingerprint or "",
        template_options=info.template_options,
        altered=_altered(vector, cell, info.certificate),
    )


def _altered(vector: SteeringVector, cell: ChosenCell | None, certificate: Certificate) -> str | None:
    if cell is None or cell.layer not in vector.directions:
        return "the cell that was proved is not in it"
    if _digest_of(vector.directions[cell.layer]) != certificate.vector:
        return f"its direction at layer {cell.layer} is not the one that was proved"
    if _seal(vector, cell, certificate) != certificate.seal:
        return "its cell, its model or its figures are not those that were sealed"
    return None


def _digest_of(direction: Tensor) -> str:
    return sha256(direction.numpy().astype("<f4").tobytes()).hexdigest()


def _seal(vector: SteeringVector, cell: ChosenCell, certificate: Certificate) -> str:
    # What is left at its default is left out, so that a field of a later version breaks no seal of this one.
    told = certificate.model_dump_json(exclude={"seal"}, exclude_defaults=True)
    of_model = (vector.info.model_fingerprint, sorted(vector.info.template_options.items()))
    parts = (told, cell.model_dump_json(), vector.component, vector.head, of_model)
    return sha256("\n".join(map(str, parts)).encode()).hexdigest()
