"""Sweeps and experiments, and the facts of a run → values of which JSON can be made. It must not know Markdown."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_jsonable_python

from steer_tools import __version__
from steer_tools.engines.base import ModelInfo
from steer_tools.evaluation.metrics import empirical_p
from steer_tools.experiments.evaluation_set import EvaluationSet
from steer_tools.experiments.experiment import Example, Experiment
from steer_tools.experiments.grids import Cell, Grid
from steer_tools.experiments.judgement import Judgement
from steer_tools.experiments.null_distribution import NullDistribution
from steer_tools.experiments.sweeps import Sweep
from steer_tools.experiments.text_sweeps import TextSweep
from steer_tools.reports.markdown import question_text
from steer_tools.reports.provenance import Run


class PositionsAndSeed(Protocol):
    """What the options of every kind of sweep have."""

    @property
    def positions(self) -> str:
        """Which tokens are steered."""
        ...

    @property
    def seed(self) -> int:
        """Of all that is drawn."""
        ...


@dataclass(frozen=True)
class Facts:
    """The circumstances of a sweep or an experiment.

    Attributes:
        model: As it was loaded: a name or a folder.
        model_layers: Its number of decoder blocks.
        hidden_size: Width of its residual stream.
        vector_path: The file that holds the vector, as the tools take it.
        method: How the vector was made; None where nobody knows.
        positions: Which tokens were steered.
        seed: Of all that was drawn.
        seconds: How long it took.
        version: Of this package.
        template_options: What the model's chat template was given beside the chats.
        run: What it takes to run it again.
    """

    model: str
    model_layers: int
    hidden_size: int
    vector_path: str
    method: str | None
    positions: str
    seed: int
    seconds: float
    version: str = __version__
    template_options: Mapping[str, object] = field(default_factory=dict[str, object])
    run: Run | None = None

    @classmethod
    def of(
        cls,
        info: ModelInfo,
        options: "PositionsAndSeed",
        vector_path: str,
        method: str | None,
        seconds: float,
        run: Run,
    ) -> "Facts":
        """Return the facts of a run on the model of `info` with `options`."""
        sizes = (info.name, info.layers, info.hidden_size)
        made = (vector_path, method, options.positions, options.seed, seconds)
        return cls(*sizes, *made, template_options=info.template_options, run=run)

    @property
    def short_model(self) -> str:
        """The model's name without the folders before it."""
        return self.model.rstrip("/\\").replace("\\", "/").rpartition("/")[2] or self.model


Json: TypeAlias = dict[str, object]


def experiment_document(experiment: Experiment, facts: Facts) -> Json:
    """Return everything that an experiment found; a number that is not finite is null."""
    null, judgement, side_effects = experiment.null, experiment.swept.judgement, experiment.side_effects
    document: Json = {
        "verdict": experiment.ruling.verdict,
        "reasons": experiment.ruling.reasons,
        **_sweep(experiment.swept, experiment.evaluation_set, facts),
        "extraction": {
            "method": experiment.extraction.vector.info.method,
            "pooling": experiment.extraction.vector.info.pooling,
            "magnitudes": {layer: own.contrast_norm for layer, own in experiment.extraction.fits.items()},
            "separations": {layer: own.separation for layer, own in experiment.extraction.fits.items()},
            "warnings": experiment.extraction.warnings,
        },
        "controls": {
            "count": len(null.kinds),
            "largest": float(null.means.max()),
            "reached": int((null.means >= judgement.effect).sum()),
            "p": empirical_p(judgement.effect, null.means),
            "moved_wrong_way": null.moved_wrong_way,
            "means": means_by_kind(null),
        },
        "side_effects": {
            "damage": side_effects.damage,
            "other_behaviors": side_effects.others,
            "text_scores": {
                name: dict(zip(("unsteered", "steered"), pair, strict=True))
                for name, pair in side_effects.text_scores.items()
            },
        },
        "best": [_example(example) for example in experiment.best],
        "worst": [_example(example) for example in experiment.worst],
    }
    return _json_value(document)


