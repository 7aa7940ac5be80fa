"""A steering vector and where it should act → placements, checked against the session's model; and `steering`.

It must not know hooks or what tools return.
"""

import os
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

from steer_tools.errors import ArgumentError, ForeignVectorError, LayerError, StrengthError
from steer_tools.formats import load_vector, with_suffix
from steer_tools.interventions import Add
from steer_tools.plan import Placement, Plan
from steer_tools.positions import Scope
from steer_tools.registry import Applied
from steer_tools.session import Session, current_session
from steer_tools.sites import Site
from steer_tools.vectors import SteeringVector

Unit: TypeAlias = Literal["vector", "contrast", "residual"]
UNITS: tuple[Unit, ...] = ("vector", "contrast", "residual")
Layers: TypeAlias = int | Sequence[int] | None


@dataclass(frozen=True)
class Placed:
    """A vector on a model.

    Attributes:
        source: Where the vector came from.
        unit: What strength 1 means.
        unit_placements: Its placements at strength 1, one a layer.
        warnings: What the one who applies it should know.
    """

    source: str
    unit: Unit
    unit_placements: Plan
    warnings: tuple[str, ...]

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that are edited."""
        return tuple(placement.site.layer for placement in self.unit_placements)

    def plan(self, strength: float) -> Plan:
        """Return the placements at `strength`."""
        return tuple(placement.scaled(strength) for placement in self.unit_placements)


@dataclass(frozen=True)
class PlacementOptions:
    """How a vector acts: what strength 1 means, at which tokens, and whether another model's vector may be used."""

    unit: str = "vector"
    intervention: str = "add"
    positions: str = "generated"
    allow_other_model: bool = False


def place(
    session: Session,
    vector: SteeringVector | str | os.PathLike[str],
    layer: Layers,
    options: PlacementOptions | None = None,
) -> Placed:
    """Choose a vector's directions and express one unit of strength at each layer.

    `layer` None takes all layers of the vector, a list those; an int that the vector has takes that direction, and
    one that it does not have takes its only direction.

    Raises:
        LayerError: The model or the vector lacks a layer.
        ForeignVectorError: It was made on another kind of model.
        ArgumentError: An option is unknown, or the unit cannot be worked out for this vector.
        VectorFileError: The file cannot be read.
    """
    options = options or PlacementOptions()
    scope, unit = Scope.parse(options.positions), _unit_named(options.unit)
    if options.intervention != Add.name:
        raise ArgumentError(f"intervention is {options.intervention!r}", valid=repr(Add.name))
    if isinstance(vector, SteeringVector):
        source = "a SteeringVector in memory"
    else:
        session.workspace.resolve(vector)
        source = str(session.workspace.resolve(with_suffix(vector)))
        known = session.engine.resolve_layer(layer) if isinstance(layer, int) else None
        vector = load_vector(vector, layer_if_unknown=known, workspace=session.workspace)
    warnings = _refuse_foreign(session, vector, allow=options.allow_other_model)
    if layer is None and len(vector.layers) > 1:
        warnings.append(
            f"All {len(vector.layers)} layers of the vector are steered at once, and what they add accumulates: give "
            f"layer={vector.layers[len(vector.layers) // 2]}, for instance, to steer one."
        )
    placements: list[Placement] = []
    for at, made_at in _chosen_layers(session, vector, layer):
        if at != made_at:
            warnings.append(
                f"The vector has no direction for layer {at}; its only one, made at layer {made_at}, is used there. "
                "Residual norms differ between layers: unit='residual' makes strengths comparable."
            )
        factor = _factor(session, vector, made_at, at, unit)
        intervention = Add(vector.directions[made_at])
        placements.append(Placement(intervention, Site(at, vector.component), factor, scope))
    return Placed(source, unit, tuple(placements), tuple(warnings))


def apply(session: Session, placed: Placed, strength: object) -> Applied:
    """Put a placed vector on the live model, on top of what is applied already."""
    number = require_finite(strength)
    return session.change(lambda r: r.add(placed.source, placed.unit, number, placed.unit_placements))


