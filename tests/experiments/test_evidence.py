"""Experiments against the truth of the bundled model; `benchmarks/evidence.py` does the same on more prompts."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean
from typing import Any

import pytest
from scipy.stats import spearmanr

from steer_tools import load_model
from steer_tools.directions.methods import method_named
from steer_tools.errors import DirectionError
from steer_tools.evaluation.behaviors.bundled_traits import trait_behavior
from steer_tools.evaluation.damage import Budget, write
from steer_tools.evaluation.questions import propensities, questions
from steer_tools.experiments import experiment as experiments
from steer_tools.experiments.evaluation_set import EvaluationSet, evaluation_set_of
from steer_tools.experiments.experiment import Experiment, ExperimentOptions, run_experiment
from steer_tools.experiments.meters import Meters, prepared_meters
from steer_tools.experiments.sweeps import SweepOptions, sweep
from steer_tools.experiments.text_choice import SIGNS, Direction
from steer_tools.session.placement import PlacementOptions, place
from steer_tools.session.session import Session

LAYERS = (0, 1, 2)


@pytest.fixture
def bundled(empty_session: Session) -> Session:
    load_model("bundled")
    return empty_session


def material_for(session: Session, trait: str, seed: int, items: int = 40) -> EvaluationSet:
    return replace(evaluation_set_of(session.engine, trait_behavior(trait, items=items, seed=seed), seed), others={})


def experiment(
    session: Session, trait: str, method: str, seed: int, direction: Direction = "more", controls: int = 9
) -> Experiment:
    options = {} if method == "paired_mean_difference" else {"seed": seed}
    return run_experiment(
        session,
        material_for(session, trait, seed),
        LAYERS,
        method_named(method, options),
        ExperimentOptions([0.1, 0.2, 0.4], direction=direction, controls=controls, seed=seed),
        f"{trait}/{method}/{seed}.json",
    )


@pytest.mark.parametrize(
    ("trait", "seed", "direction"),
    [
        ("sentiment", 0, "more"),
        pytest.param("verbosity", 1, "more", marks=pytest.mark.slow),
        pytest.param("formality", 2, "less", marks=pytest.mark.slow),
    ],
)
def test_a_trait_is_found_and_its_choice_steers_what_is_written(
    bundled: Session, trait: str, seed: int, direction: Direction
) -> None:
    found = experiment(bundled, trait, "paired_mean_difference", seed, direction)

    assert found.ruling.verdict == "works", found.ruling.reasons
    assert found.texts is not None
    assert found.texts.controls is not None
    assert len(found.texts.controls.kinds) == 9
    assert found.detector is not None and found.detector.d_prime > 2
    unsteered, steered = found.side_effects.text_scores["exact"]
    assert unsteered is not None and abs(unsteered) < 0.3
    assert steered is not None and SIGNS[direction] * steered >= 0.9
    assert SIGNS[direction] * found.spot.strength > 0


@pytest.mark.slow
@pytest.mark.parametrize("method", ["random", "balanced_shuffle"])
def test_a_control_is_not_judged_to_work(bundled: Session, method: str) -> None:
    found = experiment(bundled, "sentiment", method, seed=3)

    assert found.ruling.verdict != "works"


def test_without_enough_prompts_it_cannot_be_told_and_log_odds_choose(bundled: Session) -> None:
    material = replace(material_for(bundled, "sentiment", 0), prompts=())

    found = run_experiment(
        bundled,
        material,
        [1],
        method_named("paired_mean_difference", {}),
        ExperimentOptions([0.1, 0.4], direction="less", controls=9),
        "few.json",
    )

    assert found.ruling.verdict == "cannot tell"
    assert "0 prompts" in found.ruling.reasons[0]
    assert (found.texts, found.choice, found.detector) == (None, None, None)
    assert found.swept is not None
    assert found.spot.strength == -found.swept.cell.strength
    assert found.log_odds.effect < 0
    assert found.null is not None
    assert found.examples[0].steered != found.examples[0].unsteered


def test_a_contrast_that_cannot_be_tested_is_told_and_ends_nothing(
    bundled: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object) -> None:
        raise DirectionError("The gradients are not finite")

    monkeypatch.setattr(experiments, "contrast_acts", refuse)
    material = material_for(bundled, "sentiment", 0)
    few = replace(material, behavior=replace(material.behavior, pairs=material.behavior.pairs[:24]), prompts=())

    found = run_experiment(
        bundled, few, [1], method_named("paired_mean_difference", {}), ExperimentOptions([0.1], controls=9), "few.json"
    )

    assert found.contrast is None
    assert any("contrast" in warning and "not finite" in warning for warning in found.extraction.warnings)


def test_cells_are_kept_for_what_they_depend_on_and_nothing_else(bundled: Session) -> None:
    material = material_for(bundled, "sentiment", 0)
    meters = prepared_meters(bundled.engine, material, 0)
    longer = prepared_meters(bundled.engine, replace(material, text_tokens=8), 0)
    assert isinstance(meters, Meters) and isinstance(longer, Meters)
    options = ExperimentOptions([0.1, 0.2], controls=9)

    def key(of: Meters = meters, **changed: Any) -> str:
        return experiments._key(bundled.engine, of, {}, [0.1, 0.2], replace(options, **changed))

    assert key() == key(controls=99) == key(per_token=True)
    assert len({key(), key(of=longer), key(direction="less"), key(seed=1)}) == 4


@pytest.mark.slow
def test_log_odds_rank_cells_as_exact_scores_do(bundled: Session) -> None:
    material, engine = material_for(bundled, "formality", 4), bundled.engine
    vector = experiment(bundled, "formality", "paired_mean_difference", seed=4).extraction.vector
    swept = sweep(bundled, vector, LAYERS, material, SweepOptions([0.1, 0.2, 0.4], seed=4), "swept.json")
    asked = questions(engine, material.splits.judging)[:12]
    cells = [(cell, sign) for cell in swept.grid.cells if cell.damage.is_within(Budget()) for sign in (1, -1)]
    plans = [
        place(bundled, vector, cell.layer, PlacementOptions("residual")).plan(sign * cell.strength)
        for cell, sign in cells
    ]

    unsteered, *steered = propensities(engine, asked, [(), *plans])
    score = material.scorers["exact"]
    exact = [
        fmean(score(q.prompt, text.text) or 0.0 for q, text in zip(asked, texts.generations, strict=True))
        for texts in write(engine, [question.prompt for question in asked], plans, material.text_tokens)
    ]

    assert len(cells) >= 12
    assert max(exact) > 0.9
    assert min(exact) < -0.9
    assert spearmanr([float((own - unsteered).mean()) for own in steered], exact).statistic >= 0.8
