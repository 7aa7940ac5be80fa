"""A steering vector ↔ one file; `read_vector` and `write_vector` choose the format by the name's ending.

A new format is one file here whose name ends in _format, with one small class: FORMATS finds it. Formats turn a vector
into bytes and back; the workspace does the reading and writing. They must not know models.
"""

import os
import re
from dataclasses import dataclass, replace
from importlib import import_module
from inspect import isabstract
from pathlib import Path
from pkgutil import iter_modules
from typing import BinaryIO

from steer_tools.core.vectors import SteeringVector
from steer_tools.errors import ArgumentError, SteeringError, UnsupportedFeatureError, VectorFileError
from steer_tools.formats.base import Decoded, Encoded, UnmatchedFilesError, Unsaid, VectorFormat
from steer_tools.formats.pt_format import PtFormat
from steer_tools.formats.rotalabs_format import (
    SET_DESCRIPTION,
    RotalabsFormat,
    SetDescription,
    description_of,
    set_description_of,
    set_of,
)
from steer_tools.formats.steering_vectors_package import from_steering_vectors as from_steering_vectors
from steer_tools.formats.steering_vectors_package import to_steering_vectors as to_steering_vectors
from steer_tools.limits import FILE_BYTES
from steer_tools.workspace import Kind, Workspace, path_text

# The first is the default, and where two share an ending, the first is written unless the other is asked for by name.
# A zip archive is .npz before it is .pt.
_ORDER = ("safetensors", "npy", "npz", "gguf", "vllm-lens", "pt", "rotalabs", "lm-eval")


def _formats() -> tuple[VectorFormat, ...]:
    """Return one of each class that the modules of this package define: those of _ORDER, then others by name."""
    names = (module.name for module in iter_modules(__path__, f"{__name__}.") if module.name.endswith("_format"))
    modules = [import_module(name) for name in names]
    kinds = {kind for module in modules for kind in vars(module).values() if isinstance(kind, type)}
    found = {kind.name: kind() for kind in kinds if issubclass(kind, VectorFormat) and not isabstract(kind)}
    return tuple(found.pop(name) for name in _ORDER) + tuple(found[name] for name in sorted(found))


FORMATS = _formats()
# The endings that mean a steering vector wherever they stand. A .json or .pt file is read when it is asked for, but may
# be anything, as may an .npz file, so a listing leaves it out.
SUFFIXES = (".safetensors", ".npy", ".gguf")
_INDEXED = re.compile(r"(?P<path>.+)\[(?P<index>[^\[\]]+)\]", re.DOTALL)
_ALL_SUFFIXES = tuple({vector_format.suffix: None for vector_format in FORMATS})
_NOTHING = Unsaid()
_VALID_FILES = f"a file as one of these is: {', '.join(_ALL_SUFFIXES)}"


