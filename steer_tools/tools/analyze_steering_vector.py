"""The tool that says what a vector means to its model, and what it really does there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typing_extensions import TypedDict

from steer_tools.core.site import Site
from steer_tools.figures import PICTURE, SIGNED, signed
from steer_tools.figures.strips import Strip, strip_page, strip_picture
from steer_tools.prompts import parse_prompts
from steer_tools.tools import arguments as given
from steer_tools.tools.argument_checks import checked
from steer_tools.tools.card import Card
from steer_tools.tools.rendering import Shown, brief, facts, joined, line, stack, table, warning_lines
from steer_tools.tools.resolving import locked_session, require_at_least_one
from steer_tools.tools.results import short

if TYPE_CHECKING:
    from steer_tools.core.vectors import SteeringVector
    from steer_tools.inspection.readings import Projection
    from steer_tools.inspection.vector_meaning import Ranking
    from steer_tools.session.session import Session
    from steer_tools.session.vector_loading import VectorLike

_MOST_SAVED = 10
_PICTURE, _PAGE = "projections.png", "projections.html"


AnalyzedTexts = Annotated[list[str] | None, given.Doc("Texts whose tokens are projected on the vector, and drawn.")]
SubtractMeanToken = Annotated[bool, given.Doc("Take the mean row of the output matrix off each.")]
CompareBehaviors = Annotated[bool, given.Doc("Also make every built-in behaviour's vector; takes a while.")]


ComparedWith = Annotated[
    list[str] | None, given.Doc("Vectors to be compared with, instead of those in the workspace."), given.ONLY_IN_PYTHON
]


class TokenRanking(TypedDict):
    """Tokens with their values, the strongest first; one in twenty meaningless directions has one beyond ±`chance`."""

    boosted: dict[str, float]
    boosted_ids: list[int]
    suppressed: dict[str, float]
    suppressed_ids: list[int]
    chance: float


class TextProjection(TypedDict):
    """û·h of each token, for the unit direction û; null at the first token and special ones, which lie elsewhere."""

    tokens: list[str]
    ids: list[int]
    values: list[float | None]


class AnalysisResult(TypedDict):
    """`lens`: cosines with what raises each token's logit; null at a single head. `observed`: changes in nats of the
    next token's log-probability at `observed_strength` residual norms.

    `layer_cosines`: with the vector's other layers. `saved_cosines`: vectors of the workspace. `behaviors`: mean
    differences of the built-in behaviours, null if not asked for; by chance, cosines reach `cosine_chance`.
    """

    vector_path: str
    layer: int
    component: str
    norm: float
    residual_norm: float
    lens: TokenRanking | None
    observed: TokenRanking
    observed_strength: float
    layer_cosines: dict[str, float]
    saved_cosines: dict[str, float]
    behaviors: dict[str, float] | None
    cosine_chance: float
    projections: list[TextProjection]
    picture_path: str | None
    page_path: str | None
    warnings: list[str]


@checked
def analyze_steering_vector(
    vector_path: given.VectorPath,
    layer: given.SingleLayer = None,
    texts: AnalyzedTexts = None,
    top: given.Top = 10,
    subtract_mean_token: SubtractMeanToken = True,
    compare_behaviors: CompareBehaviors = False,
    save_folder: given.Folder = None,
    allow_other_model: given.AllowOtherModel = False,
    compare_with: ComparedWith = None,
) -> AnalysisResult:
    """Say what a vector means: tokens by the logit lens, tokens that it really raises, norms, and what is like it.

    Believe `observed` before `lens`, and neither where its values are not above `chance`.
    """
    from steer_tools.experiments.evaluation_set import behaviors_of
    from steer_tools.inspection.readings import project
    from steer_tools.inspection.vector_meaning import meaning_of, nearest, vector_where_placed
    from steer_tools.session.placement import PlacementOptions, place_once
    from steer_tools.session.vector_loading import load_for_model

    require_at_least_one("top", top)
    with locked_session() as session:
        engine = session.engine
        loaded = load_for_model(session, vector_path, layer, allow_other_model=allow_other_model)
        options = PlacementOptions("residual", positions="generated", allow_other_model=allow_other_model)
        placed = place_once(session, loaded.vector, layer, options)
        (unit,) = placed.unit_placements
        site, vector = unit.site, vector_where_placed(loaded.vector, unit)
        prompts = () if texts is None else parse_prompts(texts, "texts")
        projections = project(engine, {site: vector.directions[site.layer]}, prompts) if prompts else ()
        behaviors = behaviors_of(engine, items=1) if compare_behaviors else None
        found = meaning_of(engine, vector, unit, top, subtract_mean_token=subtract_mean_token, behaviors=behaviors)
        others = _others(session, compare_with, loaded.source)
        folder = save_folder or f"analysis/{Path(loaded.source).stem}"
        picture, page = _saved_strips(session, projections, site, folder)
        return short(
            AnalysisResult(
                vector_path=loaded.source,
                layer=site.layer,
                component=site.part,
                norm=vector.magnitude(site.layer),
                residual_norm=session.typical_norm(site),
                lens=None if found.lens is None else _ranking(found.lens),
                observed=_ranking(found.observed),
                observed_strength=found.observed_strength,
                layer_cosines={str(other): cosine for other, cosine in found.layers.items()},
                saved_cosines={
                    path: cosine
                    for path, _, cosine in nearest(vector, site.layer, others, len(compare_with or ()) or _MOST_SAVED)
                },
                behaviors=found.behaviors,
                cosine_chance=2 / math.sqrt(vector.width),
                projections=[_text(own, site) for own in projections],
                picture_path=picture,
                page_path=page,
                warnings=list(dict.fromkeys([*loaded.warnings, *placed.told(is_strength_given=True)])),
            )
        )


def _others(session: Session, compare_with: Sequence[VectorLike] | None, source: str) -> dict[str, SteeringVector]:
    """Return the vectors to compare with, by path or by what they are."""
    from steer_tools.session.vector_loading import read_vector_like, saved_vectors

    if compare_with is None:
        return {path: other for path, other in saved_vectors(session.workspace).items() if path != source}
    read = [read_vector_like(session.workspace, other) for other in compare_with]
    return {path: other for other, path in read}


def _text(projection: Projection, site: Site) -> TextProjection:
    values = zip(projection.values[site], projection.counts, strict=True)
    return TextProjection(
        tokens=list(projection.texts),
        ids=list(projection.tokens),
        values=[own if counts else None for own, counts in values],
    )


def _ranking(found: Ranking) -> TokenRanking:
    return TokenRanking(
        boosted={own.text: own.value for own in found.boosted},
        boosted_ids=[own.token for own in found.boosted],
        suppressed={own.text: own.value for own in found.suppressed},
        suppressed_ids=[own.token for own in found.suppressed],
        chance=found.chance,
    )


def _saved_strips(
    session: Session, projections: Sequence[Projection], site: Site, folder: str
) -> tuple[str | None, str | None]:
    if not projections:
        return None, None
    strips = [Strip.of(p.texts, p.values[site], p.counts) for p in projections]
    title = "Projection of each token on the vector"
    picture, page = f"{folder}/{_PICTURE}", f"{folder}/{_PAGE}"
    contents = {picture: strip_picture(strips, title=title), page: signed(strip_page(strips, title=title))}
    paths = session.workspace.write_together(contents, replaces={picture: PICTURE, page: SIGNED})
    return str(paths[0]), str(paths[1])


_LIKE = 5


def show(result: AnalysisResult, *, is_plain: bool) -> Shown:
    """Render tokens by the lens and as observed side by side, relations, and the texts on colours."""
    lens, observed = result["lens"], result["observed"]
    known = {
        "layer": f"{result['layer']} ({result['component']})",
        "norm": f"{brief(result['norm'])}, {brief(result['norm'] / result['residual_norm'])} of the typical norm there",
        "layers": _named({f"layer {layer}": value for layer, value in result["layer_cosines"].items()}),
        "saved": _named(result["saved_cosines"]),
        "behaviors": _named(result["behaviors"] or {}),
        "picture": result["picture_path"],
        "page": result["page_path"],
    }
    chance = f"By chance: lens {lens['chance']:.3g}, " if lens else "By chance: "
    return stack(
        line(
            "Tokens by cosine with their row of the unembedding (lens), and by nats at "
            f"{result['observed_strength']:g} residual norms (observed)",
            "bold",
        ),
        _tokens(lens, observed),
        line(f"{chance}observed {observed['chance']:.3g}, cosines ±{result['cosine_chance']:.2g}", "dim"),
        line(""),
        facts(known),
        *_texts(result["projections"], is_plain=is_plain),
        *warning_lines(result["warnings"]),
    )


def _tokens(lens: TokenRanking | None, observed: TokenRanking) -> Shown:
    from steer_tools.tools.colours import token_text

    sides = [own for ranking in (lens, observed) if ranking for own in (ranking["boosted"], ranking["suppressed"])]
    names = ["lens +", "lens -", "observed +", "observed -"][-len(sides) :]
    columns = [[joined(f"{value:+.2f} ", token_text(token)) for token, value in own.items()] for own in sides]
    return table(dict.fromkeys(names, "whole"), zip_longest(*columns, fillvalue=""))


def _texts(texts: Sequence[TextProjection], *, is_plain: bool) -> list[Shown]:
    from steer_tools.tools.colours import coloured

    strips = [
        Strip.of(own["tokens"], [value or 0.0 for value in own["values"]], [v is not None for v in own["values"]])
        for own in texts
    ]
    return [line(""), *coloured(strips, is_plain=is_plain)] if strips else []


def _named(cosines: Mapping[str, float]) -> str | None:
    told = [f"{name} {value:+.2f}" for name, value in list(cosines.items())[:_LIKE]]
    return ", ".join(told) + (f"; {len(cosines) - _LIKE} more" if len(cosines) > _LIKE else "") or None


TOOL = Card(
    "Show what a vector means and does",
    "inspect",
    command="analyze",
    about="Say what a vector means: tokens, norms, and what is like it.",
    positional=("vector_path",),
    not_typed=("compare_with",),
).tool(analyze_steering_vector, show)
