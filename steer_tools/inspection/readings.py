"""A vector, prompts and labelled prompts → what a model holds along the vector, and how well that tells the labels.

It must not know behaviours or files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from steer_tools.core.positions import Pooling
from steer_tools.core.site import Site
from steer_tools.core.vectors import SteeringVector
from steer_tools.directions.statistics import Examples
from steer_tools.engines.base import Engine, PoolingFunction
from steer_tools.errors import LayerError, PromptError
from steer_tools.inspection.detectors import Detector, fit_detector
from steer_tools.inspection.projections import Projection, project
from steer_tools.prompts import ContrastPrompts, Prompt

# Of each list half fits the threshold and half judges it.
_FEWEST = 8


@dataclass(frozen=True)
class Labelled:
    """Prompts of two classes that fit a threshold, and others that judge it.

    Attributes:
        seen: Fit it.
        held_out: Judge it.
        groups: Which of the positive, and of the negative, held-out prompts belong together.
    """

    seen: ContrastPrompts
    held_out: ContrastPrompts
    groups: tuple[Sequence[str], Sequence[str]]

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


@dataclass(frozen=True)
class Reading:
    """One prompt along a vector.

    Attributes:
        projection: Of every token at every site.
        scores: Of the pooled tokens, at the sites that have a threshold.
    """

    projection: Projection
    scores: Mapping[Site, float]


def directions_at(vector: SteeringVector, layers: Sequence[int]) -> dict[Site, Tensor]:
    """Return the unit direction (width,) at each layer: the vector's own there, or the only one that it has.

    Raises:
        LayerError: It has several directions, and none for a layer.
    """
    only = vector.layers[0] if len(vector.layers) == 1 else None
    missing = [layer for layer in layers if layer not in vector.directions]
    if missing and only is None:
        raise LayerError(
            f"The vector has no direction for layer {missing[0]}", valid=f"some of its layers {list(vector.layers)}"
        )
    found = {layer: vector.directions[layer if only is None else only] for layer in layers}
    return {Site(at, vector.component, vector.head): own / own.norm() for at, own in found.items()}


def detect(
    engine: Engine, directions: Mapping[Site, Tensor], labelled: Labelled, pooling: Pooling | PoolingFunction
) -> dict[Site, Detector]:
    """Fit a threshold at each site and judge it."""
    seen, held_out = (
        [engine.read(own, list(directions), pooling) for own in (prompts.positive, prompts.negative)]
        for prompts in (labelled.seen, labelled.held_out)
    )
    return {
        site: fit_detector(
            direction,
            Examples.of(seen[0][site], seen[1][site]),
            Examples.of(held_out[0][site], held_out[1][site]),
            labelled.groups,
        )
        for site, direction in directions.items()
    }


def read_along(
    engine: Engine,
    directions: Mapping[Site, Tensor],
    scored: Sequence[Site],
    prompts: Sequence[Prompt],
    pooling: Pooling | PoolingFunction,
) -> list[Reading]:
    """Project every token of each prompt, and at the scored sites the mean of the tokens that the pooling takes."""
    if not prompts:
        return []
    return [
        Reading(projection, _scores(engine, directions, scored, prompt, pooling))
        for prompt, projection in zip(prompts, project(engine, directions, prompts), strict=True)
    ]


def _scores(
    engine: Engine,
    directions: Mapping[Site, Tensor],
    scored: Sequence[Site],
    prompt: Prompt,
    pooling: Pooling | PoolingFunction,
) -> dict[Site, float]:
    """Return a prompt's reading at each site; none where it lacks the tokens, as a text lacks a response."""
    if not scored:
        return {}
    try:
        pooled = engine.read([prompt], scored, pooling)
    except PromptError:
        return {}
    return {site: float(own[0] @ directions[site]) for site, own in pooled.items()}
