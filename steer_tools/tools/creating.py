"""The tools that make vectors."""

from typing import cast

from steer_tools.core.site import Component
from steer_tools.core.vectors import combine, cosines, oppositions, orthogonalized
from steer_tools.directions.extraction import Where, extract, layers_with
from steer_tools.directions.session_methods import way_named
from steer_tools.errors import LayerError
from steer_tools.formats import format_for, load_vector, save_vector
from steer_tools.parameters import (
    CombineResult,
    ComponentName,
    CreateLayer,
    CreateResult,
    Head,
    Method,
    NegativePrompts,
    Normalize,
    OptionalMethodOptions,
    OrthogonalTo,
    PoolingName,
    PositivePrompts,
    SavePath,
    VectorPaths,
    Weights,
)
from steer_tools.prompts import ContrastPrompts
from steer_tools.session.placement import require_finite
from steer_tools.session.session import Session, current_session
from steer_tools.tools.results import one_or_list, one_or_list_rounded


def create_steering_vector(
    positive_prompts: PositivePrompts,
    negative_prompts: NegativePrompts,
    layer: CreateLayer,
    save_path: SavePath,
    method: Method = "mean_difference",
    pooling: PoolingName = "last",
    normalize: Normalize = False,
    component: ComponentName = "residual",
    head: Head = None,
    options: OptionalMethodOptions = None,
) -> CreateResult:
    """Find the direction from negative to positive prompts in the unsteered model and save it; applies nothing.

    Saved at full length, strength 1.0 adds one mean difference between the two prompt sets. An existing file is
    replaced. Start at a middle layer with at least 8 prompts a side, then use compare_generations to choose.
    separation: 1.0 tells all held-out pairs of prompts apart, 0.5 is chance; it does not mean that the vector steers.
    """
    session = current_session()
    with session.lock:
        contrast = ContrastPrompts.parse(positive_prompts, negative_prompts)
        layers = _resolve_layers(session, layer, component, head)
        session.workspace.resolve(save_path)
        format_for(save_path, len(layers))
        way = way_named(method, options)
        extraction = extract(session, contrast, Where(layers, component, head, pooling), way, normalize=normalize)
        vector, info = extraction.vector, extraction.vector.info
        path = save_vector(vector, save_path, workspace=session.workspace)
        fits = [extraction.fits[own] for own in vector.layers]
        return CreateResult(
            success=True,
            vector_path=str(path),
            shape=[vector.width] if len(layers) == 1 else [len(layers), vector.width],
            magnitude=one_or_list_rounded([vector.magnitude(own) for own in vector.layers]),
            layer=one_or_list(vector.layers),
            method=method,
            contrast_norm=one_or_list_rounded([fitted.contrast_norm for fitted in fits]),
            residual_norm=one_or_list_rounded([info.residual_norms[own] for own in vector.layers]),
            prompt_counts=[len(contrast.positive), len(contrast.negative)],
            separation=one_or_list_rounded([fitted.separation for fitted in fits]),
            d_prime=one_or_list_rounded([fitted.d_prime for fitted in fits]),
            pair_agreement=one_or_list_rounded([fitted.pair_agreement for fitted in fits]),
            threshold=one_or_list_rounded([fitted.threshold for fitted in fits]),
            misses=one_or_list_rounded([fitted.misses for fitted in fits]),
            false_alarms=one_or_list_rounded([fitted.false_alarms for fitted in fits]),
            warnings=list(extraction.warnings),
        )


def combine_steering_vectors(
    vector_paths: VectorPaths,
    save_path: SavePath,
    weights: Weights = None,
    orthogonal_to: OrthogonalTo = None,
) -> CombineResult:
    """Save the weighted sum of vectors of the same layers; applies nothing.

    cosines near 1: the vectors are much the same; near -1: they undo each other.
    """
    session = current_session()
    with session.lock:
        session.workspace.resolve(save_path)
        vectors = [load_vector(path, workspace=session.workspace) for path in vector_paths]
        factors = [1.0] * len(vectors) if weights is None else [require_finite(w, "a weight") for w in weights]
        combined = combine(vectors, factors)
        if orthogonal_to:
            others = [load_vector(path, workspace=session.workspace) for path in orthogonal_to]
            combined = orthogonalized(combined, others)
        path = save_vector(combined, save_path, workspace=session.workspace)
        by_layer = [cosines(vectors, layer).tolist() for layer in combined.layers]
        means = [[sum(cells) / len(cells) for cells in zip(*rows, strict=True)] for rows in zip(*by_layer, strict=True)]
        return CombineResult(
            success=True,
            vector_path=str(path),
            layer=one_or_list(combined.layers),
            magnitude=one_or_list_rounded([combined.magnitude(own) for own in combined.layers]),
            cosines=[[round(x, 4) for x in row] for row in means],
            warnings=[
                f"At layer {o.layer}, {vector_paths[o.first]} and {vector_paths[o.second]} mostly undo each other as "
                f"they are weighted (cosine {o.cosine:.2f})."
                for o in oppositions(vectors, factors)
            ],
        )


def _resolve_layers(session: Session, layer: object, component: Component, head: int | None) -> list[int]:
    if layer == "all":
        return layers_with(session.engine, component, head)
    items = cast(list[object], layer) if isinstance(layer, list | tuple | range) else [layer]
    if not items:
        raise LayerError("layer is an empty list", valid="a layer, a list of layers, or 'all'")
    return sorted({session.engine.resolve_layer(item) for item in items})
