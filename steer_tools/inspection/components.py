"""The parts of a model that can be taken out, by name. It must not know how they are taken out."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from steer_tools.core.site import Site
from steer_tools.engines.base import Engine
from steer_tools.engines.facets import Heads, require

Kind: TypeAlias = Literal["head", "attention", "mlp", "block", "direction"]
KINDS: tuple[Kind, ...] = ("head", "attention", "mlp", "block", "direction")


@dataclass(frozen=True)
class Component:
    """A part that can be taken out.

    Attributes:
        kind: What it is.
        layer: None for what is at all layers at once.
        sites: Where it is; a block is its attention and its MLP together, since the stream goes on without them.
        head: Of an attention.
        direction: (width,), where the part is what the stream has along it; None where it is all that is at the sites.
    """

    kind: Kind
    layer: int | None
    sites: tuple[Site, ...]
    head: int | None = None
    direction: Tensor | None = field(default=None, compare=False)

    def __str__(self) -> str:
        where = "everywhere" if self.layer is None else f"layer {self.layer}"
        return f"{where} {self.kind}" + ("" if self.head is None else f" {self.head}")


def components_of(engine: Engine, kind: Kind, layers: Sequence[int]) -> tuple[Component, ...]:
    """Return all components of a kind but directions at some layers, in order.

    Raises:
        UnsupportedFeatureError: A block has no such part, or none that could be told.
    """
    assert kind != "direction"
    if kind == "head":
        engine = require(engine, Heads, "component='head'")
        return tuple(
            Component(kind, layer, (Site(layer, "attention", head),), head)
            for layer in layers
            for head in range(engine.heads(layer))
        )
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
