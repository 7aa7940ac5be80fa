"""The tools that change what is applied to the live model."""

from steer_tools.core.registry import Applied
from steer_tools.parameters import (
    AllowOtherModel,
    ApplyLayer,
    ApplyResult,
    Condition,
    Intervention,
    LayerWeights,
    Positions,
    RemoveResult,
    SteeringId,
    Strength,
    Target,
    UnitName,
    VectorPath,
)
from steer_tools.session.placement import Placed, PlacementOptions, apply, place, require_finite, residual_strengths
from steer_tools.session.session import Session, current_session
from steer_tools.tools.results import one_or_list, one_or_list_rounded


def apply_steering_vector(
    vector_path: VectorPath,
    layer: ApplyLayer = None,
    strength: Strength = 1.0,
    unit: UnitName = "vector",
    intervention: Intervention = "add",
    positions: Positions = "generated",
    allow_other_model: AllowOtherModel = False,
    target: Target = None,
    condition: Condition = None,
    layer_weights: LayerWeights = None,
) -> ApplyResult:
    """Steer the live model with a saved vector until it is removed: every later generation is changed.

    Applying again adds on top; update_steering_vector changes a strength instead.
    """
    session = current_session()
    with session.lock:
        wanted = require_finite(strength)
        options = PlacementOptions(unit, intervention, target, positions, condition, layer_weights, allow_other_model)
        placed = place(session, vector_path, layer, options)
        warnings = [*placed.warnings, *_stacking_warnings(session, placed)]
        return _described(session, apply(session, placed, wanted), warnings)


def update_steering_vector(steering_id: SteeringId, strength: Strength) -> ApplyResult:
    """Change the strength of an applied vector, in the unit it was applied with."""
    session = current_session()
    with session.lock:
        wanted = require_finite(strength)
        return _described(session, session.change(lambda registry: registry.update(steering_id, wanted)), [])


def remove_steering_vector(steering_id: SteeringId) -> RemoveResult:
    """Take one applied vector off the live model; its file stays."""
    session = current_session()
    with session.lock:
        session.change(lambda registry: registry.remove(steering_id))
        return RemoveResult(removed=1, active=len(session.registry))


def remove_all_steering_vectors() -> RemoveResult:
    """Take everything off: the model's outputs are again exactly as before. Files stay."""
    session = current_session()
    with session.lock:
        removed = len(session.registry)
        if removed:
            session.change(lambda registry: registry.restore(()))
        return RemoveResult(removed=removed, active=0)


def _described(session: Session, applied: Applied, warnings: list[str]) -> ApplyResult:
    return ApplyResult(
        success=True,
        steering_id=applied.steering_id,
        layer=one_or_list(applied.layers),
        strength=applied.strength,
        unit=applied.unit,
        positions=str(applied.unit_placements[0].positions),
        vector_shape=[session.engine.width(applied.unit_placements[0].site)],
        residual_strength=one_or_list_rounded(residual_strengths(session, applied.placements)),
        active=len(session.registry),
        warnings=warnings,
    )


def _stacking_warnings(session: Session, placed: Placed) -> list[str]:
    same = [
        entry.steering_id
        for entry in session.registry.entries()
        if entry.source == placed.source and set(entry.layers) & set(placed.layers)
    ]
    if not same:
        return []
    adds = all(placement.intervention.scales_direction for placement in placed.unit_placements)
    effect = "strengths at one layer add up" if adds else "one edit follows the other"
    return [f"The same vector is applied already as {', '.join(same)}; {effect}."]
