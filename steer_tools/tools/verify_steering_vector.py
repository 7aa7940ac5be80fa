"""The tool that judges anew what the certificate of a vector's file says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from typing_extensions import TypedDict

from steer_tools.tools import arguments as given
from steer_tools.tools.argument_checks import checked
from steer_tools.tools.card import Card
from steer_tools.tools.rendering import Shown, brief, bullets, facts, interval, joined, nats, stack, warning_lines
from steer_tools.tools.resolving import locked_session
from steer_tools.tools.results import short

if TYPE_CHECKING:
    from steer_tools.core.vectors import ProvedTexts

MovedData = Annotated[str | given.LeftOut, given.Doc("Its dataset, if moved.")]


class ProvedStatus(TypedDict):
    """What the texts of the cell show; `controls_reached` of `control_count` directions have the effect too."""

    effect: float
    interval: list[float] | None
    own_effect: float
    prompt_count: int
    control_count: int | None
    controls_reached: int | None
    whole: float
    variety: float | None
    relevance: float | None


class VerificationResult(TypedDict):
    """`passed`: the certificate's figures were found again; `differences` says which were not.

    `certified` and `now` are null where texts could not decide, `detector_d_prime` where nothing tells texts apart;
    `same_texts`: every text is the same to the letter. `warnings`: what was otherwise than then, as versions.
    """

    passed: bool
    badge: str | None
    verdict: str
    direction: str
    dataset: str
    differences: list[str]
    certified: ProvedStatus | None
    now: ProvedStatus | None
    detector_d_prime: float | None
    same_texts: bool
    without_texts: str | None
    warnings: list[str]


@checked
def verify_steering_vector(vector_path: given.VectorPath, dataset: MovedData = None) -> VerificationResult:
    """Measure anew what the certificate of an experiment's vector says.

    Refuses an altered vector, other data and another model.
    """
    from steer_tools.experiments.verification import verify
    from steer_tools.session.proofs import badge

    with locked_session(keeps=True) as session:
        found = verify(session, vector_path, dataset)
        certificate, placed = found.certificate, found.placed
        return VerificationResult(
            passed=not found.differences,
            badge=badge(session, placed.proof, placed.plan(placed.strength)),
            verdict=certificate.verdict,
            direction=certificate.direction,
            dataset=certificate.dataset,
            differences=list(found.differences),
            certified=_status(certificate.texts),
            now=_status(found.texts),
            detector_d_prime=short(found.d_prime),
            same_texts=found.is_same_text,
            without_texts=certificate.without_texts,
            warnings=[*found.notes, *placed.warnings],
        )


def _status(texts: ProvedTexts | None) -> ProvedStatus | None:
    if texts is None:
        return None
    controls = texts.controls
    return ProvedStatus(
        effect=short(texts.effect),
        interval=None if texts.interval is None else short(list(texts.interval)),
        own_effect=short(texts.own_effect),
        prompt_count=texts.prompts,
        control_count=None if controls is None else controls.count,
        controls_reached=None if controls is None else controls.reached,
        whole=short(texts.whole),
        variety=short(texts.variety),
        relevance=short(texts.relevance),
    )


def show(result: VerificationResult) -> Shown:
    """Render whether the certificate holds, and its figures then and now."""
    told = ("agrees", "bold green") if result["passed"] else ("differs", "bold red")
    return stack(
        joined(("The certificate: ", "bold"), told),
        *([bullets(result["differences"])] if result["differences"] else []),
        facts(
            {
                "badge": result["badge"],
                "no texts": result["without_texts"],
                "behaviour": f"{result['direction']} of {result['dataset']}",
                "certified": _told(result["certified"]),
                "now": _told(result["now"]),
                "texts": "the same to the letter" if result["same_texts"] else "not the same to the letter",
            }
        ),
        *warning_lines(result["warnings"]),
    )


def _told(status: ProvedStatus | None) -> str | None:
    if status is None:
        return None
    controls = status["control_count"]
    held = "" if controls is None else f", {status['controls_reached']} of {controls} controls reach it"
    return f"{nats(status['effect'])}{interval(status['interval'])}{held}, {brief(status['whole'])} whole"


TOOL = Card(
    "Judge a vector's certificate anew",
    "evidence",
    command="verify",
    about="Judge anew what the certificate of an experiment's vector says; exit code 3 where that differs.",
    positional=("vector_path",),
    is_read_only=True,
).tool(verify_steering_vector, show)
