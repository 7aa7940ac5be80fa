"""The parts of a model that can be taken out, by name. It must not know how they are taken out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from steer_tools.engines.base import Engine
from steer_tools.sites import Site

Kind: TypeAlias = Literal["head", "attention", "mlp", "block"]
KINDS: tuple[Kind, ...] = ("head", "attention", "mlp", "block")


@dataclass(frozen=True)
class Component:
    """A part of one block; a block is its attention and its MLP together, since the stream goes on without them."""

    kind: Kind
    layer: int
    head: int | None = None

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where what it adds to the stream can be replaced."""
        match self.kind:
            case "head":
                return (Site(self.layer, "attention", self.head),)
            case "attention":
                return (Site(self.layer, "attention"),)
            case "mlp":
                return (Site(self.layer, "mlp"),)
            case "block":
                return (Site(self.layer, "attention"), Site(self.layer, "mlp"))

    def __str__(self) -> str:
        return f"layer {self.layer} {self.kind}" + ("" if self.head is None else f" {self.head}")


def components_of(engine: Engine, kind: Kind, layers: Sequence[int]) -> tuple[Component, ...]:
    """Return all components of a kind at some layers, in order.

    Raises:
        UnsupportedFeatureError: A block has no such part, or none that could be told.
    """
    if kind == "head":
        return tuple(Component(kind, layer, head) for layer in layers for head in range(engine.heads(layer)))
    return tuple(Component(kind, layer) for layer in layers)
