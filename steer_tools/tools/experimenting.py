"""The tools that find out where and how strongly a vector works, and at what cost."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import cast

from steer_tools.datasets import contrast_prompts
from steer_tools.errors import ArgumentError
from steer_tools.experiments.experiment import Experiment, pooling_of, run_experiment
from steer_tools.experiments.grids import Grid, by_layer, spread_layers
from steer_tools.experiments.material import Material, TextScore, material_named, text_of
from steer_tools.experiments.measuring import Budget
from steer_tools.experiments.sweeps import Sweep, SweepOptions, sweep
from steer_tools.extraction import Extraction, Where, extract
from steer_tools.formats import save_vector
from steer_tools.loading import load_for_model
from steer_tools.parameters import (
    AllowOtherModel,
    BehaviorName,
    BestLayerResult,
    Controls,
    ControlsStatus,
    DamageBudget,
    DrawSeed,
    ExperimentResult,
    Folder,
    GridStrengths,
    KnownBehavior,
    LayerCells,
    Layers,
    Method,
    OptionalScorer,
    OwnNegative,
    OwnPositive,
    PerToken,
    ScoredPositions,
    SideEffectsStatus,
    SweepResult,
    UnitName,
    VectorPath,
    WindowStatus,
)
from steer_tools.reports import Facts, save_experiment, save_sweep
from steer_tools.scorers import Scorer, callable_scorer, keyword_scorer, regex_scorer
from steer_tools.session import Session, current_session
from steer_tools.sources import way_named
from steer_tools.tools.results import rounded, short, short_interval

_METHOD = "paired_mean_difference"
_CELLS, _VECTOR = "cells.json", "vector.safetensors"
# Fewer questions than these say little, whatever the interval.
_FEW_GROUPS = 12
# With fewer controls no effect can be told from chance at p = 0.05.
_FEWEST_CONTROLS = 19


def sweep_steering(
    vector_path: VectorPath,
    behavior_name: KnownBehavior,
    layers: Layers = None,
    strengths: GridStrengths = None,
    unit: UnitName = "residual",
    positions: ScoredPositions = "generated",
    damage_budget: DamageBudget = 0.5,
    save_folder: Folder = None,
    seed: DrawSeed = 0,
    per_token: PerToken = False,
    allow_other_model: AllowOtherModel = False,
) -> SweepResult:
    """Measure a saved vector's effect and damage at each layer and strength; the layers are the file's if omitted.

    The best cell is the gentlest with at least 80 % of the largest effect within the damage budget. It is chosen on
    some questions and judged on others.
    """
    session, started = current_session(), time.monotonic()
    with session.lock:
        material = material_named(session, behavior_name, seed=seed)
        options = SweepOptions(strengths, unit, positions, Budget(damage_budget), allow_other_model, seed, per_token)
        loaded = load_for_model(session, vector_path, None, allow_other_model=allow_other_model)
        tried = _resolved(session, layers) if layers is not None else list(loaded.vector.layers)
        folder = save_folder or f"sweeps/{_file_name(material)}"
        swept = sweep(session, loaded.vector, tried, material, options, f"{folder}/{_CELLS}")
        info = loaded.vector.info
        facts = Facts.of(
            session.engine.info, options, str(vector_path), info.method if info else None, time.monotonic() - started
        )
        files = save_sweep(session.workspace, folder, swept, material, facts)
        return _swept(swept, options, str(files.heat_map), str(files.document), list(loaded.warnings))


def find_best_layer(
    behavior_name: KnownBehavior,
    positive: OwnPositive = None,
    negative: OwnNegative = None,
    layers: Layers = None,
    strengths: GridStrengths = None,
    positions: ScoredPositions = "generated",
    damage_budget: DamageBudget = 0.5,
    save_folder: Folder = None,
    seed: DrawSeed = 0,
    per_token: PerToken = False,
) -> BestLayerResult:
    """Create a behaviour's vector at several layers, save it, and sweep it as sweep_steering does.

    For a verdict with controls and side effects use steering_experiment instead.
    """
    session, started = current_session(), time.monotonic()
    with session.lock:
        material = material_named(session, behavior_name, positive, negative, seed)
        options = SweepOptions(
            strengths, positions=positions, budget=Budget(damage_budget), seed=seed, per_token=per_token
        )
        tried = _resolved(session, layers)
        folder = save_folder or f"layers/{_file_name(material)}"
        where = Where(tried, pooling=pooling_of(session.engine, material.behavior))
        contrast = contrast_prompts(material.behavior.pairs, session.engine.info.has_chat_template)
        extraction = extract(session, contrast, where, way_named(_METHOD, None))
        path = _saved(session, extraction, folder)
        swept = sweep(session, extraction.vector, tried, material, options, f"{folder}/{_CELLS}")
        facts = Facts.of(session.engine.info, options, path, _METHOD, time.monotonic() - started)
        files = save_sweep(session.workspace, folder, swept, material, facts)
        result = _swept(swept, options, str(files.heat_map), str(files.document), list(extraction.warnings))
        return BestLayerResult(**result, vector_path=path)


def steering_experiment(
    behavior_name: BehaviorName,
    positive: OwnPositive = None,
    negative: OwnNegative = None,
    layers: Layers = None,
    strengths: GridStrengths = None,
    method: Method = "paired_mean_difference",
    positions: ScoredPositions = "generated",
    damage_budget: DamageBudget = 0.5,
    controls: Controls = 99,
    scorer: OptionalScorer = None,
    save_folder: Folder = None,
    seed: DrawSeed = 0,
    per_token: PerToken = False,
) -> ExperimentResult:
    """Find out whether a behaviour can be steered: vector, best layer and strength, controls, side effects, a verdict.

    verdict is works, weak, indistinguishable from random, or breaks the model. Nothing stays applied: to use it, call
    apply_steering_vector with best_layer, best_strength and unit="residual". Show the user report_path. Lists of your
    own need 8 different prompts on each side; 64 are better.
    """
    session, started = current_session(), time.monotonic()
    with session.lock:
        if controls < _FEWEST_CONTROLS:
            raise ArgumentError(
                f"controls is {controls}", valid=f"at least {_FEWEST_CONTROLS}: p is never below 1 / (1 + n)"
            )
        _refuse_sources(method)
        material = material_named(session, behavior_name, positive, negative, seed)
        material = replace(material, scorers={**material.scorers, **_scorers(scorer)})
        options = SweepOptions(strengths, "residual", positions, Budget(damage_budget), seed=seed, per_token=per_token)
        folder = save_folder or f"experiments/{_file_name(material)}"
        found = run_experiment(
            session,
            material,
            _resolved(session, layers),
            way_named(method, None),
            options,
            f"{folder}/{_CELLS}",
            controls,
        )
        path = _saved(session, found.extraction, folder)
        facts = Facts.of(session.engine.info, options, path, method, time.monotonic() - started)
        files = save_experiment(session.workspace, folder, found, facts)
        return _found(found, options, path, str(files.report))


def _swept(swept: Sweep, options: SweepOptions, heat_map: str, data: str, warnings: list[str]) -> SweepResult:
    layers = by_layer(swept.grid.cells)
    strengths = [cell.strength for cell in next(iter(layers.values()))]
    return SweepResult(
        unit=options.unit,
        strengths=strengths,
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
        window=_window(swept.grid),
        best_layer=swept.cell.layer,
        best_strength=swept.cell.strength,
        effect=short(swept.judgement.effect),
        interval=short_interval(swept.judgement.interval),
        items=len(swept.judgement.effects),
        anti_steerable=short(swept.judgement.anti_steerable),
        heat_map_path=heat_map,
        data_path=data,
        warnings=[*warnings, *_warnings(swept, strengths)],
    )


def _found(found: Experiment, options: SweepOptions, vector_path: str, report_path: str) -> ExperimentResult:
    swept, judgement, null, side_effects = found.swept, found.swept.judgement, found.null, found.side_effects
    damage = side_effects.damage
    strengths = sorted({cell.strength for cell in swept.grid.cells})
    return ExperimentResult(
        verdict=found.ruling.verdict,
        reasons=list(found.ruling.reasons),
        vector_path=vector_path,
        best_layer=swept.cell.layer,
        best_strength=swept.cell.strength,
        unit=options.unit,
        effect=short(judgement.effect),
        interval=short_interval(judgement.interval),
        items=len(judgement.effects),
        prompting=None if judgement.prompting is None else short(judgement.prompting),
        controls=ControlsStatus(
            count=len(null.means),
            reached=int((null.means >= judgement.effect).sum()),
            largest=short(float(null.means.max())),
            anti_steerable=short(float((null.effects < 0).mean())),
        ),
        side_effects=SideEffectsStatus(
            kl=short(damage.divergence),
            perplexity=short(damage.perplexity),
            distinct_2=short(damage.distinct),
            length=short(damage.length),
            others={name: short(shift) for name, shift in side_effects.others.items()},
            text_scores={name: [rounded(score) for score in own] for name, own in side_effects.text_scores.items()},
        ),
        window=_window(swept.grid),
        report_path=report_path,
        warnings=[*found.extraction.warnings, *_warnings(swept, strengths)],
    )


def _warnings(swept: Sweep, strengths: Sequence[float]) -> list[str]:
    warnings: list[str] = []
    groups = len({question.group for question in swept.judgement.asked})
    if groups < _FEW_GROUPS:
        warnings.append(f"Only {groups} different questions judged the choice, so the interval is rough.")
    if not swept.grid.within:
        warnings.append("No cell has a positive effect within the damage budget; the best one is only the largest.")
    elif swept.cell.strength == max(strengths):
        warnings.append("The chosen strength is the largest that was tried: try larger ones.")
    return warnings


def _window(grid: Grid) -> list[WindowStatus]:
    return [WindowStatus(layer=own.layer, least=own.least, largest=own.largest) for own in grid.window]


def _refuse_sources(method: str) -> None:
    """Refuse what needs options beside prompts."""
    if method == "sae_feature":
        raise ArgumentError(
            "method is 'sae_feature', which is not made of prompts",
            fix="Make the vector with create_steering_vector, and measure it with sweep_steering.",
        )


def _resolved(session: Session, layers: Sequence[int] | None) -> list[int]:
    if layers is None:
        return spread_layers(session.engine)
    if not layers:
        raise ArgumentError("layers is an empty list", valid="at least one layer, or leave it out")
    return sorted({session.engine.resolve_layer(layer) for layer in layers})


def _saved(session: Session, extraction: Extraction, folder: str) -> str:
    return str(save_vector(extraction.vector, f"{folder}/{_VECTOR}", workspace=session.workspace))


def _file_name(material: Material) -> str:
    """Return a behaviour's name as a name of a folder."""
    return re.sub(r"[^\w-]+", "_", material.behavior.name).strip("_")[:64] or "experiment"


def _scorers(scorer: object) -> Mapping[str, TextScore]:
    """Return what scores texts, by name.

    Raises:
        ArgumentError: It is no scorer.
    """
    if scorer is None:
        return {}
    if callable(scorer):
        return {"scorer": _on_text(callable_scorer(cast(Callable[[str, str], object], scorer)))}
    given = cast(Mapping[str, object], scorer) if isinstance(scorer, Mapping) else {}
    match dict(given):
        case {"keywords": list() as keywords, **others} if not others:
            return {"keywords": _on_text(keyword_scorer(cast(list[str], keywords)))}
        case {"pattern": str() as pattern, **others} if not others:
            return {"pattern": _on_text(regex_scorer(pattern))}
        case _:
            raise ArgumentError(
                f"scorer is {scorer!r:.80}",
                valid="{'keywords': [...]}, {'pattern': '...'}, or in Python a function of prompt and text",
            )


def _on_text(scorer: Scorer) -> TextScore:
    return lambda prompt, text: scorer(text_of(prompt), text)
