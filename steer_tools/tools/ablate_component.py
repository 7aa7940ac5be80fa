"""The tool that says which parts of a model a behaviour needs, by taking them out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from typing_extensions import TypedDict

from steer_tools.errors import ArgumentError
from steer_tools.reports.words import span
from steer_tools.tools import arguments as given
from steer_tools.tools.card import Card
from steer_tools.tools.rendering import Shown, effect_text, facts, figure, line, stack, table, warning_lines
from steer_tools.tools.resolving import locked_session, require_one_of, resolved_layers
from steer_tools.tools.results import short, short_interval

if TYPE_CHECKING:
    from steer_tools.engines.base import Engine
    from steer_tools.evaluation.intervals import Floats
    from steer_tools.evaluation.questions import Question
    from steer_tools.experiments.evaluation_set import EvaluationSet
    from steer_tools.inspection.ablation import Component, Measured
    from steer_tools.session.session import Session

# Items of each half; more make the ranking no other, only slower.
_MOST_ITEMS = 20
_LISTED = 10
# Taking any direction out does something.
_RANDOM_DIRECTIONS = 10
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
    effect: float
    interval: list[float] | None
    halves: list[float]
    kl: float


class AblationResult(TypedDict):
    """`effects`: by layer, of each head or of the one part, in what `measure` says; `strongest` at most ten, the
    strongest first. `chance`, of a direction: the most that one of ten random ones does there.
    """

    component: str
    method: str
    measure: str
    items: int
    effects: dict[str, list[float]]
    strongest: list[ComponentEffect]
    chance: dict[str, float] | None
    heat_map_path: str
    warnings: list[str]


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
    import numpy as np

    from steer_tools.evaluation.damage import DamageMeter
    from steer_tools.evaluation.intervals import cluster_interval
    from steer_tools.evaluation.questions import questions
    from steer_tools.experiments.evaluation_set import evaluation_set_named
    from steer_tools.inspection.ablation import (
        ABLATIONS,
        KINDS,
        MEASURES,
        ablate,
        ablation_plans,
        components_of,
        mean_of_draws,
        random_directions,
    )
    from steer_tools.reports.pictures import ablation_picture

    require_one_of("component", component, KINDS)
    require_one_of("method", method, ABLATIONS)
    require_one_of("measure", measure, MEASURES)
    with locked_session() as session:
        engine, evaluation_set = session.engine, evaluation_set_named(session, behavior_name, seed=seed)
        splits = evaluation_set.splits
        first_half, other_half = (questions(engine, own[:_MOST_ITEMS]) for own in (splits.choosing, splits.judging))
        asked, middle = [*first_half, *other_half], len(first_half)
        groups = [question.group for question in asked]
        at = resolved_layers(session, layers, engine.info.steerable_layers)
        controls: tuple[Component, ...] = ()
        warnings: tuple[str, ...] = ()
        if component == "direction":
            parts, warnings = _direction_parts(
                session, vector_path, vector_layer, at, allow_other_model=allow_other_model
            )
            controls = tuple(own for part in parts for own in random_directions(part, _RANDOM_DIRECTIONS, seed))
        elif vector_path is None and vector_layer is None:
            parts = components_of(engine, component, at)
        else:
            raise ArgumentError(
                f"A vector came with the component {component!r}", valid="vector_path with component='direction'"
            )
        calibration = list(dict.fromkeys(own.prompt for own in asked))
        plans = ablation_plans(engine, [*parts, *controls], method, calibration, seed)
        found = ablate(plans, _measured(engine, measure, asked, evaluation_set))
        effects, means = found[: len(parts)], found.mean(axis=1)[: len(parts)]
        order = np.argsort(-np.abs(means), kind="stable").tolist()[:_LISTED]
        listed = [plans[index] for index in order]
        meter = DamageMeter(engine, evaluation_set.neutral, [], 1)
        divergences = [np.array(own) for own in meter.divergences([plan for draws in listed for plan in draws])]
        folder = save_folder or f"ablations/{component}_{evaluation_set.behavior.name}"
        drawn = ablation_picture(parts, means, evaluation_set.behavior.name, _LABELS[measure])
        picture = session.workspace.write(f"{folder}/{_ABLATIONS}", drawn)
        by_chance = _by_layer(controls, found[len(parts) :].mean(axis=1))
        return short(
            AblationResult(
                component=component,
                method=method,
                measure=measure,
                items=len(asked),
                effects=_by_layer(parts, means),
                strongest=[
                    ComponentEffect(
                        layer=parts[index].layer,
                        head=parts[index].head,
                        effect=float(effects[index].mean()),
                        interval=short_interval(cluster_interval(effects[index], groups)),
                        halves=[float(half.mean()) for half in np.split(effects[index], [middle])],
                        kl=float(divergence),
                    )
                    for index, divergence in zip(order, mean_of_draws(divergences, listed), strict=True)
                ],
                chance={place: max(map(abs, own)) for place, own in by_chance.items()} if controls else None,
                heat_map_path=str(picture),
                warnings=[*warnings, *_doubts(measure, found)],
            )
        )


def _measured(engine: Engine, measure: str, asked: Sequence[Question], evaluation_set: EvaluationSet) -> Measured:
    from steer_tools.inspection.ablation import divergence_of, log_odds_of, score_of

    match measure:
        case "kl":
            return divergence_of(engine, asked)
        case "exact" if "exact" in evaluation_set.scorers:
            return score_of(engine, asked, evaluation_set.scorers["exact"], evaluation_set.text_tokens)
        case "exact":
            raise ArgumentError(
                f"measure is 'exact', and texts that show {evaluation_set.behavior.name!r} have no exact score",
                valid="'log_odds' or 'kl'; 'exact' for the traits of the bundled model",
            )
        case _:
            return log_odds_of(engine, asked)


def _doubts(measure: str, found: Floats) -> list[str]:
    if measure != "exact" or found.any():
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


def _by_layer(parts: Sequence[Component], effects: Floats) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for part, effect in zip(parts, effects.tolist(), strict=True):
        found.setdefault(part.place, []).append(effect)
    return found


_HEADINGS = {
    "log_odds": "Change of log-odds, in nats",
    "kl": "KL of the model's own texts, in nats a token",
    "exact": "Change of the exact score",
}


def show(result: AblationResult, *, is_plain: bool) -> Shown:
    """Render effects by layer and head, the strongest parts with their intervals, and where the picture lies."""
    from steer_tools.tools.colours import HeatTable

    effects, kind = result["effects"], result["component"]
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
            columns | ({"by chance": "right"} if result["chance"] else {}),
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
    ends, halves = ("–" if pair is None else span(pair, effect_text) for pair in (own["interval"], own["halves"]))
    chance = [] if result["chance"] is None else [f"±{figure(result['chance'][place])}"]
    return name, effect_text(own["effect"]), ends, halves, figure(own["kl"]), *chance


TOOL = Card(
    "Find the parts that a behaviour needs",
    "inspect",
    command="ablate",
    about="Find the parts that a behaviour needs, by taking each out.",
    positional=("behavior_name",),
).tool(ablate_component, show)
