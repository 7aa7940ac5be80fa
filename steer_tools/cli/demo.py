"""The demo's course: vectors, both directions, two at once, the proof, a report; each part is shown once it is there.

How it is measured lies in studies.py, how it is told in report.py.
"""

import time
from collections.abc import Callable

from rich.console import RenderableType

from steer_tools.bundled_model.language import held_out_prompts
from steer_tools.bundled_model.planted import load_planted_directions
from steer_tools.cli import report
from steer_tools.cli.inputs import BUNDLED
from steer_tools.cli.output import is_plain, say, show_json
from steer_tools.cli.rendering import proof
from steer_tools.cli.studies import Findings, Part, Study, applied, study_behavior, study_together, study_trait
from steer_tools.cli.work import Workbench
from steer_tools.figures.doses import dose_response
from steer_tools.session.session import current_session
from steer_tools.tools import check_steering, steering_status
from steer_tools.tools.results import ModelStatus

FOLDER = "demo"
TRAITS = ("sentiment", "sycophancy", "refusal")
# A contrast lies between answers at the two ends, so half of one leads from the middle to an end.
TRAIT_STRENGTHS = (-0.5, -0.375, -0.25, -0.125, 0.125, 0.25, 0.375, 0.5)
BEHAVIOR_STRENGTHS = (-1.5, -1.0, -0.5, 0.5, 1.0, 1.5)
# What is applied together, in contrasts: cheerful, and yet contradicting.
TOGETHER = {"sentiment": 0.5, "sycophancy": -0.5}
PROMPTS = 16
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
