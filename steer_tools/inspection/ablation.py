"""The components of a model, by name → plans that take each out, and what that does to a behaviour's items.

The effect is on one of three measures of items. It must not know vectors or pictures.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from steer_tools.core.interventions import Affine, Intervention, ProjectOut, Replace, Zero
from steer_tools.core.plan import Placement, Plan
from steer_tools.core.positions import PromptSlice, Scope
from steer_tools.core.site import Site
from steer_tools.engines.base import Engine, Row, Sampling
from steer_tools.engines.facets import Heads, require
from steer_tools.errors import ArgumentError, PromptError
from steer_tools.evaluation.damage import DamageMeter, continuations, divergences
from steer_tools.evaluation.intervals import Floats, Interval, cluster_interval
from steer_tools.evaluation.questions import Question, propensities, questions
from steer_tools.evaluation.scorers import TextScore
from steer_tools.experiments.evaluation_set import EvaluationSet
from steer_tools.prompts import Prompt

Kind: TypeAlias = Literal["head", "attention", "mlp", "block", "direction"]
KINDS: tuple[Kind, ...] = ("head", "attention", "mlp", "block", "direction")


@dataclass(frozen=True)
class Component:
    """A part that can be taken out.

    Attributes:
        layer: None for what is at all layers at once.
        sites: Where it is; a block is its attention and its MLP together, since the stream goes on without them.
        direction: (width,), where the part is what the stream has along it; None where it is all that is at the sites.
    """

    kind: Kind
    layer: int | None
    sites: tuple[Site, ...]
    head: int | None = None
    direction: Tensor | None = field(default=None, compare=False)

    @property
    def place(self) -> str:
        """The layer as results write it."""
        return "everywhere" if self.layer is None else str(self.layer)

    def __str__(self) -> str:
        where = self.place if self.layer is None else f"layer {self.place}"
        return f"{where} {self.kind}" + ("" if self.head is None else f" {self.head}")


def components_of(engine: Engine, kind: Kind, layers: Sequence[int]) -> tuple[Component, ...]:
    """Return all components of a kind but directions at some layers, in order.

    Raises:
        UnsupportedFeatureError: A block has no such part, or none that could be told.
    """
    assert kind != "direction"
    if kind == "head":
        engine = require(engine, Heads, "component='head'")
        heads = (Site(layer, "attention", head) for layer in layers for head in range(engine.heads(layer)))
        return tuple(Component(kind, site.layer, (site,), site.head) for site in heads)
    if kind == "block":
        return tuple(Component(kind, layer, (Site(layer, "attention"), Site(layer, "mlp"))) for layer in layers)
    return tuple(Component(kind, layer, (Site(layer, kind),)) for layer in layers)


def stream_direction(engine: Engine, direction: Tensor, layers: Sequence[int]) -> tuple[Component, ...]:
    """Return a direction at the output of some layers, each by itself, and last at the embedding and all outputs."""
    return (
        *(Component("direction", layer, (Site(layer),), direction=direction) for layer in layers),
        direction_everywhere(engine, direction),
    )


def direction_everywhere(engine: Engine, direction: Tensor) -> Component:
    """Return a direction at the embedding and at every block's output (Arditi et al. 2024, arXiv 2406.11717)."""
    sites = (Site(0, "embedding"), *map(Site, engine.info.steerable_layers))
    return Component("direction", None, sites, direction=direction)


def random_directions(part: Component, count: int, seed: int) -> tuple[Component, ...]:
    """Return directions that any other is as likely as, each at the places of a part that is a direction."""
    assert part.direction is not None
    drawn = torch.randn(count, len(part.direction), generator=torch.Generator().manual_seed(seed))
    return tuple(replace(part, direction=own) for own in drawn)


