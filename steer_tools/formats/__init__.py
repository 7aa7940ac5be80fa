"""A steering vector ↔ one file; `load_vector` and `save_vector` choose the format by the name's ending.

A new format is one file with one small class, added to FORMATS. Formats turn a vector into bytes and back; the
workspace does the reading and writing. They must not know models.
"""

import os
from pathlib import Path

from steer_tools.errors import UnsupportedFeatureError
from steer_tools.formats.base import Encoded, VectorFormat
from steer_tools.formats.npy import NpyFormat
from steer_tools.formats.safetensors_format import SafetensorsFormat
from steer_tools.vectors import SteeringVector
from steer_tools.workspace import Workspace

FORMATS: tuple[VectorFormat, ...] = (SafetensorsFormat(), NpyFormat())
SUFFIXES = tuple(vector_format.suffix for vector_format in FORMATS)

__all__ = ["FORMATS", "SUFFIXES", "format_for", "load_vector", "save_vector", "with_suffix"]


def with_suffix(path: str | os.PathLike[str]) -> str:
    """Return `path` with `.safetensors` appended unless it already ends in a known suffix.

    What follows the last dot is not taken for a suffix otherwise: `refusal_v1.5` becomes `refusal_v1.5.safetensors`.
    """
    text = os.fspath(path)
    return text if text.lower().endswith(SUFFIXES) else text + FORMATS[0].suffix


def format_for(path: str | os.PathLike[str], layer_count: int = 1) -> VectorFormat:
    """Return the format of `path`.

    Raises:
        UnsupportedFeatureError: It cannot hold `layer_count` directions.
    """
    chosen = next(f for f in FORMATS if with_suffix(path).lower().endswith(f.suffix))
    if layer_count > 1 and not chosen.holds_several_layers:
        several = ", ".join(f.suffix for f in FORMATS if f.holds_several_layers)
        raise UnsupportedFeatureError(
            f"A {chosen.suffix} file holds one direction, but there are {layer_count} layers",
            valid=f"one layer, or a path that ends in {several}",
            fix=f"Save to {Path(os.fspath(path)).stem + FORMATS[0].suffix!r} instead.",
        )
    return chosen


def save_vector(vector: SteeringVector, path: str | os.PathLike[str], *, workspace: Workspace | None = None) -> Path:
    """Write `vector` and return the absolute path of the file, which has a suffix even where `path` has none.

    Relative paths are below `workspace`, or the current folder without one.

    Raises:
        UnsupportedFeatureError: The format cannot hold the vector's layers or component.
        WorkspacePathError: The path leaves a confined workspace.
    """
    workspace = workspace or Workspace(Path.cwd())
    target = workspace.resolve(path)
    encoded = format_for(path, len(vector.directions)).encode(vector)
    name = with_suffix(path)
    contents = {name: encoded.data}
    if encoded.sidecar is not None:
        contents[name + ".json"] = encoded.sidecar
    workspace.write_together(contents)
    return target.with_name(with_suffix(target.name))


def load_vector(
    path: str | os.PathLike[str], *, layer_if_unknown: int | None = None, workspace: Workspace | None = None
) -> SteeringVector:
    """Read a steering vector; a path without a known suffix means `.safetensors`, as it does in `save_vector`.

    Args:
        path: A file below `workspace`, or below the current folder without one, or an absolute path.
        layer_if_unknown: The layer of a bare array, whose file does not say it; unused where the file does.
        workspace: The folder that relative paths are below.

    Raises:
        VectorFileError: The file is missing, malformed or forged, or does not say its layer and neither do you.
        DirectionError: A direction in it is not a finite vector.
        WorkspacePathError: The path leaves a confined workspace.
    """
    workspace = workspace or Workspace(Path.cwd())
    workspace.resolve(path)
    name = with_suffix(path)
    chosen = format_for(name)
    data = workspace.read(name)
    sidecar = workspace.read(name + ".json") if chosen.has_sidecar and workspace.holds(name + ".json") else None
    return chosen.decode(Encoded(data, sidecar), name, layer_if_unknown)
