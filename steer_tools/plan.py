"""What is done where, how strongly and at which tokens, as frozen values. It must not know hooks or models."""

from dataclasses import dataclass, replace
from typing import TypeAlias

from steer_tools.interventions import Intervention
from steer_tools.positions import GENERATED, Scope
from steer_tools.sites import Site


@dataclass(frozen=True)
class Placement:
    """An intervention at a site; `strength` is in the intervention's own unit, `positions` says which tokens."""

    intervention: Intervention
    site: Site
    strength: float
    positions: Scope = GENERATED

    def scaled(self, factor: float) -> "Placement":
        """Return the same placement with its strength multiplied."""
        return replace(self, strength=self.strength * factor)


Plan: TypeAlias = tuple[Placement, ...]
