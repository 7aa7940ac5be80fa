"""A frozen cell and items that did not choose it → what it does to them, with all it is compared with; a verdict.

Among that are directions that know nothing of the labels, at its place and norm: one random direction is no null
distribution. It must not know how the cell was chosen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, cast

import numpy as np
from torch import Tensor

from steer_tools.core.interventions import Add
from steer_tools.core.plan import Placement, Plan
from steer_tools.directions.methods import method_named
from steer_tools.directions.statistics import Examples
from steer_tools.engines.base import Engine
from steer_tools.errors import PromptError
from steer_tools.evaluation.behaviors.behavior import Item, asked
from steer_tools.evaluation.damage import Budget, Damage
from steer_tools.evaluation.intervals import Floats, Interval, cluster_interval
from steer_tools.evaluation.metrics import anti_steerable_share, empirical_p, slopes
from steer_tools.evaluation.questions import Question, control_questions, propensities, questions
from steer_tools.prompts import Prompt
from steer_tools.session.placement import Placed

# Of fewer groups no interval keeps its promise.
_FEWEST_GROUPS = 5


@dataclass(frozen=True)
class Dose:
    """The effect of one strength on the judging items: mean in nats, with its 95 % interval over groups."""

    strength: float
    effect: float
    interval: Interval | None


@dataclass(frozen=True)
class Judgement:
    """What a cell does to items that did not choose it; all effects are changes of log-odds, in nats.

    Attributes:
        asked: The items as the model was asked them.
        unsteered: (items,) their log-odds without steering.
        effects: (items,) change of each.
        interval: 95 % interval of the mean effect, over groups; None with fewer than five groups.
        doses: Strengths of both signs at the layer, from the lowest to the highest, 0 among them.
        slopes: (items,) steerability: change of log-odds for a strength of 1, over the doses up to the cell's strength.
            Beyond it texts may break, and log-odds go anywhere.
        prompting: Mean effect of a prompt that simply asks for the behaviour; None where nobody wrote one.
        unrelated: Mean absolute shift of log-odds between completions that show the behaviour alike.
        choices: Mean effect on two-choice questions of the behaviour; None without such.
    """

    asked: tuple[Question, ...]
    unsteered: Floats
    effects: Floats
    interval: Interval | None
    doses: tuple[Dose, ...]
    slopes: Floats
    prompting: float | None
    unrelated: float
    choices: float | None

    @property
    def effect(self) -> float:
        """The mean effect."""
        return float(self.effects.mean())

    @property
    def anti_steerable(self) -> float:
        """The share of items that move the wrong way as the strength grows."""
        return anti_steerable_share(self.slopes) or 0.0

    @property
    def moved_wrong_way(self) -> float:
        """The share of items whose effect at this strength is below 0."""
        return float((self.effects < 0).mean())


def judge(
    engine: Engine,
    placed: Placed,
    strength: float,
    strengths: Sequence[float],
    items: Sequence[Item],
    *,
    per_token: bool = False,
    instruction: str | None = None,
    choices: Sequence[Item] = (),
) -> Judgement:
    """Measure `strength`, and beside it all `strengths` with both signs, on `items`."""
    posed = questions(engine, items, per_token=per_token)
    groups = [question.group for question in posed]
    tried = sorted({0.0, strength, *strengths, *(-s for s in strengths)})
    plans: list[Plan] = [placed.plan(s) if s else () for s in tried]
    measured = propensities(engine, posed, plans)
    unsteered = measured[tried.index(0.0)]
    effects = dict(zip(tried, measured - unsteered, strict=True))
    gentle = [index for index, s in enumerate(tried) if abs(s) <= abs(strength)]
    pair: list[Plan] = [(), placed.plan(strength)]
    return Judgement(
        asked=posed,
        unsteered=unsteered,
        effects=effects[strength],
        interval=_interval(effects[strength], groups),
        doses=tuple(Dose(s, float(own.mean()), _interval(own, groups)) for s, own in effects.items()),
        slopes=slopes(measured[gentle], [tried[index] for index in gentle]),
        prompting=None if instruction is None else _prompting(engine, items, posed, instruction, unsteered),
        unrelated=float(np.abs(_shift(engine, control_questions(posed), pair)).mean()),
        choices=float(_shift(engine, questions(engine, choices, per_token=per_token), pair).mean())
        if choices
        else None,
    )


def shifts_of_others(
    engine: Engine, plan: Plan, others: Mapping[str, Sequence[Item]], *, per_token: bool = False
) -> dict[str, float]:
    """Return the mean change of the log-odds of other behaviours, in nats."""
    posed = {name: questions(engine, items, per_token=per_token) for name, items in others.items()}
    every = [question for own in posed.values() for question in own]
    if not every:
        return {}
    shifts = iter(_shift(engine, every, [(), plan]).tolist())
    return {name: float(np.mean([next(shifts) for _ in own])) for name, own in posed.items()}


def _interval(values: Floats, groups: Sequence[str]) -> Interval | None:
    return cluster_interval(values, groups) if len(set(groups)) >= _FEWEST_GROUPS else None


def _shift(engine: Engine, posed: Sequence[Question], pair: Sequence[Plan]) -> Floats:
    """Return (questions,) how much the second plan's log-odds are above the first's."""
    first, second = propensities(engine, posed, pair)
    return second - first


def _prompting(
    engine: Engine, items: Sequence[Item], posed: Sequence[Question], instruction: str, unsteered: Floats
) -> float | None:
    is_chat = engine.info.has_chat_template
    told = [i for i, item in enumerate(items) if item.prompt is not None]
    if not told:
        return None

    def instructed(*, by_system: bool) -> list[Question]:
        prompts = [asked(cast(Prompt, items[i].prompt), instruction, is_chat, by_system=by_system) for i in told]
        return [replace(posed[i], prompt=prompt) for i, prompt in zip(told, prompts, strict=True)]

    told_questions = instructed(by_system=True)
    try:
        engine.tokenize(told_questions[0].prompt)
    except PromptError:
        told_questions = instructed(by_system=False)  # Some templates refuse messages of the system.
    return float((propensities(engine, told_questions, [()])[0] - unsteered[told]).mean())


KINDS = ("random", "random_covariance", "balanced_shuffle")
CONTROLS = 99
# Eight pairs can be halved in 35 ways.
_FEWEST_EXAMPLES = 8


@dataclass(frozen=True)
class NullDistribution:
    """The effects of control directions: `effects` is (controls, items), `kinds` says how each was drawn."""

    effects: Floats
    kinds: tuple[str, ...]

    @property
    def means(self) -> Floats:
        """(controls,) the mean effect of each."""
        return self.effects.mean(axis=1)

    @property
    def moved_wrong_way(self) -> float:
        """The share of all items of all controls whose effect is below 0."""
        return float((self.effects < 0).mean())


def control_directions(examples: Examples, count: int, seed: int) -> list[tuple[str, Tensor]]:
    """Return (kind, direction (width,)) of each control, of any length; the kinds take turns.

    Kinds that draw from the examples are left out where there are too few for different ones.
    """
    kinds = KINDS if min(examples.counts) >= _FEWEST_EXAMPLES else KINDS[:1]
    return [
        (kind, method_named(kind, {"seed": seed * count + index}).raw(examples))
        for index in range(count)
        for kind in [kinds[index % len(kinds)]]
    ]


def control_plans(placement: Placement, directions: Sequence[Tensor]) -> list[Plan]:
    """Return the placement with each direction in place of its own, at the same norm, strength and positions."""
    assert isinstance(placement.intervention, Add)
    norm = placement.intervention.direction.norm()
    return [
        (replace(placement, intervention=Add((direction * (norm / direction.norm())).float())),)
        for direction in directions
    ]


def measure_null_distribution(
    engine: Engine, placement: Placement, examples: Examples, asked: Sequence[Question], count: int, seed: int
) -> NullDistribution:
    """Measure `count` controls at the place and norm of `placement`."""
    drawn = control_directions(examples, count, seed)
    plans = control_plans(placement, [direction for _, direction in drawn])
    unsteered, *steered = propensities(engine, asked, [(), *plans])
    return NullDistribution(np.stack(steered) - unsteered, tuple(kind for kind, _ in drawn))


Verdict: TypeAlias = Literal["works", "weak", "indistinguishable from random", "breaks the model"]

# An effect that so large a share of controls reach is none.
_LARGEST_P = 0.05
# Above this share of items that move the wrong way a vector is weak, whatever its mean does.
_MOST_ANTI_STEERABLE = 1 / 3


@dataclass(frozen=True)
class Ruling:
    """The verdict with its reasons, the deciding one first."""

    verdict: Verdict
    reasons: tuple[str, ...]


def rule(judgement: Judgement, null: NullDistribution, damage: Damage, budget: Budget, *, was_within: bool) -> Ruling:
    """Rule on a cell by the judging items.

    `works` needs an interval clear of 0 and an effect above that of every control. `damage` is that of the cell on
    prompts that did not choose it, and may be a little above the budget; `was_within` says whether it was within it on
    those that did.
    """
    effect, interval = judgement.effect, judgement.interval
    reached = int((null.means >= effect).sum())
    is_clear = interval is not None and interval.low > 0
    is_opposite = interval is not None and interval.high < 0
    reasons = [
        f"The mean effect on {len(judgement.effects)} held-out items is {effect:+.2f} nats"
        + (
            f", 95 % interval {interval.low:+.2f} to {interval.high:+.2f}"
            if interval
            else ", from too few groups for an interval"
        )
        + (", clear of 0." if is_clear else f", which is {'the wrong way' if is_opposite else 'not clear of 0'}."),
        f"{reached or 'None'} of {len(null.means)} control directions of the same norm reach it; the "
        f"largest has {null.means.max():+.2f}.",
        f"{judgement.anti_steerable:.0%} of the items move the wrong way as the strength grows up to this one.",
        _damage_in_words(damage, budget),
    ]
    if is_opposite:
        return Ruling("weak", _first(reasons, 0))
    if not is_clear:
        return Ruling("indistinguishable from random", _first(reasons, 0))
    if not (was_within and damage.is_within(budget.relaxed())):
        return Ruling("breaks the model", _first(reasons, 3))
    if empirical_p(effect, null.means) > _LARGEST_P:
        return Ruling("indistinguishable from random", _first(reasons, 1))
    if reached:
        return Ruling("weak", _first(reasons, 1))
    if judgement.anti_steerable > _MOST_ANTI_STEERABLE:
        return Ruling("weak", _first(reasons, 2))
    return Ruling("works", tuple(reasons))


def _first(reasons: Sequence[str], index: int) -> tuple[str, ...]:
    return (reasons[index], *(reason for i, reason in enumerate(reasons) if i != index))


def _damage_in_words(damage: Damage, budget: Budget) -> str:
    spent = (
        f"KL {damage.divergence:.2f} nats a token (at most {budget.divergence:g}), surprisal of texts "
        f"{damage.surprisal:.2f} times the unsteered ones' (at most {budget.surprisal:g}), distinct-2 "
        f"{damage.distinct:.2f} times (at least {budget.distinct:g}), length {damage.length:.2f} times (at least "
        f"{budget.length:g})"
    )
    if damage.is_within(budget):
        where = "within"
    else:
        where = "a little above" if damage.is_within(budget.relaxed()) else "far above"
    return f"Damage on other prompts is {where} the budget: {spent}."
