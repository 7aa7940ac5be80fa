"""The tool that makes a vector from vectors."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Annotated, cast

from annotated_types import MinLen
from typing_extensions import TypedDict

from steer_tools.reports.words import span
from steer_tools.tools import arguments as given
from steer_tools.tools.argument_checks import checked
from steer_tools.tools.card import Card
from steer_tools.tools.rendering import (
    Shown,
    figure,
    known,
    layer_names,
    line,
    saved,
    shown,
    stack,
    table,
    warning_lines,
)
from steer_tools.tools.resolving import locked_session, overwritten_warnings
from steer_tools.tools.results import one_or_list, one_or_list_rounded

VectorPaths = Annotated[list[str], given.Doc("Saved vectors."), MinLen(1)]
Weights = Annotated[
    list[float] | None, given.Doc("By what each is multiplied; 1.0 if omitted. Negative turns it round.")
]
OrthogonalTo = Annotated[list[str] | None, given.Doc("Saved vectors whose directions are taken out of the result.")]


class CombineResult(TypedDict):
    """`cosines`: of each pair of the given vectors, averaged over their layers; `magnitude` is that of the result."""

    success: bool
    vector_path: str
    layer: int | list[int]
    magnitude: float | list[float]
    cosines: list[list[float]]
    warnings: list[str]


@checked
def combine_steering_vectors(
    vector_paths: VectorPaths,
    save_path: given.SavePath,
    weights: Weights = None,
    orthogonal_to: OrthogonalTo = None,
) -> CombineResult:
    """Save the weighted sum of vectors of the same layers; applies nothing.

    cosines near 1: the vectors are much the same; near -1: they undo each other.
    """
    from steer_tools.core.vectors import combine, cosines, oppositions, orthogonalized
    from steer_tools.experiments.grids import by_layer
    from steer_tools.formats import write_vector
    from steer_tools.session.placement import require_finite
    from steer_tools.session.vector_loading import read_vector_like

    with locked_session() as session:
        session.workspace.resolve(save_path)
        if isinstance(vector_paths, Mapping):
            vector_paths, weights = list(vector_paths), list(cast(Mapping[str, float], vector_paths).values())
        vectors = [read_vector_like(session.workspace, vector)[0] for vector in vector_paths]
        factors = [1.0] * len(vectors) if weights is None else [require_finite(w, "a weight") for w in weights]
        combined = combine(vectors, factors)
        if orthogonal_to:
            others = [read_vector_like(session.workspace, vector)[0] for vector in orthogonal_to]
            combined = orthogonalized(combined, others)
        written = write_vector(combined, save_path, workspace=session.workspace)
        by_layer = [cosines(vectors, layer).tolist() for layer in combined.layers]
        means = [[sum(cells) / len(cells) for cells in zip(*rows, strict=True)] for rows in zip(*by_layer, strict=True)]
        return CombineResult(
            success=True,
            vector_path=str(written.path),
            layer=one_or_list(combined.layers),
            magnitude=one_or_list_rounded([combined.magnitude(own) for own in combined.layers]),
            cosines=[[round(x, 4) for x in row] for row in means],
            warnings=[
                *(
                    f"At layer {o.layer}, {vector_paths[o.first]} and {vector_paths[o.second]} mostly undo each other "
                    f"as they are weighted (cosine {o.cosine:.2f})."
                    for o in oppositions(vectors, factors)
                ),
                *written.warnings,
                *overwritten_warnings(session),
            ],
        )


def show(result: CombineResult, vector_paths: Sequence[str]) -> Shown:
    """Render where the sum is, and the cosine of each pair of its vectors, the nearest first."""
    pairs = [
        (result["cosines"][i][j], vector_paths[i], vector_paths[j])
        for i, j in combinations(range(len(vector_paths)), 2)
    ]
    nearest_first = sorted(pairs, key=lambda pair: -pair[0])
    rows = [(f"{cosine:.2f}", shown(first), shown(second)) for cosine, first, second in nearest_first]
    noun = "layers" if isinstance(result["layer"], list) else "layer"
    magnitude = span(sorted(known(result["magnitude"])), figure)
    return stack(
        saved(result["vector_path"]),
        line(f"{noun} {layer_names(result['layer'])}, magnitude {magnitude}", "dim"),
        *([table({"cosine": "right", "of": "fold", "and": "fold"}, rows)] if rows else []),
        *warning_lines(result["warnings"]),
    )


TOOL = Card(
    "Combine steering vectors",
    "edit",
    command="combine",
    about="Save the weighted sum of vectors, and show how they lie to each other.",
    positional=("vector_paths",),
    is_repeatable=True,
    makes_vector=True,
    needs_model=False,
).tool(combine_steering_vectors, show)
