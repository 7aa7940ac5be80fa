"""The commands that find out where and how strongly a vector works, and at what cost. Rendering lies elsewhere.

What needs torch is imported inside the commands, as in commands.py.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from steer_tools.cli import evidence
from steer_tools.cli import options as given
from steer_tools.cli.inputs import PromptSource, ScorerSource, read_behavior, read_behavior_name
from steer_tools.cli.output import say, show, show_command, show_json, warn
from steer_tools.cli.suggestion import Steering, steering_command
from steer_tools.cli.work import Workbench
from steer_tools.prompts import PromptLike

if TYPE_CHECKING:  # At run time this would import torch.
    from steer_tools.evaluation.judge import Judge
    from steer_tools.tools.steering_experiment import ExperimentResult
    from steer_tools.tools.sweep_results import LayerCells, SweepResult


@dataclass(frozen=True)
class GridOptions:
    """What a grid is made of, and where it is kept."""

    layer: given.GridLayers = None
    strength: given.GridStrengths = None
    positions: given.Positions = "generated"
    damage_budget: given.DamageBudget = 0.5
    seed: given.DrawSeed = 0
    per_token: given.PerToken = False
    save: given.SaveFolder = None


@dataclass(frozen=True)
class UnitOptions:
    """What a strength means, and which tokens are steered by it."""

    unit: given.Unit = "residual"
    positions: given.Positions = "generated"
    allow_other_model: given.AllowOtherModel = False


def experiment(
    *,
    behavior: given.Behavior,
    prompts: given.OwnPrompts = None,
    method: given.Method = "paired_mean_difference",
    grid: GridOptions,
    controls: given.Controls = 99,
    scorer: ScorerSource,
    bench: Workbench,
    as_json: given.AsJson = False,
) -> None:
    """Find out whether a behaviour can be steered: vector, best layer, controls, side effects, a verdict."""
    name, positive, negative = read_behavior(behavior, prompts)
    score = scorer.read()
    with bench.at_work():
        from steer_tools.tools import steering_experiment

        result = steering_experiment(
            name,
            positive,
            negative,
            grid.layer or None,
            grid.strength or None,
            method=cast(Any, method),
            positions=grid.positions,
            damage_budget=grid.damage_budget,
            controls=controls,
            scorer=score,
            save_folder=grid.save,
            seed=grid.seed,
            per_token=grid.per_token,
        )

    if score is not None and not isinstance(score, dict):
        warn(_silence_of(score))
    if as_json:
        show_json(result)
    else:
        say(evidence.experiment(result, *_cells_of(result)))
        question = _question(name, positive, negative, grid.seed)
        _suggest(bench, _steering(result, result["vector_path"], grid), question)


def sweep(
    *,
    vector: given.SavedVector,
    behavior: given.Behavior,
    grid: GridOptions,
    unit: given.Unit = "residual",
    allow_other_model: given.AllowOtherModel = False,
    bench: Workbench,
    as_json: given.AsJson = False,
) -> None:
    """Measure a saved vector's effect and damage at each layer and strength."""
    name = read_behavior_name(behavior)
    with bench.at_work():
        from steer_tools.tools import sweep_steering

        result = sweep_steering(
            vector,
            name,
            grid.layer or None,
            grid.strength or None,
            unit=cast(Any, unit),
            positions=grid.positions,
            damage_budget=grid.damage_budget,
            save_folder=grid.save,
            seed=grid.seed,
            per_token=grid.per_token,
            allow_other_model=allow_other_model,
        )

    show(result, evidence.sweep(result), as_json=as_json)
    if not as_json:
        question = _question(name, None, None, grid.seed)
        _suggest(bench, _steering(result, vector, grid, allow_other_model=allow_other_model), question)


def best_layer(
    *,
    behavior: given.Behavior,
    prompts: given.OwnPrompts = None,
    grid: GridOptions,
    bench: Workbench,
    as_json: given.AsJson = False,
) -> None:
    """Create a behaviour's vector at several layers, save it, and sweep it."""
    name, positive, negative = read_behavior(behavior, prompts)
    with bench.at_work():
        from steer_tools.tools import find_best_layer

        result = find_best_layer(
            name,
            positive,
            negative,
            grid.layer or None,
            grid.strength or None,
            positions=grid.positions,
            damage_budget=grid.damage_budget,
            save_folder=grid.save,
            seed=grid.seed,
            per_token=grid.per_token,
        )

    show(result, evidence.sweep(result, result["vector_path"]), as_json=as_json)
    if not as_json:
        question = _question(name, positive, negative, grid.seed)
        _suggest(bench, _steering(result, result["vector_path"], grid), question)


