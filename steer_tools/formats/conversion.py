"""A vector's file → the same vector in another format, and what got lost. It must not know how that is shown."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import torch

from steer_tools.core.vectors import SteeringVector
from steer_tools.errors import LayerError, VectorFileError
from steer_tools.formats import Loaded, format_for, read_vector, save_vector
from steer_tools.formats.base import Unsaid, VectorFormat
from steer_tools.workspace import Workspace


@dataclass(frozen=True)
class Conversion:
    """What was read, where it was written, and what of it the written file does not say."""

    read: Loaded
    path: Path
    format: VectorFormat
    written: SteeringVector
    lost: tuple[str, ...]


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
        SteeringError: As `load_vector` and `save_vector` do.
    """
    loaded = read_vector(source, unsaid, workspace=workspace)
    vector = loaded.vector if unsaid.layer is None else _only(loaded.vector, unsaid.layer)
    path = save_vector(vector, target, format_name=format_name, workspace=workspace)
    written = read_vector(path, Unsaid(vector.layers[0]), workspace=workspace).vector
    if written.layers != vector.layers or not all(
        torch.equal(written.directions[n], vector.directions[n]) for n in vector.layers
    ):
        raise VectorFileError(f"{path} does not hold what was written to it", fix="Write it again.")
    chosen = format_for(target, len(vector.layers), format_name)
    return Conversion(loaded, path, chosen, written, _lost(vector, written, chosen))


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
    info = vector.info.model_copy(update={"chosen": None}) if is_of_another else vector.info
    return replace(vector, info=info, **kept)


def _lost(vector: SteeringVector, written: SteeringVector, chosen: VectorFormat) -> tuple[str, ...]:
    lost = ["layer"] if chosen.name == "pt" else []
    lost += [name for name in ("means", "erasers") if len(getattr(vector, name)) != len(getattr(written, name))]
    before, after = vector.info.model_dump(), written.info.model_dump()
    return (*lost, *(field for field in before if before[field] != after[field]))
