"""What the tools share that sweep: the grid's result, and the files of a sweep's folder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NotRequired, cast

from typing_extensions import TypedDict

from steer_tools.errors import ArgumentError, quoted
from steer_tools.evaluation.behaviors.behavior_json import BEHAVIOR, behavior_document
from steer_tools.reports.words import span
from steer_tools.tools.rendering import Shown, brief, facts, interval, line, nats, stack, table, warning_lines
from steer_tools.tools.results import ApplyArguments, repeating, residual_unit, short, short_interval

if TYPE_CHECKING:
    from steer_tools.core.vectors import SteeringVector
    from steer_tools.evaluation.scorers import Scorer, TextScore
    from steer_tools.experiments.evaluation_set import EvaluationSet
    from steer_tools.experiments.grids import Grid
    from steer_tools.experiments.sweeps import Sweep, SweepOptions
    from steer_tools.experiments.text_sweeps import TextSweep, TextSweepOptions
    from steer_tools.reports.report_files import ReportFiles
    from steer_tools.session.placement import Placed
    from steer_tools.session.session import Session

CELLS = "cells.json"
_VECTOR, _BEHAVIOR = "vector.safetensors", "behavior.json"
# Fewer questions than these say little, whatever the interval.
_FEW_GROUPS = 12
_COLUMNS = {"log_odds_effects": "log_odds_effect", "metric_effects": "metric_effect", "metric_scores": "metric_score"}


class LayerCells(TypedDict):
    """One layer, a value for each strength; `opposite_log_odds_effects` are those of the strengths with the other sign.

    `within_budget` holds to the whole damage budget, texts included. Of a metric: `metric_scores`, its means, and their
    changes.
    """

    layer: int
    log_odds_effects: NotRequired[list[float]]
    opposite_log_odds_effects: NotRequired[list[float]]
    metric_scores: NotRequired[list[float]]
    metric_effects: NotRequired[list[float]]
    kl: list[float]
    within_budget: list[bool]


class WindowStatus(TypedDict):
    """Strengths within the budget that have at least 80 % of the largest effect there."""

    layer: int
    least_strength: float
    largest_strength: float


class SweepResult(TypedDict):
    """Effects are mean changes of log-odds, in nats, or of the `metric` that is named; `unsteered_score` is without.

    Those of `cells` are on the items that chose the best cell, the effect and its 95 % interval on the `items` others.
    There are no controls: the interval of a random direction is often clear of 0, too.
    `anti_steerable`: share of these that the strengths move the wrong way. `apply`: the arguments that apply the best
    cell. `residual_strength`: its strength in typical norms; `residual_units`: what strength 1 adds at each layer.
    """

    unit: str
    strengths: list[float]
    residual_units: dict[str, float]
    cells: list[LayerCells]
    window: list[WindowStatus]
    best_layer: int
    best_strength: float
    residual_strength: float
    apply: ApplyArguments
    log_odds_effect: float | None
    log_odds_interval: list[float] | None
    metric_effect: float | None
    metric_interval: list[float] | None
    items: int
    anti_steerable: float | None
    metric: str | None
    unsteered_score: float | None
    heat_map_path: str
    data_path: str
    warnings: list[str]


def swept_result(
    session: Session, swept: Sweep, options: SweepOptions, files: ReportFiles, vector_path: str, warnings: Sequence[str]
) -> SweepResult:
    """Return what sweep_steering gives."""
    from steer_tools.experiments.grids import by_layer

    units = {layer: residual_unit(session, placed) for layer, placed in swept.placed_at.items()}
    layers = by_layer(swept.grid.cells)
    strengths = [cell.strength for cell in next(iter(layers.values()))]
    return SweepResult(
        unit=options.unit,
        strengths=strengths,
        residual_units={str(layer): short(unit) for layer, unit in units.items()},
        cells=[
            LayerCells(
                layer=layer,
                log_odds_effects=[short(cell.effect) for cell in cells],
                opposite_log_odds_effects=[short(cell.opposite_effect) for cell in cells],
                kl=[short(cell.damage.divergence) for cell in cells],
                within_budget=[cell.damage.is_within(options.budget) for cell in cells],
            )
            for layer, cells in layers.items()
        ],
        window=window(swept.grid),
        best_layer=swept.cell.layer,
        best_strength=swept.cell.strength,
        residual_strength=short(swept.cell.strength * units[swept.cell.layer]),
        apply=repeating(
            session, vector_path, swept.placed, swept.cell.strength, allow_other_model=options.allow_other_model
        ),
        log_odds_effect=short(swept.judgement.effect),
        log_odds_interval=short_interval(swept.judgement.interval),
        metric_effect=None,
        metric_interval=None,
        items=len(swept.judgement.effects),
        anti_steerable=short(swept.judgement.anti_steerable),
        metric=None,
        unsteered_score=None,
        heat_map_path=str(files.heat_map),
        data_path=str(files.document),
        warnings=[*warnings, *doubts(swept)],
    )


def text_sweep_result(
    session: Session,
    swept: TextSweep,
    options: TextSweepOptions,
    metric: str,
    files: ReportFiles,
    vector_path: str,
    warnings: Sequence[str],
) -> SweepResult:
    """Return what sweep_steering gives where texts were scored: each strength has its sign."""
    from steer_tools.experiments.grids import by_layer

    units = {layer: residual_unit(session, placed) for layer, placed in swept.placed_at.items()}
    layers, cell, cell_placed = by_layer(swept.cells), swept.cell, swept.placed
    allow_other_model = options.placement.allow_other_model
    return SweepResult(
        unit=cell_placed.unit,
        strengths=[own.strength for own in next(iter(layers.values()))],
        residual_units={str(layer): short(unit) for layer, unit in units.items()},
        cells=[
            LayerCells(
                layer=layer,
                metric_scores=[short(own.score) for own in cells],
                metric_effects=[short(own.effect) for own in cells],
                kl=[short(own.damage.divergence) for own in cells],
                within_budget=[own.damage.is_within(options.budget) for own in cells],
            )
            for layer, cells in layers.items()
        ],
        window=[],
        best_layer=cell.layer,
        best_strength=cell.strength,
        residual_strength=short(cell.strength * units[cell.layer]),
        apply=repeating(session, vector_path, cell_placed, cell.strength, allow_other_model=allow_other_model),
        log_odds_effect=None,
        log_odds_interval=None,
        metric_effect=short(float(swept.effects.mean())),
        metric_interval=short_interval(swept.interval),
        items=len(swept.judging),
        anti_steerable=None,
        metric=metric,
        unsteered_score=short(float(swept.scores.mean())),
        heat_map_path=str(files.heat_map),
        data_path=str(files.document),
        warnings=[*warnings, *_text_doubts(swept, options)],
    )


def rows(result: SweepResult) -> list[dict[str, Any]]:
    """Return a row a layer and strength; those of the other sign, which log-odds are measured at, have no damage."""
    found: list[dict[str, Any]] = []
    for cells in result["cells"]:
        columns = {key: cells[key] for key in (*_COLUMNS, "kl", "within_budget") if key in cells}
        for index, strength in enumerate(result["strengths"]):
            values = {_COLUMNS.get(key, key): column[index] for key, column in columns.items()}
            found.append({"layer": cells["layer"], "strength": strength, **values})
        for strength, effect in zip(result["strengths"], cells.get("opposite_log_odds_effects", []), strict=False):
            found.append({"layer": cells["layer"], "strength": -strength, "log_odds_effect": effect})
    return sorted(found, key=lambda row: (row["layer"], row["strength"]))


def _text_doubts(swept: TextSweep, options: TextSweepOptions) -> list[str]:
    warnings: list[str] = []
    count = len(swept.judging)
    if not swept.is_halved:
        warnings.append(
            f"With {count} prompts all of them both chose the cell and judged it, so the effect is too good: give "
            "16 or more, of which half choose and half judge."
        )
    elif count < _FEW_GROUPS:
        warnings.append(f"Only {count} prompts judged the choice, so the interval is rough.")
    if not any(cell.effect > 0 for cell in swept.cells):
        warnings.append("No cell raises the metric; the chosen one lowers it least.")
    if not any(cell.strength and cell.damage.is_within(options.budget) for cell in swept.cells):
        warnings.append(
            "Every strength is above the damage budget, so the texts may be broken: try smaller ones, such as 0.1 in "
            "unit 'residual'."
        )
    return warnings


def doubts(swept: Sweep) -> list[str]:
    """Return what a reader of a sweep should doubt."""
    warnings = list(swept.unreached)
    groups = len({question.group for question in swept.judgement.asked})
    if groups < _FEW_GROUPS:
        warnings.append(f"Only {groups} different questions judged the choice, so the interval is rough.")
    if not swept.grid.within:
        warnings.append("No cell has a positive effect within the damage budget; the best one is only the largest.")
    elif swept.cell.strength == max(cell.strength for cell in swept.grid.cells):
        warnings.append("The chosen strength is the largest that was tried: try larger ones.")
    return warnings


def window(grid: Grid) -> list[WindowStatus]:
    """Return each layer's strengths that work, where there are some."""
    return [
        WindowStatus(layer=own.layer, least_strength=own.least, largest_strength=own.largest) for own in grid.window
    ]


