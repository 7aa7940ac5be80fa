"""Texts and a direction → how far each token's activation lies along it. It must not know pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from steer_tools.engines.base import Engine
from steer_tools.prompts import Prompt
from steer_tools.sites import Site


@dataclass(frozen=True)
class Projection:
    """A prompt's tokens with û·h of each, for the unit direction û and the activation h at the site.

    Attributes:
        pieces: As the vocabulary writes them.
        values: (tokens,) in the model's own units.
        counts: (tokens,) false at the first token and at special ones, whose activations lie elsewhere.
    """

    pieces: tuple[str, ...]
    values: tuple[float, ...]
    counts: tuple[bool, ...]


def project(engine: Engine, direction: Tensor, site: Site, prompts: Sequence[Prompt]) -> tuple[Projection, ...]:
    """Project every token of the prompts on a direction (width,)."""
    unit = (direction / direction.norm()).float()
    traces = engine.trace(prompts, [site])
    told = [engine.tokenize(prompt) for prompt in prompts]
    return tuple(
        Projection(
            pieces=one.pieces,
            values=tuple((trace[site] @ unit).tolist()),
            counts=tuple(place > 0 and not special for place, special in enumerate(one.special)),
        )
        for one, trace in zip(told, traces, strict=True)
    )
