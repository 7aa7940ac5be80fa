"""The demo: three behaviours of a real model in both directions, the bundled model's exact scores, and the proof.

Each part is shown once it is there. How it is told lies in demo_report.py.
"""

import time
from collections.abc import Callable, Sequence
from statistics import fmean

from rich.console import RenderableType

from steer_tools.bundled_model import NAME as BUNDLED
from steer_tools.bundled_model.language import TRAITS as ALL_TRAITS
from steer_tools.bundled_model.language import Chat, held_out_prompts, is_grammatical, score
from steer_tools.bundled_model.planted import load_planted_directions
from steer_tools.cli import demo_report as report
from steer_tools.cli.demo_report import Dose, Findings, Study
from steer_tools.cli.terminal import is_plain, say, show_json
from steer_tools.cli.workbench import Workbench
from steer_tools.engines.named_models import SMOLLM2, fast_dtype
from steer_tools.evaluation.behaviors.behavior import Behavior, contrast_prompts
from steer_tools.evaluation.behaviors.behavior_loading import load_behavior
from steer_tools.evaluation.behaviors.bundled_traits import trait_behavior
from steer_tools.evaluation.questions import pooling_of, propensities, questions
from steer_tools.experiments.null_distribution import random_plans
from steer_tools.figures import SIGNED, signed
from steer_tools.figures.text_cards import text_cards
from steer_tools.formats import read_vector
from steer_tools.prompts import PromptLike
from steer_tools.session.placement import PlacementOptions, Unit, place, steering
from steer_tools.session.session import current_session
from steer_tools.tools import check_steering, compare_generations, create_steering_vector, load_model, steering_status
from steer_tools.tools.check_steering import CheckResult
from steer_tools.tools.check_steering import show as proof
from steer_tools.tools.compare_generations import CompareResult, TextMetrics
from steer_tools.tools.create_steering_vector import CreateResult

FOLDER = "demo"
# Behaviours that people have, each with questions that no vector is made of.
BEHAVIORS = {
    "formality": ("Why is the sky blue?", "What should I pack for a trip to the beach?"),
    "sentiment": ("Write a review of a small restaurant.", "What is the weather like in November?"),
    "refusal": ("How do I bake bread?", "How do I learn to play the guitar?"),
}
# In the model's typical norms: on SmolLM2 texts change at once, and stay fluent.
BEHAVIOR_STRENGTH = 0.25
_PAIRS, _ITEMS, _CONTROLS, _TOKENS = 16, 8, 5, 30
TRAITS = ("sentiment", "sycophancy", "refusal")
# A contrast lies between answers at the two ends, so half of one leads from the middle to an end.
TRAIT_STRENGTH = 0.5
TRAIT_PROMPTS = 8
# Enough for the longest answer of the language.
ANSWER_TOKENS = 128

_Tell = Callable[[RenderableType], None]


def run_demo(*, model: str, workspace: str | None, as_json: bool, is_fallback: bool = False) -> None:
    """Show what steering does on a model, and write a report with a picture into the workspace."""
    started = time.monotonic()
    tell: _Tell = (lambda part: None) if as_json else say
    loading = {"dtype": fast_dtype()} if model == SMOLLM2 else {}
    with Workbench(model, workspace, loading).at_work():
        if is_fallback:
            tell(report.without_smollm2())
        findings = _study_bundled_model(tell) if model == BUNDLED else _study_real_model(tell)
        files = current_session().workspace
        picture = text_cards(
            [report.cards(study) for study in findings.studies], title=f"Steering {report.described(findings.model)}"
        )
        contents = {
            f"{FOLDER}/{report.PICTURE}": signed(picture),
            f"{FOLDER}/report.md": signed(report.markdown(findings)),
        }
        picture_path, report_path = files.write_together(contents, replaces=dict.fromkeys(contents, SIGNED))
    if as_json:
        show_json(report.document(findings, report_path, picture_path))
    else:
        say(report.closing(report_path, picture_path, time.monotonic() - started))


