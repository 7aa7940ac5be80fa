"""A vector, or the path of its file, and a session's model → the vector, if it belongs to that model.

It must not know where or how it will act.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypeAlias, cast

import numpy as np
from torch import Tensor

from steer_tools.core.registry import Applied
from steer_tools.core.site import Site
from steer_tools.core.vectors import SteeringVector
from steer_tools.errors import ForeignVectorError, LayerError, SteeringError
from steer_tools.formats import SUFFIXES, locate, read_vector, write_vector
from steer_tools.formats.base import Unsaid
from steer_tools.session.session import Session
from steer_tools.workspace import Workspace

# A vector, the path of its file, or arrays: one, (width,) or (1, width), with its layer said beside it, or by layer.
Array: TypeAlias = Tensor | np.ndarray[Any, Any]
VectorLike: TypeAlias = SteeringVector | str | os.PathLike[str] | Array | Mapping[int, Array]

_IN_MEMORY = "a vector in memory"


@dataclass(frozen=True)
class LoadedForModel:
    """A vector, where it came from, what its user should know, and the SHA-256 of its file, where it is one file."""

    vector: SteeringVector
    source: str
    warnings: tuple[str, ...]
    digests: tuple[tuple[str, str], ...] = ()


def load_for_model(
    session: Session,
    vector: VectorLike,
    layers_if_unknown: int | Sequence[int] | None = None,
    *,
    allow_other_model: bool = False,
) -> LoadedForModel:
    """Read a vector and hold it against the session's model.

    `layers_if_unknown` is for arrays and files that do not say theirs; an array is meant at each of several layers.

    Raises:
        VectorFileError: The file cannot be read.
        LayerError: It is an array, and no layer is said.
        ForeignVectorError: It was made on a model of another width, or, unless allowed, of another kind.
    """
    read, source = read_vector_like(session.workspace, vector, layers_if_unknown)
    warnings = tuple(_refuse_foreign(session, read, source, allow=allow_other_model))
    digests: tuple[tuple[str, str], ...] = ()
    if isinstance(vector, str | os.PathLike):
        name = locate(vector, session.workspace).name
        digest = _digest(session.workspace, name)
        digests = ((str(session.workspace.resolve(name)), digest),) if digest else ()
    return LoadedForModel(read, source, warnings, digests)


def changed_files(workspace: Workspace, applied: Applied) -> list[str]:
    """Return the files of an applied vector that hold something else by now, or are gone."""
    return [path for path, digest in applied.digests if _digest(workspace, path) != digest]


def _digest(workspace: Workspace, name: str) -> str | None:
    """Return the SHA-256 of a file; None where there is none that can be read, as of a set's folder."""
    with suppress(SteeringError):
        return sha256(workspace.read(name)).hexdigest()
    return None


def read_vector_like(
    workspace: Workspace, vector: VectorLike, layers_if_unknown: int | Sequence[int] | None = None
) -> tuple[SteeringVector, str]:
    """Return a vector, and where it came from; `load_for_model` without a model."""
    layers = [layers_if_unknown] if isinstance(layers_if_unknown, int) else list(layers_if_unknown or ())
    if isinstance(vector, SteeringVector):
        return vector, _IN_MEMORY
    if isinstance(vector, Mapping):
        return SteeringVector(cast(Mapping[int, Tensor], vector)), _IN_MEMORY
    if isinstance(vector, Tensor | np.ndarray):
        if not layers:
            raise LayerError(
                f"The vector is an array of shape {tuple(vector.shape)}, which does not say its layer",
                valid="a layer beside it, or a dictionary {layer: array}",
            )
        return SteeringVector(dict.fromkeys(layers, cast(Tensor, vector))), _IN_MEMORY
    place = locate(vector, workspace)
    index = f"[{', '.join(place.index)}]" if place.index else ""
    read = read_vector(vector, Unsaid(layers[0] if layers else None), workspace=workspace)
    return read.vector, f"{workspace.resolve(place.name)}{index}"


def path_of(workspace: Workspace, vector: VectorLike, layers_if_unknown: Sequence[int] = ()) -> str:
    """Return the path of a vector's file as it was given; one in memory is saved, under a name made of its content."""
    if isinstance(vector, str | os.PathLike):
        return os.fspath(vector)
    loaded, _ = read_vector_like(workspace, vector, layers_if_unknown)
    content = b"".join(direction.numpy().tobytes() for direction in loaded.directions.values())
    name = sha256(repr((loaded.layers, loaded.component, loaded.head)).encode() + content).hexdigest()[:12]
    return str(write_vector(loaded, f"vectors/{name}", workspace=workspace).path)


def saved_vectors(workspace: Workspace) -> dict[str, SteeringVector]:
    """Return the vectors of a workspace that say their layers, by path. Others are no vectors to compare."""
    found: dict[str, SteeringVector] = {}
    for path in workspace.files(SUFFIXES):
        # Beside a config lie a model's weights.
        if not (path.parent / "config.json").is_file():
            with suppress(SteeringError):
                found[str(path)] = read_vector(path, workspace=workspace).vector
    return found


def one_direction(vector: SteeringVector, layer: int | None) -> tuple[int, Tensor]:
    """Return the vector's direction at `layer`, or the one that an experiment chose, or its only one, with its layer.

    Raises:
        LayerError: It has several directions, or none for the layer.
    """
    at, chosen = layer, vector.info.chosen
    if at is None and chosen is not None:
        at = chosen.layer
    elif at is None and len(vector.layers) == 1:
        at = vector.layers[0]
    if at is None or at not in vector.directions:
        raise LayerError(
            f"layer is {layer!r}, and the vector has directions for the layers {list(vector.directions)}",
            valid="one of these",
        )
    return at, vector.directions[at]


def _refuse_foreign(session: Session, vector: SteeringVector, source: str, *, allow: bool) -> list[str]:
    """Refuse a vector of another shape or family; return warnings for the same family with other weights."""
    model, info = session.engine.info, vector.info
    some_layer = min(vector.layers[0], model.layers - 1)
    width = session.engine.width(Site(some_layer, vector.component, vector.head))
    if vector.width != width:
        where = "" if vector.component == "residual" else f" at {vector.component}"
        raise ForeignVectorError(
            f"The vector has the width {vector.width}, and the model {model.name!r} has {width}{where}",
            valid="vectors that were made on this model",
            fix="Create the vector again with this model.",
        )
    same_kind = info.model_family in (None, model.family) and info.model_layers in (None, model.layers)
    if not same_kind and not allow:
        raise ForeignVectorError(
            f"The vector was made on {info.model_name!r} ({info.model_family}, {info.model_layers} layers), and the "
            f"model is {model.name!r} ({model.family}, {model.layers} layers)",
            valid="vectors that were made on this kind of model",
            fix="Create the vector again with this model, or pass allow_other_model=True.",
        )
    if info.model_fingerprint is None:
        return [] if source == _IN_MEMORY else ["The vector's file does not say which model it was made on."]
    if not model.has_weights_of(info.model_fingerprint):
        return [f"The vector was made on other weights ({info.model_name}) than the model's ({model.name})."]
    if info.template_options != model.template_options:
        return [
            f"The vector was made with the options {info.template_options} of the chat template, and the model has "
            f"{dict(model.template_options)}."
        ]
    return []
