"""An experiment → the certificate of its vector, with digests of what it was judged on.

It must not know how a certificate is sealed, kept or shown.
"""

import json
from collections.abc import Sequence
from hashlib import sha256
from importlib.metadata import version

from steer_tools import __version__
from steer_tools.core.vectors import Certificate, ProvedControls, ProvedTexts
from steer_tools.engines.base import Engine
from steer_tools.errors import PromptError
from steer_tools.evaluation.behaviors.behavior import Behavior
from steer_tools.evaluation.behaviors.behavior_json import behavior_document
from steer_tools.experiments.experiment import Experiment
from steer_tools.experiments.text_judgement import TextJudgement
from steer_tools.prompts import Prompt

# What of a behaviour's document the model sees; its name, its words and who wrote it change no text.
_SEEN = ("pairs", "items", "choices", "questions", "instruction")


def certificate_of(engine: Engine, experiment: Experiment, dataset: str) -> Certificate:
    """Return what an experiment proved, unsealed; `dataset` names its behaviour, or the file that it is in."""
    evaluation_set, options, detector = experiment.evaluation_set, experiment.options, experiment.detector
    return Certificate(
        verdict=experiment.ruling.verdict,
        direction=options.direction,
        dataset=dataset,
        data=data_digest(evaluation_set.behavior),
        asked=asked_digest(engine, evaluation_set.prompts),
        seed=options.seed,
        text_tokens=evaluation_set.text_tokens,
        controls=options.controls,
        d_prime=None if detector is None else detector.d_prime,
        texts=None if experiment.texts is None else proved_texts(experiment.texts),
        without_texts=experiment.ruling.reasons[0] if experiment.texts is None else None,
        versions=versions(),
        device=device_of(engine),
    )


def proved_texts(texts: TextJudgement) -> ProvedTexts:
    """Return what a judgement of texts found, as a certificate holds it."""
    checked, controls = texts.steered.checked, texts.controls
    return ProvedTexts(
        digest=_digest([texts.unsteered.texts, texts.steered.texts, texts.opposite.texts]),
        prompts=len(texts.prompts),
        effect=texts.effect,
        interval=None if texts.interval is None else (texts.interval.low, texts.interval.high),
        own_effect=texts.own_effect,
        controls=None
        if controls is None
        else ProvedControls(
            count=len(controls.kinds), reached=controls.reached(texts.effect), largest=float(controls.sizes.max())
        ),
        whole=float(checked.is_whole.mean()),
        variety=checked.variety,
        relevance=checked.relevance,
        failures=texts.failures,
    )


def data_digest(behavior: Behavior) -> str:
    """Return the SHA-256 of all of a behaviour that a model sees."""
    document = behavior_document(behavior)
    return _digest({part: document[part] for part in _SEEN if part in document})


def asked_digest(engine: Engine, prompts: Sequence[Prompt]) -> str:
    """Return the SHA-256 of prompts as the model is asked them, by its tokenizer and chat template."""
    tokens: list[list[int] | None] = []
    for prompt in prompts:
        try:
            tokens.append(list(engine.tokenize(prompt).tokens))
        except PromptError:
            tokens.append(None)
    return _digest(tokens)


def versions() -> dict[str, str]:
    """Return the versions of what computes."""
    return {"steer-tools": __version__, **{package: version(package) for package in ("torch", "transformers")}}


def device_of(engine: Engine) -> str:
    """Return what computes, in which dtype."""
    return f"{engine.info.device}, {engine.info.dtype}"


def _digest(content: object) -> str:
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