@contextmanager
def steering(
    vector: SteeringVector | str | os.PathLike[str],
    layer: int | Sequence[int] | None = None,
    strength: float = 1.0,
    *,
    unit: Unit = "vector",
    positions: str = "generated",
) -> Generator[Applied]:
    """Steer the attached model inside a `with` block; on leaving it, also by an error, this one vector is taken off.

    Args:
        vector: A `SteeringVector` or the path of a file.
        layer: Where it acts; None means every layer that the vector has.
        strength: Multiplies the unit.
        unit: "vector" (what the file holds), "contrast" (one mean difference) or "residual" (one residual norm).
        positions: Which tokens are steered.

    Raises:
        SteeringError: As `apply_steering_vector` does.
    """
    session = current_session()
    with session.lock:
        applied = apply(session, place(session, vector, layer, PlacementOptions(unit, positions=positions)), strength)
    try:
        yield applied
    finally:
        with session.lock:
            # Somebody may have removed it, or everything, inside the block.
            if applied.steering_id in {entry.steering_id for entry in session.registry.entries()}:
                session.change(lambda registry: registry.remove(applied.steering_id))


def residual_strengths(session: Session, plan: Plan) -> list[float]:
    """Return the signed norm that each addition adds, in the model's typical residual norms at its layer."""
    return [
        p.strength * float(p.intervention.direction.norm()) / session.residual_norm(p.site.layer)
        for p in plan
        if isinstance(p.intervention, Add)
    ]


def require_finite(strength: object, name: str = "strength") -> float:
    """Return a strength as a float.

    Raises:
        StrengthError: It is no finite number.
    """
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not abs(strength) <= sys.float_info.max:
        raise StrengthError(
            f"{name} is {strength!r:.80}", valid="a finite number; 0 changes nothing, negative steers the other way"
        )
    return float(strength)


def _unit_named(unit: str) -> Unit:
    if unit not in UNITS:
        raise ArgumentError(f"unit is {unit!r}", valid=", ".join(map(repr, UNITS)))
    return unit


def _chosen_layers(session: Session, vector: SteeringVector, layer: Layers) -> list[tuple[int, int]]:
    """Return (layer to edit, layer whose direction is used) pairs."""
    engine = session.engine
    if layer is None:
        return [(engine.resolve_layer(own), own) for own in vector.layers]
    if isinstance(layer, str) or not isinstance(layer, Sequence):
        at = engine.resolve_layer(layer)
        if at in vector.directions or len(vector.directions) > 1:
            return [(at, _own(vector, at))]
        return [(at, vector.layers[0])]
    wanted = list(dict.fromkeys(engine.resolve_layer(item) for item in layer))
    if not wanted:
        raise LayerError("layer is an empty list", valid=f"some of {list(vector.layers)}, or leave it out for all")
    return [(at, _own(vector, at)) for at in wanted]


def _own(vector: SteeringVector, layer: int) -> int:
    if layer not in vector.directions:
        raise LayerError(
            f"The vector has no direction for layer {layer}",
            valid=f"its layers {list(vector.layers)}",
            fix="Leave `layer` out to use all of them.",
        )
    return layer


def _factor(session: Session, vector: SteeringVector, made_at: int, at: int, unit: Unit) -> float:
    """Return by what the stored direction is multiplied at strength 1."""
    match unit:
        case "vector":
            return 1.0
        case "contrast":
            contrast_norm = vector.contrast_norm(made_at)
            if contrast_norm is None:
                raise ArgumentError(
                    "unit is 'contrast', but the vector's file does not say how long its contrast was",
                    valid="'vector' or 'residual' for this file",
                )
            return contrast_norm / vector.magnitude(made_at)
        case "residual":
            return session.residual_norm(at) / vector.magnitude(made_at)


def _refuse_foreign(session: Session, vector: SteeringVector, *, allow: bool) -> list[str]:
    """Refuse a vector of another shape or family; return warnings for the same family with other weights."""
    model, info = session.engine.info, vector.info
    if vector.width != model.hidden_size:
        raise ForeignVectorError(
            f"The vector has the width {vector.width}, and the model {model.name!r} has {model.hidden_size}",
            valid="vectors that were made on this model",
            fix="Create the vector again with this model.",
        )
    same_kind = info.model_family in (None, model.family) and info.model_layers in (None, model.layers)
    if not same_kind and not allow:
        raise ForeignVectorError(
            f"The vector was made on {info.model_name!r} ({info.model_family}, {info.model_layers} layers), and the "
            f"model is {model.name!r} ({model.family}, {model.layers} layers)",
            valid="vectors that were made on this kind of model",
            fix="Create the vector again with this model, or pass allow_other_model=True.",
        )
    if info.model_fingerprint is None:
        return ["The vector's file does not say which model it was made on."]
    if info.model_fingerprint != model.fingerprint:
        return [f"The vector was made on other weights ({info.model_name}) than the model's ({model.name})."]
    return []