def _study_real_model(tell: _Tell) -> Findings:
    status = steering_status()["model"]
    tell(report.opening(status, report.WEIGHED))
    studies: list[Study] = []
    for name, prompts in BEHAVIORS.items():
        behavior = load_behavior(name, as_chat=current_session().engine.info.has_chat_template)
        studies.append(study_behavior(behavior, status["layer_count"] // 2, f"{FOLDER}/{name}", prompts))
        tell(report.study(studies[-1], is_plain=is_plain()))
    # Before the bundled model takes the place of this one.
    checked = _proved(studies[-1], "residual")
    load_model(BUNDLED)
    calibration = _trait_studies()
    tell(report.calibration(calibration))
    tell(report.proven(proof(checked), status))
    return Findings(status, tuple(studies), calibration, checked)


def _study_bundled_model(tell: _Tell) -> Findings:
    status = steering_status()["model"]
    tell(report.opening(status, report.EXACT))
    studies = _trait_studies()
    for study in studies:
        tell(report.study(study, is_plain=is_plain()))
    checked = _proved(studies[-1], "contrast")
    tell(report.proven(proof(checked), status))
    return Findings(status, studies, studies, checked)


def _trait_studies() -> tuple[Study, ...]:
    layer, strengths = load_planted_directions().layer, (-TRAIT_STRENGTH, TRAIT_STRENGTH)
    return tuple(
        study_trait(trait, layer, f"{FOLDER}/bundled/{trait}", strengths, held_out_prompts(trait, TRAIT_PROMPTS))
        for trait in TRAITS
    )


def _proved(study: Study, unit: Unit) -> CheckResult:
    with steering(study.created["vector_path"], strength=study.doses[-1].strength, unit=unit):
        return check_steering()


def study_trait(trait: str, layer: int, save_path: str, strengths: Sequence[float], prompts: Sequence[Chat]) -> Study:
    """Make the bundled model's vector for a trait and score its answers to `prompts` exactly."""
    created = _created(trait_behavior(trait), layer, save_path)
    path = created["vector_path"]
    compared = compare_generations(
        [*prompts], path, strengths=list(strengths), unit="contrast", max_new_tokens=ANSWER_TOKENS
    )
    doses = [_trait_dose(strength, texts, metrics, prompts) for strength, texts, metrics in _sides(compared)]
    cosine = load_planted_directions().cosine(trait, read_vector(path).vector.directions[layer])
    return Study(trait, created, tuple(prompts), tuple(doses), planted_cosine=cosine)


def _trait_dose(strength: float, texts: list[str], metrics: TextMetrics, prompts: Sequence[Chat]) -> Dose:
    scored = list(map(score, prompts, texts))
    scores = {trait: tuple(levels[trait] for levels in scored) for trait in ALL_TRAITS}
    return Dose(strength, tuple(texts), scores, metrics, fmean(map(is_grammatical, prompts, texts)))


def study_behavior(behavior: Behavior, layer: int, save_path: str, asked: Sequence[str]) -> Study:
    """Make a behaviour's vector on any model, and weigh held-out answers under it and under random directions."""
    session, name = current_session(), behavior.name
    created = _created(behavior, layer, save_path)
    path, strengths = created["vector_path"], (-BEHAVIOR_STRENGTH, BEHAVIOR_STRENGTH)
    is_chat = session.engine.info.has_chat_template
    prompts: list[PromptLike] = [[{"role": "user", "content": text}] if is_chat else text for text in asked]
    compared = compare_generations(prompts, path, strengths=list(strengths), unit="residual", max_new_tokens=_TOKENS)
    # One item a group, since wordings of one question are no independent evidence.
    items = list({item.group: item for item in reversed(behavior.items)}.values())[:_ITEMS]
    placed = place(session, path, None, PlacementOptions(unit="residual"))
    own = [placed.plan(strength) for strength in strengths]
    plans = [*own, *random_plans(own[-1][0], _CONTROLS, seed=0)]
    unsteered, *odds = propensities(session.engine, questions(session.engine, items), [(), *plans])
    changes = dict(zip((*strengths, 0.0), (odds[0] - unsteered, odds[1] - unsteered, unsteered * 0), strict=True))
    doses = [
        Dose(strength, tuple(texts), {name: tuple(changes[strength].tolist())}, metrics)
        for strength, texts, metrics in _sides(compared)
    ]
    means = tuple(float((own - unsteered).mean()) for own in odds[2:])
    return Study(name, created, tuple(prompts), tuple(doses), controls=means)


def _created(behavior: Behavior, layer: int, save_path: str) -> CreateResult:
    engine = current_session().engine
    positive, negative = contrast_prompts(behavior.pairs[:_PAIRS], engine.info.has_chat_template).plain()
    pooling = pooling_of(engine, behavior.pairs)
    assert pooling in ("last", "response")
    return create_steering_vector(
        positive, negative, layer, save_path, method="paired_mean_difference", pooling=pooling
    )


def _sides(compared: CompareResult) -> list[tuple[float, list[str], TextMetrics]]:
    """Return (strength, texts, metrics) from the lowest strength to the highest, the unsteered one among them."""
    sides = [(0.0, compared["baseline"]["texts"], compared["baseline"]["metrics"])]
    sides += [(variant["strength"] or 0.0, variant["texts"], variant["metrics"]) for variant in compared["variants"]]
    return sorted(sides, key=lambda side: side[0])
