"""What is done to a hidden state: hidden and a strength → hidden, purely, and the table of all kinds.

A new intervention is one frozen class with `name`, `scales_direction`, `from_vector` and `edit`, added to
INTERVENTIONS, and its name to the parameter `Intervention`; strength 0 is the identity for each. It must not know
hooks, rows or positions: it is handed the chosen tokens in float32 and hands them back.
"""

from steer_tools.core.interventions.base import Intervention
from steer_tools.core.interventions.moving import Add, AddKeepingNorm, Mean, Replace, Rotate, Zero
from steer_tools.core.interventions.projecting import Affine, Clamp, Erase, ProjectOut
from steer_tools.errors import ArgumentError

__all__ = [
    "INTERVENTIONS",
    "Add",
    "AddKeepingNorm",
    "Affine",
    "Clamp",
    "Erase",
    "Intervention",
    "Mean",
    "ProjectOut",
    "Replace",
    "Rotate",
    "Zero",
    "intervention_named",
]

INTERVENTIONS: dict[str, type[Intervention]] = {
    kind.name: kind for kind in (Add, AddKeepingNorm, ProjectOut, Affine, Clamp, Rotate, Replace, Zero, Mean, Erase)
}


def intervention_named(name: object) -> type[Intervention]:
    """Return the kind of intervention called `name`.

    Raises:
        ArgumentError: There is none.
    """
    if isinstance(name, str) and name in INTERVENTIONS:
        return INTERVENTIONS[name]
    raise ArgumentError(f"intervention is {name!r}", valid=", ".join(map(repr, INTERVENTIONS)))
