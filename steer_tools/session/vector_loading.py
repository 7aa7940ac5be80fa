"""A vector, or the path of its file, and a session's model → the vector, if it belongs to that model.

It must not know where or how it will act.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from steer_tools.core.site import Site
from steer_tools.core.vectors import SteeringVector
from steer_tools.errors import ForeignVectorError, LayerError, SteeringError
from steer_tools.formats import SUFFIXES, load_vector, locate
from steer_tools.session.session import Session
from steer_tools.workspace import Workspace

# A vector, or the path of its file.
VectorLike: TypeAlias = SteeringVector | str | os.PathLike[str]


@dataclass(frozen=True)
class LoadedForModel:
    """A vector, where it came from, and what its user should know."""

    vector: SteeringVector
    source: str
    warnings: tuple[str, ...]


def load_for_model(
    session: Session, vector: VectorLike, layer_if_unknown: int | None = None, *, allow_other_model: bool = False
) -> LoadedForModel:
    """Read a vector and hold it against the session's model; `layer_if_unknown` is for files that do not say theirs.

    Raises:
        VectorFileError: The file cannot be read.
        ForeignVectorError: It was made on a model of another width, or, unless allowed, of another kind.
    """
    if isinstance(vector, SteeringVector):
        source = "a SteeringVector in memory"
    else:
        place = locate(vector, session.workspace)
        index = f"[{', '.join(place.index)}]" if place.index else ""
        source = f"{session.workspace.resolve(place.name)}{index}"
        vector = load_vector(vector, layer_if_unknown=layer_if_unknown, workspace=session.workspace)
    return LoadedForModel(vector, source, tuple(_refuse_foreign(session, vector, allow=allow_other_model)))


def saved_vectors(workspace: Workspace) -> dict[str, SteeringVector]:
    """Return the vectors of a workspace that say their layers, by path. Others are no vectors to compare."""
    found: dict[str, SteeringVector] = {}
    for path in workspace.files(SUFFIXES):
        # Beside a config lie a model's weights.
        if not (path.parent / "config.json").is_file():
            with suppress(SteeringError):
                found[str(path)] = load_vector(path, workspace=workspace)
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


def _refuse_foreign(session: Session, vector: SteeringVector, *, allow: bool) -> list[str]:
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
        return ["The vector's file does not say which model it was made on."]
    if not model.has_weights_of(info.model_fingerprint):
        return [f"The vector was made on other weights ({info.model_name}) than the model's ({model.name})."]
    if info.template_options != model.template_options:
        return [
            f"The vector was made with the options {info.template_options} of the chat template, and the model has "
            f"{dict(model.template_options)}."
        ]
    return []
