"""The tool that makes a behaviour's vector at several layers and says which works best."""

import time
from typing import Annotated

from steer_tools.evaluation.behaviors.behavior import contrast_prompts
from steer_tools.evaluation.behaviors.instructions import completions_alone, reading_notes
from steer_tools.prompts import PromptLike, parse_prompts
from steer_tools.tools import arguments as given
from steer_tools.tools.argument_checks import checked
from steer_tools.tools.card import Card
from steer_tools.tools.resolving import locked_session, resolved_layers
from steer_tools.tools.sweep_results import (
    CELLS,
    SweepResult,
    folder_name,
    kept_behavior,
    rows,
    saved_vector,
    show,
    swept_result,
    text_sweep_result,
    with_cell,
)

WrittenTo = Annotated[
    list[PromptLike] | None,
    given.Doc("With a metric: what texts are written to; the behaviour's questions if omitted."),
    given.ONLY_IN_PYTHON,
]
TextTokens = Annotated[int, given.Doc("With a metric: the most new tokens of a text."), given.ONLY_IN_PYTHON]
_METHOD = "paired_mean_difference"


class BestLayerResult(SweepResult):
    """As from sweep_steering; `vector_path` is the vector at all layers that were tried; its file knows the best cell.

    `dataset` names the behaviour for other tools: lists of your own are a file now.
    """

    vector_path: str
    dataset: str


@checked
def find_best_layer(
    behavior_name: given.KnownBehavior,
    positive: given.OwnPositive = None,
    negative: given.OwnNegative = None,
    layers: given.Layers = None,
    strengths: given.GridStrengths = None,
    positions: given.ScoredPositions = "generated",
    damage_budget: given.DamageBudget = 0.5,
    save_folder: given.Folder = None,
    seed: given.DrawSeed = 0,
    per_token: given.PerToken = False,
    metric: given.OwnMetric = None,
    metric_name: given.MetricName = None,
    test_prompts: WrittenTo = None,
    max_new_tokens: TextTokens = 48,
) -> BestLayerResult:
    """Create a behaviour's vector at several layers, save it, and sweep it as sweep_steering does.

    For a verdict with controls and side effects use steering_experiment instead.
    """
    from steer_tools.directions.extraction import Where, extract
    from steer_tools.directions.session_methods import way_named
    from steer_tools.evaluation.damage import Budget
    from steer_tools.evaluation.questions import pooling_of, questions_to_answer
    from steer_tools.evaluation.scorers import metric_of
    from steer_tools.experiments.evaluation_set import evaluation_set_named
    from steer_tools.experiments.grids import spread_layers
    from steer_tools.experiments.sweeps import SweepOptions, sweep
    from steer_tools.experiments.text_sweeps import MOST_QUESTIONS, TextSweepOptions, sweep_texts
    from steer_tools.reports.json_documents import Facts
    from steer_tools.reports.provenance import Run
    from steer_tools.reports.report_files import save_sweep, save_text_sweep
    from steer_tools.session.placement import PlacementOptions

    call, started = dict(locals()), time.monotonic()
    with locked_session(keeps=True) as session:
        is_judged_on = metric is None or test_prompts is None
        evaluation_set = evaluation_set_named(
            session, behavior_name, positive, negative, seed, is_judged_on=is_judged_on
        )
        run = Run.of(find_best_layer, call, vars(session.engine.info), session.workspace, inputs=[evaluation_set.named])
        budget = Budget(damage_budget)
        tried = resolved_layers(session, layers, spread_layers(session.engine))
        folder = save_folder or f"layers/{folder_name(evaluation_set.behavior.name)}"
        where = Where(tried, pooling=pooling_of(session.engine, evaluation_set.behavior.pairs))
        contrast = contrast_prompts(evaluation_set.behavior.pairs, session.engine.info.has_chat_template)
        extraction = extract(session, contrast, where, way_named(_METHOD, None))
        read = reading_notes(*completions_alone(evaluation_set.behavior.pairs))
        warnings = [*evaluation_set.behavior.notes, *read, *extraction.warnings]
        if metric is None:
            options = SweepOptions(strengths, "residual", positions, budget, seed=seed, per_token=per_token)
            swept = sweep(session, extraction.vector, tried, evaluation_set, options, f"{folder}/{CELLS}")
            path = saved_vector(session, with_cell(extraction.vector, swept.placed, swept.cell.strength), folder)
            facts = Facts.of(session.engine.info, options, path, _METHOD, time.monotonic() - started, run)
            files = save_sweep(session.workspace, folder, swept, evaluation_set, facts)
            result = swept_result(session, swept, options, files, path, warnings)
        else:
            measured, on_text = metric_of(metric, metric_name)
            placement = PlacementOptions("residual", positions=positions)
            options = TextSweepOptions(strengths, placement, budget, max_new_tokens, seed)
            written_to = None if test_prompts is None else parse_prompts(test_prompts, "test_prompts")
            asked = written_to or questions_to_answer(session.engine, evaluation_set.behavior)[:MOST_QUESTIONS]
            swept = sweep_texts(session, extraction.vector, tried, asked, on_text, options)
            path = saved_vector(session, with_cell(extraction.vector, swept.placed, swept.cell.strength), folder)
            facts = Facts.of(session.engine.info, options, path, _METHOD, time.monotonic() - started, run)
            files = save_text_sweep(session.workspace, folder, swept, measured, facts)
            result = text_sweep_result(session, swept, options, measured, files, path, warnings)
        dataset = kept_behavior(session, evaluation_set, folder)
        return BestLayerResult(**result, vector_path=path, dataset=dataset)


TOOL = Card(
    "Find the best layer",
    "evidence",
    command="best-layer",
    about="Create a behaviour's vector at several layers, save it, and sweep it.",
    positional=("behavior_name",),
    rows=rows,
    not_typed=("metric", "metric_name", "test_prompts", "max_new_tokens"),
).tool(find_best_layer, show)
