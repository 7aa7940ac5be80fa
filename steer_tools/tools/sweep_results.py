"""What the tools share that sweep: the grid's result, and the files of a sweep's folder."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from typing_extensions import TypedDict

from steer_tools.evaluation.behaviors.behavior import Behavior
from steer_tools.evaluation.behaviors.behavior_json import behavior_document
from steer_tools.reports.words import span
from steer_tools.tools.rendering import Shown, facts, interval, line, nats, stack, table, warning_lines
from steer_tools.tools.results import ApplyArguments, repeating, residual_unit, short, short_interval

if TYPE_CHECKING:
    from steer_tools.directions.extraction import Extraction
    from steer_tools.experiments.evaluation_set import EvaluationSet
    from steer_tools.experiments.grids import Grid
    from steer_tools.experiments.sweeps import Sweep, SweepOptions
    from steer_tools.reports.report_files import ReportFiles
    from steer_tools.session.session import Session

CELLS = "cells.json"
_VECTOR, _BEHAVIOR = "vector.safetensors", "behavior.json"
# Fewer questions than these say little, whatever the interval.
_FEW_GROUPS = 12


class LayerCells(TypedDict):
    """One layer, a value for each strength; `opposite_effects` are those of the strengths with the other sign.

    `within_budget` holds to the whole damage budget, texts included.
    """

    layer: int
    effects: list[float]
    opposite_effects: list[float]
    kl: list[float]
    within_budget: list[bool]


class WindowStatus(TypedDict):
    """Strengths within the budget that have at least 80 % of the largest effect there."""

    layer: int
    least: float
    largest: float


class SweepResult(TypedDict):
    """Effects are mean changes of log-odds, in nats.

    Those of `cells` are on the items that chose the best cell, `effect` and its 95 % `interval` on the `items` others.
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
    effect: float
    interval: list[float] | None
    items: int
    anti_steerable: float
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
                effects=[short(cell.effect) for cell in cells],
                opposite_effects=[short(cell.opposite_effect) for cell in cells],
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
        effect=short(swept.judgement.effect),
        interval=short_interval(swept.judgement.interval),
        items=len(swept.judgement.effects),
        anti_steerable=short(swept.judgement.anti_steerable),
        heat_map_path=str(files.heat_map),
        data_path=str(files.document),
        warnings=[*warnings, *doubts(swept)],
    )


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
    return [WindowStatus(layer=own.layer, least=own.least, largest=own.largest) for own in grid.window]


def saved_vector(session: Session, extraction: Extraction, swept: Sweep, folder: str) -> str:
    """Write a vector into the folder, with the cell that was chosen for it, and return its path."""
    from steer_tools.core.vectors import ChosenCell
    from steer_tools.formats import save_vector

    (placement,), cell = swept.placed.unit_placements, swept.cell
    chosen = ChosenCell(
        layer=cell.layer, strength=cell.strength, unit=swept.placed.unit, positions=str(placement.positions)
    )
    info = extraction.vector.info.model_copy(update={"chosen": chosen})
    vector = replace(extraction.vector, info=info)
    return str(save_vector(vector, f"{folder}/{_VECTOR}", workspace=session.workspace))


def kept_behavior(session: Session, behavior: Behavior, folder: str) -> str:
    """Write a behaviour of lists, so that other tools measure on the same held-out items."""
    content = json.dumps(behavior_document(behavior), indent=1, ensure_ascii=False)
    return str(session.workspace.write(f"{folder}/{_BEHAVIOR}", content.encode()))


def folder_name(evaluation_set: EvaluationSet) -> str:
    """Return a behaviour's name as a name of a folder."""
    return re.sub(r"[^\w-]+", "_", evaluation_set.behavior.name).strip("_")[:64] or "experiment"


# So many strengths stand beside each other in 80 columns.
_BESIDE = 6


def show(result: SweepResult) -> Shown:
    """Render the grid, what was chosen, and what the choice does to the items that did not choose."""
    return stack(
        *grid_lines(result["strengths"], result["cells"], result["best_layer"], result["best_strength"]),
        facts(
            {
                **choice_facts(result["best_layer"], result["best_strength"], result["unit"], result["window"]),
                "effect": f"{nats(result['effect'])} nats{interval(result['interval'])} on {result['items']} items, "
                "that did not choose",
                "wrong way": f"{result['anti_steerable']:.0%} of them",
                "vector": result.get("vector_path"),
                "picture": result["heat_map_path"],
                "data": result["data_path"],
            }
        ),
        *warning_lines(result["warnings"]),
    )


def grid_lines(strengths: Sequence[float], cells: Sequence[LayerCells], layer: int, strength: float) -> list[Shown]:
    """Return the effects by layer and strength, and what their marks mean."""
    parts: list[Shown] = [line("Effect in nats by layer and strength, on the items that chose", "bold")]
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
    ranges = [f"layer {own['layer']}: {span((own['least'], own['largest']), '{:g}'.format)}" for own in window]
    return {
        "chosen": f"layer {layer} at strength {strength:g} ({unit})",
        "window": "; ".join(ranges) or "no strength has enough effect within the budget",
    }


def _cell(cells: LayerCells, index: int, *, is_best: bool) -> Shown:
    is_within = cells["within_budget"][index]
    effect = f"{cells['effects'][index]:+.2f}"
    written = f"{'>' if is_best else ''}{effect if is_within else f'({effect})'}"
    return line(written, "bold cyan" if is_best else "" if is_within else "dim")
