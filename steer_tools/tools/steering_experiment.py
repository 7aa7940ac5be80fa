"""The tool that finds out whether a behaviour can be steered, by what the model writes, with controls."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge
from typing_extensions import TypedDict

from steer_tools.data_files import SUFFIXES
from steer_tools.errors import ArgumentError
from steer_tools.limits import CONTROLS
from steer_tools.tools import arguments as given
from steer_tools.tools.argument_checks import checked
from steer_tools.tools.card import Card
from steer_tools.tools.rendering import (
    Shown,
    brief,
    bullets,
    facts,
    interval,
    joined,
    line,
    nats,
    stack,
    warning_lines,
)
from steer_tools.tools.resolving import locked_session, require_one_of, resolved_layers
from steer_tools.tools.results import ApplyArguments, repeating, residual_unit, rounded, short, short_interval
from steer_tools.tools.sweep_results import CELLS, folder_name, kept_behavior, saved_vector, text_scores, with_cell

if TYPE_CHECKING:
    from steer_tools.engines.base import Engine
    from steer_tools.experiments.experiment import Example, Experiment
    from steer_tools.experiments.text_judgement import TextControls, TextJudgement

# With fewer controls than these even `quick` tells nothing from chance.
_FEWEST_CONTROLS = 9
# Texts that a result shows, and characters of each; all are in the report.
_SHOWN, _CHARACTERS = 3, 240


BehaviorName = Annotated[
    str | given.Pairs,
    given.Doc(
        "A built-in behaviour: sentiment, sycophancy, refusal, confidence, formality, honesty, verbosity "
        "(the bundled model: these), caution, sandbagging, corrigibility, helpfulness, creativity, technical_depth, "
        "empathy, power_seeking, tool_restraint; or a file of items with prompt, positive and negative (.json, .jsonl, "
        ".csv, .tsv, .txt)."
    ),
]
Controls = Annotated[
    int | given.LeftOut, given.Doc("Control directions that the texts are held against: 19, or 9 with quick."), Ge(9)
]
TriedPositions = Annotated[
    str | None, given.Doc("As for apply_steering_vector; generated and all are tried if omitted.")
]
Direction = Annotated[Literal["more", "less"], given.Doc("Whether more of the behaviour is wanted, or less.")]
ExperimentStrengths = Annotated[
    list[float] | given.LeftOut, given.Doc("In typical norms: [0.05, 0.1, 0.2, 0.4, 0.8] if omitted.")
]
Quick = Annotated[bool, given.Doc("3 layers, 3 strengths, 9 controls, fewer items.")]

Capability = Annotated[str | given.LeftOut, given.Doc("A file of prompt, correct, incorrect: are fewer right?")]
TextTokens = Annotated[int | None, given.Doc("The most new tokens of a text."), given.ONLY_IN_PYTHON]


class ControlsStatus(TypedDict):
    """`reached` of `count` control directions have the effect, of either sign; `largest` is theirs."""

    count: int
    reached: int
    largest: float
    p: float


class GuardStatus(TypedDict):
    """Of the steered texts: the share that is not broken, and of the unsteered ones' variety and relevance so much."""

    whole: float
    variety: float | None
    relevance: float | None


class LogOddsStatus(TypedDict):
    """Mean change of log-odds of given completions, in nats; `controls_reached` is null where texts decided."""

    log_odds_effect: float
    log_odds_interval: list[float] | None
    items: int
    controls_reached: int | None


class SideEffectsStatus(TypedDict):
    """Of the chosen cell: KL in nats a token; perplexity, distinct-2 and length as multiples of the unsteered text's.

    `others`: mean change of log-odds of other behaviours. `capability`: shares answered right, unsteered and steered.
    """

    kl: float
    perplexity_ratio: float
    distinct_2_ratio: float
    length_ratio: float
    others: dict[str, float]
    text_scores: dict[str, list[float | None]]
    capability: list[float] | None


class ExampleTexts(TypedDict):
    """What the model writes to a prompt without the vector, and with it."""

    prompt: str
    unsteered: str
    steered: str


