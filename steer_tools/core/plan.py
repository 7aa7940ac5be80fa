"""What is done where, how strongly and at which tokens, as frozen values. It must not know hooks or models."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from steer_tools.core.conditions import Condition
from steer_tools.core.interventions import Intervention
from steer_tools.core.positions import GENERATED, Scope
from steer_tools.core.site import Site
from steer_tools.core.values import Value


@dataclass(frozen=True)
class Placement(Value):
    """An intervention at a site; `strength` is in the intervention's own unit, `positions` says which tokens.

    With a `condition` it acts only on rows whose prompt meets it. Placements of equal fields are equal, as are their
    digests, in whatever process they were made.
    """

    intervention: Intervention
    site: Site
    strength: float
    positions: Scope = GENERATED
    condition: Condition | None = None

    def scaled(self, factor: float) -> "Placement":
        """Return the same placement with its strength multiplied."""
        return replace(self, strength=self.strength * factor)


Plan: TypeAlias = tuple[Placement, ...]


def decided(plan: Plan, holds: Callable[[Condition], bool]) -> Plan:
    """Return the placements that act on one row, without their conditions."""
    acting = (p for p in plan if p.condition is None or holds(p.condition))
    return tuple(p if p.condition is None else replace(p, condition=None) for p in acting)
