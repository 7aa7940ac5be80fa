"""A behaviour → a vector at several layers, a cell chosen by texts, its controls, its side effects, and a verdict.

Where texts cannot decide, log-odds choose the cell, and the verdict says that it cannot tell. It must not know files'
formats or reports.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from steer_tools import __version__
from steer_tools.core.site import Site
from steer_tools.directions.extraction import Extraction, Where, extract
from steer_tools.directions.methods import Method
from steer_tools.directions.session_methods import SessionMethod
from steer_tools.engines.base import Engine, Generation, Row
from steer_tools.engines.facets import Gradients, has
from steer_tools.errors import SteeringError
from steer_tools.evaluation.behaviors.behavior import Behavior, contrast_prompts
from steer_tools.evaluation.capability import Capability, capability
from steer_tools.evaluation.damage import Damage, DamageMeter, texts_of, write
from steer_tools.evaluation.questions import instructed, pooling_of
from steer_tools.evaluation.scorers import TextScore, mean_score
from steer_tools.evaluation.text_detector import TextDetector
from steer_tools.experiments.cell_files import CellFile, key_of
from steer_tools.experiments.evaluation_set import EvaluationSet
from steer_tools.experiments.grids import magnitudes, require_cells
from steer_tools.experiments.judgement import Judgement, judge, shifts_of_others
from steer_tools.experiments.list_contrast import ContrastTest, contrast_acts, lists_of_items
from steer_tools.experiments.meters import CHOOSING_PROMPTS, JUDGING_PROMPTS, ControlDraw, Meters, prepared_meters
from steer_tools.experiments.null_distribution import NullDistribution, null_distribution
from steer_tools.experiments.sweeps import Sweep, SweepOptions, added_by, sweep
from steer_tools.experiments.text_choice import EXPECTED_SHARE, SIGNS, Direction, Place, TextChoice, choose_by_texts
from steer_tools.experiments.text_judgement import TextJudgement, judge_texts, with_controls
from steer_tools.experiments.verdicts import Evidence, Ruling, may_rank, may_work, rule, works
from steer_tools.progress import Work
from steer_tools.prompts import Prompt
from steer_tools.session.placement import Placed, PlacementOptions, place_at_each
from steer_tools.session.session import Session

# Which tokens are steered, where nobody says it.
POSITIONS = ("generated", "all")
# Of no more pairs it is asked first whether their contrast acts.
FEW_PAIRS = 32
_MAKING, _CONTRAST, _PREPARING = "making the vector", "testing the contrast", "writing without steering"
_CHOOSING, _JUDGING, _CONTROLS = "choosing by texts", "judging texts", "holding against controls"
_LOG_ODDS, _EFFECTS = "measuring log-odds", "measuring side effects"


@dataclass(frozen=True)
class ExperimentOptions:
    """What is tried, and how it is judged.

    Attributes:
        strengths: Magnitudes in typical norms, the sign being that of the direction; None for the usual ones.
        positions: Which tokens are steered, each of these in turn.
        direction: Whether more of the behaviour is wanted, or less.
        controls: How many directions that know nothing the cell is held against.
        per_token: Whether log-probabilities of completions are divided by their numbers of tokens.
    """

    strengths: Sequence[float] | None = None
    positions: tuple[str, ...] = POSITIONS
    direction: Direction = "more"
    controls: int = 19
    seed: int = 0
    per_token: bool = False


@dataclass(frozen=True)
class Spot:
    """Where and how strongly a vector is added; `strength` has its sign."""

    layer: int
    positions: str
    strength: float
    placed: Placed


@dataclass(frozen=True)
class Example:
    """What the model writes to a prompt; `opposite` at the other sign, and the effect, where texts are measured."""

    prompt: Prompt
    unsteered: str
    steered: str
    opposite: str | None = None
    effect: float | None = None


@dataclass(frozen=True)
class SideEffects:
    """What the chosen cell does beside what it is for.

    Attributes:
        damage: On prompts that did not choose the cell.
        others: Mean change of the log-odds of other behaviours, in nats.
        text_scores: By scorer, the mean score of the unsteered and of the steered texts; None where no text has one.
        capability: On questions with a right answer; None where none were given.
    """

    damage: Damage
    others: Mapping[str, float]
    text_scores: Mapping[str, tuple[float | None, float | None]]
    capability: Capability | None = None


@dataclass(frozen=True)
class Experiment:
    """All that an experiment found out.

    Attributes:
        extraction: The vector, at all layers that were tried.
        evaluation_set: What it was made of and judged on.
        spot: The cell that was chosen.
        detector: What tells texts apart; None where there is none.
        choice: The cells whose texts were written; None where log-odds had to choose, and `swept` is their grid.
        texts: What the texts of the cell show on prompts that did not choose it.
        log_odds: What it does to completions that are given.
        null: What control directions do to these; None where they do not decide.
        contrast: Whether the contrast of the pairs acts at all; None where it was not asked.
        examples: What is written to prompts that did not choose.
    """

    extraction: Extraction
    evaluation_set: EvaluationSet
    options: ExperimentOptions
    spot: Spot
    detector: TextDetector | None
    choice: TextChoice | None
    swept: Sweep | None
    texts: TextJudgement | None
    log_odds: Judgement
    null: NullDistribution | None
    contrast: ContrastTest | None
    side_effects: SideEffects
    examples: tuple[Example, ...]
    ruling: Ruling

    @property
    def positions(self) -> str:
        """Which tokens the chosen cell steers."""
        return self.spot.positions

    @property
    def seed(self) -> int:
        """Of all that was drawn."""
        return self.options.seed


def run_experiment(
    session: Session,
    evaluation_set: EvaluationSet,
    layers: Sequence[int],
    way: Method | SessionMethod,
    options: ExperimentOptions,
    path: str,
) -> Experiment:
    """Make a vector of the behaviour's pairs, choose a cell by what it makes the model write, and judge it.

    `path` is the file in which the cells are kept, so that an experiment that was cut off goes on.

    Raises:
        SteeringError: The pairs give no vector, or an item cannot be read.
    """
    engine, behavior = session.engine, evaluation_set.behavior
    strengths = magnitudes(options.strengths)
    require_cells(layers, strengths)
    work = Work(_sizes(engine, evaluation_set, layers, options))
    as_chat = engine.info.has_chat_template
    contrast, where = (
        contrast_prompts(behavior.pairs, as_chat),
        Where(layers, pooling=pooling_of(engine, behavior.pairs)),
    )
    with work.stage(_MAKING):
        extraction = extract(session, contrast, where, way)
    acts = None
    if _CONTRAST in work.sizes:
        with work.stage(_CONTRAST):
            try:
                acts = contrast_acts(engine, lists_of_items(behavior.pairs, as_chat), layers, options.seed)
            except SteeringError as error:  # Weights without gradients, or a dtype that they overflow, can be steered.
                told = f"Whether the contrast acts at all was not tested: {error}"
                extraction = replace(extraction, warnings=(*extraction.warnings, told))
    with work.stage(_PREPARING):
        meters = prepared_meters(engine, evaluation_set, options.seed)
    choice, swept = None, None
    with work.stage(_CHOOSING):
        if isinstance(meters, Meters):
            placed_at = _placed_at(session, extraction, layers, options)
            file = CellFile(session.workspace, path, _key(engine, meters, placed_at, strengths, options))
            choice = choose_by_texts(meters.choosing, placed_at, strengths, options.direction, file)
            cell = choice.cell
            spot = Spot(cell.layer, cell.positions, cell.strength, placed_at[cell.place])
        else:
            swept = sweep(session, extraction.vector, layers, evaluation_set, _sweep_options(options), path)
            strength = SIGNS[options.direction] * swept.cell.strength
            spot = Spot(swept.cell.layer, options.positions[0], strength, swept.placed)
    plan = spot.placed.plan(spot.strength)
    drawn = ControlDraw(engine, contrast, Site(spot.layer), where.pooling, options.controls, options.seed)
    texts = None
    with work.stage(_JUDGING):
        if isinstance(meters, Meters):
            texts = judge_texts(meters.judging, spot.placed, spot.strength, options.direction)
            asking = _instructed(engine, behavior, meters.judging.prompts, options)
            if asking is not None:
                texts = replace(texts, prompting=meters.judging.answers(asking).effect)
    with work.stage(_CONTROLS):
        if isinstance(meters, Meters) and texts is not None and may_work(texts):
            texts = with_controls(texts, meters.judging, plan, drawn.directions)
    with work.stage(_LOG_ODDS):
        gentler = [strength for strength in strengths if strength <= abs(spot.strength)]
        log_odds = judge(engine, spot.placed, spot.strength, gentler, evaluation_set, per_token=options.per_token)
        null = None
        if may_rank(options.direction, log_odds) and (texts is None or not works(texts)):
            null = null_distribution(engine, plan[0], drawn.directions, log_odds.asked)
    with work.stage(_EFFECTS):
        examples, side_effects = _side_effects(session, evaluation_set, spot, texts, log_odds, options)
    evidence = Evidence(
        direction=options.direction,
        texts=texts,
        without_texts=None if isinstance(meters, Meters) else meters,
        does_enough=choice is not None and choice.does_enough,
        breaks=choice is not None and all(cell.failures for cell in choice.cells),
        log_odds=log_odds,
        null=null,
        contrast=acts,
        others=side_effects.others,
        capability=side_effects.capability,
    )
    detector = meters.detector if isinstance(meters, Meters) else None
    return Experiment(
        extraction,
        evaluation_set,
        options,
        spot,
        detector,
        choice,
        swept,
        texts,
        log_odds,
        null,
        acts,
        side_effects,
        examples,
        rule(evidence),
    )


def _placed_at(
    session: Session, extraction: Extraction, layers: Sequence[int], options: ExperimentOptions
) -> dict[Place, Placed]:
    found: dict[Place, Placed] = {}
    for positions in options.positions:
        placement = PlacementOptions("residual", positions=positions)
        at_each = place_at_each(session, extraction.vector, layers, placement)
        found |= {(layer, positions): placed for layer, placed in at_each.items()}
    return found


def _key(
    engine: Engine,
    meters: Meters,
    placed_at: Mapping[Place, Placed],
    strengths: Sequence[float],
    options: ExperimentOptions,
) -> str:
    """Return what changes with all that the cells' texts and scores depend on."""
    # As the model is asked it: another chat template is another question.
    told = [engine.tokenize(prompt).tokens for prompt in meters.choosing.prompts]
    added = [(place, added_by(placed.plan(1.0))) for place, placed in placed_at.items()]
    unsteered = meters.choosing.unsteered.texts, meters.choosing.unsteered.scores.tolist()
    asked = meters.choosing.sampling, strengths, options.direction, options.seed
    return key_of(__version__, engine.info, added, told, unsteered, *asked)


