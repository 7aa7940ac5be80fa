"""Texts and directions → how far each token's activation lies along them. It must not know pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from steer_tools.core.site import Site
from steer_tools.engines.base import Engine
from steer_tools.prompts import Prompt


@dataclass(frozen=True)
class Projection:
    """A prompt's tokens with û·h of each, for the unit direction û and the activation h at each site.

    Attributes:
        pieces: As the vocabulary writes them.
        values: (tokens,) by site, in the model's own units.
        counts: (tokens,) false at the first token and at special ones, whose activations lie elsewhere.
    """

    pieces: tuple[str, ...]
    values: Mapping[Site, tuple[float, ...]]
    counts: tuple[bool, ...]


def project(engine: Engine, directions: Mapping[Site, Tensor], prompts: Sequence[Prompt]) -> tuple[Projection, ...]:
    """Project every token of the prompts on the direction (width,) of each site, in one pass."""
    units = {site: (direction / direction.norm()).float() for site, direction in directions.items()}
    traces = engine.trace(prompts, list(units))
    told = [engine.tokenize(prompt) for prompt in prompts]
    return tuple(
        Projection(
            pieces=one.pieces,
            values={site: tuple((trace[site] @ unit).tolist()) for site, unit in units.items()},
            counts=tuple(place > 0 and not special for place, special in enumerate(one.special)),
        )
        for one, trace in zip(told, traces, strict=True)
    )
