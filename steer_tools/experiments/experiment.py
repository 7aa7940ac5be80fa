"""A behaviour → a vector at several layers, the best cell, its controls, its side effects, and a verdict.

It must not know files' formats or reports.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steer_tools.core.site import Site
from steer_tools.directions.extraction import Extraction, Where, extract
from steer_tools.directions.methods import Method
from steer_tools.directions.session_methods import SessionMethod
from steer_tools.directions.statistics import Examples
from steer_tools.engines.base import Generation
from steer_tools.evaluation.behaviors.behavior import contrast_prompts
from steer_tools.evaluation.damage import Damage, DamageMeter, write
from steer_tools.evaluation.questions import Question, pooling_of
from steer_tools.evaluation.scorers import TextScore, mean_score
from steer_tools.experiments.evaluation_set import EvaluationSet
from steer_tools.experiments.grids import magnitudes, require_cells
from steer_tools.experiments.judgement import shifts_of_others
from steer_tools.experiments.null_distribution import CONTROLS, NullDistribution, measure_null_distribution
from steer_tools.experiments.sweeps import JUDGING_TEXTS, Sweep, SweepOptions, sizes, sweep
from steer_tools.experiments.verdicts import Ruling, rule
from steer_tools.progress import Work
from steer_tools.prompts import Prompt
from steer_tools.session.session import Session

# Prompts at each end of the ranking by effect whose texts are shown.
SHOWN = 5
_MAKING, _NULL, _EFFECTS = "making the vector", "measuring controls", "measuring side effects"


@dataclass(frozen=True)
class Example:
    """One judging item with the effect on it, in nats, and the greedy texts that the model wrote to it."""

    question: Question
    effect: float
    unsteered: str
    steered: str


@dataclass(frozen=True)
class SideEffects:
    """What the chosen cell does beside what it is for.

    Attributes:
        damage: On prompts that did not choose the cell.
        others: Mean change of the log-odds of other behaviours, in nats.
        text_scores: By scorer, the mean score of the unsteered and of the steered texts; None where no text has one.
    """

    damage: Damage
    others: Mapping[str, float]
    text_scores: Mapping[str, tuple[float | None, float | None]]

    @property
    def exact(self) -> tuple[float | None, float | None] | None:
        """The exact scores, where the model's language has them."""
        return self.text_scores.get("exact")


@dataclass(frozen=True)
class Experiment:
    """All that an experiment found out.

    Attributes:
        extraction: The vector, at all layers that were tried.
        evaluation_set: What it was made of and judged on.
        swept: The grid, the chosen cell and what it does.
        null: What control directions do in its place.
        side_effects: What else it does.
        best: The items that it moved most.
        worst: Those that it moved least, or the wrong way.
    """

    extraction: Extraction
    evaluation_set: EvaluationSet
    swept: Sweep
    null: NullDistribution
    side_effects: SideEffects
    best: tuple[Example, ...]
    worst: tuple[Example, ...]
    ruling: Ruling


def run_experiment(
    session: Session,
    evaluation_set: EvaluationSet,
    layers: Sequence[int],
    way: Method | SessionMethod,
    options: SweepOptions,
    path: str,
    controls: int = CONTROLS,
) -> Experiment:
    """Make a vector of the behaviour's pairs, sweep it, and hold the chosen cell against controls.

    `path` is the file in which the cells are kept, so that an experiment that was cut off goes on.

    Raises:
        SteeringError: The pairs give no vector, or an item cannot be read.
    """
    engine, behavior = session.engine, evaluation_set.behavior
    judging, strengths = len(evaluation_set.splits.judging), magnitudes(options.strengths)
    require_cells(layers, strengths)
    work = Work(
        {
            _MAKING: len(behavior.pairs),
            **sizes(layers, strengths, evaluation_set),
            _NULL: 2.0 * controls * judging,
            _EFFECTS: 32.0 * len(evaluation_set.others) + 6.0 * evaluation_set.text_tokens,
        }
    )
    contrast = contrast_prompts(behavior.pairs, engine.info.has_chat_template)
    where = Where(layers, pooling=pooling_of(engine, behavior.pairs))
    with work.stage(_MAKING):
        extraction = extract(session, contrast, where, way)
    swept = sweep(session, extraction.vector, layers, evaluation_set, options, path, work)
    plan = swept.placed.plan(swept.cell.strength)
    with work.stage(_NULL):
        site = Site(swept.cell.layer)
        read = [engine.read(side, [site], where.pooling)[site] for side in (contrast.positive, contrast.negative)]
        asked = swept.judgement.asked
        null = measure_null_distribution(engine, plan[0], Examples(*read), asked, controls, options.seed)
    with work.stage(_EFFECTS):
        side_effects, best, worst = _side_effects(session, evaluation_set, swept, per_token=options.per_token)
    was_within = swept.cell.damage.is_within(options.budget)
    ruling = rule(swept.judgement, null, side_effects.damage, options.budget, was_within=was_within)
    return Experiment(extraction, evaluation_set, swept, null, side_effects, best, worst, ruling)


def _side_effects(
    session: Session, evaluation_set: EvaluationSet, swept: Sweep, *, per_token: bool
) -> tuple[SideEffects, tuple[Example, ...], tuple[Example, ...]]:
    engine, judgement = session.engine, swept.judgement
    plan = swept.placed.plan(swept.cell.strength)
    order = np.argsort(-judgement.effects, kind="stable").tolist()
    shown = min(SHOWN, len(order) // 2)
    best, worst = order[:shown], order[::-1][:shown]
    # The items at both ends are shown, but what they were chosen by is no fair sample of what steering costs.
    sample = list(range(min(JUDGING_TEXTS, len(order))))
    prompts = [judgement.asked[index].prompt for index in sample]
    unsteered, steered = write(engine, prompts, [(), plan], evaluation_set.text_tokens)
    texts = {i: pair for i, *pair in zip(sample, unsteered.generations, steered.generations, strict=True)}
    if ends := [index for index in (*best, *worst) if index not in texts]:
        sides = write(engine, [judgement.asked[index].prompt for index in ends], [(), plan], evaluation_set.text_tokens)
        texts |= {i: pair for i, *pair in zip(ends, sides[0].generations, sides[1].generations, strict=True)}
    meter = DamageMeter(engine, evaluation_set.neutral[1::2], [], evaluation_set.text_tokens)
    (divergence,) = meter.divergences([plan])

    def examples(indices: Sequence[int]) -> tuple[Example, ...]:
        return tuple(
            Example(judgement.asked[i], float(judgement.effects[i]), texts[i][0].text, texts[i][1].text)
            for i in indices
        )

    effects = SideEffects(
        damage=steered.damage(unsteered, divergence),
        others=shifts_of_others(engine, plan, evaluation_set.others, per_token=per_token),
        text_scores={
            name: (_mean(score, prompts, unsteered.generations), _mean(score, prompts, steered.generations))
            for name, score in evaluation_set.scorers.items()
        },
    )
    return effects, examples(best), examples(worst)


def _mean(score: TextScore, prompts: Sequence[Prompt], texts: Sequence[Generation]) -> float | None:
    return mean_score(score(prompt, text.text) for prompt, text in zip(prompts, texts, strict=True)).mean
