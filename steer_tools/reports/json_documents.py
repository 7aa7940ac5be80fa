"""Sweeps and experiments, and the facts of a run → values of which JSON can be made. It must not know Markdown."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from steer_tools import __version__
from steer_tools.engines.base import ModelInfo
from steer_tools.evaluation.intervals import Interval
from steer_tools.evaluation.metrics import empirical_p
from steer_tools.experiments.evaluation_set import EvaluationSet
from steer_tools.experiments.experiment import Example, Experiment, SideEffects
from steer_tools.experiments.grids import Cell, Grid
from steer_tools.experiments.judgement import Judgement
from steer_tools.experiments.null_distribution import NullDistribution
from steer_tools.experiments.sweeps import Sweep, SweepOptions
from steer_tools.reports.markdown import question_text


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

    @classmethod
    def of(
        cls, info: ModelInfo, options: SweepOptions, vector_path: str, method: str | None, seconds: float
    ) -> "Facts":
        """Return the facts of a run on the model of `info` with `options`."""
        return cls(
            model=info.name,
            model_layers=info.layers,
            hidden_size=info.hidden_size,
            vector_path=vector_path,
            method=method,
            positions=options.positions,
            seed=options.seed,
            seconds=seconds,
        )

    @property
    def short_model(self) -> str:
        """The model's name without the folders before it."""
        return self.model.rstrip("/\\").replace("\\", "/").rpartition("/")[2] or self.model


Json: TypeAlias = dict[str, object]


def experiment_document(experiment: Experiment, facts: Facts) -> Json:
    """Return everything that an experiment found; a number that is not finite is null."""
    null, judgement = experiment.null, experiment.swept.judgement
    document = {
        "verdict": experiment.ruling.verdict,
        "reasons": list(experiment.ruling.reasons),
        **_sweep(experiment.swept, experiment.evaluation_set, facts),
        "extraction": {
            "method": experiment.extraction.vector.info.method,
            "pooling": experiment.extraction.vector.info.pooling,
            "magnitudes": {layer: own.contrast_norm for layer, own in experiment.extraction.fits.items()},
            "separations": {layer: own.separation for layer, own in experiment.extraction.fits.items()},
            "warnings": list(experiment.extraction.warnings),
        },
        "controls": {
            "count": len(null.kinds),
            "largest": float(null.means.max()),
            "reached": int((null.means >= judgement.effect).sum()),
            "p": empirical_p(judgement.effect, null.means),
            "moved_wrong_way": null.moved_wrong_way,
            "means": {kind: values.tolist() for kind, values in means_by_kind(null).items()},
        },
        "side_effects": _side_effects(experiment.side_effects),
        "best": [_example(example) for example in experiment.best],
        "worst": [_example(example) for example in experiment.worst],
    }
    return cast(Json, _finite(document))


def sweep_document(swept: Sweep, evaluation_set: EvaluationSet, facts: Facts) -> Json:
    """Return everything that a sweep found; a number that is not finite is null."""
    return cast(Json, _finite(_sweep(swept, evaluation_set, facts)))


def means_by_kind(null: NullDistribution) -> dict[str, NDArray[np.float64]]:
    """Return the mean effects of the controls of each kind."""
    kinds = np.array(null.kinds)
    return {kind: null.means[kinds == kind] for kind in dict.fromkeys(null.kinds)}


def _sweep(swept: Sweep, evaluation_set: EvaluationSet, facts: Facts) -> Json:
    behavior, splits, cell = evaluation_set.behavior, evaluation_set.splits, swept.cell
    return {
        "facts": asdict(facts),
        "behavior": {
            "name": behavior.name,
            "description": behavior.description,
            "poles": list(behavior.poles),
            "instruction": behavior.instruction,
            "source": behavior.source,
            "pairs": len(behavior.pairs),
            "choosing_items": len(splits.choosing),
            "choosing_groups": len({item.group for item in splits.choosing}),
            "judging_items": len(splits.judging),
            "judging_groups": len({item.group for item in splits.judging}),
            "choices": len(behavior.choices),
            "neutral_prompts": len(evaluation_set.neutral),
        },
        "unit": swept.placed.unit,
        "warnings": list(swept.placed.warnings),
        "chosen": {"layer": cell.layer, "strength": cell.strength, "choosing_effect": cell.effect},
        "grid": _grid(swept.grid),
        "judgement": _judgement(swept.judgement),
    }


def _grid(grid: Grid) -> Json:
    return {
        "budget": asdict(grid.budget),
        "window": [asdict(window) for window in grid.window],
        "cells": [_cell(cell, grid) for cell in grid.cells],
    }


def _cell(cell: Cell, grid: Grid) -> Json:
    return {
        "layer": cell.layer,
        "strength": cell.strength,
        "effect": cell.effect,
        "opposite_effect": cell.opposite_effect,
        "damage": asdict(cell.damage),
        "is_within_budget": cell.damage.is_within(grid.budget),
        "is_in_window": cell in grid.enough,
        "effects": cell.effects.tolist(),
        "opposite_effects": cell.opposite_effects.tolist(),
    }


def _judgement(judgement: Judgement) -> Json:
    return {
        "effect": judgement.effect,
        "interval": _interval(judgement.interval),
        "anti_steerable": judgement.anti_steerable,
        "moved_wrong_way": judgement.moved_wrong_way,
        "prompting": judgement.prompting,
        "unrelated": judgement.unrelated,
        "absolute_effect": float(np.abs(judgement.effects).mean()),
        "choices": judgement.choices,
        "doses": [
            {"strength": dose.strength, "effect": dose.effect, "interval": _interval(dose.interval)}
            for dose in judgement.doses
        ],
        "items": [
            {
                "prompt": question_text(question.prompt),
                "positive": question.positive,
                "negative": question.negative,
                "group": question.group,
                "unsteered": float(unsteered),
                "effect": float(effect),
                "slope": float(slope),
            }
            for question, unsteered, effect, slope in zip(
                judgement.asked, judgement.unsteered, judgement.effects, judgement.slopes, strict=True
            )
        ],
    }


def _side_effects(found: SideEffects) -> Json:
    return {
        "damage": asdict(found.damage),
        "other_behaviors": dict(found.others),
        "text_scores": {
            name: {"unsteered": unsteered, "steered": steered}
            for name, (unsteered, steered) in found.text_scores.items()
        },
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


def _interval(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)


def _finite(value: object) -> object:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case str():
            return value
        case Mapping():
            return {str(key): _finite(one) for key, one in cast(Mapping[object, object], value).items()}
        case Sequence():
            return [_finite(one) for one in cast(Sequence[object], value)]
        case _:
            return value