class ExperimentResult(TypedDict):
    """`effect`, from -1 to 1 with its 95 % `interval`, is half of what the texts of both signs differ by.

    It is measured on prompts that did not choose, and null where texts cannot decide;
    `own_effect` is that of the wanted sign beside the unsteered texts, `prompting` that
    of asking. `apply`: the arguments that apply the best cell. `dataset` names the
    behaviour for other tools: lists of your own are a file now. `badge` is what the
    file's certificate says, in short, wherever the vector is used.
    """

    verdict: str
    reasons: list[str]
    direction: str
    vector_path: str
    dataset: str
    best_layer: int
    best_strength: float
    residual_strength: float
    positions: str
    apply: ApplyArguments
    badge: str | None
    unit: str
    effect: float | None
    interval: list[float] | None
    prompt_count: int
    own_effect: float | None
    prompting: float | None
    guard: GuardStatus | None
    controls: ControlsStatus | None
    log_odds: LogOddsStatus
    side_effects: SideEffectsStatus
    examples: list[ExampleTexts]
    report_path: str
    warnings: list[str]


@checked
def steering_experiment(
    behavior_name: BehaviorName,
    positive: given.OwnPositive = None,
    negative: given.OwnNegative = None,
    direction: Direction = "more",
    quick: Quick = False,
    layers: given.Layers = None,
    strengths: ExperimentStrengths = None,
    method: given.Method = "paired_mean_difference",
    positions: TriedPositions = None,
    controls: Controls = None,
    scorer: given.OptionalScorer = None,
    save_folder: given.Folder = None,
    seed: given.DrawSeed = 0,
    per_token: given.PerToken = False,
    capability: Capability = None,
    metric: given.OwnMetric = None,
    metric_name: given.MetricName = None,
    max_new_tokens: TextTokens = None,
) -> ExperimentResult:
    """Find out whether a behaviour can be steered: a vector, its best cell by what is written, controls, a verdict.

    verdict is works, ranks, does not write (log-odds alone move), breaks the model,
    indistinguishable from random, or cannot tell. Nothing stays applied:
    apply_steering_vector with vector_path alone uses it. Show the user report_path. Lists
    need 8 different prompts a side; 64 are better.
    """
    from steer_tools.core.positions import Scope
    from steer_tools.core.vectors import certified, proof_of
    from steer_tools.directions.session_methods import way_named
    from steer_tools.evaluation.capability import read_capability
    from steer_tools.experiments.certificates import certificate_of
    from steer_tools.experiments.evaluation_set import evaluation_set_named
    from steer_tools.experiments.experiment import POSITIONS, ExperimentOptions, run_experiment
    from steer_tools.reports.json_documents import Facts
    from steer_tools.reports.provenance import Run
    from steer_tools.reports.report_files import save_experiment
    from steer_tools.session.proofs import saved_badge
    from steer_tools.session.unreached_prompts import unreached_warnings

    call, started = dict(locals()), time.monotonic()
    with locked_session(keeps=True) as session:
        require_one_of("direction", direction, ("more", "less"))
        held_against = (_FEWEST_CONTROLS if quick else 19) if controls is None else controls
        if held_against < _FEWEST_CONTROLS:
            raise ArgumentError(
                f"controls is {controls}", valid=f"at least {_FEWEST_CONTROLS}: p is never below 1 / (1 + n)"
            )
        CONTROLS.require(held_against, "The experiment is to have")
        if method == "sae_feature":
            raise ArgumentError(
                "method is 'sae_feature', which is not made of prompts",
                fix="Make the vector with create_steering_vector, and measure it with sweep_steering.",
            )
        engine = session.engine
        evaluation_set = evaluation_set_named(session, behavior_name, positive, negative, seed)
        evaluation_set = evaluation_set.shortened() if quick else evaluation_set
        read = [evaluation_set.named, capability]
        run = Run.of(steering_experiment, call, vars(engine.info), session.workspace, read)
        evaluation_set = replace(
            evaluation_set,
            scorers={**evaluation_set.scorers, **text_scores(scorer, metric, metric_name)},
            text_tokens=evaluation_set.text_tokens if max_new_tokens is None else max_new_tokens,
        )
        if capability is not None:
            with session.workspace.opened(capability) as file:
                asked = read_capability(file, PurePath(capability).name, seed)
            evaluation_set = replace(evaluation_set, capability=asked)
        options = ExperimentOptions(
            strengths=_QUICK_STRENGTHS if quick and strengths is None else strengths,
            positions=POSITIONS if positions is None else (str(Scope.parse(positions)),),
            direction=direction,
            controls=held_against,
            seed=seed,
            per_token=per_token,
        )
        folder = save_folder or f"experiments/{folder_name(evaluation_set.behavior.name)}"
        tried, way = resolved_layers(session, layers, _usual_layers(engine, quick=quick)), way_named(method, None)
        found = run_experiment(session, evaluation_set, tried, way, options, f"{folder}/{CELLS}")
        spot = found.spot
        dataset = kept_behavior(session, evaluation_set, folder)
        named = session.workspace.name_of(dataset) if PurePath(dataset).suffix.lower() in SUFFIXES else dataset
        vector = with_cell(found.extraction.vector, spot.placed, spot.strength)
        vector = certified(vector, certificate_of(engine, found, named))
        path = saved_vector(session, vector, folder)
        facts = Facts.of(engine.info, found, path, method, time.monotonic() - started, run)
        files = save_experiment(session.workspace, folder, found, facts)
        damage, able = found.side_effects.damage, found.side_effects.capability
        texts = found.texts
        written_to = [example.prompt for example in found.examples]
        return ExperimentResult(
            verdict=found.ruling.verdict,
            reasons=list(found.ruling.reasons),
            direction=direction,
            vector_path=path,
            dataset=dataset,
            best_layer=spot.layer,
            best_strength=spot.strength,
            residual_strength=short(spot.strength * residual_unit(session, spot.placed)),
            positions=spot.positions,
            apply=repeating(session, path, spot.placed, spot.strength),
            badge=saved_badge(engine.info, proof_of(vector)),
            unit="residual",
            effect=None if texts is None else short(texts.effect),
            interval=None if texts is None else short_interval(texts.interval),
            prompt_count=len(found.examples),
            own_effect=None if texts is None else short(texts.own_effect),
            prompting=None if texts is None else short(texts.prompting),
            guard=None if texts is None else _guard(texts),
            controls=None if texts is None or texts.controls is None else _controls(texts.controls, texts.effect),
            log_odds=_log_odds(found),
            side_effects=SideEffectsStatus(
                kl=short(damage.divergence),
                perplexity_ratio=short(damage.perplexity),
                distinct_2_ratio=short(damage.distinct),
                length_ratio=short(damage.length),
                others=short(dict(found.side_effects.others)),
                text_scores={
                    name: [rounded(score) for score in own] for name, own in found.side_effects.text_scores.items()
                },
                capability=None if able is None else [short(able.unsteered), short(able.steered)],
            ),
            examples=[_example(example) for example in _telling(found)[:_SHOWN]],
            report_path=str(files.report),
            warnings=[
                *evaluation_set.behavior.notes,
                *found.extraction.warnings,
                *([f"{able.in_words()}."] if able is not None and able.is_at_chance else []),
                *unreached_warnings(engine, written_to, [spot.placed.unit_placements]),
            ],
        )


