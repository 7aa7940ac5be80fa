"""The tool that finds out whether a behaviour can be steered, with controls and side effects."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from annotated_types import Ge
from typing_extensions import TypedDict

from steer_tools.errors import ArgumentError
from steer_tools.limits import CONTROLS
from steer_tools.tools import arguments as given
from steer_tools.tools.argument_checks import checked
from steer_tools.tools.card import Card
from steer_tools.tools.rendering import Shown, brief, bullets, facts, joined, line, nats, stack, warning_lines
from steer_tools.tools.resolving import locked_session, resolved_layers
from steer_tools.tools.results import ApplyArguments, repeating, residual_unit, rounded, short, short_interval
from steer_tools.tools.sweep_results import (
    CELLS,
    LayerCells,
    WindowStatus,
    choice_facts,
    doubts,
    folder_name,
    grid_lines,
    kept_behavior,
    saved_vector,
    text_scores,
    window,
)

# With fewer controls no effect can be told from chance at p = 0.05.
_FEWEST_CONTROLS = 19


BehaviorName = Annotated[
    str | given.Pairs,
    given.Doc(
        "A built-in behaviour: honesty, sycophancy, refusal, caution, sandbagging, corrigibility, "
        "confidence, formality, verbosity, sentiment, helpfulness, creativity, technical_depth, empathy, power_seeking "
        "or tool_restraint (of the bundled model its traits: sentiment, sycophancy, refusal, confidence, formality, "
        "honesty, verbosity); or a file of items with prompt, positive and negative (.json, .jsonl, .csv, .tsv, .txt)."
    ),
]
Controls = Annotated[
    int, given.Doc("Control directions that the effect is held against; fewer tell nothing from chance."), Ge(19)
]


TextTokens = Annotated[int | None, given.Doc("The most new tokens of a text."), given.ONLY_IN_PYTHON]


class ControlsStatus(TypedDict):
    """`reached` of `count` controls have the vector's effect; `moved_wrong_way`: their share of items below 0."""

    count: int
    reached: int
    largest: float
    moved_wrong_way: float


class SideEffectsStatus(TypedDict):
    """Of the chosen cell: KL in nats a token; perplexity, distinct-2 and length as multiples of the unsteered text's.

    `others`: mean change of log-odds of other behaviours.
    """

    kl: float
    perplexity: float
    distinct_2: float
    length: float
    others: dict[str, float]
    text_scores: dict[str, list[float | None]]


class ExperimentResult(TypedDict):
    """`effect` (nats), with its 95 % `interval`, is on `items` that did not choose.

    `prompting` is that of a prompt which simply asks for the behaviour, null where nobody wrote one. `text_scores`: of
    the unsteered and the steered texts; `exact` is the bundled language's own, from -1 to 1. `apply`: the arguments
    that apply the best cell. `dataset` names the behaviour for other tools: lists of your own are a file now.
    """

    verdict: str
    reasons: list[str]
    vector_path: str
    dataset: str
    best_layer: int
    best_strength: float
    residual_strength: float
    apply: ApplyArguments
    unit: str
    effect: float
    interval: list[float] | None
    items: int
    prompting: float | None
    controls: ControlsStatus
    side_effects: SideEffectsStatus
    window: list[WindowStatus]
    report_path: str
    warnings: list[str]


@checked
def steering_experiment(
    behavior_name: BehaviorName,
    positive: given.OwnPositive = None,
    negative: given.OwnNegative = None,
    layers: given.Layers = None,
    strengths: given.GridStrengths = None,
    method: given.Method = "paired_mean_difference",
    positions: given.ScoredPositions = "generated",
    damage_budget: given.DamageBudget = 0.5,
    controls: Controls = 99,
    scorer: given.OptionalScorer = None,
    save_folder: given.Folder = None,
    seed: given.DrawSeed = 0,
    per_token: given.PerToken = False,
    metric: given.OwnMetric = None,
    metric_name: given.MetricName = None,
    max_new_tokens: TextTokens = None,
) -> ExperimentResult:
    """Find out whether a behaviour can be steered: vector, best layer and strength, controls, side effects, a verdict.

    verdict is works, weak, indistinguishable from random, or breaks the model. Nothing stays applied: to use it, call
    apply_steering_vector with what is in apply, or with vector_path alone. Show the user report_path. Lists of your
    own need 8 different prompts on each side; 64 are better.
    """
    from steer_tools.directions.session_methods import way_named
    from steer_tools.evaluation.damage import Budget
    from steer_tools.experiments.evaluation_set import evaluation_set_named
    from steer_tools.experiments.experiment import run_experiment
    from steer_tools.experiments.grids import spread_layers
    from steer_tools.experiments.sweeps import SweepOptions
    from steer_tools.reports.json_documents import Facts
    from steer_tools.reports.provenance import Run
    from steer_tools.reports.report_files import save_experiment

    call, started = dict(locals()), time.monotonic()
    with locked_session(keeps=True) as session:
        if controls < _FEWEST_CONTROLS:
            raise ArgumentError(
                f"controls is {controls}", valid=f"at least {_FEWEST_CONTROLS}: p is never below 1 / (1 + n)"
            )
        CONTROLS.require(controls, "The experiment is to have")
        if method == "sae_feature":
            raise ArgumentError(
                "method is 'sae_feature', which is not made of prompts",
                fix="Make the vector with create_steering_vector, and measure it with sweep_steering.",
            )
        evaluation_set = evaluation_set_named(session, behavior_name, positive, negative, seed)
        info, inputs = session.engine.info, [evaluation_set.named]
        run = Run.of(steering_experiment, call, vars(info), session.workspace, inputs)
        evaluation_set = replace(
            evaluation_set,
            scorers={**evaluation_set.scorers, **text_scores(scorer, metric, metric_name)},
            text_tokens=evaluation_set.text_tokens if max_new_tokens is None else max_new_tokens,
        )
        options = SweepOptions(strengths, "residual", positions, Budget(damage_budget), seed=seed, per_token=per_token)
        folder = save_folder or f"experiments/{folder_name(evaluation_set.behavior.name)}"
        tried, way = resolved_layers(session, layers, spread_layers(session.engine)), way_named(method, None)
        found = run_experiment(session, evaluation_set, tried, way, options, f"{folder}/{CELLS}", controls)
        path = saved_vector(session, found.extraction, found.swept, folder)
        facts = Facts.of(info, options, path, method, time.monotonic() - started, run)
        files = save_experiment(session.workspace, folder, found, facts)
        dataset = kept_behavior(session, evaluation_set, folder)
        swept, judgement, null, side_effects = found.swept, found.swept.judgement, found.null, found.side_effects
        damage = side_effects.damage
        return ExperimentResult(
            verdict=found.ruling.verdict,
            reasons=list(found.ruling.reasons),
            vector_path=path,
            dataset=dataset,
            best_layer=swept.cell.layer,
            best_strength=swept.cell.strength,
            residual_strength=short(swept.cell.strength * residual_unit(session, swept.placed)),
            apply=repeating(session, path, swept.placed, swept.cell.strength),
            unit=options.unit,
            effect=short(judgement.effect),
            interval=short_interval(judgement.interval),
            items=len(judgement.effects),
            prompting=short(judgement.prompting),
            controls=ControlsStatus(
                count=len(null.means),
                reached=int((null.means >= judgement.effect).sum()),
                largest=short(float(null.means.max())),
                moved_wrong_way=short(null.moved_wrong_way),
            ),
            side_effects=SideEffectsStatus(
                kl=short(damage.divergence),
                perplexity=short(damage.perplexity),
                distinct_2=short(damage.distinct),
                length=short(damage.length),
                others=short(dict(side_effects.others)),
                text_scores={name: [rounded(score) for score in own] for name, own in side_effects.text_scores.items()},
            ),
            window=window(swept.grid),
            report_path=str(files.report),
            warnings=[*evaluation_set.behavior.notes, *found.extraction.warnings, *doubts(swept)],
        )