def with_cell(vector: SteeringVector, placed: Placed, strength: float) -> SteeringVector:
    """Return a vector that remembers the cell that was chosen for it."""
    from steer_tools.core.vectors import ChosenCell

    (placement,) = placed.unit_placements
    chosen = ChosenCell(
        layer=placement.site.layer, strength=strength, unit=placed.unit, positions=str(placement.positions)
    )
    return replace(vector, info=vector.info.model_copy(update={"chosen": chosen}))


def saved_vector(session: Session, vector: SteeringVector, folder: str) -> str:
    """Write a vector into the folder, and return its path."""
    from steer_tools.formats import write_vector

    return str(write_vector(vector, f"{folder}/{_VECTOR}", workspace=session.workspace).path)


def kept_behavior(session: Session, evaluation_set: EvaluationSet, folder: str) -> str:
    """Return how other tools name a behaviour; one of lists is written, so that its held-out items stay the same."""
    if evaluation_set.named is not None:
        return evaluation_set.named
    content = json.dumps(behavior_document(evaluation_set.behavior), indent=1, ensure_ascii=False)
    return str(session.workspace.write(f"{folder}/{_BEHAVIOR}", content.encode(), replaces=BEHAVIOR))


def folder_name(name: str) -> str:
    """Return a behaviour's or a metric's name as a name of a folder."""
    return re.sub(r"[^\w-]+", "_", name).strip("_")[:64] or "experiment"