def robustness(
    *,
    vector: given.SavedVector,
    dataset: given.Dataset,
    prompts_file: given.TestPromptsFile = None,
    layer: given.SingleLayer = None,
    strength: given.Strength = 1.0,
    use: UnitOptions,
    seed: given.DrawSeed = 0,
    per_token: given.PerToken = False,
    bench: Workbench,
    as_json: given.AsJson = False,
) -> None:
    """Measure how evenly a vector works over prompts, wordings and the chat template."""
    test_prompts = None if prompts_file is None else PromptSource(prompts_file=prompts_file).read_any()
    with bench.at_work():
        from steer_tools.tools import evaluate_steering_robustness

        result = evaluate_steering_robustness(
            vector,
            read_behavior_name(dataset),
            layer,
            strength,
            test_prompts,
            unit=cast(Any, use.unit),
            positions=use.positions,
            seed=seed,
            per_token=per_token,
            allow_other_model=use.allow_other_model,
        )

    show(result, evidence.robustness(result), as_json=as_json)


def calibrate(
    *,
    vector: given.SavedVector,
    layer: given.SingleLayer = None,
    target_damage: given.TargetDamage = None,
    target_effect: given.TargetEffect = None,
    behavior: given.OptionalBehavior = None,
    use: UnitOptions,
    seed: given.DrawSeed = 0,
    bench: Workbench,
    as_json: given.AsJson = False,
) -> None:
    """Find the least strength that spends a damage or reaches an effect."""
    with bench.at_work():
        from steer_tools.tools import calibrate_strength

        result = calibrate_strength(
            vector,
            layer,
            target_damage,
            target_effect,
            None if behavior is None else read_behavior_name(behavior),
            unit=cast(Any, use.unit),
            positions=use.positions,
            seed=seed,
            allow_other_model=use.allow_other_model,
        )

    show(result, evidence.calibration(result), as_json=as_json)


def _cells_of(result: "ExperimentResult") -> "tuple[list[float], list[LayerCells]]":
    """Return strengths and cells, which the result leaves to the document beside the report."""
    from steer_tools.reports.report_files import DOCUMENT

    document = json.loads(Path(result["report_path"]).with_name(DOCUMENT).read_text(encoding="utf-8"))
    layers: dict[int, LayerCells] = {}
    for cell in document["grid"]["cells"]:
        empty: LayerCells = {
            "layer": cell["layer"],
            "effects": [],
            "opposite_effects": [],
            "kl": [],
            "within_budget": [],
        }
        own = layers.setdefault(cell["layer"], empty)
        own["effects"].append(cell["effect"])
        own["opposite_effects"].append(cell["opposite_effect"])
        own["kl"].append(cell["damage"]["divergence"])
        own["within_budget"].append(cell["is_within_budget"])
    return sorted({cell["strength"] for cell in document["grid"]["cells"]}), list(layers.values())


def _silence_of(judge: "Judge") -> list[str]:
    """Say how many answers of a judge are missing and why, if any are."""
    missing = sum(judge.failures.values())
    reasons = ", ".join(f"{reason} ({count})" for reason, count in judge.failures.most_common())
    return [f"The judge gave no score to {missing} texts: {reasons}."] if missing else []


def _question(name: str, positive: list[PromptLike] | None, negative: list[PromptLike] | None, seed: int) -> PromptLike:
    """Return the prompt of an item that did not choose, as the model was asked it."""
    from steer_tools.evaluation.questions import questions
    from steer_tools.experiments.evaluation_set import evaluation_set_named
    from steer_tools.prompts import plain
    from steer_tools.session.session import current_session

    session = current_session()
    (asked, *_) = questions(
        session.engine, evaluation_set_named(session, name, positive, negative, seed).splits.judging
    )
    return plain(asked.prompt)


def _steering(
    result: "ExperimentResult | SweepResult", path: str, grid: GridOptions, *, allow_other_model: bool = False
) -> Steering:
    cell = result["best_layer"], result["best_strength"], result["unit"]
    return Steering(path, *cell, grid.positions, allow_other_model)


def _suggest(bench: Workbench, steering: Steering, prompt: PromptLike) -> None:
    show_command("See its texts:", steering_command(bench, steering, [prompt]))