_STYLES = {"works": "bold green", "weak": "bold yellow"}
_OTHERS = 4


def show(result: ExperimentResult) -> Shown:
    """Render the verdict with its reasons, the grid, what was chosen, its controls and its side effects."""
    return experiment_shown(result, *_grid_beside(result["report_path"]))


def experiment_shown(result: ExperimentResult, strengths: Sequence[float], cells: Sequence[LayerCells]) -> Shown:
    """Render a result with the grid that it leaves to the document beside the report."""
    verdict = result["verdict"]
    return stack(
        joined(("Verdict: ", "bold"), (verdict, _STYLES.get(verdict, "bold red"))),
        bullets(result["reasons"]),
        line(""),
        *grid_lines(strengths, cells, result["best_layer"], result["best_strength"]),
        facts(_facts(result)),
        *warning_lines(result["warnings"]),
    )


def _facts(result: ExperimentResult) -> dict[str, str | None]:
    controls, damage = result["controls"], result["side_effects"]
    others = sorted(damage["others"].items(), key=lambda shift: -abs(shift[1]))
    return {
        **choice_facts(result["best_layer"], result["best_strength"], result["unit"], result["window"]),
        "controls": f"{controls['reached']} of {controls['count']} reach its effect, the largest has "
        f"{nats(controls['largest'])}; {controls['moved_wrong_way']:.0%} of their items move the wrong way",
        "asking": None if result["prompting"] is None else f"{nats(result['prompting'])} nats by a prompt instead",
        "damage": f"KL {brief(damage['kl'])}, perplexity × {brief(damage['perplexity'])}, distinct-2 × "
        f"{brief(damage['distinct_2'])}, length × {brief(damage['length'])}",
        "others": ", ".join(f"{name} {nats(shift)}" for name, shift in others[:_OTHERS])
        + (f"; {len(others) - _OTHERS} more move less" if len(others) > _OTHERS else ""),
        "texts": ", ".join(
            f"{name} {brief(before)} → {brief(after)}" for name, (before, after) in damage["text_scores"].items()
        ),
        "vector": result["vector_path"],
        "dataset": result["dataset"],
        "report": result["report_path"],
    }


def _grid_beside(report_path: str) -> tuple[list[float], list[LayerCells]]:
    """Return the strengths and cells of an experiment's document."""
    from steer_tools.reports.report_files import DOCUMENT

    grid = json.loads(Path(report_path).with_name(DOCUMENT).read_text(encoding="utf-8"))["grid"]
    layers: dict[int, LayerCells] = {}
    for cell in grid["cells"]:
        empty = LayerCells(layer=cell["layer"], effects=[], opposite_effects=[], kl=[], within_budget=[])
        cells = layers.setdefault(cell["layer"], empty)
        cells["effects"].append(cell["effect"])
        cells["opposite_effects"].append(cell["opposite_effect"])
        cells["kl"].append(cell["damage"]["divergence"])
        cells["within_budget"].append(cell["is_within_budget"])
    return sorted({cell["strength"] for cell in grid["cells"]}), list(layers.values())


TOOL = Card(
    "Find out whether a behaviour can be steered",
    "evidence",
    command="experiment",
    about="Find out whether a behaviour can be steered: vector, best layer, controls, side effects, a verdict.",
    positional=("behavior_name",),
    not_typed=("metric", "metric_name", "max_new_tokens"),
).tool(steering_experiment, show)
