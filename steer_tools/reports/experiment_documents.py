"""An experiment → values of which JSON can be made, with every text that was written. It must not know Markdown."""

from collections.abc import Sequence

from steer_tools.evaluation.metrics import empirical_p
from steer_tools.evaluation.text_guards import (
    LEAST_DISTINCT,
    LEAST_RELEVANCE,
    LEAST_VARIETY,
    LEAST_WHOLE,
    CheckedTexts,
)
from steer_tools.experiments.experiment import Example, Experiment
from steer_tools.experiments.grids import magnitudes
from steer_tools.experiments.text_choice import SIGNS, TextCell, TextChoice
from steer_tools.experiments.text_judgement import SLACK, TextControls, TextJudgement
from steer_tools.experiments.text_meter import Written
from steer_tools.reports.json_documents import (
    Facts,
    Json,
    behavior_document,
    by_kind,
    grid_document,
    json_value,
    judgement_document,
    wrong_way,
)
from steer_tools.reports.markdown import question_text


def experiment_document(experiment: Experiment, facts: Facts) -> Json:
    """Return everything that an experiment found; a number that is not finite is null."""
    spot, side_effects, choice, texts = experiment.spot, experiment.side_effects, experiment.choice, experiment.texts
    detector, vector, swept = experiment.detector, experiment.extraction.vector, experiment.swept
    sign = SIGNS[experiment.options.direction]
    chosen = choice.cell.effect if choice is not None else None if swept is None else swept.cell.effect
    document: Json = {
        "verdict": experiment.ruling.verdict,
        "reasons": experiment.ruling.reasons,
        "direction": experiment.options.direction,
        "facts": facts,
        "behavior": behavior_document(experiment.evaluation_set),
        "unit": spot.placed.unit,
        "warnings": spot.placed.warnings,
        "chosen": {
            "layer": spot.layer,
            "strength": spot.strength,
            "positions": spot.positions,
            "choosing_effect": chosen,
        },
        "extraction": {
            "method": vector.info.method,
            "pooling": vector.info.pooling,
            "magnitudes": {layer: own.contrast_norm for layer, own in experiment.extraction.fits.items()},
            "separations": {layer: own.separation for layer, own in experiment.extraction.fits.items()},
            "warnings": experiment.extraction.warnings,
        },
        "detector": None
        if detector is None
        else {
            "layer": detector.layer,
            "d_prime": detector.d_prime,
            "d_primes": detector.d_primes,
            "reads_prompts": detector.reads_prompts,
        },
        "choice": None if choice is None else _choice(choice, magnitudes(experiment.options.strengths)),
        "grid": None if swept is None else grid_document(swept.grid),
        "texts": None if texts is None else _texts(texts),
        "examples": [_example(example) for example in experiment.examples],
        "log_odds": {**judgement_document(experiment.log_odds, sign), "controls": _null(experiment, sign)},
        "contrast": experiment.contrast,
        "side_effects": {
            "damage": side_effects.damage,
            "other_behaviors": side_effects.others,
            "text_scores": {
                name: dict(zip(("unsteered", "steered"), pair, strict=True))
                for name, pair in side_effects.text_scores.items()
            },
            "capability": side_effects.capability,
        },
    }
    return json_value(document)


def unwritten(choice: TextChoice, strengths: Sequence[float]) -> list[tuple[int, str, float]]:
    """Return layer, positions and strength of the cells whose texts were not written, of the sign that was wanted."""
    written = {(*cell.place, cell.strength) for cell in choice.cells}
    places, sign = dict.fromkeys(cell.place for cell in choice.cells), SIGNS[choice.direction]
    every = [(*place, sign * strength) for place in places for strength in strengths]
    return [cell for cell in every if cell not in written]


def _choice(choice: TextChoice, strengths: Sequence[float]) -> Json:
    names = ("layer", "positions", "strength")
    return {
        "does_enough": choice.does_enough,
        "prompts": [question_text(prompt) for prompt in choice.prompts],
        "unsteered": choice.unsteered,
        "cells": [_cell(cell) for cell in choice.cells],
        "not_written": [dict(zip(names, cell, strict=True)) for cell in unwritten(choice, strengths)],
    }


def _cell(cell: TextCell) -> Json:
    return {
        "layer": cell.layer,
        "positions": cell.positions,
        "strength": cell.strength,
        "effect": cell.effect,
        "failures": cell.failures,
        "whole": cell.whole,
        "variety": cell.variety,
        "relevance": cell.relevance,
        "effects": cell.effects,
        "texts": cell.texts,
    }


def _texts(texts: TextJudgement) -> Json:
    sides = {"unsteered": texts.unsteered, "steered": texts.steered, "opposite": texts.opposite}
    return {
        "effect": texts.effect,
        "interval": texts.interval,
        "own_effect": texts.own_effect,
        "opposite_effect": texts.opposite.effect,
        "prompting": texts.prompting,
        "limits": {
            "whole": SLACK * LEAST_WHOLE,
            "distinct": LEAST_DISTINCT,
            "variety": SLACK * LEAST_VARIETY,
            "relevance": SLACK * LEAST_RELEVANCE,
        },
        "guards": {name: _guard(own.checked) for name, own in sides.items()},
        "items": [
            {
                "prompt": question_text(prompt),
                "effect": float(texts.effects[index]),
                **{name: _text(own, index) for name, own in sides.items()},
            }
            for index, prompt in enumerate(texts.prompts)
        ],
        "controls": None if texts.controls is None else _controls(texts.controls, texts.effect),
    }


def _guard(checked: CheckedTexts) -> Json:
    return {
        "whole": float(checked.is_whole.mean()),
        "variety": checked.variety,
        "relevance": checked.relevance,
        "failures": checked.failures,
    }


def _text(written: Written, index: int) -> Json:
    return {
        "text": written.texts[index],
        "score": float(written.scores[index]),
        "effect": float(written.effects[index]),
        "is_whole": bool(written.checked.is_whole[index]),
        "surprisal": float(written.checked.surprisals[index]),
        "distinct": float(written.checked.distinct[index]),
    }


def _controls(controls: TextControls, effect: float) -> Json:
    return {
        "count": len(controls.kinds),
        "wanted": controls.wanted,
        "largest": float(controls.sizes.max()),
        "reached": controls.reached(effect),
        "p": controls.p(effect),
        "sizes": by_kind(controls.sizes, controls.kinds),
        "kinds": controls.kinds,
        "effects": controls.effects,
    }


def _null(experiment: Experiment, sign: int) -> Json | None:
    null, effect = experiment.null, experiment.log_odds.effect
    if null is None:
        return None
    means = sign * null.means
    return {
        "count": len(null.kinds),
        "largest": sign * float(means.max()),
        "reached": int((means >= sign * effect).sum()),
        "p": empirical_p(sign * effect, means),
        "moved_wrong_way": wrong_way(null.effects, sign),
        "means": by_kind(null.means, null.kinds),
    }


def _example(example: Example) -> Json:
    return {
        "prompt": question_text(example.prompt),
        "unsteered": example.unsteered,
        "steered": example.steered,
        "opposite": example.opposite,
        "effect": example.effect,
    }
