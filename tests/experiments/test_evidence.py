"""Experiments against the truth of the bundled model; `benchmarks/evidence.py` does the same on more prompts."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

import pytest
from scipy.stats import spearmanr

from steer_tools import load_model
from steer_tools.directions.methods import method_named
from steer_tools.evaluation.behaviors.bundled_traits import trait_behavior
from steer_tools.evaluation.damage import Budget, write
from steer_tools.evaluation.questions import propensities
from steer_tools.experiments.evaluation_set import EvaluationSet, evaluation_set_of
from steer_tools.experiments.experiment import Experiment, run_experiment
from steer_tools.experiments.sweeps import SweepOptions
from steer_tools.session.placement import PlacementOptions, place
from steer_tools.session.session import Session

LAYERS = (0, 1, 2)


@pytest.fixture
def bundled(empty_session: Session) -> Session:
    load_model("bundled")
    return empty_session


def material_for(session: Session, trait: str, seed: int, items: int = 40) -> EvaluationSet:
    return replace(evaluation_set_of(session.engine, trait_behavior(trait, items=items, seed=seed), seed), others={})


def experiment(session: Session, trait: str, method: str, seed: int) -> Experiment:
    options = {} if method == "paired_mean_difference" else {"seed": seed}
    return run_experiment(
        session,
        material_for(session, trait, seed),
        LAYERS,
        method_named(method, options),
        SweepOptions([0.1, 0.2, 0.4], seed=seed),
        f"{trait}/{method}/{seed}.json",
    )


@pytest.mark.parametrize(
    ("trait", "seed"),
    [
        ("sentiment", 0),
        pytest.param("verbosity", 1, marks=pytest.mark.slow),
        pytest.param("formality", 2, marks=pytest.mark.slow),
    ],
)
def test_a_trait_is_found_and_its_choice_steers_what_is_written(bundled: Session, trait: str, seed: int) -> None:
    found = experiment(bundled, trait, "paired_mean_difference", seed)

    assert found.ruling.verdict == "works", found.ruling.reasons
    assert len(found.null.means) == 99
    unsteered, steered = found.side_effects.text_scores["exact"]
    assert unsteered is not None and abs(unsteered) < 0.3
    assert steered is not None and steered >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("method", ["random", "balanced_shuffle"])
def test_a_control_is_not_judged_to_work(bundled: Session, method: str) -> None:
    found = experiment(bundled, "sentiment", method, seed=3)

    assert found.ruling.verdict != "works"


@pytest.mark.slow
def test_log_odds_rank_cells_as_exact_scores_do(bundled: Session) -> None:
    found = experiment(bundled, "formality", "paired_mean_difference", seed=4)
    engine, judgement = bundled.engine, found.swept.judgement
    asked = judgement.asked[:12]
    cells = [(cell, sign) for cell in found.swept.grid.cells if cell.damage.is_within(Budget()) for sign in (1, -1)]
    plans = [
        place(bundled, found.extraction.vector, cell.layer, PlacementOptions("residual")).plan(sign * cell.strength)
        for cell, sign in cells
    ]

    unsteered, *steered = propensities(engine, asked, [(), *plans])
    score = found.evaluation_set.scorers["exact"]
    exact = [
        fmean(score(q.prompt, text.text) or 0.0 for q, text in zip(asked, texts.generations, strict=True))
        for texts in write(engine, [question.prompt for question in asked], plans, found.evaluation_set.text_tokens)
    ]

    assert len(cells) >= 12
    assert max(exact) > 0.9
    assert min(exact) < -0.9
    assert spearmanr([float((own - unsteered).mean()) for own in steered], exact).statistic >= 0.8
