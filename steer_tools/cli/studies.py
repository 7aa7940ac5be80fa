"""A vector and held-out prompts → what it does at each strength, in the measures that the model allows.

On the bundled model every text has an exact score; on others two completions are weighed. It must not print.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import fmean

from steer_tools.bundled_model.language import (
    TRAITS,
    Chat,
    contrast_pairs,
    is_grammatical,
    score,
)
from steer_tools.bundled_model.planted import load_planted_directions
from steer_tools.evaluation.behaviors.behavior import contrast_prompts
from steer_tools.evaluation.behaviors.behavior_loading import load_behavior
from steer_tools.evaluation.questions import propensities, questions
from steer_tools.formats import load_vector
from steer_tools.prompts import PromptLike, plain
from steer_tools.session.placement import PlacementOptions, place, steering
from steer_tools.session.session import current_session
from steer_tools.tools import compare_generations, create_steering_vector
from steer_tools.tools.check_steering import CheckResult
from steer_tools.tools.compare_generations import CompareResult, TextMetrics
from steer_tools.tools.create_steering_vector import CreateResult
from steer_tools.tools.results import ModelStatus

# Enough for the longest answer of the language.
ANSWER_TOKENS = 128
_PAIRS, _ITEMS = 64, 16


@dataclass(frozen=True)
class Dose:
    """One strength, in contrasts: a text and each score for every prompt, and what else was measured."""

    strength: float
    residual_strength: float
    texts: tuple[str, ...]
    scores: Mapping[str, tuple[float, ...]]
    metrics: TextMetrics
    grammatical: float | None = None

    def mean(self, name: str) -> float:
        """Return the mean of a score over the prompts."""
        return fmean(self.scores[name])


@dataclass(frozen=True)
class Study:
    """What a vector does: doses from the lowest strength to the highest, the unsteered one among them."""

    name: str
    created: CreateResult
    prompts: tuple[PromptLike, ...]
    doses: tuple[Dose, ...]
    planted_cosine: float | None = None

    @property
    def baseline(self) -> Dose:
        """The unsteered dose."""
        return next(dose for dose in self.doses if dose.strength == 0)

    @property
    def ends(self) -> tuple[Dose, Dose]:
        """The doses of the lowest and of the highest strength."""
        return self.doses[0], self.doses[-1]

    def other_names(self) -> list[str]:
        """Return the scores that the vector should leave alone."""
        return [name for name in self.baseline.scores if name != self.name]


@dataclass(frozen=True)
class Part:
    """A vector and how much of it is applied, in contrasts."""

    study: Study
    strength: float


@dataclass(frozen=True)
class Combination:
    """Several vectors at once: the unsteered and the steered answers to the same prompts."""

    parts: tuple[Part, ...]
    prompts: tuple[PromptLike, ...]
    baseline: Dose
    steered: Dose


@dataclass(frozen=True)
class Findings:
    """All that a demo found out; `score_label` says what the scores are."""

    model: ModelStatus
    studies: tuple[Study, ...]
    combination: Combination | None
    proof: CheckResult
    score_label: str


def study_trait(trait: str, layer: int, save_path: str, strengths: Sequence[float], prompts: Sequence[Chat]) -> Study:
    """Make the bundled model's vector for a trait and score its answers to `prompts` exactly."""
    pairs = contrast_pairs(trait, _PAIRS)
    created = create_steering_vector(
        [[*prompt, {"role": "assistant", "content": positive}] for prompt, positive, _ in pairs],
        [[*prompt, {"role": "assistant", "content": negative}] for prompt, _, negative in pairs],
        layer,
        save_path,
        method="paired_mean_difference",
        pooling="response",
    )
    path = created["vector_path"]
    asked: list[PromptLike] = [*prompts]
    compared = compare_generations(
        asked, path, strengths=list(strengths), unit="contrast", max_new_tokens=ANSWER_TOKENS
    )
    doses = sorted(_trait_doses(compared, prompts), key=_strength)
    cosine = load_planted_directions().cosine(trait, load_vector(path).directions[layer])
    return Study(trait, created, tuple(prompts), tuple(doses), cosine)


def _trait_doses(compared: CompareResult, prompts: Sequence[Chat]) -> list[Dose]:
    """Score what the bundled model answered to `prompts`."""
    doses: list[Dose] = []
    for strength, residual_strength, texts, metrics in _sides(compared):
        answered = list(zip(prompts, texts, strict=True))
        scored = [score(prompt, text) for prompt, text in answered]
        doses.append(
            Dose(
                strength,
                residual_strength,
                tuple(texts),
                {trait: tuple(one[trait] for one in scored) for trait in TRAITS},
                metrics,
                fmean(is_grammatical(prompt, text) for prompt, text in answered),
            )
        )
    return doses


def study_behavior(name: str, layer: int, save_path: str, strengths: Sequence[float]) -> Study:
    """Make a built-in behaviour's vector on any model and weigh held-out completions."""
    behavior, session = load_behavior(name), current_session()
    contrast = contrast_prompts(behavior.pairs, as_chat=False)
    created = create_steering_vector(
        [plain(prompt) for prompt in contrast.positive],
        [plain(prompt) for prompt in contrast.negative],
        layer,
        save_path,
        method="paired_mean_difference",
    )
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


@contextmanager
def applied(parts: Sequence[Part]) -> Generator[None]:
    """Have several vectors applied within a `with` block."""
    with ExitStack() as stack:
        for part in parts:
            path = part.study.created["vector_path"]
            stack.enter_context(steering(path, strength=part.strength, unit="contrast"))
        yield


def study_together(parts: Sequence[Part], prompts: Sequence[Chat]) -> Combination:
    """Score the bundled model's answers to `prompts` under what is applied."""
    asked: list[PromptLike] = [*prompts]
    baseline, steered = _trait_doses(compare_generations(asked, max_new_tokens=ANSWER_TOKENS), prompts)
    return Combination(tuple(parts), tuple(prompts), baseline, steered)


def _sides(compared: CompareResult) -> list[tuple[float, float, list[str], TextMetrics]]:
    """Return (strength, residual strength, texts, metrics) of the baseline and then of each variant."""
    sides = [(0.0, 0.0, compared["baseline"]["texts"], compared["baseline"]["metrics"])]
    for variant in compared["variants"]:
        strength, residual = variant["strength"], variant["residual_strength"]
        sides.append(
            (strength or 0.0, residual if isinstance(residual, float) else 0.0, variant["texts"], variant["metrics"])
        )
    return sides


def _strength(dose: Dose) -> float:
    return dose.strength