Ablation: TypeAlias = Literal["zero", "mean", "mean_by_position", "resample"]
ABLATIONS: tuple[Ablation, ...] = ("zero", "mean", "mean_by_position", "resample")
OF_DIRECTIONS: tuple[Ablation, ...] = ("zero", "mean")
Measure: TypeAlias = Literal["log_odds", "kl", "exact"]
MEASURES: tuple[Measure, ...] = ("log_odds", "kl", "exact")
# Plans → (plans, items).
Measured: TypeAlias = Callable[[Sequence[Plan]], Floats]
_EVERYWHERE = Scope(("all",))
# Prompts that a resampled component takes its activations from, one after the other.
_DRAWS = 4
# Items of each half; more make the ranking no other, only slower.
_MOST_ITEMS = 20
_LISTED = 10
# Taking any direction out does something.
_RANDOM_DIRECTIONS = 10


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
        by_position = () if self.by_position is None else self.by_position
        places = ((own, Scope((PromptSlice(place, place + 1),))) for place, own in enumerate(by_position))
        first = Placement(whole, site, 1.0, _EVERYWHERE)
        return first, *(Placement(Replace(own), site, 1.0, place) for own, place in places)


def replacement_of(traces: Sequence[Tensor], how: Ablation, drawn: int = 0) -> Replacement:
    """Return what replaces activations of which `traces`, (tokens, width) of each calibration prompt, are samples.

    `zero`: nothing. `mean`: their mean over all tokens but the first, an attention sink with values of its own.
    `mean_by_position`: the mean over the prompts that are so long, and `mean` behind the last (Wang et al. 2022, arXiv
    2211.00593). `resample`: those of the prompt number `drawn`, position by position, and its last one behind them
    (Chan et al. 2022, causal scrubbing).
    """
    if how == "zero":
        return Replacement(None)
    pooled = _pooled(traces)
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

    Of a direction only what the stream has along it goes (`zero`: Arditi et al. 2024, arXiv 2406.11717), or is set to
    its mean.

    Raises:
        PromptError: There is no prompt to calibrate on.
        ArgumentError: A direction is to be taken out by position or resampled.
    """
    if how != "zero" and not calibration:
        raise PromptError("There is no prompt to take activations from", valid="at least one")
    if how not in OF_DIRECTIONS and any(component.direction is not None for component in components):
        raise ArgumentError(f"method is {how!r}, and the component a direction", valid=", ".join(OF_DIRECTIONS))
    sites = list(dict.fromkeys(site for component in components for site in component.sites))
    traces = [] if how == "zero" else engine.trace(calibration, sites)
    count = min(_DRAWS, len(calibration)) if how == "resample" else 1
    draws = Random(seed).sample(range(len(calibration)), count) if how == "resample" else [0]
    return [[_taken_out(component, traces, how, drawn) for drawn in draws] for component in components]


@dataclass(frozen=True)
class ComponentEffect:
    """What taking one component out changes.

    Attributes:
        effect: The mean over the items, in what the measure says.
        interval: Its 95 % interval over groups, None of one group.
        halves: The mean over each half of the items.
        divergence: KL(unsteered to ablated) on neutral prompts, in nats a token.
    """

    component: Component
    effect: float
    interval: Interval | None
    halves: tuple[float, float]
    divergence: float


@dataclass(frozen=True)
class AblationStudy:
    """What taking each component out does to a behaviour.

    Attributes:
        effects: (components, items) change of each item's measure.
        chance: The largest mean effect of a random direction at each place of a direction; empty for other components.
        strongest: The components with the largest mean effects, from the strongest on.
    """

    effects: Floats
    chance: dict[str, float]
    strongest: tuple[ComponentEffect, ...]


def study_ablations(
    engine: Engine,
    behaviour: EvaluationSet,
    components: Sequence[Component],
    how: Ablation,
    measure: Measure,
    seed: int,
) -> AblationStudy:
    """Take each component out by itself, and measure the behaviour on both halves of its items.

    Raises:
        PromptError: There is no prompt to calibrate on.
        ArgumentError: A direction is to be taken out by position or resampled, or the behaviour has no exact score.
    """
    splits = behaviour.splits
    first_half, other_half = (questions(engine, own[:_MOST_ITEMS]) for own in (splits.choosing, splits.judging))
    asked, middle = [*first_half, *other_half], len(first_half)
    controls = [
        control
        for component in components
        if component.direction is not None
        for control in random_directions(component, _RANDOM_DIRECTIONS, seed)
    ]
    plans = ablation_plans(
        engine, [*components, *controls], how, list(dict.fromkeys(own.prompt for own in asked)), seed
    )
    found = ablate(plans, _measure_named(measure, engine, asked, behaviour))
    effects, means = found[: len(components)], found.mean(axis=1)
    chance: dict[str, float] = {}
    for control, mean in zip(controls, means[len(components) :].tolist(), strict=True):
        chance[control.place] = max(abs(mean), chance.get(control.place, 0.0))
    order = np.argsort(-np.abs(means[: len(components)]), kind="stable").tolist()[:_LISTED]
    listed = [plans[index] for index in order]
    meter = DamageMeter(engine, behaviour.neutral, [], 1)
    spent = [np.array(own) for own in meter.divergences([plan for draws in listed for plan in draws])]
    groups = [question.group for question in asked]
    strongest = tuple(
        ComponentEffect(
            components[index],
            float(own.mean()),
            cluster_interval(own, groups),
            (float(own[:middle].mean()), float(own[middle:].mean())),
            float(divergence),
        )
        for index, divergence in zip(order, mean_of_draws(spent, listed), strict=True)
        for own in [effects[index]]
    )
    return AblationStudy(effects, chance, strongest)


def ablate(plans: Sequence[Sequence[Plan]], measured: Measured) -> Floats:
    """Return (components, items) how much each item's measure changes without the component, the mean of its draws."""
    flat: list[Plan] = [(), *(plan for draws in plans for plan in draws)]
    unsteered, *ablated = measured(flat)
    return np.stack(mean_of_draws([own - unsteered for own in ablated], plans))


