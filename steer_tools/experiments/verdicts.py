"""What a cell's texts and log-odds show, what controls do in its place → a verdict with its reasons.

It must not know models.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from steer_tools.core.vectors import Verdict
from steer_tools.evaluation.capability import Capability
from steer_tools.evaluation.metrics import empirical_p
from steer_tools.evaluation.text_guards import LEAST_RELEVANCE, LEAST_VARIETY, LEAST_WHOLE
from steer_tools.experiments.judgement import Judgement
from steer_tools.experiments.list_contrast import ContrastTest
from steer_tools.experiments.null_distribution import NullDistribution
from steer_tools.experiments.text_choice import SIGNS, Direction
from steer_tools.experiments.text_judgement import SLACK, TextJudgement

# Half of what lies between a vector's texts and its opposite's, on a scale of 2 between the classes; and that share of
# it which the texts that are wanted have alone, since the other half may be all that differs.
LEAST_EFFECT, LEAST_OWN_SHARE = 0.25, 0.4
# An effect that so large a share of controls reach is none.
LARGEST_P = 0.05


@dataclass(frozen=True)
class Evidence:
    """What a verdict rests on.

    Attributes:
        without_texts: Why no texts are measured; None where they are.
        does_enough: Whether some cell passed whose texts show more of what is wanted, on the prompts that chose.
        breaks: Whether the texts of every cell that was tried are broken.
        null: What control directions do to log-odds; None where these do not decide.
        others: Mean change of the log-odds of other behaviours, in nats.
    """

    direction: Direction
    texts: TextJudgement | None
    without_texts: str | None
    does_enough: bool
    breaks: bool
    log_odds: Judgement
    null: NullDistribution | None
    contrast: ContrastTest | None
    others: Mapping[str, float]
    capability: Capability | None = None


@dataclass(frozen=True)
class Ruling:
    """The verdict with its reasons, the deciding one first."""

    verdict: Verdict
    reasons: tuple[str, ...]


def may_work(texts: TextJudgement) -> bool:
    """Whether texts alone say so: an effect that is clear of 0 and large enough, at the strength that is wanted."""
    return (
        not texts.failures
        and texts.interval is not None
        and texts.interval.low > 0
        and texts.effect >= LEAST_EFFECT
        and acts_alone(texts)
    )


def acts_alone(texts: TextJudgement) -> bool:
    """Whether the texts that are wanted differ from the unsteered ones, and not their opposites alone."""
    own = texts.own_interval
    return own is not None and own.low > 0 and texts.own_effect >= LEAST_OWN_SHARE * texts.effect


def works(texts: TextJudgement) -> bool:
    """Whether no control has the effect either."""
    return may_work(texts) and texts.controls is not None and not texts.controls.reached(texts.effect)


def may_rank(direction: Direction, log_odds: Judgement) -> bool:
    """Whether the log-odds of given completions move as is wanted."""
    sign, interval = SIGNS[direction], log_odds.interval
    return interval is not None and min(sign * interval.low, sign * interval.high) > 0


def ranks(evidence: Evidence) -> bool:
    """Whether they do, and more than under controls."""
    sign, null = SIGNS[evidence.direction], evidence.null
    if null is None or not may_rank(evidence.direction, evidence.log_odds):
        return False
    return empirical_p(sign * evidence.log_odds.effect, sign * null.means) <= LARGEST_P


def rule(evidence: Evidence) -> Ruling:
    """Rule on a cell by prompts that did not choose it."""
    texts, reasons = evidence.texts, _Reasons(evidence)
    if texts is None:
        told = (str(evidence.without_texts), *reasons.contrast, *reasons.log_odds, *reasons.others)
        return Ruling("cannot tell", told)
    if works(texts):
        told = (*reasons.effect, *reasons.controls, *reasons.others, *reasons.guards, *reasons.log_odds)
        return Ruling("works", (*told, *reasons.contrast))
    if texts.failures or (evidence.breaks and not evidence.does_enough):
        return Ruling("breaks the model", (*reasons.guards, *reasons.effect, *reasons.log_odds, *reasons.contrast))
    deciding = reasons.controls if may_work(texts) else reasons.effect
    others = reasons.effect if may_work(texts) else reasons.controls
    told = (*deciding, *others, *reasons.log_odds, *reasons.others, *reasons.guards, *reasons.contrast)
    if ranks(evidence) and not may_work(texts):
        return Ruling("ranks, does not write", told)
    is_open = texts.interval is None or (texts.interval.low <= 0 and texts.interval.high >= LEAST_EFFECT)
    return Ruling("cannot tell" if is_open else "indistinguishable from random", told)


@dataclass(frozen=True)
class _Reasons:
    """Sentences, each kind of them none or more."""

    evidence: Evidence

    @property
    def effect(self) -> list[str]:
        texts = self.evidence.texts
        if texts is None:
            return []
        interval = texts.interval
        bounds = (
            f", 95 % interval {interval.low:+.2f} to {interval.high:+.2f}" if interval else ", too few for an interval"
        )
        told = (
            f"Texts to {len(texts.prompts)} prompts that did not choose show {texts.direction} of it by "
            f"{texts.effect:+.2f}{bounds} (half of what lies between the vector's texts and its opposite's; the "
            "behaviour's own answers are at +1 "
            f"and −1). Beside the unsteered ones they show {texts.own_effect:+.2f}."
        )
        if texts.effect < LEAST_EFFECT:
            told += f" At least {LEAST_EFFECT:g} counts."
        elif interval is None or interval.low <= 0:
            told += " That is not clear of 0: give more questions."
        elif not acts_alone(texts):
            told += " It is mainly the opposite that acts."
        return [told]

    @property
    def controls(self) -> list[str]:
        texts = self.evidence.texts
        if texts is None or texts.controls is None:
            return []
        controls, reached = texts.controls, texts.controls.reached(texts.effect)
        count = len(controls.kinds)
        ended = f" ({controls.wanted} were to be written)" if count < controls.wanted else ""
        return [
            f"{reached or 'None'} of {count} control directions of the same norm{ended} reach{'es' * (reached == 1)} "
            f"it, of either sign; the largest has {controls.sizes.max():.2f}."
        ]

    @property
    def guards(self) -> list[str]:
        texts = self.evidence.texts
        if texts is None:
            return []
        checked = texts.steered.checked
        parts = [f"{checked.is_whole.mean():.0%} of the texts are whole (at least {SLACK * LEAST_WHOLE:.0%})"]
        if checked.variety is not None:
            limit = f"at least {SLACK * LEAST_VARIETY:.2f}"
            parts.append(f"their variety is {checked.variety:.2f} of the unsteered ones' ({limit})")
        if checked.relevance is not None:
            limit = f"at least {SLACK * LEAST_RELEVANCE:.2f}"
            parts.append(f"they fit their prompts by {checked.relevance:.2f} of what is usual ({limit})")
        return [f"{'; '.join(parts)}."]

    @property
    def log_odds(self) -> list[str]:
        judgement, null = self.evidence.log_odds, self.evidence.null
        interval = judgement.interval
        bounds = f" ({interval.low:+.2f} to {interval.high:+.2f})" if interval else ""
        told = f"Log-odds of {len(judgement.effects)} given completions move by {judgement.effect:+.2f} nats{bounds}"
        if null is not None:
            sign = SIGNS[self.evidence.direction]
            reached = int((sign * null.means >= sign * judgement.effect).sum())
            told += f"; {reached or 'none'} of {len(null.means)} control directions do as much"
        return [f"{told}."]

    @property
    def others(self) -> list[str]:
        effect, able = abs(self.evidence.log_odds.effect), self.evidence.capability
        lost = [f"{able.in_words()}."] if able is not None and able.is_lost else []
        further = sorted(
            (name for name, shift in self.evidence.others.items() if abs(shift) >= effect),
            key=lambda name: -abs(self.evidence.others[name]),
        )
        if not further:
            return lost
        named = ", ".join(f"{name} ({self.evidence.others[name]:+.2f})" for name in further[:4])
        return [*lost, f"Not specific: the log-odds of other behaviours move as far: {named}."]

    @property
    def contrast(self) -> list[str]:
        return [] if self.evidence.contrast is None else [self.evidence.contrast.in_words()]
