"""The tool that measures a saved vector's effect and damage at each layer and strength."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from steer_tools.errors import ArgumentError, quoted
from steer_tools.prompts import PromptLike, parse_prompts
from steer_tools.tools import arguments as given
from steer_tools.tools.argument_checks import checked
from steer_tools.tools.card import Card
from steer_tools.tools.resolving import bypass_warnings, locked_session, resolved_layers
from steer_tools.tools.sweep_results import (
    CELLS,
    SweepResult,
    folder_name,
    named_scorer,
    rows,
    show,
    swept_result,
    text_sweep_result,
)

if TYPE_CHECKING:
    from steer_tools.experiments.evaluation_set import EvaluationSet
    from steer_tools.session.session import Session


# In Python also prompts, as compare_generations has them first; the vector then comes second.
VectorOrPrompts = Annotated[
    str | Annotated[list[PromptLike], given.ONLY_IN_PYTHON],
    given.Doc("A saved vector's file."),
]
ScoredPrompts = Annotated[
    list[PromptLike] | given.LeftOut,
    given.Doc("Score the texts to these with scorer, instead of a behaviour's log-odds."),
]
TextTokens = Annotated[int, given.Doc("The most new tokens of a scored text."), Ge(1)]


@checked
def sweep_steering(
    vector_path: VectorOrPrompts,
    behavior_name: given.OptionalBehaviorName = None,
    layers: given.Layers = None,
    strengths: given.GridStrengths = None,
    unit: given.UnitName = "residual",
    positions: given.ScoredPositions = "generated",
    damage_budget: given.DamageBudget = 0.5,
    save_folder: given.Folder = None,
    seed: given.DrawSeed = 0,
    per_token: given.PerToken = False,
    allow_other_model: given.AllowOtherModel = False,
    prompts: ScoredPrompts = None,
    scorer: given.OptionalScorer = None,
    max_new_tokens: TextTokens = 48,
    metric: given.OwnMetric = None,
    metric_name: given.MetricName = None,
) -> SweepResult:
    """Measure a saved vector's effect and damage at each layer and strength; the layers are the file's if omitted.

    The best cell is the gentlest with at least 80 % of the largest effect within the damage budget. It is chosen on
    some questions and judged on others. With a scorer the effect is that on texts, to prompts or to the behaviour's
    questions, and strengths keep their signs.
    """
    from steer_tools.evaluation.damage import Budget
    from steer_tools.evaluation.questions import questions_to_answer
    from steer_tools.evaluation.scorers import metric_of
    from steer_tools.experiments.sweeps import SweepOptions, sweep
    from steer_tools.experiments.text_sweeps import MOST_QUESTIONS, TextSweepOptions, sweep_texts
    from steer_tools.reports.json_documents import Facts
    from steer_tools.reports.provenance import Run
    from steer_tools.reports.report_files import save_sweep, save_text_sweep
    from steer_tools.session.placement import PlacementOptions
    from steer_tools.session.vector_loading import load_for_model, path_of

    call, started = dict(locals()), time.monotonic()
    with locked_session(keeps=True) as session:
        if isinstance(vector_path, list):
            if not isinstance(behavior_name, str) or prompts is not None:
                raise ArgumentError(
                    f"vector_path is {quoted(vector_path)}",
                    valid="the path of a vector; of two lists find_best_layer makes one and sweeps it",
                )
            vector_path, behavior_name, prompts = behavior_name, None, vector_path
        named = named_scorer(scorer, metric, metric_name)
        budget = Budget(damage_budget)
        evaluation_set, notes = None, tuple[str, ...]()
        if prompts is None or named is None:
            evaluation_set = _evaluation_set(session, behavior_name, prompts, seed)
            notes = evaluation_set.behavior.notes
        chosen = resolved_layers(session, layers, [])
        loaded = load_for_model(session, vector_path, chosen, allow_other_model=allow_other_model)
        tried = chosen or [*map(session.engine.resolve_layer, loaded.vector.layers)]
        path = path_of(session.workspace, vector_path, chosen)
        method = loaded.vector.info.method
        inputs = [path, *dict(loaded.digests), evaluation_set and evaluation_set.named]
        call |= {"vector_path": path, "behavior_name": behavior_name, "prompts": prompts}
        run = Run.of(sweep_steering, call, vars(session.engine.info), session.workspace, inputs)
        if named is None:
            assert evaluation_set is not None
            folder = save_folder or f"sweeps/{folder_name(evaluation_set.behavior.name)}"
            options = SweepOptions(strengths, unit, positions, budget, allow_other_model, seed, per_token)
            swept = sweep(session, loaded.vector, tried, evaluation_set, options, f"{folder}/{CELLS}")
            facts = Facts.of(session.engine.info, options, path, method, time.monotonic() - started, run)
            files = save_sweep(session.workspace, folder, swept, evaluation_set, facts)
            return swept_result(session, swept, options, files, path, [*notes, *loaded.warnings])
        measured, on_text = metric_of(named[1], named[0])
        folder = save_folder or f"sweeps/{folder_name(measured)}"
        if evaluation_set is None:
            asked = parse_prompts(prompts)
        else:
            asked = questions_to_answer(session.engine, evaluation_set.behavior)[:MOST_QUESTIONS]
        placement = PlacementOptions(unit, positions=positions, allow_other_model=allow_other_model)
        options = TextSweepOptions(strengths, placement, budget, max_new_tokens, seed)
        swept = sweep_texts(session, loaded.vector, tried, asked, on_text, options)
        facts = Facts.of(session.engine.info, options, path, method, time.monotonic() - started, run)
        files = save_text_sweep(session.workspace, folder, swept, measured, facts)
        warnings = [*notes, *loaded.warnings, *bypass_warnings(session, asked)]
        return text_sweep_result(session, swept, options, measured, files, path, warnings)


def _evaluation_set(session: Session, behavior_name: object, prompts: object, seed: int) -> EvaluationSet:
    """Return the behaviour that is measured, or to whose questions texts are written.

    Raises:
        ArgumentError: There is none, or there are prompts and nothing that scores the texts to them.
    """
    from steer_tools.experiments.evaluation_set import evaluation_set_named

    if prompts is not None:
        raise ArgumentError(
            "prompts came without what scores the texts to them",
            valid="scorer={'keywords': [...]} or {'pattern': '...'}, or in Python metric, a function of a text",
        )
    if behavior_name is None:
        raise ArgumentError(
            "Nothing says what is measured",
            valid="behavior_name, or prompts with a scorer (in Python also a metric, a function of a text)",
        )
    return evaluation_set_named(session, behavior_name, seed=seed)


TOOL = Card(
    "Measure layers and strengths",
    "evidence",
    command="sweep",
    about="Measure a saved vector's effect and damage at each layer and strength.",
    positional=("vector_path", "behavior_name"),
    rows=rows,
    not_typed=("prompts", "scorer", "max_new_tokens", "metric", "metric_name"),
).tool(sweep_steering, show)
