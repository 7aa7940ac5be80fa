"""The tool that says which parts of a model a behaviour needs, by taking them out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from typing_extensions import TypedDict

from steer_tools.errors import ArgumentError
from steer_tools.figures import PICTURE
from steer_tools.reports.words import span
from steer_tools.tools import arguments as given
from steer_tools.tools.argument_checks import checked
from steer_tools.tools.card import Card
from steer_tools.tools.rendering import Shown, effect_text, facts, figure, line, stack, table, warning_lines
from steer_tools.tools.resolving import locked_session, require_one_of, resolved_layers
from steer_tools.tools.results import short, short_interval

if TYPE_CHECKING:
    from steer_tools.inspection.ablation import AblationStudy, Component
    from steer_tools.session.session import Session

_ABLATIONS = "ablation.png"
_LABELS = {
    "log_odds": "change of log-odds (nats)",
    "kl": "KL(unsteered to ablated), nats a token",
    "exact": "change of the exact score",
}


AblatedComponent = Annotated[
    Literal["head", "attention", "mlp", "block", "direction"],
    given.Doc("What is taken out, one at a time; a direction at each layer, and everywhere at once."),
]
AblationName = Annotated[
    Literal["zero", "mean", "mean_by_position", "resample"],
    given.Doc(
        "What stands in its place: nothing, its mean on the behaviour's prompts, or another prompt's. Of a "
        "direction: zero or mean."
    ),
]
MeasureName = Annotated[
    Literal["log_odds", "kl", "exact"],
    given.Doc(
        "Effects are in nats of log-odds, in KL of the model's own texts on the questions, or in the exact "
        "score of texts (bundled model's traits; each part writes them all: slow, and 0 where unsteered texts "
        "show no trait)."
    ),
]
AblatedDirection = Annotated[str | None, given.Doc("For component direction: the saved vector.")]


class ComponentEffect(TypedDict):
    """What taking one part out changes: the mean, with its 95 % interval, also on each half of the items, and KL on
    neutral prompts in nats a token. Only a head has a `head`; a direction everywhere has no `layer`.
    """

    layer: int | None
    head: int | None
    measure_change: float
    measure_interval: list[float] | None
    halves: list[float]
    kl: float


class AblationResult(TypedDict):
    """`measure_changes`: by layer, of each head or of the one part, in what `measure` says; `strongest` at most ten,
    the strongest first. `measure_chance`, of a direction: the most that one of ten random ones does there.
    """

    component: str
    method: str
    measure: str
    items: int
    measure_changes: dict[str, list[float]]
    strongest: list[ComponentEffect]
    measure_chance: dict[str, float] | None
    heat_map_path: str
    warnings: list[str]


@checked
def ablate_component(
    behavior_name: given.KnownBehavior,
    component: AblatedComponent = "head",
    layers: given.AllLayers = None,
    method: AblationName = "mean",
    save_folder: given.Folder = None,
    seed: given.DrawSeed = 0,
    measure: MeasureName = "log_odds",
    vector_path: AblatedDirection = None,
    vector_layer: given.AblatedLayer = None,
    allow_other_model: given.AllowOtherModel = False,
) -> AblationResult:
    """Take each head, attention, MLP or block, or a direction, out by itself, and say what that does to a behaviour.

    A part that matters moves the behaviour on both halves of the questions, at little KL: one with much KL breaks the
    model instead.
    """
    from steer_tools.experiments.evaluation_set import evaluation_set_named
    from steer_tools.inspection.ablation import ABLATIONS, KINDS, MEASURES, components_of, study_ablations
    from steer_tools.reports.pictures import ablation_picture

    require_one_of("component", component, KINDS)
    require_one_of("method", method, ABLATIONS)
    require_one_of("measure", measure, MEASURES)
    with locked_session() as session:
        engine, evaluation_set = session.engine, evaluation_set_named(session, behavior_name, seed=seed)
        at = resolved_layers(session, layers, engine.info.steerable_layers)
        warnings: tuple[str, ...] = ()
        if component == "direction":
            parts, warnings = _direction_parts(
                session, vector_path, vector_layer, at, allow_other_model=allow_other_model
            )
        elif vector_path is None and vector_layer is None:
            parts = components_of(engine, component, at)
        else:
            raise ArgumentError(
                f"A vector came with the component {component!r}", valid="vector_path with component='direction'"
            )
        found = study_ablations(engine, evaluation_set, parts, method, measure, seed)
        name, means = evaluation_set.behavior.name, found.effects.mean(axis=1)
        effects: dict[str, list[float]] = {}
        for part, mean in zip(parts, means.tolist(), strict=True):
            effects.setdefault(part.place, []).append(mean)
        folder = save_folder or f"ablations/{component}_{name}"
        drawn = ablation_picture(parts, means, name, _LABELS[measure])
        picture = session.workspace.write(f"{folder}/{_ABLATIONS}", drawn, replaces=PICTURE)
        return short(
            AblationResult(
                component=component,
                method=method,
                measure=measure,
                items=found.effects.shape[1],
                measure_changes=effects,
                strongest=[
                    ComponentEffect(
                        layer=own.component.layer,
                        head=own.component.head,
                        measure_change=own.effect,
                        measure_interval=short_interval(own.interval),
                        halves=list(own.halves),
                        kl=own.divergence,
                    )
                    for own in found.strongest
                ],
                measure_chance=found.chance or None,
                heat_map_path=str(picture),
                warnings=[*evaluation_set.behavior.notes, *warnings, *_doubts(measure, found)],
            )
        )


def _doubts(measure: str, found: AblationStudy) -> list[str]:
    if measure != "exact" or found.effects.any() or any(found.chance.values()):
        return []
    return ["No text's score changed: where unsteered texts show no trait, nothing can be lost, and 0 says nothing."]


def _direction_parts(
    session: Session, vector_path: str | None, layer: int | None, at: Sequence[int], *, allow_other_model: bool
) -> tuple[tuple[Component, ...], tuple[str, ...]]:
    """Return the vector's direction as parts, and warnings about the vector."""
    from steer_tools.inspection.ablation import stream_direction
    from steer_tools.session.vector_loading import load_for_model, one_direction

    if vector_path is None:
        raise ArgumentError("component is 'direction', and no vector was given", valid="vector_path, a saved vector")
    own = None if layer is None else session.engine.resolve_layer(layer)
    loaded = load_for_model(session, vector_path, own, allow_other_model=allow_other_model)
    if loaded.vector.head is not None:
        raise ArgumentError("The vector is of a head's own space", valid="vectors of the residual stream's width")
    _, direction = one_direction(loaded.vector, own)
    return stream_direction(session.engine, direction, at), loaded.warnings


