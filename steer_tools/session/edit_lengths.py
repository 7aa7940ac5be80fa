"""Plans and a session's model → how long their edits are, in the typical norms of what is at their sites.

Only what adds has a length of its own. It must not know what tools return.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from steer_tools.core.interventions import Add, AddKeepingNorm
from steer_tools.core.plan import Plan
from steer_tools.core.registry import Applied
from steer_tools.core.site import Site
from steer_tools.session.session import Session

# Of the typical norm: a longer edit is told of, with the strength of a gentle one.
TOO_LONG, GENTLE = 0.5, 0.2


def residual_strengths(session: Session, plan: Plan) -> list[float | None]:
    """Return the signed norm that each addition adds, in the typical norms of what is at its site; None for others."""
    return [
        placement.strength * float(placement.intervention.direction.norm()) / session.typical_norm(placement.site)
        if isinstance(placement.intervention, Add | AddKeepingNorm)
        else None
        for placement in plan
    ]


def length_warnings(session: Session, tried: Iterable[tuple[float, Plan]]) -> list[str]:
    """Say which of the strengths, each tried by itself, adds most, where that is too long."""
    return _told([total for one in tried for total in _sums(session, [one])])


def applied_warnings(session: Session, changed: Applied | None = None) -> list[str]:
    """Say where all that is applied adds too much: at any site, or at those of `changed`."""
    sums = _sums(session, [(entry.strength, entry.placements) for entry in session.registry.entries()])
    sites = None if changed is None else {placement.site for placement in changed.unit_placements}
    return _told([total for total in sums if sites is None or total.site in sites])


@dataclass(frozen=True)
class _Sum:
    """What is added at a site, in typical norms there, and the strengths that add it."""

    site: Site
    length: float
    strengths: tuple[float, ...]


def _sums(session: Session, plans: Sequence[tuple[float, Plan]]) -> list[_Sum]:
    """Return what plans with their strengths add together, by site; all that no other condition parts may meet."""
    added = [
        (strength, placement, placement.strength * placement.intervention.direction.double())
        for strength, plan in plans
        for placement in plan
        if isinstance(placement.intervention, Add | AddKeepingNorm) and placement.strength
    ]
    sums: list[_Sum] = []
    for site, condition in dict.fromkeys((placement.site, placement.condition) for _, placement, _ in added):
        meeting = [(s, term) for s, p, term in added if p.site == site and p.condition in (None, condition)]
        length = float(torch.stack([term for _, term in meeting]).sum(dim=0).norm()) / session.typical_norm(site)
        sums.append(_Sum(site, length, tuple(strength for strength, _ in meeting)))
    return sums


def _told(sums: Sequence[_Sum]) -> list[str]:
    """Return a warning of the longest, with the strengths that would be gentle."""
    longest = max(sums, key=lambda total: total.length, default=None)
    # Of what is exactly half a norm, float32 may make a bit more.
    if longest is None or round(longest.length, 6) <= TOO_LONG:
        return []
    site, is_one = longest.site, len(longest.strengths) == 1
    where = f"layer {site.layer}" if site.component == "residual" else str(site)
    gentle = [strength / longest.length * GENTLE for strength in longest.strengths]
    now, instead = (" and ".join(f"{strength:.3g}" for strength in own) for own in (longest.strengths, gentle))
    return [
        f"At {where} strength{' ' if is_one else 's '}{now} {'adds' if is_one else 'together add'} "
        f"{longest.length:.2g} of the typical norm there, and above {TOO_LONG:g} texts tend to break; {instead} would "
        f"add {GENTLE:g}."
    ]