# Where nothing else is said with quick.
_QUICK_STRENGTHS, _QUICK_LAYERS = (0.1, 0.2, 0.4), 3


def _usual_layers(engine: Engine, *, quick: bool) -> list[int]:
    """Return the layers to try where none are given; in haste those in the middle."""
    from steer_tools.experiments.grids import spread_layers

    layers = spread_layers(engine)
    start = (len(layers) - _QUICK_LAYERS + 1) // 2
    return layers[max(0, start) :][:_QUICK_LAYERS] if quick else layers


def _guard(texts: TextJudgement) -> GuardStatus:
    checked = texts.steered.checked
    return GuardStatus(
        whole=short(float(checked.is_whole.mean())), variety=short(checked.variety), relevance=short(checked.relevance)
    )


def _controls(controls: TextControls, effect: float) -> ControlsStatus:
    return ControlsStatus(
        count=len(controls.kinds),
        reached=controls.reached(effect),
        largest=short(float(controls.sizes.max())),
        p=short(controls.p(effect)),
    )


def _log_odds(found: Experiment) -> LogOddsStatus:
    from steer_tools.experiments.text_choice import SIGNS

    judgement, null, sign = found.log_odds, found.null, SIGNS[found.options.direction]
    reached = None if null is None else int((sign * null.means >= sign * judgement.effect).sum())
    return LogOddsStatus(
        log_odds_effect=short(judgement.effect),
        log_odds_interval=short_interval(judgement.interval),
        items=len(judgement.effects),
        controls_reached=reached,
    )