def sweep_document(swept: Sweep, evaluation_set: EvaluationSet, facts: Facts) -> Json:
    """Return everything that a sweep found; a number that is not finite is null."""
    return _json_value(_sweep(swept, evaluation_set, facts))


def text_sweep_document(swept: TextSweep, metric: str, facts: Facts) -> Json:
    """Return every text with its score, by layer and strength; a number that is not finite is null."""
    document: Json = {
        "facts": facts,
        "metric": metric,
        "choosing": [question_text(prompt) for prompt in swept.choosing],
        "unsteered": {"texts": swept.unsteered, "scores": swept.scores},
        "cells": swept.cells,
        "chosen": {"layer": swept.cell.layer, "strength": swept.cell.strength},
        "judging": [question_text(prompt) for prompt in swept.judging],
        "effects": swept.effects,
        "interval": swept.interval,
    }
    return _json_value(document)


def means_by_kind(null: NullDistribution) -> dict[str, NDArray[np.float64]]:
    """Return the mean effects of the controls of each kind."""
    kinds = np.array(null.kinds)
    return {kind: null.means[kinds == kind] for kind in dict.fromkeys(null.kinds)}


def _sweep(swept: Sweep, evaluation_set: EvaluationSet, facts: Facts) -> Json:
    behavior, splits, cell = evaluation_set.behavior, evaluation_set.splits, swept.cell
    return {
        "facts": facts,
        "behavior": {
            "name": behavior.name,
            "description": behavior.description,
            "poles": behavior.poles,
            "instruction": behavior.instruction,
            "source": behavior.source,
            "notes": behavior.notes,
            "pairs": len(behavior.pairs),
            "choosing_items": len(splits.choosing),
            "choosing_groups": len({item.group for item in splits.choosing}),
            "judging_items": len(splits.judging),
            "judging_groups": len({item.group for item in splits.judging}),
            "choices": len(behavior.choices),
            "neutral_prompts": len(evaluation_set.neutral),
        },
        "unit": swept.placed.unit,
        "warnings": swept.placed.warnings,
        "chosen": {"layer": cell.layer, "strength": cell.strength, "choosing_effect": cell.effect},
        "grid": {
            "budget": swept.grid.budget,
            "window": swept.grid.window,
            "cells": [_cell(cell, swept.grid) for cell in swept.grid.cells],
        },
        "judgement": _judgement(swept.judgement),
    }


def _cell(cell: Cell, grid: Grid) -> Json:
    return {
        "layer": cell.layer,
        "strength": cell.strength,
        "effect": cell.effect,
        "opposite_effect": cell.opposite_effect,
        "damage": cell.damage,
        "is_within_budget": cell.damage.is_within(grid.budget),
        "is_in_window": cell in grid.enough,
        "effects": cell.effects,
        "opposite_effects": cell.opposite_effects,
    }


def _judgement(judgement: Judgement) -> Json:
    return {
        "effect": judgement.effect,
        "interval": judgement.interval,
        "anti_steerable": judgement.anti_steerable,
        "moved_wrong_way": judgement.moved_wrong_way,
        "prompting": judgement.prompting,
        "unrelated": judgement.unrelated,
        "absolute_effect": float(np.abs(judgement.effects).mean()),
        "choices": judgement.choices,
        "doses": judgement.doses,
        "items": [
            {
                "prompt": question_text(question.prompt),
                "positive": question.positive,
                "negative": question.negative,
                "group": question.group,
                "unsteered": unsteered,
                "effect": effect,
                "slope": slope,
            }
            for question, unsteered, effect, slope in zip(
                judgement.asked, judgement.unsteered, judgement.effects, judgement.slopes, strict=True
            )
        ],
    }


def _example(example: Example) -> Json:
    return {
        "prompt": question_text(example.question.prompt),
        "positive": example.question.positive,
        "negative": example.question.negative,
        "effect": example.effect,
        "unsteered": example.unsteered,
        "steered": example.steered,
    }


def _json_value(document: Json) -> Json:
    """Return what JSON can hold of values, dataclasses and arrays; a number that is not finite is None."""
    return to_jsonable_python(document, inf_nan_mode="null", fallback=lambda array: array.tolist())
