"""The tools that find out where and how strongly a vector works, and at what cost."""

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import cast

from steer_tools.directions.extraction import Extraction, Where, extract
from steer_tools.directions.session_methods import way_named
from steer_tools.errors import ArgumentError
from steer_tools.evaluation.behaviors.behavior import Behavior, contrast_prompts
from steer_tools.evaluation.behaviors.behavior_json import behavior_document
from steer_tools.evaluation.damage import Budget
from steer_tools.evaluation.questions import pooling_of
from steer_tools.evaluation.scorers import Scorer, TextScore, callable_scorer, keyword_scorer, regex_scorer
from steer_tools.experiments.evaluation_set import EvaluationSet, evaluation_set_named, text_of
from steer_tools.experiments.experiment import run_experiment
from steer_tools.experiments.grids import spread_layers
from steer_tools.experiments.sweeps import SweepOptions, sweep
from steer_tools.formats import save_vector
from steer_tools.parameters import (
    AllowOtherModel,
    BehaviorName,
    BestLayerResult,
    Controls,
    DamageBudget,
    DrawSeed,
    ExperimentResult,
    Folder,
    GridStrengths,
    KnownBehavior,
    Layers,
    Method,
    OptionalScorer,
    OwnNegative,
    OwnPositive,
    PerToken,
    ScoredPositions,
    SweepResult,
    UnitName,
    VectorPath,
)
from steer_tools.reports.facts import Facts
from steer_tools.reports.report_files import save_experiment, save_sweep
from steer_tools.session.session import Session, current_session
from steer_tools.session.vector_loading import load_for_model
from steer_tools.tools.findings import experiment_result, swept_result
from steer_tools.tools.resolving import resolved_layers

_METHOD = "paired_mean_difference"
_CELLS, _VECTOR, _BEHAVIOR = "cells.json", "vector.safetensors", "behavior.json"
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
        evaluation_set = evaluation_set_named(session, behavior_name, seed=seed)
        options = SweepOptions(strengths, unit, positions, Budget(damage_budget), allow_other_model, seed, per_token)
        loaded = load_for_model(session, vector_path, None, allow_other_model=allow_other_model)
        tried = resolved_layers(session, layers, loaded.vector.layers)
        folder = save_folder or f"sweeps/{_file_name(evaluation_set)}"
        swept = sweep(session, loaded.vector, tried, evaluation_set, options, f"{folder}/{_CELLS}")
        info = loaded.vector.info
        facts = Facts.of(
            session.engine.info, options, str(vector_path), info.method if info else None, time.monotonic() - started
        )
        files = save_sweep(session.workspace, folder, swept, evaluation_set, facts)
        return swept_result(swept, options, str(files.heat_map), str(files.document), list(loaded.warnings))


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
        evaluation_set = evaluation_set_named(session, behavior_name, positive, negative, seed)
        options = SweepOptions(
            strengths, positions=positions, budget=Budget(damage_budget), seed=seed, per_token=per_token
        )
        tried = resolved_layers(session, layers, spread_layers(session.engine))
        folder = save_folder or f"layers/{_file_name(evaluation_set)}"
        where = Where(tried, pooling=pooling_of(session.engine, evaluation_set.behavior))
        contrast = contrast_prompts(evaluation_set.behavior.pairs, session.engine.info.has_chat_template)
        extraction = extract(session, contrast, where, way_named(_METHOD, None))
        path = _saved(session, extraction, folder)
        swept = sweep(session, extraction.vector, tried, evaluation_set, options, f"{folder}/{_CELLS}")
        facts = Facts.of(session.engine.info, options, path, _METHOD, time.monotonic() - started)
        files = save_sweep(session.workspace, folder, swept, evaluation_set, facts)
        result = swept_result(swept, options, str(files.heat_map), str(files.document), list(extraction.warnings))
        dataset = behavior_name if positive is None else _kept(session, evaluation_set.behavior, folder)
        return BestLayerResult(**result, vector_path=path, dataset=dataset)


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
        evaluation_set = evaluation_set_named(session, behavior_name, positive, negative, seed)
        evaluation_set = replace(evaluation_set, scorers={**evaluation_set.scorers, **_scorers(scorer)})
        options = SweepOptions(strengths, "residual", positions, Budget(damage_budget), seed=seed, per_token=per_token)
        folder = save_folder or f"experiments/{_file_name(evaluation_set)}"
        found = run_experiment(
            session,
            evaluation_set,
            resolved_layers(session, layers, spread_layers(session.engine)),
            way_named(method, None),
            options,
            f"{folder}/{_CELLS}",
            controls,
        )
        path = _saved(session, found.extraction, folder)
        facts = Facts.of(session.engine.info, options, path, method, time.monotonic() - started)
        files = save_experiment(session.workspace, folder, found, facts)
        dataset = behavior_name if positive is None else _kept(session, evaluation_set.behavior, folder)
        return experiment_result(found, options, path, dataset, str(files.report))


def _refuse_sources(method: str) -> None:
    """Refuse what needs options beside prompts."""
    if method == "sae_feature":
        raise ArgumentError(
            "method is 'sae_feature', which is not made of prompts",
            fix="Make the vector with create_steering_vector, and measure it with sweep_steering.",
        )


def _saved(session: Session, extraction: Extraction, folder: str) -> str:
    return str(save_vector(extraction.vector, f"{folder}/{_VECTOR}", workspace=session.workspace))


def _kept(session: Session, behavior: Behavior, folder: str) -> str:
    """Write a behaviour of lists, so that other tools measure on the same held-out items."""
    content = json.dumps(behavior_document(behavior), indent=1, ensure_ascii=False)
    return str(session.workspace.write(f"{folder}/{_BEHAVIOR}", content.encode()))


def _file_name(evaluation_set: EvaluationSet) -> str:
    """Return a behaviour's name as a name of a folder."""
    return re.sub(r"[^\w-]+", "_", evaluation_set.behavior.name).strip("_")[:64] or "experiment"


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
