"""A vector's file → the same vector in another format, and what got lost. It must not know how that is shown."""

import os
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch

from steer_tools.core.vectors import SteeringVector
from steer_tools.errors import LayerError, VectorFileError
from steer_tools.formats import Loaded, Written, read_vector, write_vector
from steer_tools.formats.base import Unsaid
from steer_tools.workspace import Workspace


@dataclass(frozen=True)
class Conversion:
    """What was read, the file that was made of it, and what is in that."""

    read: Loaded
    made: Written
    written: SteeringVector


def convert_vector(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    unsaid: Unsaid,
    format_name: str | None = None,
    *,
    workspace: Workspace | None = None,
) -> Conversion:
    """Read `source`, write `target`, and read that again, so that what is reported is what is there.

    Of a source that says its layers, the one of `unsaid` is converted alone.

    Raises:
        LayerError: The source says its layers, and that one is none of them.
        SteeringError: As `read_vector` and `write_vector` do.
    """
    loaded = read_vector(source, unsaid, workspace=workspace)
    vector = loaded.vector if unsaid.layer is None else _only(loaded.vector, unsaid.layer)
    made = write_vector(vector, target, format_name=format_name, workspace=workspace)
    written = read_vector(made.path, Unsaid(vector.layers[0]), workspace=workspace).vector
    if written.layers != vector.layers or not all(
        torch.equal(written.directions[n], vector.directions[n]) for n in vector.layers
    ):
        raise VectorFileError(f"{made.path} does not hold what was written to it", fix="Write it again.")
    return Conversion(loaded, made, written)


def _only(vector: SteeringVector, layer: int) -> SteeringVector:
    if layer not in vector.directions:
        raise LayerError(
            f"layer is {layer}, and the file holds the layers {list(vector.layers)}",
            valid="one of them",
            fix="A direction belongs to the layer that it was made at; another layer is chosen where it is applied.",
        )
    kinds = ("directions", "means", "erasers")
    kept = {kind: MappingProxyType({n: t for n, t in getattr(vector, kind).items() if n == layer}) for kind in kinds}
    chosen = vector.info.chosen
    is_of_another = chosen is not None and chosen.layer != layer
    info = vector.info.unchosen() if is_of_another else vector.info
    return replace(vector, info=info, **kept)
