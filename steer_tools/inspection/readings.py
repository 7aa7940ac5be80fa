"""A vector, prompts and labelled prompts → what a model holds along the vector, and how well that tells the labels.

Labels may be those of a behaviour's items. It must not know pictures or files.
"""

from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from steer_tools.core.positions import POOLINGS, Pooling
from steer_tools.core.site import Site
from steer_tools.core.vectors import SteeringVector
from steer_tools.directions.separation import best_threshold, roc_area
from steer_tools.directions.statistics import Examples
from steer_tools.engines.base import Engine, text_behind_first
from steer_tools.engines.pooling import Activations, AnyPooling, sink_warnings
from steer_tools.errors import ArgumentError, LayerError, PromptError
from steer_tools.evaluation.behaviors.behavior import contrast_prompts
from steer_tools.evaluation.intervals import Interval, roc_interval
from steer_tools.evaluation.questions import pooling_of
from steer_tools.experiments.evaluation_set import EvaluationSet
from steer_tools.prompts import ContrastPrompts, Prompt
from steer_tools.session.session import Session


@dataclass(frozen=True)
class Projection:
    """A prompt's tokens with û·h of each, for the unit direction û and the activation h at each site.

    Attributes:
        tokens: The ids; `texts` are what they stand for.
        values: (tokens,) by site, in the model's own units.
        counts: (tokens,) false at the first token, special ones and attention sinks, whose activations lie elsewhere.
    """

    tokens: tuple[int, ...]
    texts: tuple[str, ...]
    values: Mapping[Site, tuple[float, ...]]
    counts: tuple[bool, ...]


def project(engine: Engine, directions: Mapping[Site, Tensor], prompts: Sequence[Prompt]) -> tuple[Projection, ...]:
    """Project every token of the prompts on the direction (width,) of each site, in one pass."""
    units = {site: (direction / direction.norm()).float() for site, direction in directions.items()}
    traces = engine.trace(prompts, list(units))
    tokenized = map(engine.tokenize, prompts)
    return tuple(
        Projection(
            tokens=prompt.tokens,
            texts=prompt.texts,
            values={site: tuple((trace[site] @ unit).tolist()) for site, unit in units.items()},
            counts=tuple(counts.tolist()),
        )
        for prompt, counts, trace in zip(
            tokenized, text_behind_first(engine, prompts, engine.sinks(prompts)), traces, strict=True
        )
    )


# Directions of no meaning: in a wide space many of them tell classes apart that lie far apart.
_CONTROLS, _CHANCE = 200, 0.95


@dataclass(frozen=True)
class Detector:
    """A threshold on û·h, with its figures on held-out examples.

    Attributes:
        threshold: In the model's own units; above it is the positive class.
        area: Under the ROC curve, in [0, 1].
        interval: Of the area, 95 %; None where all examples belong together.
        chance: The area that one in twenty random directions reaches, of either sign.
        misses: Share of the positive examples at or below the threshold.
        false_alarms: Share of the negative examples above it.
    """

    threshold: float
    area: float
    interval: Interval | None
    chance: float
    misses: float
    false_alarms: float


def fit_detector(
    direction: Tensor, seen: Examples, held_out: Examples, groups: tuple[Sequence[Hashable], Sequence[Hashable]]
) -> Detector:
    """Fit the threshold of least balanced error on one set of examples, and measure it on another.

    `direction` is (width,); `groups` say which held-out positive, and which negative, examples belong together.
    """
    unit = (direction / direction.norm()).double()
    threshold = best_threshold(seen.positive @ unit, seen.negative @ unit)
    high, low = held_out.positive @ unit, held_out.negative @ unit
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(len(unit), _CONTROLS, generator=generator, dtype=torch.float64)
    sides = zip((held_out.positive @ drawn).T, (held_out.negative @ drawn).T, strict=True)
    controls = [float(roc_area(*pair)) for pair in sides]
    return Detector(
        threshold=threshold,
        area=float(roc_area(high, low)),
        interval=roc_interval(high.numpy(), low.numpy(), *groups),
        # Either sign of a drawn direction could have been drawn.
        chance=float(torch.tensor([*controls, *(1 - area for area in controls)]).quantile(_CHANCE)),
        misses=float((high <= threshold).double().mean()),
        false_alarms=float((low > threshold).double().mean()),
    )


# Of each list half fits the threshold and half judges it.
_FEWEST = 8


@dataclass(frozen=True)
class Labelled:
    """Prompts of two classes that fit a threshold, and others that judge it.

    `groups` say which of the positive, and of the negative, held-out prompts belong together; `pooling`, at which
    tokens they are read, None for those at which the vector was; `notes`, what was left out of their file.
    """

    seen: ContrastPrompts
    held_out: ContrastPrompts
    groups: tuple[Sequence[str], Sequence[str]]
    pooling: Pooling | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def held_out_of(cls, engine: Engine, evaluation_set: EvaluationSet) -> "Labelled":
        """Let the items that choose fit, and those that judge judge."""
        splits, is_chat = evaluation_set.splits, engine.info.has_chat_template
        # Not on its pairs, which make vectors, and which may be longer texts than the held-out items.
        groups = [item.group for item in splits.judging]
        seen, held_out = (contrast_prompts(items, is_chat) for items in (splits.choosing, splits.judging))
        behavior = evaluation_set.behavior
        return cls(seen, held_out, (groups, groups), pooling_of(engine, behavior.pairs), behavior.notes)

    @classmethod
    def halves(cls, positive: Sequence[Prompt], negative: Sequence[Prompt]) -> "Labelled":
        """Let every second prompt of each list judge; repeated ones count once.

        Raises:
            PromptError: There are fewer than eight of a class.
        """
        sides = [list(dict.fromkeys(own)) for own in (positive, negative)]
        if min(map(len, sides)) < _FEWEST:
            raise PromptError(
                f"There are {len(sides[0])} positive and {len(sides[1])} negative prompts that differ",
                valid=f"at least {_FEWEST} of each: half of them fit the threshold, half judge it",
            )
        seen, held_out = (ContrastPrompts.parse(sides[0][start::2], sides[1][start::2]) for start in (0, 1))
        numbers = [str(i) for i in range(max(map(len, sides)))]
        return cls(seen, held_out, (numbers[: len(held_out.positive)], numbers[: len(held_out.negative)]))


