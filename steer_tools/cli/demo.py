"""The demo: vectors, both directions, two at once, the proof, a report; each part is shown once it is there.

On the bundled model every text has an exact score; on others two completions are weighed. How it is told lies in
demo_report.py.
"""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from statistics import fmean
from typing import Literal

from rich.console import RenderableType

from steer_tools.bundled_model import NAME as BUNDLED
from steer_tools.bundled_model.language import TRAITS as ALL_TRAITS
from steer_tools.bundled_model.language import Chat, held_out_prompts, is_grammatical, score
from steer_tools.bundled_model.planted import load_planted_directions
from steer_tools.cli import demo_report as report
from steer_tools.cli.demo_report import Combination, Dose, Findings, Part, Study
from steer_tools.cli.terminal import is_plain, say, show_json
from steer_tools.cli.workbench import Workbench
from steer_tools.evaluation.behaviors.behavior import Behavior, contrast_prompts
from steer_tools.evaluation.behaviors.behavior_loading import load_behavior
from steer_tools.evaluation.behaviors.bundled_traits import trait_behavior
from steer_tools.evaluation.questions import propensities, questions
from steer_tools.figures.doses import dose_response
from steer_tools.formats import load_vector
from steer_tools.prompts import plain
from steer_tools.session.placement import PlacementOptions, place, steering
from steer_tools.session.session import current_session
from steer_tools.tools import check_steering, compare_generations, create_steering_vector, steering_status
from steer_tools.tools.check_steering import show as proof
from steer_tools.tools.compare_generations import CompareResult, TextMetrics
from steer_tools.tools.create_steering_vector import CreateResult
from steer_tools.tools.results import ModelStatus

FOLDER = "demo"
TRAITS = ("sentiment", "sycophancy", "refusal")
# A contrast lies between answers at the two ends, so half of one leads from the middle to an end.
TRAIT_STRENGTHS = (-0.5, -0.375, -0.25, -0.125, 0.125, 0.25, 0.375, 0.5)
BEHAVIOR_STRENGTHS = (-1.5, -1.0, -0.5, 0.5, 1.0, 1.5)
# What is applied together, in contrasts: cheerful, and yet contradicting.
TOGETHER = {"sentiment": 0.5, "sycophancy": -0.5}
PROMPTS = 16
# Enough for the longest answer of the language.
ANSWER_TOKENS = 128
_ITEMS = 16
_RESIDUAL = "residual: what is added, in the model's typical norms."
_EXACT = (
    "Ships with the package, and every text has an exact score from -1 to 1. Greedy, on "
    f"{PROMPTS} prompts that it never saw.\n{_RESIDUAL} others moved: mean shift of the other traits."
)
_WEIGHED = (
    "No truth is known here: the score is the log-odds of a positive against a negative completion, in nats.\n"
    f"{_RESIDUAL}"
)

_Tell = Callable[[RenderableType], None]


def run_demo(*, model: str, workspace: str | None, as_json: bool) -> None:
    """Show what steering does on a model, and write a report with a picture into the workspace."""
    started = time.monotonic()
    tell: _Tell = (lambda part: None) if as_json else say
    with Workbench(model, workspace=workspace).at_work():
        status = steering_status()["model"]
        findings = _study_bundled_model(status, tell) if model == BUNDLED else _study_any_model(status, tell)
        picture = dose_response(
            [report.panel(study) for study in findings.studies],
            title=f"Steering {report.described(status)}",
            score_label=findings.score_label,
            strength_label="strength, in contrasts",
        )
        files = current_session().workspace
        picture_path = files.write(f"{FOLDER}/{report.PICTURE}", picture)
        report_path = files.write(f"{FOLDER}/report.md", report.markdown(findings).encode())
    if as_json:
        show_json(report.document(findings, report_path, picture_path))
    else:
        say(report.closing(report_path, picture_path, time.monotonic() - started))


def _study_bundled_model(status: ModelStatus, tell: _Tell) -> Findings:
    tell(report.opening(status, _EXACT))
    layer = load_planted_directions().layer
    studies: list[Study] = []
    for trait in TRAITS:
        prompts = held_out_prompts(trait, PROMPTS)
        studies.append(study_trait(trait, layer, f"{FOLDER}/{trait}", TRAIT_STRENGTHS, prompts))
        tell(report.study(studies[-1], is_plain=is_plain()))
    together = [Part(study, TOGETHER[study.name]) for study in studies if study.name in TOGETHER]
    with applied(together):
        combination = study_together(together, held_out_prompts(TRAITS[0], PROMPTS, seed=1))
        tell(report.combination(combination, is_plain=is_plain()))
        checked = check_steering()
    tell(report.proven(proof(checked)))
    return Findings(status, tuple(studies), combination, checked, "mean exact score")


