"""Steering vectors as they are held by hand: read from and written to the session's workspace, and shown as a card.

It must not know tools.
"""

import os
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from steer_tools import formats
from steer_tools.by_hand.calls import by_hand
from steer_tools.by_hand.habits import ATTRIBUTES, NEEDLESS
from steer_tools.by_hand.plain_values import plain_value
from steer_tools.core import vectors as core
from steer_tools.core.registry import Applied
from steer_tools.core.site import Component
from steer_tools.core.vectors import VectorInfo
from steer_tools.errors import ArgumentError, UnsupportedFeatureError
from steer_tools.foreign_text import element, visible
from steer_tools.formats.base import Unsaid
from steer_tools.inspection.vector_meaning import lens_tokens
from steer_tools.session.placement import steering
from steer_tools.session.session import current_session
from steer_tools.session.vector_loading import read_vector_like
from steer_tools.workspace import Workspace

# Tokens on a card.
_SHOWN = 6


class SteeringVector(core.SteeringVector):
    """Directions by layer, as people hold them: `SteeringVector({15: tensor})` or `SteeringVector(array, layer=15)`.

    `vector[15]`, `vector.layers` and `len(vector)`; of one layer also `vector.vector` and `vector.norm()`; sums,
    differences, multiples and `==`; `save` and `load` below the workspace. What is known of its making is in `info`.

    Args:
        directions: By layer, or one (width,) with its `layer`: tensors or arrays of floats, which are copied.
        component: What is read and edited: "residual", "attention", "mlp" or "embedding".
        info: Where they came from.
        head: The one head of attention.
        means: By layer, (width,): the middle of the two classes' mean activations.
        erasers: By layer, (width,): see LEACE among the interventions.
        layer: Of one direction.
        others: Names that other libraries have for the directions and the component.

    Raises:
        DirectionError: A direction is not a finite vector of the others' width, or is all zero.
        ArgumentError: It lacks its directions or the layer, or another argument means nothing.
    """

    def __init__(
        self,
        directions: Any = None,
        component: Component | None = None,
        info: VectorInfo | None = None,
        head: int | None = None,
        means: Mapping[int, Any] | None = None,
        erasers: Mapping[int, Any] | None = None,
        *,
        layer: int | None = None,
        **others: Any,
    ) -> None:
        given = others.pop("layer_activations", None) if directions is None else directions
        part = plain_value(component or others.pop("layer_type", None), Component, "component")
        strange = sorted(others.keys() - NEEDLESS)
        if strange or given is None:
            raise ArgumentError(
                f"A SteeringVector has no {strange}" if strange else "A SteeringVector lacks its directions",
                valid="SteeringVector({layer: array}) or SteeringVector(array, layer=...), with component, head, info",
            )
        if not isinstance(given, Mapping):
            if layer is None:
                raise ArgumentError("An array does not say its layer", valid="layer= beside it, or {layer: array}")
            given = {layer: given}
        by_layer = {int(at): array for at, array in given.items()}
        super().__init__(by_layer, part or "residual", info or VectorInfo(), head, means or {}, erasers or {})

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, layer: int | None = None) -> "SteeringVector":
        """Read a vector's file below the workspace; `layer` is that of a bare array. See `load_vector`."""
        return load_vector(path, layer_if_unknown=layer)

    def save(self, path: str | os.PathLike[str], *, format_name: str | None = None) -> Path:
        """Write the vector below the workspace and return the path of its file. See `save_vector`."""
        return save_vector(self, path, format_name=format_name)

    def export_gguf(self, path: str | os.PathLike[str]) -> Path:
        """Write the vector as llama.cpp reads it (repeng's name for that)."""
        name = formats.with_suffix(path, ".gguf")
        return formats.write_vector(self, name, format_name="gguf", workspace=current_session().workspace).path

    def apply(self, model: Any = None, **options: Any) -> AbstractContextManager[Applied]:
        """Steer inside a `with` block (steering-vectors' name for that); see `steering`, which takes the options."""
        steered: Any = by_hand(steering)
        return steered(*(() if model is None else (model,)), self, **options)

    @property
    def tensor(self) -> Tensor:
        """The only direction, `vector`, by another name that it has elsewhere."""
        return self.vector

    def __getattr__(self, name: str) -> Any:
        if name not in ATTRIBUTES:
            raise AttributeError(f"'SteeringVector' object has no attribute {name!r}")
        raise AttributeError(f"A SteeringVector has no {name!r}: {ATTRIBUTES[name]}")

    def _repr_html_(self) -> str:
        side = {"style": "text-align:left"}
        rows = (
            element("tr", element("th", name, **side), element("td", text, **side))
            for name, text in _card(self).items()
            if text
        )
        return element("table", element("caption", "Steering vector"), *rows)