def mean_of_draws(found: Sequence[Floats], plans: Sequence[Sequence[Plan]]) -> list[Floats]:
    """Return the mean over the draws of each component, of what was found for all plans one after the other."""
    each = iter(found)
    return [np.mean([next(each) for _ in draws], axis=0) for draws in plans]


def _measure_named(name: Measure, engine: Engine, asked: Sequence[Question], behaviour: EvaluationSet) -> Measured:
    match name:
        case "log_odds":
            return log_odds_of(engine, asked)
        case "kl":
            return divergence_of(engine, asked)
        case "exact" if "exact" in behaviour.scorers:
            return score_of(engine, asked, behaviour.scorers["exact"], behaviour.text_tokens)
        case "exact":
            raise ArgumentError(
                f"measure is 'exact', and texts that show {behaviour.behavior.name!r} have no exact score",
                valid="'log_odds' or 'kl'; 'exact' for the traits of the bundled model",
            )


def log_odds_of(engine: Engine, asked: Sequence[Question]) -> Measured:
    """Return a measure of log p(positive) − log p(negative), in nats."""
    return lambda plans: propensities(engine, asked, plans)


def divergence_of(engine: Engine, asked: Sequence[Question]) -> Measured:
    """Return a measure of KL(unsteered‖plan) over the model's own unsteered texts, in nats a token."""
    prompts = [question.prompt for question in asked]
    texts = continuations(engine, prompts)
    return lambda plans: divergences(engine, prompts, texts, plans)


def score_of(engine: Engine, asked: Sequence[Question], scorer: TextScore, max_new_tokens: int) -> Measured:
    """Return a measure of the scores of greedy texts; every plan writes all of them."""

    def measured(plans: Sequence[Plan]) -> Floats:
        rows = [Row(question.prompt, plan) for plan in plans for question in asked]
        texts = engine.generate(rows, Sampling(max_new_tokens))
        scores = [scorer(row.prompt, own.text) for row, own in zip(rows, texts, strict=True)]
        assert None not in scores, "An exact scorer has a score for every text."
        return np.array(scores, dtype=np.float64).reshape(len(plans), len(asked))

    return measured


def _taken_out(component: Component, traces: Sequence[dict[Site, Tensor]], how: Ablation, drawn: int) -> Plan:
    plan: list[Placement] = []
    for site in component.sites:
        own = [trace[site] for trace in traces]
        if component.direction is None:
            plan.extend(replacement_of(own, how, drawn).plan(site))
        else:
            plan.append(Placement(_without(component.direction, own), site, 1.0, _EVERYWHERE))
    return tuple(plan)


def _without(direction: Tensor, traces: Sequence[Tensor]) -> Intervention:
    if not traces:
        return ProjectOut(direction)
    unit = direction.double() / direction.double().norm()
    return Affine(direction, float(_pooled(traces).double() @ unit))


def _pooled(traces: Sequence[Tensor]) -> Tensor:
    """Return the mean over all tokens but the first, (width,)."""
    return torch.cat([trace[1:] if len(trace) > 1 else trace for trace in traces]).mean(dim=0)
