"""A vector with a certificate → its cell judged anew, and where that differs from what the certificate says.

Neither the choice of the cell nor the making of the vector is repeated. It must not know files or what tools return.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from steer_tools.core.site import Site
from steer_tools.core.vectors import Certificate, ProvedTexts, proof_of
from steer_tools.core.vectors.certificate import WORKS
from steer_tools.errors import ArgumentError
from steer_tools.evaluation.behaviors.behavior import contrast_prompts
from steer_tools.evaluation.questions import pooling_of
from steer_tools.experiments.certificates import asked_digest, data_digest, device_of, proved_texts, versions
from steer_tools.experiments.evaluation_set import EvaluationSet, behavior_named, evaluation_set_of
from steer_tools.experiments.meters import JUDGING_PROMPTS, ControlDraw, Meters, prepared_meters
from steer_tools.experiments.text_judgement import TextJudgement, judge_texts, with_controls
from steer_tools.experiments.verdicts import may_work, works
from steer_tools.progress import Work
from steer_tools.session.placement import Placed, place
from steer_tools.session.proofs import require_fitting
from steer_tools.session.session import Session
from steer_tools.session.vector_loading import VectorLike, load_for_model

# A detector reads texts that are given, so that only rounding moves it: in half precision by a few hundredths.
_DETECTOR_TOLERANCE = 0.1
_PREPARING, _JUDGING, _CONTROLS = "writing without steering", "judging texts", "holding against controls"


@dataclass(frozen=True)
class Verification:
    """A cell judged anew beside its certificate.

    Attributes:
        texts: What its texts show now; None where they cannot decide.
        d_prime: How well texts are told apart now; None where nothing tells them.
        is_same_text: Whether every text is the same as it was, to the letter.
        differences: What the certificate says and is not found; empty where it holds.
        notes: What was otherwise than then, and need not matter.
    """

    placed: Placed
    certificate: Certificate
    texts: ProvedTexts | None
    d_prime: float | None
    is_same_text: bool
    differences: tuple[str, ...]
    notes: tuple[str, ...]


def verify(session: Session, vector: VectorLike, dataset: str | None = None) -> Verification:
    """Judge the cell of a vector's certificate anew, by the data, seed and controls that it names.

    `dataset` says where the behaviour is now, where that is not where it was.

    Texts that are chosen greedily are the same on one machine, and so is every figure. Elsewhere sums are rounded in
    another order, some token is chosen otherwise, and that text goes on in its own way. So an effect agrees that lies
    in the certificate's interval, as that of other prompts would, or that is no farther from the certificate's than
    one text that turns round can move it; and whatever the verdict rests on has to hold again.

    Raises:
        UnverifiedVectorError: The vector has no certificate, or was altered.
        ForeignVectorError: It is of another model.
        ArgumentError: There is no such behaviour, or its data are others.
    """
    engine = session.engine
    loaded = load_for_model(session, vector, None, allow_other_model=True)
    proof = require_fitting(engine.info, proof_of(loaded.vector), loaded.source)
    placed, certificate = place(session, loaded.vector, None), proof.certificate
    evaluation_set = _evaluation_set(session, certificate, dataset)
    work = Work({_PREPARING: 5.0 * JUDGING_PROMPTS, _JUDGING: 2.0 * JUDGING_PROMPTS, _CONTROLS: _written(certificate)})
    with work.stage(_PREPARING):
        meters = prepared_meters(engine, evaluation_set, certificate.seed)
    judged = _judged(session, work, placed, meters, evaluation_set, certificate) if isinstance(meters, Meters) else None
    texts = None if judged is None else proved_texts(judged)
    d_prime = meters.detector.d_prime if isinstance(meters, Meters) else None
    reason = None if isinstance(meters, Meters) else meters
    differences = [*_told_otherwise(certificate, d_prime), *_differences(certificate, texts, reason)]
    if judged is not None and works(judged) != (certificate.verdict == WORKS):
        differences.append(f"The verdict was {certificate.verdict!r}, and now texts {_verdict(judged)}.")
    return Verification(
        placed=placed,
        certificate=certificate,
        texts=texts,
        d_prime=d_prime,
        is_same_text=(texts and texts.digest) == (certificate.texts and certificate.texts.digest),
        differences=tuple(differences),
        notes=tuple(_notes(session, certificate, evaluation_set)),
    )


def _evaluation_set(session: Session, certificate: Certificate, dataset: str | None) -> EvaluationSet:
    named = certificate.dataset if dataset is None else dataset
    behavior = behavior_named(session, named, certificate.seed)
    if data_digest(behavior) != certificate.data:
        raise ArgumentError(
            f"The data of {named!r} are not those of the certificate: a pair, an item, a question or the instruction "
            "was changed",
            valid=f"the data as steer-tools {certificate.versions.get('steer-tools', '?')} had them",
            fix="Give the unchanged file as dataset, or run steering_experiment on the data as they are now.",
        )
    found = evaluation_set_of(session.engine, behavior, certificate.seed)
    return replace(found, text_tokens=certificate.text_tokens)


def _written(certificate: Certificate) -> float:
    """Return how many texts control directions are to write, about."""
    return 2.0 * JUDGING_PROMPTS * certificate.controls


def _judged(
    session: Session,
    work: Work,
    placed: Placed,
    meters: Meters,
    evaluation_set: EvaluationSet,
    certificate: Certificate,
) -> TextJudgement:
    engine, pairs = session.engine, evaluation_set.behavior.pairs
    strength = placed.strength
    with work.stage(_JUDGING):
        texts = judge_texts(meters.judging, placed, strength, certificate.direction)
    with work.stage(_CONTROLS):
        if may_work(texts):
            contrast = contrast_prompts(pairs, engine.info.has_chat_template)
            (layer,) = placed.layers
            pooling = pooling_of(engine, pairs)
            drawn = ControlDraw(engine, contrast, Site(layer), pooling, certificate.controls, certificate.seed)
            texts = with_controls(texts, meters.judging, placed.plan(strength), drawn.directions)
    return texts


def _told_otherwise(certificate: Certificate, d_prime: float | None) -> Iterator[str]:
    then = certificate.d_prime
    if then is not None and d_prime is not None and abs(d_prime - then) > _DETECTOR_TOLERANCE * then:
        yield f"Held-out answers were {then:.2f} standard deviations apart, and are {d_prime:.2f}."


def _differences(certificate: Certificate, now: ProvedTexts | None, reason: str | None) -> Iterator[str]:
    then = certificate.texts
    if then is None or now is None:
        if then is not now:
            could, why = ("could", reason) if now is None else ("could not", certificate.without_texts)
            yield f"Then texts {could} decide, and now it is the other way: {why}"
        return
    if now.prompts != then.prompts:
        yield f"{then.prompts} prompts were answered, and now {now.prompts}."
    low, high = then.interval or (then.effect, then.effect)
    if not low <= now.effect <= high and abs(now.effect - then.effect) > 1 / then.prompts:
        yield f"The effect was {then.effect:+.3f} ({low:+.3f} to {high:+.3f}), and is {now.effect:+.3f}."
    if bool(now.failures) != bool(then.failures):
        yield f"The guards found {_found(then)}, and now {_found(now)}."
    pair = (then.controls, now.controls)
    if pair[0] is None or pair[1] is None:
        if pair[0] is not pair[1]:
            yield "Controls were needed in one of the two judgements only."
    elif bool(pair[0].reached) != bool(pair[1].reached):
        yield (
            f"{pair[0].reached} of {pair[0].count} controls reached the effect, and now {pair[1].reached} of "
            f"{pair[1].count}."
        )


def _found(texts: ProvedTexts) -> str:
    return f"texts that are {' and '.join(texts.failures)}" if texts.failures else "nothing wrong"


def _verdict(judged: TextJudgement) -> str:
    return "prove that it works" if works(judged) else "do not prove that it works"


def _notes(session: Session, certificate: Certificate, evaluation_set: EvaluationSet) -> Iterator[str]:
    engine = session.engine
    if asked_digest(engine, evaluation_set.prompts) != certificate.asked:
        yield (
            "The model is asked the questions in other tokens than then: its tokenizer or chat template was changed, "
            "or the template writes the date."
        )
    now = {**versions(), "device": device_of(engine)}
    then = {**certificate.versions, "device": certificate.device}
    changed = [f"{name} {then.get(name)} → {value}" for name, value in now.items() if then.get(name) != value]
    if changed:
        yield f"It was proved with others: {', '.join(changed)}."