def _sweep_options(options: ExperimentOptions) -> SweepOptions:
    positions = options.positions[0]
    return SweepOptions(options.strengths, "residual", positions, seed=options.seed, per_token=options.per_token)


def _instructed(
    engine: Engine, behavior: Behavior, prompts: Sequence[Prompt], options: ExperimentOptions
) -> list[Prompt] | None:
    """Return the prompts with an instruction to show the behaviour; None where less is wanted, or there is none."""
    return instructed(engine, prompts, behavior.instruction) if options.direction == "more" else None


def _side_effects(
    session: Session,
    evaluation_set: EvaluationSet,
    spot: Spot,
    texts: TextJudgement | None,
    log_odds: Judgement,
    options: ExperimentOptions,
) -> tuple[tuple[Example, ...], SideEffects]:
    engine, plan = session.engine, spot.placed.plan(spot.strength)
    if texts is None:
        prompts = [question.prompt for question in log_odds.asked[:JUDGING_PROMPTS]]
        unsteered, steered = write(engine, prompts, [(), plan], evaluation_set.text_tokens)
        said = zip(prompts, unsteered.generations, steered.generations, strict=True)
        examples = [Example(prompt, before.text, after.text) for prompt, before, after in said]
    else:
        prompts, written = texts.prompts, (texts.unsteered, texts.steered, texts.opposite)
        rows = [Row(prompt, own) for own in ((), plan) for prompt in prompts]
        said = [*texts.unsteered.generations, *texts.steered.generations]
        unsteered, steered = texts_of(engine, rows, said, len(prompts))
        examples = [
            Example(prompt, *said, effect=effect)
            for prompt, effect, *said in zip(
                prompts, texts.effects.tolist(), *(own.texts for own in written), strict=True
            )
        ]
    meter = DamageMeter(engine, evaluation_set.neutral[1::2], [], evaluation_set.text_tokens)
    (divergence,) = meter.divergences([plan])
    scores = {
        name: (_mean(score, prompts, unsteered.generations), _mean(score, prompts, steered.generations))
        for name, score in evaluation_set.scorers.items()
    }
    others = shifts_of_others(engine, plan, evaluation_set.others, per_token=options.per_token)
    asked = evaluation_set.capability
    able = capability(engine, plan, asked) if asked else None
    return tuple(examples), SideEffects(steered.damage(unsteered, divergence), others, scores, able)