def load_vector(
    path: str | os.PathLike[str],
    *,
    layer_if_unknown: int | None = None,
    rows: str | None = None,
    workspace: Workspace | None = None,
) -> SteeringVector:
    """Read a steering vector; a path without a known suffix means `.safetensors`, as it does in `save_vector`, or else
    the one file of that name with another suffix, or with none.

    Args:
        path: A file below the workspace, or an absolute path; of a file with several arrays with the one that is meant,
            as `dirs.pt[-1, 12]` or `vectors.npz[refusal]`. The folder of a `SteeringVectorSet` that rotalabs-steer
            saved is one vector with several layers.
        layer_if_unknown: The layer of a bare array, whose file does not say it; unused where the file does.
        rows: What row i of a stack is, whose file does not say it: "block_outputs" (the output of block i),
            "block_inputs" (its input) or "hidden_states" (its input, as in `output_hidden_states`, with one row more);
            unused where the file says its layers.
        workspace: Another folder than the session's that relative paths are below.

    Raises:
        VectorFileError: The file is missing, malformed or forged, or does not say its layer or which of its arrays is
            meant, and neither do you.
        DirectionError: A direction in it is not a finite vector, or it is a stack and you do not say what its rows are.
        UnsupportedFeatureError: It asks for something that a steering vector does not have.
        WorkspacePathError: The path leaves a confined workspace.
    """
    unsaid = Unsaid(layer_if_unknown, rows)
    read = formats.read_vector(path, unsaid, workspace=workspace or current_session().workspace).vector
    return SteeringVector(read.directions, read.component, read.info, read.head, read.means, read.erasers)


def save_vector(
    vector: Any,
    path: str | os.PathLike[str],
    *,
    format_name: str | None = None,
    workspace: Workspace | None = None,
) -> Path:
    """Write a vector and return the absolute path of the file, which has a suffix even where `path` has none.

    Of what the format has no place for, a `UserWarning` gives the names and the ending that keeps it. Relative paths
    are below the workspace. `format_name` chooses between formats of one ending: "pt" (the default for
    .pt), "rotalabs", a .pt and a .json file, or "lm-eval", what lm-evaluation-harness' model `steered` reads.

    Raises:
        UnsupportedFeatureError: The format cannot hold the vector's layers or component.
        ArgumentError: There is no such format, the path ends as another format's do, or it is no vector.
        VectorFileError: It cannot be written, what is there already is no vector, or a file beside it would say
            something else of it.
        WorkspacePathError: The path leaves a confined workspace.
    """
    workspace = workspace or current_session().workspace
    read, _ = read_vector_like(workspace, vector)
    written = formats.write_vector(read, path, format_name=format_name, workspace=workspace)
    for warning in written.warnings:
        warnings.warn(visible(warning), stacklevel=3)  # Behind `by_hand`.
    return written.path


def _card(vector: SteeringVector) -> dict[str, str]:
    """Return what a notebook says of a vector; empty for what is not known."""
    info, chosen = vector.info, vector.info.chosen
    norms = {layer: vector.magnitude(layer) for layer in vector}
    shares = [f"{norms[n] / info.residual_norms[n]:.2g}" for n in vector if n in info.residual_norms]
    counts = (info.positive_count, info.negative_count)
    return {
        "layers": ", ".join(map(str, vector.layers)),
        "part": vector.component + ("" if vector.head is None else f", head {vector.head}"),
        "width": str(vector.width),
        "norms": ", ".join(f"{norm:.4g}" for norm in norms.values()),
        "in typical norms": ", ".join(shares),
        "method": info.method or "",
        "prompts": "" if None in counts else f"{counts[0]} and {counts[1]}",
        "model": info.model_name or "",
        "tested cell": ""
        if chosen is None
        else f"layer {chosen.layer}, strength {chosen.strength:.3g} ({chosen.unit}), {chosen.positions}",
        "promotes": _promoted(vector),
    }


def _promoted(vector: SteeringVector) -> str:
    """Return the tokens that a vector promotes most by the logit lens, where its own model is attached."""
    session, fingerprint = current_session(), vector.info.model_fingerprint
    if vector.component != "residual" or fingerprint is None or not session.is_attached:
        return ""
    layer = vector.layers[len(vector) // 2] if vector.info.chosen is None else vector.info.chosen.layer
    with suppress(UnsupportedFeatureError):
        if session.engine.info.has_weights_of(fingerprint):
            ranked = lens_tokens(session.engine, vector[layer], _SHOWN)
            return f"at layer {layer}: {', '.join(repr(token.text) for token in ranked)}"
    return ""
