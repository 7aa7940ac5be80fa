"""The tool that takes everything off."""

from steer_tools.tools.argument_checks import checked
from steer_tools.tools.card import Card
from steer_tools.tools.resolving import locked_session
from steer_tools.tools.results import RemoveResult


@checked
def remove_all_steering_vectors() -> RemoveResult:
    """Take everything off: the model's outputs are again exactly as before. Files stay."""
    with locked_session() as session:
        removed = len(session.registry)
        if removed:
            session.take_off(lambda registry: registry.restore(()))
        return RemoveResult(removed=removed, active=0)


TOOL = Card("Remove all applied vectors", "core", is_repeatable=True).tool(remove_all_steering_vectors)