@dataclass(frozen=True, eq=False)
class UnitDirections:
    """A vector's direction (width,) at each site, of length 1: its own there, or the only one that it has."""

    vector: SteeringVector
    by_site: Mapping[Site, Tensor]

    @classmethod
    def at(cls, vector: SteeringVector, layers: Sequence[int]) -> "UnitDirections":
        """Return those at some layers; a vector of several directions needs one for each."""
        only = vector.layers[0] if len(vector.layers) == 1 else None
        missing = [layer for layer in layers if layer not in vector.directions]
        if missing and only is None:
            raise LayerError(
                f"The vector has no direction for layer {missing[0]}", valid=f"some of its layers {list(vector.layers)}"
            )
        found = {layer: vector.directions[layer if only is None else only] for layer in layers}
        return cls(vector, {Site(at, vector.component, vector.head): own / own.norm() for at, own in found.items()})


@dataclass(frozen=True)
class Reading:
    """One prompt along a vector.

    Attributes:
        projection: Of every token at every site.
        scores: Of the pooled tokens, at the sites that have a threshold.
    """

    projection: Projection
    scores: Mapping[Site, float]


@dataclass(frozen=True)
class Readings:
    """What was read at the tokens that `pooling` takes, by site, and of each prompt.

    `norms` are typical there; `thresholds` are the detectors' or, without labels, the vector's for this pooling;
    `warnings` tell of attention sinks among these tokens.
    """

    pooling: AnyPooling
    norms: Mapping[Site, float]
    detectors: Mapping[Site, Detector]
    thresholds: Mapping[Site, float]
    prompts: tuple[Reading, ...]
    warnings: tuple[str, ...]


def read_along(
    session: Session,
    along: UnitDirections,
    prompts: Sequence[Prompt],
    labelled: Labelled | None,
    pooling: AnyPooling | None,
) -> Readings:
    """Fit and judge a threshold at each site if there are labels, and read the prompts; by default as the labels are
    read, else as the vector was.

    Raises:
        ArgumentError: There are neither labels nor prompts.
        PromptError: A labelled prompt has no token that the pooling takes.
    """
    if not prompts and labelled is None:
        raise ArgumentError("There is nothing to read", valid="prompts, a behavior_name, or positive and negative")
    engine, info, directions = session.engine, along.vector.info, along.by_site
    usual: Pooling | None = next((known for known in POOLINGS if known == info.pooling), None)
    read_as = pooling or (labelled and labelled.pooling) or usual or "last"
    read: list[Activations] = []
    detectors = {} if labelled is None else _detect(engine, directions, labelled, read_as, read)
    thresholds = {site: detector.threshold for site, detector in detectors.items()}
    if labelled is None and read_as == info.pooling:
        thresholds = {site: info.thresholds[site.layer] for site in directions if site.layer in info.thresholds}
    projections = project(engine, directions, prompts) if prompts else ()
    scored = {site: directions[site] for site in thresholds}
    readings = tuple(map(Reading, projections, [_scores(engine, scored, prompt, read_as, read) for prompt in prompts]))
    norms = session.typical_norms([*directions])
    warnings = sink_warnings(read_as, read) if read else []
    return Readings(read_as, norms, detectors, thresholds, readings, tuple(warnings))


def _detect(
    engine: Engine,
    directions: Mapping[Site, Tensor],
    labelled: Labelled,
    pooling: AnyPooling,
    read: list[Activations],
) -> dict[Site, Detector]:
    """Fit and judge a threshold at each site; what was read for it is added to `read`."""
    seen, held_out = (
        [engine.read(own, list(directions), pooling) for own in (prompts.positive, prompts.negative)]
        for prompts in (labelled.seen, labelled.held_out)
    )
    read += [*seen, *held_out]

    def examples(site: Site) -> tuple[Examples, Examples]:
        return Examples(seen[0][site], seen[1][site]), Examples(held_out[0][site], held_out[1][site])

    return {site: fit_detector(own, *examples(site), labelled.groups) for site, own in directions.items()}


def _scores(
    engine: Engine,
    directions: Mapping[Site, Tensor],
    prompt: Prompt,
    pooling: AnyPooling,
    read: list[Activations],
) -> dict[Site, float]:
    """Return the prompt's own score at each site; what was read for it is added to `read`."""
    if not directions:
        return {}
    with suppress(PromptError):  # It may lack the tokens, as a text lacks a response.
        pooled = engine.read([prompt], list(directions), pooling)
        read.append(pooled)
        return {site: float(own[0] @ directions[site]) for site, own in pooled.items()}
    return {}
