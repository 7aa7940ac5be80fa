"""A chosen cell and prompts that did not choose it → what its texts show, and what those of control directions do.

It must not know how the cell was chosen, or what verdict follows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from steer_tools.core.plan import Plan
from steer_tools.evaluation.intervals import Floats, Interval
from steer_tools.evaluation.metrics import empirical_p
from steer_tools.evaluation.text_guards import two_signed_effects
from steer_tools.experiments.judgement import interval_over
from steer_tools.experiments.null_distribution import control_plans
from steer_tools.experiments.text_choice import SIGNS, Direction
from steer_tools.experiments.text_meter import TextMeter, Written
from steer_tools.progress import Work
from steer_tools.prompts import Prompt
from steer_tools.session.placement import Placed

# What was chosen at the limits of the guards may lie a little beyond them on other prompts.
SLACK = 0.85
# Directions whose texts are written together. One that is so many standard errors below the effect after half of the
# prompts is not written to the others.
_AT_A_TIME, _HOPELESS = 7, 3.0
_CONTROLS = "writing under control directions"


@dataclass(frozen=True, eq=False)
class TextControls:
    """What directions do that know nothing of the behaviour.

    Attributes:
        effects: (controls, prompts) half of what the texts of each are above those of its opposite; NaN where none were
            written, since half of the prompts had shown that it is far below.
        kinds: How each was drawn.
        wanted: How many were to be written; fewer were, where one that reaches the effect ended it.
    """

    effects: Floats
    kinds: tuple[str, ...]
    wanted: int

    @property
    def sizes(self) -> Floats:
        """(controls,) the mean effect of each, without its sign, which is one of chance."""
        return np.abs(np.nanmean(self.effects, axis=1))

    def reached(self, effect: float) -> int:
        """Return how many of them are as large as `effect`."""
        return int((self.sizes >= effect).sum())

    def p(self, effect: float) -> float:
        """Return the probability that a direction by chance has the effect, of either sign."""
        return empirical_p(effect, self.sizes)


@dataclass(frozen=True, eq=False)
class TextJudgement:
    """What a cell's texts show on prompts that did not choose it.

    Attributes:
        prompts: One a text.
        direction: What was wanted; all effects are positive where it is so.
        unsteered: What was written without steering.
        steered: At the cell.
        opposite: At the same strength of the other sign.
        effects: (prompts,) half of what the steered texts show more than the opposite ones.
        interval: 95 % interval of their mean; None of too few prompts.
        own_interval: 95 % interval of the mean effect of the steered texts beside the unsteered ones.
        prompting: Mean effect of a prompt that simply asks for more of the behaviour; None where nobody wrote one.
        controls: None where nothing is to be held against them.
    """

    prompts: tuple[Prompt, ...]
    direction: Direction
    unsteered: Written
    steered: Written
    opposite: Written
    effects: Floats
    interval: Interval | None
    own_interval: Interval | None
    prompting: float | None = None
    controls: TextControls | None = None

    @property
    def effect(self) -> float:
        """The mean effect, of both signs."""
        return float(self.effects.mean())

    @property
    def failures(self) -> tuple[str, ...]:
        """Why the steered texts are none to judge by; empty where they are."""
        return self.steered.checked.failures_within(SLACK)

    @property
    def own_effect(self) -> float:
        """The mean effect of the steered texts beside the unsteered ones."""
        return SIGNS[self.direction] * self.steered.effect


def judge_texts(meter: TextMeter, placed: Placed, strength: float, direction: Direction) -> TextJudgement:
    """Write to the meter's prompts at a strength and at the opposite one."""
    steered, opposite = meter.measure([placed.plan(strength), placed.plan(-strength)])
    sign, groups = SIGNS[direction], [str(prompt) for prompt in meter.prompts]
    effects = sign * two_signed_effects(steered.effects, opposite.effects)
    return TextJudgement(
        meter.prompts,
        direction,
        meter.unsteered,
        steered,
        opposite,
        effects,
        interval_over(effects, groups),
        interval_over(sign * steered.effects, groups),
    )


def with_controls(
    judgement: TextJudgement, meter: TextMeter, plan: Plan, drawn: Sequence[tuple[str, Tensor]]
) -> TextJudgement:
    """Write under control directions in place of the one of `plan`, until one has the effect or all are written."""
    work, effects = Work({_CONTROLS: 1.0}), np.empty((0, len(meter.prompts)))
    (placement,) = plan
    plans = control_plans(placement, [direction for _, direction in drawn])
    half = len(meter.prompts) // 2
    for start in range(0, len(plans), _AT_A_TIME):
        some = plans[start : start + _AT_A_TIME]
        ends = [(start + share * len(some)) / len(plans) for share in (0, 0.7, 1)]
        found = np.full((len(some), len(meter.prompts)), np.nan)
        with work.part(_CONTROLS, *ends[:2]):
            found[:, :half] = _both_signs(meter, some, slice(0, half))
        left = np.flatnonzero(_most(found[:, :half]) >= judgement.effect)
        if len(left):
            with work.part(_CONTROLS, *ends[1:]):
                found[left, half:] = _both_signs(meter, [some[i] for i in left], slice(half, None))
        effects = np.concatenate([effects, found])
        controls = TextControls(effects, tuple(kind for kind, _ in drawn[: len(effects)]), len(drawn))
        judgement = replace(judgement, controls=controls)
        if controls.reached(judgement.effect):
            break
    return judgement


def _both_signs(meter: TextMeter, plans: Sequence[Plan], places: slice) -> Floats:
    """Return (plans, prompts) half of what the texts of each are above those of its opposite, to some prompts."""
    opposites = [tuple(own.scaled(-1.0) for own in plan) for plan in plans]
    return two_signed_effects(*np.split(meter.effects([*plans, *opposites], places), 2))


def _most(effects: Floats) -> Floats:
    """Return (controls,) how large, of either sign, the mean over more prompts than these may well be."""
    errors = effects.std(axis=1, ddof=1) / np.sqrt(effects.shape[1])
    return np.abs(effects.mean(axis=1)) + _HOPELESS * errors