_HEADINGS = {
    "log_odds": "Change of log-odds, in nats",
    "kl": "KL of the model's own texts, in nats a token",
    "exact": "Change of the exact score",
}


def show(result: AblationResult, *, is_plain: bool) -> Shown:
    """Render effects by layer and head, the strongest parts with their intervals, and where the picture lies."""
    from steer_tools.tools.colours import HeatTable

    effects, kind = result["measure_changes"], result["component"]
    heads = [str(head) for head in range(max(map(len, effects.values())))]
    heat = HeatTable(
        "layer / head" if kind == "head" else "layer",
        list(effects),
        heads if kind == "head" else [kind],
        list(effects.values()),
    )
    columns = {"strongest": "left", **dict.fromkeys(("effect", "95 % interval", "halves", "KL"), "right")}
    return stack(
        line(f"{_HEADINGS[result['measure']]} ({result['method']} in place of each)", "bold"),
        *heat.shown(effect_text, is_plain=is_plain),
        table(
            columns | ({"by chance": "right"} if result["measure_chance"] else {}),
            (_strongest_row(result, own) for own in result["strongest"]),
        ),
        facts({"items": str(result["items"]), "picture": result["heat_map_path"]}),
        *warning_lines(result["warnings"]),
    )


def _strongest_row(result: AblationResult, own: ComponentEffect) -> tuple[str, ...]:
    """Return a part's figures, and the most that a random direction does at the place of a direction."""
    place = "everywhere" if own["layer"] is None else str(own["layer"])
    name = place if own["layer"] is None else f"layer {place}"
    if result["component"] != "direction":
        name += f" {result['component']}" + ("" if own["head"] is None else f" {own['head']}")
    ends, halves = (
        "–" if pair is None else span(pair, effect_text) for pair in (own["measure_interval"], own["halves"])
    )
    chance = [] if result["measure_chance"] is None else [f"±{figure(result['measure_chance'][place])}"]
    return name, effect_text(own["measure_change"]), ends, halves, figure(own["kl"]), *chance


TOOL = Card(
    "Find the parts that a behaviour needs",
    "inspect",
    command="ablate",
    about="Find the parts that a behaviour needs, by taking each out.",
    positional=("behavior_name",),
).tool(ablate_component, show)