def _study_any_model(status: ModelStatus, tell: _Tell) -> Findings:
    tell(report.opening(status, _WEIGHED))
    study = study_behavior("sentiment", status["layers"] // 2, f"{FOLDER}/sentiment", BEHAVIOR_STRENGTHS)
    tell(report.study(study, is_plain=is_plain()))
    with applied([Part(study, BEHAVIOR_STRENGTHS[-1])]):
        checked = check_steering()
    tell(report.proven(proof(checked)))
    return Findings(status, (study,), None, checked, "log-odds of the positive completion (nats)")


def study_trait(trait: str, layer: int, save_path: str, strengths: Sequence[float], prompts: Sequence[Chat]) -> Study:
    """Make the bundled model's vector for a trait and score its answers to `prompts` exactly."""
    created = _created(trait_behavior(trait), layer, save_path, pooling="response")
    path = created["vector_path"]
    compared = compare_generations(
        [*prompts], path, strengths=list(strengths), unit="contrast", max_new_tokens=ANSWER_TOKENS
    )
    doses = sorted(_trait_doses(compared, prompts), key=lambda dose: dose.strength)
    cosine = load_planted_directions().cosine(trait, load_vector(path).directions[layer])
    return Study(trait, created, tuple(prompts), tuple(doses), cosine)


def _trait_doses(compared: CompareResult, prompts: Sequence[Chat]) -> list[Dose]:
    """Score what the bundled model answered to `prompts`."""
    doses: list[Dose] = []
    for strength, residual_strength, texts, metrics in _sides(compared):
        scored = list(map(score, prompts, texts))
        scores = {trait: tuple(levels[trait] for levels in scored) for trait in ALL_TRAITS}
        grammatical = fmean(map(is_grammatical, prompts, texts))
        doses.append(Dose(strength, residual_strength, tuple(texts), scores, metrics, grammatical))
    return doses


def study_behavior(name: str, layer: int, save_path: str, strengths: Sequence[float]) -> Study:
    """Make a built-in behaviour's vector on any model and weigh held-out completions."""
    behavior, session = load_behavior(name), current_session()
    created = _created(behavior, layer, save_path, pooling="last")
    asked = questions(session.engine, behavior.items[:_ITEMS], as_chat=False)
    prompts = [plain(question.prompt) for question in asked]
    path = created["vector_path"]
    compared = compare_generations(prompts, path, strengths=list(strengths), unit="contrast", max_new_tokens=32)
    placed = place(session, path, None, PlacementOptions(unit="contrast"))
    sides = sorted(_sides(compared), key=lambda side: side[0])
    odds = propensities(session.engine, asked, [placed.plan(side[0]) if side[0] else () for side in sides])
    doses = [
        Dose(strength, residual_strength, tuple(texts), {name: tuple(own)}, metrics)
        for (strength, residual_strength, texts, metrics), own in zip(sides, odds.tolist(), strict=True)
    ]
    return Study(name, created, tuple(prompts), tuple(doses))


def _created(behavior: Behavior, layer: int, save_path: str, *, pooling: Literal["last", "response"]) -> CreateResult:
    positive, negative = contrast_prompts(behavior.pairs, as_chat=False).plain()
    method = "paired_mean_difference"
    return create_steering_vector(positive, negative, layer, save_path, method=method, pooling=pooling)


@contextmanager
def applied(parts: Sequence[Part]) -> Generator[None]:
    """Have several vectors applied within a `with` block."""
    with ExitStack() as stack:
        for part in parts:
            stack.enter_context(steering(part.study.created["vector_path"], strength=part.strength, unit="contrast"))
        yield


def study_together(parts: Sequence[Part], prompts: Sequence[Chat]) -> Combination:
    """Score the bundled model's answers to `prompts` under what is applied."""
    baseline, steered = _trait_doses(compare_generations([*prompts], max_new_tokens=ANSWER_TOKENS), prompts)
    return Combination(tuple(parts), tuple(prompts), baseline, steered)


def _sides(compared: CompareResult) -> list[tuple[float, float, list[str], TextMetrics]]:
    """Return (strength, residual strength, texts, metrics) of the baseline and then of each variant."""
    sides = [(0.0, 0.0, compared["baseline"]["texts"], compared["baseline"]["metrics"])]
    for variant in compared["variants"]:
        added = variant["residual_strength"] if isinstance(variant["residual_strength"], float) else 0.0
        sides.append((variant["strength"] or 0.0, added, variant["texts"], variant["metrics"]))
    return sides