@dataclass(frozen=True)
class Written:
    """The file of a vector, its format and layers, and what of the vector it does not say, as `VectorFormat.lost`."""

    path: Path
    format: VectorFormat
    lost: tuple[str, ...]
    layers: tuple[int, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What whoever wrote it should know, which is nothing where nothing is lost."""
        if not self.lost:
            return ()
        layer = f"Give layer={self.layers[0]} wherever it is used. " if "layer" in self.lost else ""
        return (
            f"{self.path.name} does not keep {', '.join(self.lost)}: the format {self.format.name!r} has no place for "
            f"that. {layer}A path that ends in {FORMATS[0].suffix} keeps all.",
        )


@dataclass(frozen=True)
class Loaded:
    """A vector, the format of the file it came from, and what one should know about the reading."""

    vector: SteeringVector
    format: VectorFormat
    notes: tuple[str, ...]


def with_suffix(path: str | os.PathLike[str], suffix: str = FORMATS[0].suffix) -> str:
    """Return `path` with `suffix` appended unless it already ends in a known one.

    What follows the last dot is not taken for a suffix otherwise: `refusal_v1.5` becomes `refusal_v1.5.safetensors`.
    """
    text = path_text(path)
    return text if text.lower().endswith(_ALL_SUFFIXES) else text + suffix


def format_named(name: str) -> VectorFormat:
    """Return the format called `name`.

    Raises:
        ArgumentError: There is none.
    """
    by_name = {vector_format.name: vector_format for vector_format in FORMATS}
    if name not in by_name:
        raise ArgumentError(f"format is {name!r}", valid=", ".join(map(repr, by_name)))
    return by_name[name]


def format_for(path: str | os.PathLike[str], layer_count: int = 1, name: str | None = None) -> VectorFormat:
    """Return the format in which `path` is written: the one called `name`, or else the first with its ending.

    Raises:
        UnsupportedFeatureError: It cannot hold `layer_count` directions.
        ArgumentError: No format has that name, or the path ends as another format's do.
    """
    if name is None:
        chosen = next(f for f in FORMATS if with_suffix(path).lower().endswith(f.suffix))
    else:
        chosen = format_named(name)
        written = with_suffix(path, chosen.suffix)
        if not written.lower().endswith(tuple({Path(one).suffix for one in chosen.files("v" + chosen.suffix) if one})):
            raise ArgumentError(
                f"format is {name!r}, but the path {written!r} ends as another format's do",
                valid=f"a path that ends in {chosen.suffix}",
            )
    if layer_count > 1 and not chosen.holds_several_layers:
        several = ", ".join(f.suffix for f in FORMATS if f.holds_several_layers)
        raise UnsupportedFeatureError(
            f"A {chosen.suffix} file holds one direction, but there are {layer_count} layers",
            valid=f"one layer, or a path that ends in {several}",
            fix=f"Save to {Path(os.fspath(path)).stem + FORMATS[0].suffix!r} instead.",
        )
    return chosen


def write_vector(
    vector: SteeringVector,
    path: str | os.PathLike[str],
    *,
    format_name: str | None = None,
    workspace: Workspace | None = None,
) -> Written:
    """Write a vector and return its file with what of the vector that does not say; see `steer_tools.save_vector`.

    Relative paths are below `workspace`, or the default one.

    Raises:
        SteeringError: As `steer_tools.save_vector`.
    """
    workspace = workspace or Workspace()
    target = workspace.resolve(path)
    chosen = format_for(path, len(vector.directions), format_name)
    encoded = chosen.encode(vector)
    name, beside = chosen.files(with_suffix(path, chosen.suffix))
    if isinstance(chosen, PtFormat) and _is_pair(name, workspace):
        raise VectorFileError(
            f"The .json file beside {name} describes another vector and would be taken for this one's",
            valid="format_name='rotalabs', which writes both files",
            fix="Or remove it, or choose another path.",
        )
    contents, kinds = dict[str, bytes](), {name: _VECTOR}
    if encoded.sidecar is not None and beside is not None:
        contents[beside] = encoded.sidecar
        kinds[beside] = Kind(
            f"the description of a {chosen.suffix} file", lambda file: chosen.describes(file.read(FILE_BYTES.most))
        )
    # The description first: it tells by its digest that the array beside it is not yet the one that it describes.
    workspace.write_together(contents | {name: encoded.data}, replaces=kinds)
    return Written(target.with_name(Path(name).name), chosen, chosen.lost(vector), vector.layers)


def _is_vector(file: BinaryIO) -> bool:
    """Return whether any format reads a vector in a file, of which the layer may be known to others only."""
    data = file.read(FILE_BYTES.most + 1)
    return len(data) <= FILE_BYTES.most and any(_reads(one, data) for one in FORMATS if one.claims(data))


def _reads(vector_format: VectorFormat, data: bytes) -> bool:
    try:
        vector_format.decode(Encoded(data), "the file", Unsaid(layer=0))
    except SteeringError:
        return False
    return True


_VECTOR = Kind("a steering vector", _is_vector)


def read_vector(
    path: str | os.PathLike[str], unsaid: Unsaid = _NOTHING, *, workspace: Workspace | None = None
) -> Loaded:
    """Read a vector's file or set, with its format and what one should know of it; see `steer_tools.load_vector`.

    Relative paths are below `workspace`, or the default one.

    Raises:
        SteeringError: As `steer_tools.load_vector`.
    """
    workspace = workspace or Workspace()
    place = locate(path, workspace)
    unsaid = replace(unsaid, index=(*place.index, *unsaid.index))
    if (described := _set_at(place.name, workspace)) is not None:
        unsaid.refuse_index(place.name)
        pairs = {n: _read_file(f"{place.name}/{pair}", unsaid, workspace) for n, pair in described.pairs.items()}
        decoded = set_of({n: Decoded(pair.vector, pair.notes) for n, pair in pairs.items()}, place.name)
        return Loaded(decoded.vector, format_named(RotalabsFormat.name), decoded.notes)
    return _read_file(place.name, unsaid, workspace)


def _read_file(name: str, unsaid: Unsaid, workspace: Workspace) -> Loaded:
    try:
        return _read_files(name, unsaid, workspace)
    except UnmatchedFilesError:
        # A writer is between the two, or was killed there: with its lock, what it began is done.
        with workspace.settled(name):
            return _read_files(name, unsaid, workspace)


def _read_files(name: str, unsaid: Unsaid, workspace: Workspace) -> Loaded:
    data = workspace.read(name)
    chosen = _format_of(name, data, workspace)
    main, beside = chosen.files(name)
    if main != name:
        data = workspace.read(main)
    sidecar = workspace.read(beside) if beside is not None and workspace.holds(beside) else None
    decoded = chosen.decode(Encoded(data, sidecar), main, unsaid)
    return Loaded(decoded.vector, chosen, decoded.notes)


@dataclass(frozen=True)
class VectorPlace:
    """The name of a vector's file or set, and the index of the array in it that is meant, where the path has one."""

    name: str
    index: tuple[str, ...] = ()


def locate(path: str | os.PathLike[str], workspace: Workspace) -> VectorPlace:
    """Return the file or set that a path means, of that name or with an ending that it lacks, and the index after it.

    Raises:
        VectorFileError: Several files have that name with an ending, or it is a folder.
        WorkspacePathError: The path leaves a confined workspace.
    """
    # A folder may be written with the separator behind it.
    text = path_text(path).rstrip(os.sep) or path_text(path)
    indexed = _INDEXED.fullmatch(text)
    if name := _name_there(text, workspace):
        return VectorPlace(name)
    index = tuple(step.strip() for step in indexed["index"].split(",")) if indexed else ()
    without = indexed["path"] if indexed else text
    return VectorPlace((_name_there(without, workspace) if indexed else None) or with_suffix(without), index)


def _name_there(text: str, workspace: Workspace) -> str | None:
    """Return the file or set of a name, with its suffix where it lacks one; None where there is none."""
    folder = workspace.resolve(text)
    if workspace.holds(with_suffix(text)):
        return with_suffix(text)
    if workspace.holds(text):
        return text
    if _set_at(text, workspace) is not None:
        return text
    named = [text + suffix for suffix in _ALL_SUFFIXES if workspace.holds(text + suffix)]
    if len(named) == 1 or (len(named) == 2 and _is_pair(named[-1], workspace)):
        return named[-1]
    if named:
        raise VectorFileError(f"{text!r} is the name of several files", valid=", ".join(map(repr, named)))
    if os.path.isdir(folder):  # noqa: PTH112  # Path.is_dir raises where a name is too long.
        raise VectorFileError(
            f"{folder} is a folder",
            valid="the path of a vector's file, or of the folder of a set that rotalabs-steer saved",
            fix="If it is a sparse autoencoder's, as SAELens saves it, use create_steering_vector with "
            f"method='sae_feature' and options={{'sae': {text!r}, 'feature': <number>}}.",
        )
    return None


def _format_of(name: str, data: bytes, workspace: Workspace) -> VectorFormat:
    """Return the format of a file: by its ending if its content can be that, or else by its content."""
    if _is_pair(name, workspace):
        return format_named(RotalabsFormat.name)
    if not data:
        raise VectorFileError(f"{name} is an empty file", valid=_VALID_FILES, fix="Get it again.")
    claiming = [vector_format for vector_format in FORMATS if vector_format.claims(data)]
    by_ending = [f for f in claiming or FORMATS if name.lower().endswith(f.suffix)]
    if not claiming and not by_ending:
        raise VectorFileError(
            f"{name} is no file of a steering vector: it begins with {data[:16]!r}",
            valid=_VALID_FILES,
            fix="Save tensors from elsewhere by save_vector(SteeringVector.from_directions({layer: tensor}), path).",
        )
    return (by_ending or claiming)[0]


def _set_at(name: str, workspace: Workspace) -> SetDescription | None:
    """Return what the folder `name` says of the vectors in it, where it is one of a set."""
    description = f"{name}/{SET_DESCRIPTION}"
    return set_description_of(workspace.read(description)) if workspace.holds(description) else None


def _is_pair(name: str, workspace: Workspace) -> bool:
    """Return whether a .json or .pt file is one of a pair, by what is in the .json file."""
    if not name.lower().endswith((".json", RotalabsFormat.suffix)):
        return False
    _, description = format_named(RotalabsFormat.name).files(name)
    return (
        description is not None
        and workspace.holds(description)
        and description_of(workspace.read(description)) is not None
    )