def _mean(score: TextScore, prompts: Sequence[Prompt], texts: Sequence[Generation]) -> float | None:
    return mean_score(score(prompt, text.text) for prompt, text in zip(prompts, texts, strict=True)).mean


def _sizes(
    engine: Engine, evaluation_set: EvaluationSet, layers: Sequence[int], options: ExperimentOptions
) -> dict[str, float]:
    """Return how much work each stage is, in texts that are written and measured, as it was on SmolLM2."""
    pairs, judging = len(evaluation_set.behavior.pairs), len(evaluation_set.splits.judging)
    lanes, strengths = len(layers) * len(options.positions), len(magnitudes(options.strengths))
    return {
        _MAKING: pairs / 2,
        **({_CONTRAST: float(pairs)} if pairs <= FEW_PAIRS and has(engine, Gradients) else {}),
        _PREPARING: pairs / 2 + 3.0 * (CHOOSING_PROMPTS + JUDGING_PROMPTS),
        _CHOOSING: EXPECTED_SHARE * lanes * strengths * CHOOSING_PROMPTS,
        _JUDGING: 3.0 * JUDGING_PROMPTS,
        _CONTROLS: 0.8 * options.controls * JUDGING_PROMPTS,
        _LOG_ODDS: judging * (strengths + 5) / 3,
        _EFFECTS: len(evaluation_set.others) * 4.0 + len(evaluation_set.capability) * 2.0,
    }
