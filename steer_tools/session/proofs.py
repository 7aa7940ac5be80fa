"""A vector's certificate, the session's model and how the vector acts → whether just that was proved, in a few words.

It must not know how anything is proved, or what tools return.
"""

from math import isclose

from steer_tools.core.interventions import Add
from steer_tools.core.plan import Plan
from steer_tools.core.registry import Applied
from steer_tools.core.vectors import Certificate, ChosenCell, Proof
from steer_tools.core.vectors.certificate import WORKS
from steer_tools.engines.base import ModelInfo
from steer_tools.errors import ForeignVectorError, UnverifiedVectorError
from steer_tools.session.edit_lengths import residual_strengths
from steer_tools.session.session import Session

# What units make of one strength is the same but for rounding.
_ROUNDING = 1e-3
_HOW = (
    "steering_experiment(...) makes a vector with a certificate; apply the vector_path of one whose verdict is works, "
    "and leave layer, strength and all else out."
)


def badge(session: Session, proof: Proof | None, plan: Plan) -> str | None:
    """Say in a few words what a certificate says of a vector that acts by `plan`; None where it has none.

    It begins with "verified: " where just that was proved to work on the session's model, and else with "not verified".
    """
    if proof is None:
        return None
    reason = _why_not(session, proof, plan)
    return f"verified: {_figures(proof.certificate)}" if reason is None else f"not verified: {reason}"


def applied_badge(session: Session, applied: Applied) -> str | None:
    """Say the same of what is applied; what acts beside it was not there when it was proved."""
    told, count = badge(session, applied.proof, applied.placements), len(session.registry)
    return f"{told} (by itself; {count} are applied)" if told is not None and count > 1 else told


def saved_badge(info: ModelInfo, proof: Proof | None) -> str | None:
    """Say the same of a vector that is not applied, at the cell that was proved."""
    if proof is None:
        return None
    reason = misfit(info, proof) or _verdict(proof.certificate)
    return f"verified: {_figures(proof.certificate)}" if reason is None else f"not verified: {reason}"


def require_proved(session: Session, applied: Applied) -> None:
    """Refuse what is not proved to work just as it is to be applied, where the session is to hold to that.

    Raises:
        UnverifiedVectorError: That is so.
    """
    if not session.is_proof_required:
        return
    if applied.proof is None:
        reason = "it has no certificate of an experiment"
    else:
        reason = _why_not(session, applied.proof, applied.placements)
    if reason is not None:
        raise UnverifiedVectorError(
            f"{applied.source} is not applied, since only verified vectors are (--require-verified): {reason}",
            fix=_HOW,
        )


def misfit(info: ModelInfo, proof: Proof) -> str | None:
    """Say why a certificate is none of its file or of a model; None where it is."""
    if proof.altered is not None:
        return f"the file was altered, {proof.altered}"
    if not info.has_weights_of(proof.fingerprint):
        return f"its certificate is of another model, and nothing is proved on {info.name}"
    if dict(proof.template_options) != dict(info.template_options):
        return f"its certificate is of other options of the chat template, {dict(proof.template_options)}"
    return None


def require_fitting(info: ModelInfo, proof: Proof | None, source: str) -> Proof:
    """Return a vector's certificate, if it is one of the file and of the model.

    Raises:
        UnverifiedVectorError: There is none, or the vector was altered.
        ForeignVectorError: It is of another model.
    """
    if proof is None:
        raise UnverifiedVectorError(
            f"{source} has no certificate", valid="a vector that steering_experiment saved, as it was saved", fix=_HOW
        )
    reason = misfit(info, proof)
    if reason is None:
        return proof
    if proof.altered is not None:
        raise UnverifiedVectorError(f"{source} is not what was certified: {reason}", fix="Get the file again. " + _HOW)
    raise ForeignVectorError(
        f"{source} cannot be verified: {reason}",
        valid=f"a model with the fingerprint {proof.fingerprint}, and this one has {info.fingerprint}",
        fix="Load that model, or run steering_experiment on this one.",
    )


def cell_in_words(cell: ChosenCell) -> str:
    """Return a cell as "layer 3, strength 0.4 (residual), tokens generated"."""
    return f"layer {cell.layer}, strength {cell.strength:g} ({cell.unit}), tokens {cell.positions:.40}"


def _why_not(session: Session, proof: Proof, plan: Plan) -> str | None:
    reason = misfit(session.engine.info, proof) or _verdict(proof.certificate)
    if reason is None and not _is_at(session, proof, plan):
        return f"{proof.certificate.verdict} at {cell_in_words(proof.cell)}, and it is applied otherwise"
    return reason


def _verdict(certificate: Certificate) -> str | None:
    """Return a verdict that is no proof of steering, with its figures."""
    if certificate.texts is None:
        return f"{certificate.verdict}, texts could not decide"
    return None if certificate.verdict == WORKS else _figures(certificate)


def _figures(certificate: Certificate) -> str:
    texts = certificate.texts
    if texts is None:
        return certificate.verdict
    bounds = "" if texts.interval is None else " ({:.2f} to {:.2f})".format(*texts.interval)
    controls = texts.controls
    held = "" if controls is None else f", {controls.reached} of {controls.count} controls"
    less = " of less" if certificate.direction == "less" else ""
    return f"{certificate.verdict}, {texts.effect:+.2f}{less}{bounds}{held}"


def _is_at(session: Session, proof: Proof, plan: Plan) -> bool:
    """Return whether a plan is the cell that was proved, in whatever unit."""
    cell = proof.cell
    if len(plan) != 1:
        return False
    (placement,) = plan
    site = placement.site
    is_alike = (
        type(placement.intervention) is Add
        and (site.layer, site.component, site.head) == (cell.layer, proof.component, None)
        and str(placement.positions) == cell.positions
        and placement.condition is None
    )
    (length,) = residual_strengths(session, plan) if is_alike else (None,)
    # Experiments choose in typical norms.
    return length is not None and cell.unit == "residual" and isclose(length, cell.strength, rel_tol=_ROUNDING)
