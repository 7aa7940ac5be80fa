"""A vector, prompts and a metric of texts → what each layer and strength does to what is written.

Some prompts choose the best cell and the others judge it; a layer's texts are rows of the same batches. It must not
know tools.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from steer_tools.core.plan import Plan
from steer_tools.core.vectors import SteeringVector
from steer_tools.engines.base import Engine
from steer_tools.errors import StrengthError, quoted
from steer_tools.evaluation.damage import Budget, Damage, DamageMeter, Texts, write
from steer_tools.evaluation.intervals import Floats, Interval
from steer_tools.evaluation.scorers import Metric
from steer_tools.experiments.evaluation_set import neutral_for, text_of
from steer_tools.experiments.exploration import ENOUGH
from steer_tools.experiments.grids import STRENGTHS, require_cells
from steer_tools.experiments.judgement import interval_over
from steer_tools.limits import STRENGTHS as STRENGTHS_LIMIT
from steer_tools.progress import Work
from steer_tools.prompts import Prompt
from steer_tools.session.placement import Placed, PlacementOptions, place_at_each, require_finite
from steer_tools.session.session import Session

# Of a behaviour so many questions are written to.
MOST_QUESTIONS = 16
# With fewer prompts halves would say nothing, so that all of them choose and judge.
FEWEST_TO_HALVE = 8
_JUDGING = "judging the chosen cell"


@dataclass(frozen=True)
class TextSweepOptions:
    """What is tried: strengths with their signs, 0 being the unsteered model; None for the usual ones, both ways."""

    strengths: Sequence[float] | None
    placement: PlacementOptions
    budget: Budget
    max_new_tokens: int
    seed: int = 0

    @property
    def positions(self) -> str:
        """Which tokens are steered."""
        return self.placement.positions or "generated"


@dataclass(frozen=True)
class TextCell:
    """What was written at a layer and strength: texts, (prompts,) their scores, and these less the unsteered ones'."""

    layer: int
    strength: float
    scores: Floats
    effects: Floats
    damage: Damage
    texts: tuple[str, ...]

    @property
    def score(self) -> float:
        """The mean score."""
        return float(self.scores.mean())

    @property
    def effect(self) -> float:
        """The mean change."""
        return float(self.effects.mean())


@dataclass(frozen=True)
class TextSweep:
    """All cells on the prompts that chose, and what the chosen one does to those that judge.

    Attributes:
        choosing: Prompts whose texts the cells are of; all of them where there are fewer than FEWEST_TO_HALVE.
        unsteered: What was written to them without steering.
        scores: (choosing,) scores of these texts.
        effects: (judging,) change of the metric under the chosen cell.
        interval: 95 % interval of its mean; None with fewer than five prompts.
    """

    choosing: tuple[Prompt, ...]
    judging: tuple[Prompt, ...]
    unsteered: tuple[str, ...]
    scores: Floats
    cells: tuple[TextCell, ...]
    budget: Budget
    cell: TextCell
    placed_at: Mapping[int, Placed]
    effects: Floats
    interval: Interval | None

    @property
    def placed(self) -> Placed:
        """The vector at the chosen cell's layer."""
        return self.placed_at[self.cell.layer]

    @property
    def is_halved(self) -> bool:
        """Whether other prompts judge than chose."""
        return self.judging != self.choosing


def sweep_texts(
    session: Session,
    vector: SteeringVector,
    layers: Sequence[int],
    prompts: Sequence[Prompt],
    metric: Metric,
    options: TextSweepOptions,
) -> TextSweep:
    """Write texts at each layer and strength, and choose the gentlest cell that raises the metric most.

    Raises:
        StrengthError: There is no strength, or one is not finite.
        SteeringError: The vector cannot be placed so, or the metric gives no number.
    """
    engine, strengths = session.engine, _signed(options.strengths)
    require_cells(layers, strengths)
    placed = place_at_each(session, vector, layers, options.placement)
    order = list(dict.fromkeys(prompts))
    Random(options.seed).shuffle(order)
    half = len(order) // 2 if len(order) >= FEWEST_TO_HALVE else len(order)
    choosing, judging = order[:half], order[half:] or order
    cost = float(len(choosing) * options.max_new_tokens)
    work = Work({**{_stage(layer): cost * len(strengths) for layer in layers}, _JUDGING: 2.0 * cost})
    meter = DamageMeter(engine, neutral_for(engine)[::2], [], options.max_new_tokens)
    (unsteered,) = write(engine, choosing, [()], options.max_new_tokens)
    scores = _scores(metric, choosing, unsteered)
    cells: list[TextCell] = []
    for layer in layers:
        with work.stage(_stage(layer)):
            plans: list[Plan] = [placed[layer].plan(s) if s else () for s in strengths]
            written = iter(write(engine, choosing, [plan for plan in plans if plan], options.max_new_tokens))
            for strength, plan, divergence in zip(strengths, plans, meter.divergences(plans), strict=True):
                texts = next(written) if plan else unsteered
                values = _scores(metric, choosing, texts)
                damage = texts.damage(unsteered, divergence)
                said = tuple(generation.text for generation in texts.generations)
                cells.append(TextCell(layer, strength, values, values - scores, damage, said))
    cell = choose_text_cell(cells, options.budget)
    with work.stage(_JUDGING):
        effects = cell.effects
        if judging != choosing:
            effects = _judged(engine, placed[cell.layer], cell.strength, judging, metric, options.max_new_tokens)
    said = tuple(generation.text for generation in unsteered.generations)
    interval = interval_over(effects, [str(prompt) for prompt in judging])
    return TextSweep(
        tuple(choosing), tuple(judging), said, scores, tuple(cells), options.budget, cell, placed, effects, interval
    )


def choose_text_cell(cells: Sequence[TextCell], budget: Budget) -> TextCell:
    """Return the gentlest cell within the budget with ENOUGH of the largest mean change there, of either sign.

    Where none within the budget raises the metric, the one that raises it most is returned.
    """
    within = [cell for cell in cells if cell.effect > 0 and cell.damage.is_within(budget)]
    largest = max((cell.effect for cell in within), default=0.0)
    if enough := [cell for cell in within if cell.effect >= ENOUGH * largest]:
        return min(enough, key=lambda cell: (abs(cell.strength), -cell.effect))
    return max(cells, key=lambda cell: (cell.effect, -abs(cell.strength)))


def _judged(
    engine: Engine, placed: Placed, strength: float, prompts: Sequence[Prompt], metric: Metric, max_new_tokens: int
) -> Floats:
    plan: Plan = placed.plan(strength) if strength else ()
    before, after = write(engine, prompts, [(), plan], max_new_tokens)
    return _scores(metric, prompts, after) - _scores(metric, prompts, before)


def _scores(metric: Metric, prompts: Sequence[Prompt], texts: Texts) -> Floats:
    said = zip(prompts, texts.generations, strict=True)
    return np.array([metric(text_of(prompt), generation.text) for prompt, generation in said])


def _signed(strengths: Sequence[float] | None) -> list[float]:
    if strengths is None:
        return sorted([*STRENGTHS, *(-s for s in STRENGTHS)])
    found = sorted({require_finite(s, "a strength") for s in strengths})
    if not any(found):
        raise StrengthError(f"strengths is {quoted(strengths)}", valid="finite numbers, one of them not 0")
    STRENGTHS_LIMIT.require(len(found), "strengths has", StrengthError)
    return found


def _stage(layer: int) -> str:
    return f"writing at layer {layer}"
