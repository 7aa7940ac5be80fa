"""Sweeps, and the facts of a run → values of which JSON can be made. It must not know Markdown or experiments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
from pydantic_core import to_jsonable_python

from steer_tools import __version__
from steer_tools.engines.base import ModelInfo
from steer_tools.evaluation.intervals import Floats
from steer_tools.experiments.evaluation_set import EvaluationSet
from steer_tools.experiments.grids import Cell, Grid
from steer_tools.experiments.judgement import Judgement
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


def sweep_document(swept: Sweep, evaluation_set: EvaluationSet, facts: Facts) -> Json:
    """Return everything that a sweep found; a number that is not finite is null."""
    document: Json = {
        "facts": facts,
        "behavior": behavior_document(evaluation_set),
        "unit": swept.placed.unit,
        "warnings": swept.placed.warnings,
        "chosen": {"layer": swept.cell.layer, "strength": swept.cell.strength, "choosing_effect": swept.cell.effect},
        "grid": grid_document(swept.grid),
        "judgement": judgement_document(swept.judgement),
    }
    return json_value(document)


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
    return json_value(document)


def by_kind(values: Floats, kinds: Sequence[str]) -> dict[str, Floats]:
    """Return the values of the controls of each kind."""
    each = np.array(kinds)
    return {kind: values[each == kind] for kind in dict.fromkeys(kinds)}


def wrong_way(effects: Floats, sign: int) -> float:
    """Return the share of effects that are of the other sign."""
    return float((sign * effects < 0).mean())


def behavior_document(evaluation_set: EvaluationSet) -> Json:
    """Return what an evaluation set is of, and how much there is of it."""
    behavior, splits = evaluation_set.behavior, evaluation_set.splits
    return {
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
    }


def grid_document(grid: Grid) -> Json:
    """Return every cell of a grid."""
    return {"budget": grid.budget, "window": grid.window, "cells": [_cell(cell, grid) for cell in grid.cells]}


def judgement_document(judgement: Judgement, sign: int = 1) -> Json:
    """Return what a cell does to given completions, item by item; `sign` is −1 where less is wanted."""
    return {
        "effect": judgement.effect,
        "interval": judgement.interval,
        "anti_steerable": judgement.anti_steerable,
        "moved_wrong_way": wrong_way(judgement.effects, sign),
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


def json_value(document: Json) -> Json:
    """Return what JSON can hold of values, dataclasses and arrays; a number that is not finite is None."""
    return to_jsonable_python(document, inf_nan_mode="null", fallback=lambda array: array.tolist())


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
