"""The tool that leaves a vector on the live model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from steer_tools.tools import arguments as given
from steer_tools.tools.argument_checks import checked
from steer_tools.tools.card import Card
from steer_tools.tools.resolving import locked_session
from steer_tools.tools.results import ApplyResult, applied_result

if TYPE_CHECKING:
    from steer_tools.session.placement import Placed
    from steer_tools.session.session import Session


LayerWeights = Annotated[
    list[float] | None, given.Doc("Multiply the strength at each layer that is steered, in their order.")
]


@checked
def apply_steering_vector(
    vector_path: given.VectorPath,
    layer: given.ApplyLayer = None,
    strength: given.OptionalStrength = None,
    unit: given.OptionalUnit = None,
    intervention: given.Intervention = "add",
    positions: given.OptionalPositions = None,
    allow_other_model: given.AllowOtherModel = False,
    target: given.Target = None,
    condition: given.Condition = None,
    layer_weights: LayerWeights = None,
) -> ApplyResult:
    """Steer the live model with a saved vector until it is removed: every later generation is changed.

    What is omitted of layer, strength, unit and positions is as an experiment chose for the file (intervention add);
    else it is all layers, 1, vector, generated. Applying again adds on top; update_steering_vector changes a strength.
    """
    from steer_tools.session.placement import PlacementOptions, apply, place, require_finite

    with locked_session() as session:
        wanted = None if strength is None else require_finite(strength)
        options = PlacementOptions(unit, intervention, target, positions, condition, layer_weights, allow_other_model)
        placed = place(session, vector_path, layer, options)
        warnings = [*placed.told(is_strength_given=wanted is not None), *_stacking_warnings(session, placed)]
        return applied_result(session, apply(session, placed, wanted), warnings)


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


TOOL = Card("Apply a steering vector", "core", only_adds=True).tool(apply_steering_vector)
