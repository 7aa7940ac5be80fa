"""What is applied → which of the two kinds that weights can hold it is, or a refusal. It must not know models."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from steer_tools.core.interventions import Add, ProjectOut
from steer_tools.core.plan import Placement, Plan
from steer_tools.core.positions import Scope
from steer_tools.core.site import Site
from steer_tools.errors import BakingError

_VALID = (
    "additions ('add') at positions 'all' without a condition; or 'project_out' of one direction everywhere, as "
    "save_edited_model(..., ablate=vector_path) does it"
)
_ALL = Scope(("all",))


@dataclass(frozen=True)
class Addition:
    """What is added at each site to every token, (width,) float64."""

    by_site: Mapping[Site, Tensor]


@dataclass(frozen=True)
class Ablation:
    """The unit direction, (width,) float64, that is projected out of all that is written to the residual stream."""

    along: Tensor


Bakeable: TypeAlias = Addition | Ablation


def ablation_everywhere(direction: Tensor, sites: Iterable[Site]) -> Plan:
    """Return the plan that projects one direction (width,) out at each of the sites, for every token."""
    return tuple(Placement(ProjectOut(direction), site, 1.0, _ALL) for site in sites)


def read_plan(plan: Plan, writing: Iterable[Site]) -> Bakeable:
    """Tell the kind of a plan; `writing` are all sites where something is written to the residual stream.

    Raises:
        BakingError: Weights cannot hold it.
    """
    for placement in plan:
        if placement.condition is not None:
            raise BakingError("A condition cannot be baked: weights act on every prompt", valid=_VALID)
        if "all" not in placement.positions.terms:
            raise BakingError(
                f"positions is '{placement.positions}', and weights act on every token",
                valid=_VALID,
                fix="Apply the vector with positions='all'.",
            )
        if placement.site.head is not None:
            raise BakingError(f"What is applied at {placement.site} cannot be baked", valid=_VALID)
    kinds = {type(placement.intervention) for placement in plan}
    if kinds == {Add}:
        return _addition(plan)
    if kinds == {ProjectOut}:
        return _ablation(plan, set(writing))
    names = sorted({placement.intervention.name for placement in plan})
    raise BakingError(f"{' with '.join(map(repr, names)) or 'Nothing'} cannot be baked", valid=_VALID)


def _addition(plan: Plan) -> Addition:
    by_site: dict[Site, Tensor] = {}
    for placement in plan:
        assert isinstance(placement.intervention, Add)
        added = placement.strength * placement.intervention.direction.double()
        by_site[placement.site] = by_site[placement.site] + added if placement.site in by_site else added
    return Addition(by_site)


def _ablation(plan: Plan, writing: set[Site]) -> Ablation:
    directions = [p.intervention.direction.double() for p in plan if isinstance(p.intervention, ProjectOut)]
    units = [direction / direction.norm() for direction in directions]
    if any(placement.strength != 1 for placement in plan):
        raise BakingError("A part of 'project_out' cannot be baked", valid=f"strength 1; {_VALID}")
    if any(abs(float(unit @ units[0])) < 1 - 1e-6 for unit in units):
        raise BakingError("Several directions are projected out", valid=_VALID)
    if {placement.site for placement in plan} != writing:
        missing = sorted(map(str, writing - {placement.site for placement in plan}))
        where = f", and not at {', '.join(missing[:3])}" if missing else ", and at a layer's output"
        raise BakingError(
            f"'project_out' is applied at {len(plan)} sites{where}: what is written elsewhere would keep the direction",
            valid=_VALID,
            fix="Remove what is applied, and give the vector as `ablate`.",
        )
    return Ablation(units[0])