def named_scorer(
    scorer: object, metric: Callable[..., Any] | None, metric_name: str | None
) -> tuple[str, Scorer] | None:
    """Return what scores texts, with its name; None where nothing was given.

    Raises:
        ArgumentError: It is no scorer, or a scorer and a metric were given.
    """
    from steer_tools.evaluation.scorers import callable_scorer, keyword_scorer, metric_of, regex_scorer

    if metric is not None:
        if scorer is not None:
            raise ArgumentError("A scorer was given as well as a metric", valid="one of them")
        return metric_of(metric, metric_name)
    match scorer:
        case None:
            return None
        case _ if callable(scorer):
            return metric_name or "scorer", callable_scorer(cast(Callable[[str, str], object], scorer))
        case {"keywords": list() as keywords, **others} if not others:
            return metric_name or "keywords", keyword_scorer(cast(list[str], keywords))
        case {"pattern": str() as pattern, **others} if not others:
            return metric_name or "pattern", regex_scorer(pattern)
        case _:
            raise ArgumentError(
                f"scorer is {quoted(scorer)}",
                valid="{'keywords': [...]}, {'pattern': '...'}, or in Python a function of prompt and text",
            )


def text_scores(scorer: object, metric: Callable[..., Any] | None, metric_name: str | None) -> Mapping[str, TextScore]:
    """Return the same for prompts with their roles.

    Raises:
        ArgumentError: As `named_scorer` does.
    """
    from steer_tools.experiments.evaluation_set import text_of

    named = named_scorer(scorer, metric, metric_name)
    if named is None:
        return {}
    name, on_text = named
    return {name: lambda prompt, text: on_text(text_of(prompt), text)}