def _telling(found: Experiment) -> Sequence[Example]:
    """Return the examples, the one of the middle effect first: neither the best nor the worst."""
    effects = [example.effect or 0.0 for example in found.examples]
    middle = sorted(effects)[len(effects) // 2]
    return sorted(found.examples, key=lambda example: abs((example.effect or 0.0) - middle))


def _example(example: Example) -> ExampleTexts:
    from steer_tools.experiments.evaluation_set import text_of

    told = (text_of(example.prompt), example.unsteered, example.steered)
    return ExampleTexts(**dict(zip(("prompt", "unsteered", "steered"), map(_shortened, told), strict=True)))


def _shortened(text: str) -> str:
    return shorten(text, _CHARACTERS, placeholder=" ...")


_STYLES = {"works": "bold green", "ranks, does not write": "bold yellow", "cannot tell": "bold yellow"}
_OTHERS = 4


def show(result: ExperimentResult) -> Shown:
    """Render the verdict with its reasons, texts, what was chosen, its controls and its side effects."""
    verdict = result["verdict"]
    texts = [
        line(part, style)
        for example in result["examples"]
        for part, style in (
            (example["prompt"], "bold"),
            (f"  without: {example['unsteered']}", "dim"),
            (f"  steered: {example['steered']}", ""),
        )
    ]
    return stack(
        joined(("Verdict: ", "bold"), (verdict, _STYLES.get(verdict, "bold red"))),
        bullets(result["reasons"]),
        line(""),
        *texts,
        line(""),
        facts(_facts(result)),
        *warning_lines(result["warnings"]),
    )


def _facts(result: ExperimentResult) -> dict[str, str | None]:
    controls, damage, log_odds = result["controls"], result["side_effects"], result["log_odds"]
    others = sorted(damage["others"].items(), key=lambda shift: -abs(shift[1]))
    return {
        "chosen": f"layer {result['best_layer']} at strength {result['best_strength']:g} (residual), tokens: "
        f"{result['positions']}",
        "effect": None
        if result["effect"] is None
        else f"{nats(result['effect'])}{interval(result['interval'])} on {result['prompt_count']} other prompts",
        "asking": None if result["prompting"] is None else f"{nats(result['prompting'])} by a prompt instead",
        "controls": None
        if controls is None
        else f"{controls['reached']} of {controls['count']} reach it, the largest has {brief(controls['largest'])}",
        "log-odds": f"{nats(log_odds['log_odds_effect'])} nats{interval(log_odds['log_odds_interval'])} on "
        f"{log_odds['items']} items",
        "damage": f"KL {brief(damage['kl'])}, perplexity × {brief(damage['perplexity_ratio'])}, distinct-2 × "
        f"{brief(damage['distinct_2_ratio'])}, length × {brief(damage['length_ratio'])}",
        "questions": None
        if damage["capability"] is None
        else "{:.0%} answered right, {:.0%} without steering".format(*reversed(damage["capability"])),
        "others": ", ".join(f"{name} {nats(shift)}" for name, shift in others[:_OTHERS])
        + (f"; {len(others) - _OTHERS} more move less" if len(others) > _OTHERS else ""),
        "scores": ", ".join(
            f"{name} {brief(before)} → {brief(after)}" for name, (before, after) in damage["text_scores"].items()
        ),
        "vector": result["vector_path"],
        "dataset": result["dataset"],
        "report": result["report_path"],
    }


TOOL = Card(
    "Find out whether a behaviour can be steered",
    "evidence",
    command="experiment",
    about="Find out whether a behaviour can be steered: vector, best cell, texts, controls, side effects, a verdict.",
    positional=("behavior_name",),
    not_typed=("metric", "metric_name", "max_new_tokens"),
).tool(steering_experiment, show)
