"""Components, prompts for calibration → plans that take the components out, and what that does to items.

It must not know vectors or pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from steer_tools.causal.components import Component
from steer_tools.engines.base import Engine
from steer_tools.errors import PromptError
from steer_tools.experiments.measuring import Floats, Question, propensities
from steer_tools.interventions import Replace, Zero
from steer_tools.plan import Placement, Plan
from steer_tools.positions import PromptSlice, Scope
from steer_tools.prompts import Prompt
from steer_tools.sites import Site

Ablation: TypeAlias = Literal["zero", "mean", "mean_by_position", "resample"]
ABLATIONS: tuple[Ablation, ...] = ("zero", "mean", "mean_by_position", "resample")
_EVERYWHERE = Scope(("all",))
# Prompts that a resampled component takes its activations from, one after the other.
_DRAWS = 4


@dataclass(frozen=True)
class Replacement:
    """What stands in place of an activation.

    Attributes:
        everywhere: (width,), at tokens for which there is nothing else; None is zero.
        by_position: (positions, width), at the first tokens of the prompt.
    """

    everywhere: Tensor | None
    by_position: Tensor | None = None

    def plan(self, site: Site) -> Plan:
        """Return the placements that put it at a site."""
        whole = Zero() if self.everywhere is None else Replace(self.everywhere)
        plan: Plan = (Placement(whole, site, 1.0, _EVERYWHERE),)
        if self.by_position is None:
            return plan
        return plan + tuple(
            Placement(Replace(own), site, 1.0, Scope((PromptSlice(place, place + 1),)))
            for place, own in enumerate(self.by_position)
        )


def replacement_of(traces: Sequence[Tensor], how: Ablation, drawn: int = 0) -> Replacement:
    """Return what replaces activations of which `traces`, (tokens, width) of each calibration prompt, are samples.

    `zero`: nothing. `mean`: their mean over all tokens but the first, an attention sink with values of its own.
    `mean_by_position`: the mean over the prompts that are so long, and `mean` behind the last (Wang et al. 2022, arXiv
    2211.00593). `resample`: those of the prompt number `drawn`, position by position, and its last one behind them
    (Chan et al. 2022, causal scrubbing).
    """
    if how == "zero":
        return Replacement(None)
    pooled = torch.cat([trace[1:] if len(trace) > 1 else trace for trace in traces]).mean(dim=0)
    match how:
        case "mean":
            return Replacement(pooled)
        case "mean_by_position":
            longest = max(map(len, traces))
            means = [torch.stack([t[i] for t in traces if len(t) > i]).mean(dim=0) for i in range(longest)]
            return Replacement(pooled, torch.stack(means))
        case "resample":
            return Replacement(traces[drawn][-1], traces[drawn])


def ablation_plans(
    engine: Engine, components: Sequence[Component], how: Ablation, calibration: Sequence[Prompt], seed: int = 0
) -> list[list[Plan]]:
    """Return the plans that take each component out: one each, or several draws of a resampled one.

    Raises:
        PromptError: There is no prompt to calibrate on.
    """
    if how != "zero" and not calibration:
        raise PromptError("There is no prompt to take activations from", valid="at least one")
    sites = list(dict.fromkeys(site for component in components for site in component.sites))
    traces = [] if how == "zero" else engine.trace(calibration, sites)
    count = min(_DRAWS, len(calibration)) if how == "resample" else 1
    draws = Random(seed).sample(range(len(calibration)), count) if how == "resample" else [0]
    of_site = {
        site: [replacement_of([trace[site] for trace in traces], how, drawn).plan(site) for drawn in draws]
        for site in sites
    }
    return [
        [tuple(p for site in component.sites for p in of_site[site][draw]) for draw in range(len(draws))]
        for component in components
    ]


def ablate(engine: Engine, plans: Sequence[Sequence[Plan]], asked: Sequence[Question]) -> Floats:
    """Return (components, items) how much each item's log-odds change without the component, the mean of its draws."""
    flat: list[Plan] = [(), *(plan for draws in plans for plan in draws)]
    unsteered, *ablated = propensities(engine, asked, flat)
    found = iter(ablated)
    return torch.stack(
        [torch.stack([torch.from_numpy(next(found) - unsteered) for _ in draws]).mean(dim=0) for draws in plans]
    ).numpy()