# So many strengths stand beside each other in 80 columns.
_BESIDE = 6


def show(result: SweepResult) -> Shown:
    """Render the grid, what was chosen, and what the choice does to the items that did not choose."""
    metric, unsteered, wrong = result["metric"], result["unsteered_score"], result["anti_steerable"]
    of, whom = ("nats", "items, that did not choose") if metric is None else (f"in {metric}", "prompts")
    of_log_odds = (result["log_odds_effect"], result["log_odds_interval"])
    effect, ends = of_log_odds if metric is None else (result["metric_effect"], result["metric_interval"])
    choice = choice_facts(result["best_layer"], result["best_strength"], result["unit"], result["window"])
    if metric is not None:
        del choice["window"]
    return stack(
        *grid_lines(result["strengths"], result["cells"], result["best_layer"], result["best_strength"], metric),
        facts(
            {
                **choice,
                "unsteered": None if unsteered is None else f"{brief(unsteered)} {metric}",
                "effect": f"{nats(effect or 0.0)} {of}{interval(ends)} on {result['items']} {whom}",
                "wrong way": None if wrong is None else f"{wrong:.0%} of them",
                "vector": result.get("vector_path"),
                "picture": result["heat_map_path"],
                "data": result["data_path"],
            }
        ),
        *warning_lines(result["warnings"]),
    )


def grid_lines(
    strengths: Sequence[float], cells: Sequence[LayerCells], layer: int, strength: float, metric: str | None = None
) -> list[Shown]:
    """Return the effects by layer and strength, in nats or in a metric, and what their marks mean."""
    what, whom = ("Effect in nats", "items") if metric is None else (f"Change of {metric}", "prompts")
    parts: list[Shown] = [line(f"{what} by layer and strength, on the {whom} that chose", "bold")]
    for start in range(0, len(strengths), _BESIDE):
        beside = range(start, min(start + _BESIDE, len(strengths)))
        rows = [
            (
                str(own["layer"]),
                *(_cell(own, i, is_best=(own["layer"], strengths[i]) == (layer, strength)) for i in beside),
            )
            for own in cells
        ]
        columns = {"layer": "right", **{f"{strengths[i]:g}": "right" for i in beside}}
        parts.append(table(columns, rows))
    return [*parts, line("> was chosen, (in brackets) breaks the budget", "dim"), line("")]


def choice_facts(layer: int, strength: float, unit: str, window: Sequence[WindowStatus]) -> dict[str, str | None]:
    """Return the chosen cell, and where else the effect is large within the budget."""
    ranges = [
        f"layer {own['layer']}: {span((own['least_strength'], own['largest_strength']), '{:g}'.format)}"
        for own in window
    ]
    return {
        "chosen": f"layer {layer} at strength {strength:g} ({unit})",
        "window": "; ".join(ranges) or "no strength has enough effect within the budget",
    }


def _cell(cells: LayerCells, index: int, *, is_best: bool) -> Shown:
    is_within = cells["within_budget"][index]
    effects = cells.get("log_odds_effects") or cells.get("metric_effects", [])
    effect = f"{effects[index]:+.2f}"
    written = f"{'>' if is_best else ''}{effect if is_within else f'({effect})'}"
    return line(written, "bold cyan" if is_best else "" if is_within else "dim")
