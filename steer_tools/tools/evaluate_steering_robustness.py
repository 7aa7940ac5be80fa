"""The tool that says how evenly a vector works over prompts, wordings and the chat template."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from typing_extensions import TypedDict

from steer_tools.errors import ArgumentError
from steer_tools.prompts import PromptLike, parse_prompts, plain
from steer_tools.reports.words import share
from steer_tools.tools import arguments as given
from steer_tools.tools.argument_checks import checked
from steer_tools.tools.card import Card
from steer_tools.tools.rendering import Shown, brief, facts, interval, nats, shown_prompt, stack, table, warning_lines
from steer_tools.tools.resolving import locked_session
from steer_tools.tools.results import ApplyArguments, repeating, residual_unit, short, short_interval

if TYPE_CHECKING:
    from steer_tools.experiments.text_meter import TextMeter
    from steer_tools.session.placement import Placed

# The items that failed worst are listed; all are counted.
_LISTED = 5


TestPrompts = Annotated[
    list[PromptLike] | None,
    given.Doc("Prompts to test on, before the completions of the dataset; its held-out prompts if omitted."),
]


class FailingItem(TypedDict):
    """An item that moved the wrong way, or not."""

    prompt: PromptLike
    log_odds_effect: float


class TextRobustness(TypedDict):
    """`effect`, -1 to 1, is half of what the texts of both signs differ by, `own_effect` that of this one beside the
    unsteered ones; `whole`: share not broken; `texts_wrong_way`: share of prompts with an effect below 0.
    """

    effect: float
    interval: list[float] | None
    own_effect: float
    whole: float
    prompt_count: int
    texts_wrong_way: float


class RobustnessResult(TypedDict):
    """Log-odds are changes in nats, positive towards the behaviour; a negative strength is to lower them.

    `even_share`: share of questions that move the asked way by at least a quarter of the median effect in all wordings,
    with the chat template and without. `failing`: the worst 5 of the `failing_items` that do not move that way.
    `anti_steerable`: share that the strength moves the wrong way from its opposite on. `paraphrase_share`: part of the
    variance that lies between wordings of one question. `apply`: the arguments that apply what was measured.
    `written`: what texts show, null where they cannot tell.
    """

    layer: int
    strength: float
    unit: str
    residual_strength: float
    apply: ApplyArguments
    even_share: float
    log_odds_effect: float
    log_odds_interval: list[float] | None
    standard_deviation: float
    items: int
    failing_items: int
    failing: list[FailingItem]
    anti_steerable: float
    anti_steerable_interval: list[float] | None
    paraphrase_share: float | None
    log_odds_effect_without_template: float | None
    written: TextRobustness | None
    warnings: list[str]


@checked
def evaluate_steering_robustness(
    vector_path: given.VectorPath,
    dataset: given.KnownBehavior,
    layer: given.SingleLayer = None,
    strength: given.OptionalStrength = None,
    test_prompts: TestPrompts = None,
    unit: given.OptionalUnit = None,
    positions: given.OptionalScoredPositions = None,
    seed: given.DrawSeed = 0,
    per_token: given.PerToken = False,
    allow_other_model: given.AllowOtherModel = False,
) -> RobustnessResult:
    """Measure how evenly a vector works over prompts, wordings, the chat template and texts, and where it fails.

    A file of steering_experiment or find_best_layer knows its layer and strength; of sweep_steering give best_layer and
    best_strength. Give their seed, too: it is measured on the questions that did not choose.
    """
    from steer_tools.experiments.evaluation_set import evaluation_set_named
    from steer_tools.experiments.meters import judging_meter
    from steer_tools.experiments.robustness import evaluate, with_prompts
    from steer_tools.session.edit_lengths import length_warnings
    from steer_tools.session.placement import PlacementOptions, place_once, require_finite
    from steer_tools.session.unreached_prompts import unreached_warnings

    with locked_session(keeps=True) as session:
        if strength is not None and require_finite(strength) == 0:
            raise ArgumentError("strength is 0, which changes nothing", valid="a number above or below 0")
        evaluation_set = evaluation_set_named(session, dataset, seed=seed)
        items = evaluation_set.splits.judging
        prompts = None if test_prompts is None else parse_prompts(test_prompts, "test_prompts")
        if prompts is not None:
            items = with_prompts(items, prompts)
        options = PlacementOptions(unit, positions=positions, allow_other_model=allow_other_model)
        placed = place_once(session, vector_path, layer, options)
        if unit is None and placed.chosen_strength is None:
            placed = place_once(session, vector_path, layer, replace(options, unit="residual"))
        wanted = placed.strength if strength is None else require_finite(strength)
        found = evaluate(session.engine, placed, wanted, items, per_token=per_token)
        failing = found.failing
        meter = judging_meter(session.engine, evaluation_set, seed, prompts)
        return RobustnessResult(
            layer=placed.layers[0],
            strength=wanted,
            unit=placed.unit,
            residual_strength=short(wanted * residual_unit(session, placed)),
            apply=repeating(session, vector_path, placed, wanted, allow_other_model=allow_other_model),
            even_share=short(found.score),
            log_odds_effect=short(float(found.effects.mean())),
            log_odds_interval=short_interval(found.interval),
            standard_deviation=short(float(found.effects.std(ddof=1)) if len(found.effects) > 1 else 0.0),
            items=len(found.effects),
            failing_items=len(failing),
            failing=[
                FailingItem(prompt=plain(found.asked[i].prompt), log_odds_effect=short(float(found.effects[i])))
                for i in failing[:_LISTED]
            ],
            anti_steerable=short(found.anti_steerable),
            anti_steerable_interval=short_interval(found.anti_steerable_interval),
            paraphrase_share=short(found.paraphrase_share),
            log_odds_effect_without_template=None
            if found.without_template is None
            else short(float(found.without_template.mean())),
            written=None if isinstance(meter, str) else _written(meter, placed, wanted),
            warnings=[
                *evaluation_set.behavior.notes,
                *placed.told(is_strength_given=strength is not None),
                *([f"No texts were measured: {meter}"] if isinstance(meter, str) else []),
                *length_warnings(session, [(wanted, placed.plan(wanted))]),
                *unreached_warnings(
                    session.engine, [question.prompt for question in found.asked], [placed.unit_placements]
                ),
            ],
        )


def _written(meter: TextMeter, placed: Placed, strength: float) -> TextRobustness:
    from steer_tools.experiments.text_judgement import judge_texts

    judged = judge_texts(meter, placed, strength, "more" if strength > 0 else "less")
    return TextRobustness(
        effect=short(judged.effect),
        interval=short_interval(judged.interval),
        own_effect=short(judged.own_effect),
        whole=short(float(judged.steered.checked.is_whole.mean())),
        prompt_count=len(judged.prompts),
        texts_wrong_way=short(float((judged.effects < 0).mean())),
    )


def show(result: RobustnessResult) -> Shown:
    """Render the score, what it is made of, and the items that fail worst."""
    between, without = result["paraphrase_share"], result["log_odds_effect_without_template"]
    written = result["written"]
    known = {
        "score": f"{result['even_share']:.0%} of the questions move by at least a quarter of the median effect in "
        "every form",
        "effect": f"{nats(result['log_odds_effect'])} nats{interval(result['log_odds_interval'])} on {result['items']} "
        f"items, standard deviation {brief(result['standard_deviation'])}",
        "wrong way": f"{result['anti_steerable']:.0%} of the items as the strength grows"
        f"{interval(result['anti_steerable_interval'], share)}",
        "wordings": None
        if between is None
        else f"{share(between)} of the variance lies between wordings of one question",
        "template": None if without is None else f"{nats(without)} nats without the chat template",
        "texts": None
        if written is None
        else f"{nats(written['effect'])}{interval(written['interval'])} on {written['prompt_count']} prompts, "
        f"{share(written['texts_wrong_way'])} the wrong way, {share(written['whole'])} whole",
        "failing": f"{result['failing_items']} of {result['items']} items do not move towards the behaviour",
    }
    rows = [(nats(item["log_odds_effect"]), shown_prompt(item["prompt"])) for item in result["failing"]]
    worst = [table({"nats": "right", "the worst of them": "fold"}, rows)] if rows else []
    return stack(facts(known), *worst, *warning_lines(result["warnings"]))


TOOL = Card(
    "Measure how evenly it works",
    "evidence",
    command="robustness",
    about="Measure how evenly a vector works over prompts, wordings and the chat template.",
    positional=("vector_path", "dataset"),
    is_read_only=True,
).tool(evaluate_steering_robustness, show)
