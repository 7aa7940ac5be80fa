"""The tool that takes one vector off."""

from steer_tools.tools import arguments as given
from steer_tools.tools.argument_checks import checked
from steer_tools.tools.card import Card
from steer_tools.tools.resolving import locked_session
from steer_tools.tools.results import RemoveResult


@checked
def remove_steering_vector(steering_id: given.SteeringId) -> RemoveResult:
    """Take one applied vector off the live model; its file stays."""
    with locked_session() as session:
        session.take_off(lambda registry: registry.remove(steering_id))
        return RemoveResult(removed=1, active=len(session.registry))


TOOL = Card("Remove one applied vector", "core").tool(remove_steering_vector)
