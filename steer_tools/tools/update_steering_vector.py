"""The tool that changes the strength of what is applied."""

from steer_tools.tools import arguments as given
from steer_tools.tools.argument_checks import checked
from steer_tools.tools.card import Card
from steer_tools.tools.resolving import locked_session
from steer_tools.tools.results import ApplyResult, applied_result


@checked
def update_steering_vector(steering_id: given.SteeringId, strength: given.Strength) -> ApplyResult:
    """Change the strength of an applied vector, in the unit it was applied with."""
    from steer_tools.session.placement import change_strength, require_finite

    with locked_session() as session:
        wanted = require_finite(strength)
        return applied_result(session, change_strength(session, steering_id, wanted), [])


TOOL = Card("Change a strength", "core", only_adds=True, is_repeatable=True).tool(update_steering_vector)
