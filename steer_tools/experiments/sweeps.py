"""A vector and a behaviour's evaluation set → a grid, the cell chosen on one part of the items, judged on the other.

It must not know reports.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from steer_tools import __version__
from steer_tools.core.interventions import Add
from steer_tools.core.plan import Plan
from steer_tools.core.vectors import SteeringVector
from steer_tools.evaluation.damage import Budget, DamageMeter
from steer_tools.evaluation.questions import questions
from steer_tools.experiments.cell_files import CellFile, key_of
from steer_tools.experiments.evaluation_set import EvaluationSet
from steer_tools.experiments.grids import Cell, Grid, by_layer, cell_of, magnitudes, measure_layer, require_cells
from steer_tools.experiments.judgement import Judgement, judge
from steer_tools.progress import Work
from steer_tools.session.placement import Placed, PlacementOptions, place_at_each
from steer_tools.session.session import Session
from steer_tools.session.unreached_prompts import unreached_warnings

# Prompts on which the texts of a cell are judged.
_CHOOSING_TEXTS, JUDGING_TEXTS = 8, 16
# A token that is written costs about as much as this share of a completion that is scored.
_TOKENS_LIKE_A_COMPLETION = 8
_JUDGING = "judging the chosen cell"


@dataclass(frozen=True)
class SweepOptions:
    """What a grid is made of.

    Attributes:
        strengths: Magnitudes, each of which is measured with both signs; None for the usual ones.
        unit: What a strength of 1 means; residual units make layers comparable.
        positions: Which tokens are steered.
        budget: The damage that the chosen cell may do.
        allow_other_model: Whether another model's vector may be used.
        seed: Of all that is drawn.
        per_token: Whether log-probabilities of completions are divided by their numbers of tokens.
    """

    strengths: Sequence[float] | None = None
    unit: str = "residual"
    positions: str = "generated"
    budget: Budget = field(default_factory=Budget)
    allow_other_model: bool = False
    seed: int = 0
    per_token: bool = False


@dataclass(frozen=True)
class Sweep:
    """A grid on the choosing items, and what the chosen cell does to the judging ones.

    Attributes:
        placed_at: The vector at each layer that was tried.
        judgement: On items that did not choose.
        unreached: Which questions have no token that is steered.
    """

    grid: Grid
    cell: Cell
    placed_at: Mapping[int, Placed]
    judgement: Judgement
    unreached: tuple[str, ...] = ()

    @property
    def placed(self) -> Placed:
        """The vector at the chosen cell's layer."""
        return self.placed_at[self.cell.layer]


def sweep(
    session: Session,
    vector: SteeringVector,
    layers: Sequence[int],
    evaluation_set: EvaluationSet,
    options: SweepOptions,
    path: str,
    work: Work | None = None,
) -> Sweep:
    """Measure `vector` at each layer and strength, choose, and judge the choice; cells are kept in the file `path`.

    Raises:
        SteeringError: The vector cannot be placed so, or an item cannot be read.
    """
    engine, strengths = session.engine, magnitudes(options.strengths)
    require_cells(layers, strengths)
    placement = PlacementOptions(options.unit, positions=options.positions, allow_other_model=options.allow_other_model)
    placed = place_at_each(session, vector, layers, placement)
    choosing = questions(engine, evaluation_set.splits.choosing, per_token=options.per_token)
    prompts, neutral = [question.prompt for question in choosing], evaluation_set.neutral[::2]
    texts = list(dict.fromkeys(prompts))[:_CHOOSING_TEXTS]
    meter = DamageMeter(engine, neutral, texts, evaluation_set.text_tokens)
    # As the model is asked it: another chat template is another question.
    told = [engine.tokenize(prompt).tokens for prompt in (*prompts, *neutral)]
    key = key_of(
        __version__,
        engine.info,
        [added_by(own.plan(1.0)) for own in placed.values()],
        choosing,
        told,
        strengths,
        options.positions,
        evaluation_set.text_tokens,
    )
    file = CellFile(session.workspace, path, key)
    known = by_layer(file.load(cell_of))
    work = work or Work(sizes(layers, strengths, evaluation_set))
    cells: list[Cell] = []
    for layer in layers:
        with work.stage(layer_stage(layer)):
            cells += known.get(layer) or measure_layer(engine, placed[layer], choosing, strengths, meter)
            file.save(cells)
    grid = Grid(tuple(cells), options.budget)
    cell = grid.choose()
    with work.stage(_JUDGING):
        judgement = judge(
            engine, placed[cell.layer], cell.strength, strengths, evaluation_set, per_token=options.per_token
        )
    asked = list(dict.fromkeys([*prompts, *(question.prompt for question in judgement.asked)]))
    unreached = unreached_warnings(engine, asked, [placed[cell.layer].unit_placements])
    return Sweep(grid, cell, placed, judgement, tuple(unreached))


def layer_stage(layer: int) -> str:
    """Return the name of the stage of work that measures a layer."""
    return f"measuring layer {layer}"


def sizes(layers: Sequence[int], strengths: Sequence[float], evaluation_set: EvaluationSet) -> dict[str, float]:
    """Return how much work each stage of a sweep is, in scored completions about."""
    both_signs = 2 * len(strengths) + 1
    texts = len(strengths) * _CHOOSING_TEXTS * evaluation_set.text_tokens / _TOKENS_LIKE_A_COMPLETION
    measuring = 2.0 * both_signs * len(evaluation_set.splits.choosing) + texts
    judging = 2.0 * (both_signs + 5) * len(evaluation_set.splits.judging)
    return {**dict.fromkeys(map(layer_stage, layers), measuring), _JUDGING: judging}


def added_by(plan: Plan) -> list[object]:
    """Return what a plan adds, exactly."""
    return [
        (p.site, p.strength, p.intervention.direction.numpy().tobytes())
        for p in plan
        if isinstance(p.intervention, Add)
    ]
