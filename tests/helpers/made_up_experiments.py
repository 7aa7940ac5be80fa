"""Experiments of made-up numbers that are all different, so that one in the place of another is seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from steer_tools import SteeringVector
from steer_tools.core.interventions import Add
from steer_tools.core.plan import Placement
from steer_tools.core.site import Site
from steer_tools.core.vectors import VectorInfo
from steer_tools.directions.extraction import Extraction
from steer_tools.engines.base import Generation
from steer_tools.evaluation.behaviors.behavior import Behavior, Item
from steer_tools.evaluation.damage import Budget, Damage
from steer_tools.evaluation.intervals import Interval
from steer_tools.evaluation.questions import Question
from steer_tools.evaluation.text_detector import TextDetector
from steer_tools.evaluation.text_guards import CheckedTexts
from steer_tools.experiments.evaluation_set import EvaluationSet, Splits
from steer_tools.experiments.experiment import Example, Experiment, ExperimentOptions, SideEffects, Spot
from steer_tools.experiments.grids import Cell, Grid
from steer_tools.experiments.judgement import Dose, Judgement
from steer_tools.experiments.list_contrast import ContrastTest
from steer_tools.experiments.null_distribution import KINDS, NullDistribution
from steer_tools.experiments.sweeps import Sweep
from steer_tools.experiments.text_choice import TextCell, TextChoice
from steer_tools.experiments.text_judgement import TextControls, TextJudgement
from steer_tools.experiments.text_meter import Written
from steer_tools.experiments.verdicts import Evidence, rule
from steer_tools.prompts import TextPrompt
from steer_tools.reports.json_documents import Facts
from steer_tools.session.placement import Placed

FACTS = Facts("models/small", 4, 32, "vectors/v.safetensors", "pca", "generated", 7, 61.0, "0.0.0")
UNHARMED, BROKEN = Damage(0.03, 1.02, 1.07, 0.91, 1.13), Damage(3.25, 4.5, 9.5, 0.11, 0.4)
SCORES = {"exact": (-0.12, 0.73), "refusal": (None, 0.5)}
STRENGTHS = (0.1, 0.4, 0.8)
PLACED = Placed("v", "residual", (Placement(Add(torch.ones(32)), Site(2), 1.0),), None, None, ())
CONTRAST = ContrastTest(0.021, 3.25, 2, "mean", (8, 9), 20, 6435, 2, 2, 0.55, False)


def an_item(index: int) -> Item:
    return Item(TextPrompt(f"Question {index}"), f"yes {index}", f"no {index}", f"group {index // 2}")


def a_judgement(effects: tuple[float, ...] = (1.25, 2.5, -0.75, 3.0)) -> Judgement:
    asked = tuple(Question(TextPrompt(f"Question {i}"), f" yes {i}", f" no {i}", f"group {i // 2}") for i in range(4))
    return Judgement(
        asked=asked,
        unsteered=np.array([-0.5, -1.0, 0.25, 0.5]),
        effects=np.array(effects),
        interval=Interval(0.61, 2.42),
        doses=tuple(Dose(s, 14.5 * s, Interval(14.5 * s - 0.37, 14.5 * s + 0.41)) for s in (-0.4, -0.1, 0.0, 0.1, 0.4)),
        slopes=np.array([3.0, -1.0, 2.0, 4.0]),
        prompting=5.55,
        unrelated=0.17,
        choices=0.83,
    )


def a_sweep() -> Sweep:
    cells = tuple(
        Cell(layer, s, np.array([s * (layer + 1), 6.0]), np.array([-s * (layer + 2), -7.0]), damage)
        for layer in (1, 2)
        for s, damage in zip(STRENGTHS, (UNHARMED, UNHARMED, BROKEN), strict=True)
    )
    grid = Grid(cells, Budget())
    return Sweep(grid, grid.choose(), {2: PLACED}, a_judgement())


def a_null(controls: int = 21) -> NullDistribution:
    effects = np.array([[0.01 * i - 0.04, 0.02 * i] * 2 for i in range(controls)])
    return NullDistribution(effects, tuple(KINDS[i % 3] for i in range(controls)))


def written(
    name: str,
    effects: tuple[float, ...],
    broken: int | None = None,
    variety: float | None = 0.93,
    relevance: float | None = 0.87,
) -> Written:
    places = np.arange(len(effects), dtype=np.float64)
    texts = [Generation((1,), (2, 3), f"{name} text {i}", torch.zeros(2), True) for i in range(len(effects))]
    checked = CheckedTexts(places + 1.0, 1 - 0.05 * places, 1 - 0.02 * places, places != broken, variety, relevance)
    return Written(tuple(texts), np.array(effects) - 0.3, np.array(effects), checked)


def a_choice() -> TextChoice:
    def cell(layer: int, positions: str, strength: float, *effects: float, failures: tuple[str, ...] = ()) -> TextCell:
        texts = tuple(f"layer {layer} {positions} {strength:+g}, text {i}" for i in range(2))
        return TextCell(layer, positions, strength, effects, failures, 0.5 if failures else 1.0, 0.91, None, texts)

    cells = (
        cell(1, "generated", 0.4, 0.2, 0.4),
        cell(2, "generated", 0.4, 0.9, 0.7),
        cell(1, "all", 0.4, -0.3, -0.1),
        cell(2, "all", 0.4, 0.05, 0.01),
        cell(1, "generated", 0.8, 0.0, 0.12, failures=("broken", "alike")),
        cell(2, "generated", 0.8, 0.0, 0.0, failures=("irrelevant",)),
        cell(2, "generated", 0.1, 0.7, 0.72),
        cell(1, "all", -0.4, 0.15, 0.05),
    )
    prompts = (TextPrompt("Choosing 0"), TextPrompt("Choosing 1"))
    return TextChoice("more", prompts, ("before 0", "before 1"), cells, cells[6], does_enough=True)


def a_text_judgement(controls: int = 21) -> TextJudgement:
    found = np.array([[0.01 * i - 0.04, 0.02 * i] * 2 for i in range(controls)])
    return TextJudgement(
        prompts=tuple(TextPrompt(f"Question {i}") for i in range(4)),
        direction="more",
        unsteered=written("unsteered", (0.0, 0.0, 0.0, 0.0)),
        steered=written("steered", (0.5, 0.9, 0.0, 1.1), 2),
        opposite=written("opposite", (-0.3, -0.1, 0.2, -0.9), variety=0.81, relevance=None),
        effects=np.array([0.4, 0.5, -0.1, 1.0]),
        interval=Interval(0.12, 0.83),
        own_interval=Interval(0.2, 0.9),
        prompting=0.35,
        controls=TextControls(found, tuple(KINDS[i % 3] for i in range(controls)), controls),
    )


def an_experiment(controls: int = 21) -> Experiment:
    """One whose texts decide."""
    texts, choice = a_text_judgement(controls), a_choice()
    examples = [
        Example(prompt, *said, effect=effect)
        for prompt, effect, *said in zip(
            texts.prompts,
            texts.effects.tolist(),
            *(own.texts for own in (texts.unsteered, texts.steered, texts.opposite)),
            strict=True,
        )
    ]
    made = _undecided(None)
    made = replace(
        made,
        swept=None,
        spot=Spot(2, "generated", 0.1, PLACED),
        detector=TextDetector(2, 4.75, {1: 3.5, 2: 4.75}, torch.ones(32), 0.0, 1.0),
        choice=choice,
        texts=texts,
        null=None,
        contrast=CONTRAST,
        examples=tuple(examples),
    )
    return ruled(made)


def an_undecided_experiment(controls: int = 21) -> Experiment:
    """One whose texts cannot decide, so that log-odds chose."""
    return ruled(_undecided(a_null(controls)))


def ruled(experiment: Experiment) -> Experiment:
    """Return an experiment with the verdict that its figures have."""
    choice = experiment.choice
    evidence = Evidence(
        direction=experiment.options.direction,
        texts=experiment.texts,
        without_texts="Too few prompts." if experiment.texts is None else None,
        does_enough=choice is not None and choice.does_enough,
        breaks=False,
        log_odds=experiment.log_odds,
        null=experiment.null,
        contrast=experiment.contrast,
        others=experiment.side_effects.others,
    )
    return replace(experiment, ruling=rule(evidence))


def _undecided(null: NullDistribution | None) -> Experiment:
    items, swept = tuple(an_item(index) for index in range(8)), a_sweep()
    behavior = Behavior(
        "candour", "Saying it.", ("frank", "evasive"), "Be frank.", "Nobody.", items[:3], items, items[:2]
    )
    prompts = tuple(TextPrompt(f"Question {i}") for i in range(4))
    vector = SteeringVector.from_directions({1: torch.ones(32), 2: torch.ones(32)}, info=VectorInfo(pooling="last"))
    others = {"poise": 0.44, "warmth": -1.2, "rigour": 2.22}
    return Experiment(
        extraction=Extraction(vector, {}, ("The sides differ in length.",)),
        evaluation_set=EvaluationSet(behavior, Splits(items[:2], items[2:]), (TextPrompt("n"),), prompts, {}, {}, 8),
        options=ExperimentOptions(STRENGTHS, controls=21, seed=7),
        spot=Spot(2, "generated", swept.cell.strength, PLACED),
        detector=None,
        choice=None,
        swept=swept,
        texts=None,
        log_odds=swept.judgement,
        null=null,
        contrast=None,
        side_effects=SideEffects(Damage(0.21, 1.11, 1.31, 0.81, 1.61), others, SCORES),
        examples=tuple(Example(prompt, f"a plain text {i}", f"a steered text {i}") for i, prompt in enumerate(prompts)),
        ruling=rule(Evidence("more", None, "", False, False, swept.judgement, None, None, {})),
    )
