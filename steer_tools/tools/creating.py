"""The tool that makes vectors."""

from typing import cast

from steer_tools.errors import LayerError
from steer_tools.extraction import extract
from steer_tools.formats import format_for, save_vector
from steer_tools.methods import method_named
from steer_tools.parameters import (
    CreateLayer,
    CreateResult,
    Method,
    NegativePrompts,
    Normalize,
    PoolingName,
    PositivePrompts,
    SavePath,
)
from steer_tools.prompts import ContrastPrompts
from steer_tools.session import Session, current_session
from steer_tools.tools.results import one_or_list, one_or_list_rounded, rounded


def create_steering_vector(
    positive_prompts: PositivePrompts,
    negative_prompts: NegativePrompts,
    layer: CreateLayer,
    save_path: SavePath,
    method: Method = "mean_difference",
    pooling: PoolingName = "last",
    normalize: Normalize = False,
) -> CreateResult:
    """Find the direction from negative to positive prompts in the unsteered model and save it; applies nothing.

    Saved at full length, strength 1.0 adds one mean difference between the two prompt sets. An existing file is
    replaced. Start at a middle layer with at least 8 prompts a side, then use compare_generations to choose.
    separation: 1.0 tells all held-out pairs of prompts apart, 0.5 is chance; it does not mean that the vector steers.
    """
    session = current_session()
    with session.lock:
        contrast = ContrastPrompts.parse(positive_prompts, negative_prompts)
        layers = _resolve_layers(session, layer)
        session.workspace.resolve(save_path)
        format_for(save_path, len(layers))
        extraction = extract(
            session, contrast, layers, method=method_named(method), pooling=pooling, normalize=normalize
        )
        vector, info = extraction.vector, extraction.vector.info
        path = save_vector(vector, save_path, workspace=session.workspace)
        return CreateResult(
            success=True,
            vector_path=str(path),
            shape=[vector.width] if len(layers) == 1 else [len(layers), vector.width],
            magnitude=one_or_list_rounded([vector.magnitude(own) for own in vector.layers]),
            layer=one_or_list(vector.layers),
            method=method,
            contrast_norm=one_or_list_rounded([info.contrast_norms[own] for own in vector.layers]),
            residual_norm=one_or_list_rounded([info.residual_norms[own] for own in vector.layers]),
            separation=one_or_list([rounded(extraction.fits[own].separation) for own in vector.layers]),
            warnings=list(extraction.warnings),
        )


def _resolve_layers(session: Session, layer: object) -> list[int]:
    if layer == "all":
        return session.engine.info.steerable_layers
    items = cast(list[object], layer) if isinstance(layer, list | tuple | range) else [layer]
    if not items:
        raise LayerError("layer is an empty list", valid="a layer, a list of layers, or 'all'")
    return sorted({session.engine.resolve_layer(item) for item in items})
