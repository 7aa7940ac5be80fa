"""The tool that measures a saved vector's effect and damage at each layer and strength."""

import time

from steer_tools.tools import arguments as given
from steer_tools.tools.card import Card
from steer_tools.tools.resolving import locked_session, resolved_layers
from steer_tools.tools.sweep_results import CELLS, SweepResult, folder_name, show, swept_result


def sweep_steering(
    vector_path: given.VectorPath,
    behavior_name: given.KnownBehavior,
    layers: given.Layers = None,
    strengths: given.GridStrengths = None,
    unit: given.UnitName = "residual",
    positions: given.ScoredPositions = "generated",
    damage_budget: given.DamageBudget = 0.5,
    save_folder: given.Folder = None,
    seed: given.DrawSeed = 0,
    per_token: given.PerToken = False,
    allow_other_model: given.AllowOtherModel = False,
) -> SweepResult:
    """Measure a saved vector's effect and damage at each layer and strength; the layers are the file's if omitted.

    The best cell is the gentlest with at least 80 % of the largest effect within the damage budget. It is chosen on
    some questions and judged on others.
    """
    from steer_tools.evaluation.damage import Budget
    from steer_tools.experiments.evaluation_set import evaluation_set_named
    from steer_tools.experiments.sweeps import SweepOptions, sweep
    from steer_tools.reports.json_documents import Facts
    from steer_tools.reports.report_files import save_sweep
    from steer_tools.session.vector_loading import load_for_model, path_of

    started = time.monotonic()
    with locked_session() as session:
        evaluation_set = evaluation_set_named(session, behavior_name, seed=seed)
        options = SweepOptions(strengths, unit, positions, Budget(damage_budget), allow_other_model, seed, per_token)
        named = resolved_layers(session, layers, [])
        loaded = load_for_model(session, vector_path, named, allow_other_model=allow_other_model)
        tried = named or [*map(session.engine.resolve_layer, loaded.vector.layers)]
        path = path_of(session.workspace, vector_path, named)
        folder = save_folder or f"sweeps/{folder_name(evaluation_set)}"
        swept = sweep(session, loaded.vector, tried, evaluation_set, options, f"{folder}/{CELLS}")
        method = loaded.vector.info.method
        facts = Facts.of(session.engine.info, options, path, method, time.monotonic() - started)
        files = save_sweep(session.workspace, folder, swept, evaluation_set, facts)
        return swept_result(session, swept, options, files, path, loaded.warnings)


TOOL = Card(
    "Measure layers and strengths",
    "evidence",
    command="sweep",
    about="Measure a saved vector's effect and damage at each layer and strength.",
    positional=("vector_path", "behavior_name"),
).tool(sweep_steering, show)
