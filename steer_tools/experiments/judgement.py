"""A frozen cell and items that did not choose it → what it does to them. It must not know how the cell was chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from steer_tools.core.plan import Plan
from steer_tools.engines.base import Engine
from steer_tools.evaluation.behaviors.behavior import Item
from steer_tools.evaluation.intervals import Floats, Interval, cluster_interval
from steer_tools.evaluation.metrics import anti_steerable_share, slopes
from steer_tools.evaluation.questions import Question, control_questions, instructed, propensities, questions
from steer_tools.experiments.evaluation_set import EvaluationSet
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
    evaluation_set: EvaluationSet,
    *,
    per_token: bool = False,
) -> Judgement:
    """Measure `strength`, and beside it all `strengths` with both signs, on the judging items."""
    items, behavior = evaluation_set.splits.judging, evaluation_set.behavior
    posed, choices = (questions(engine, own, per_token=per_token) for own in (items, behavior.choices))
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
        interval=interval_over(effects[strength], groups),
        doses=tuple(Dose(s, float(own.mean()), interval_over(own, groups)) for s, own in effects.items()),
        slopes=slopes(measured[gentle], [tried[index] for index in gentle]),
        prompting=_prompting(engine, items, posed, behavior.instruction, unsteered),
        unrelated=float(np.abs(_shift(engine, control_questions(posed), pair)).mean()),
        choices=float(_shift(engine, choices, pair).mean()) if choices else None,
    )


def interval_over(values: Floats, groups: Sequence[str]) -> Interval | None:
    """Return the 95 % interval of a mean, over groups; None of too few."""
    return cluster_interval(values, groups) if len(set(groups)) >= _FEWEST_GROUPS else None


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


def _shift(engine: Engine, posed: Sequence[Question], pair: Sequence[Plan]) -> Floats:
    """Return (questions,) how much the second plan's log-odds are above the first's."""
    first, second = propensities(engine, posed, pair)
    return second - first


def _prompting(
    engine: Engine, items: Sequence[Item], posed: Sequence[Question], instruction: str | None, unsteered: Floats
) -> float | None:
    told = [i for i, item in enumerate(items) if item.prompt is not None]
    prompts = instructed(engine, [posed[i].prompt for i in told], instruction)
    if not prompts:
        return None
    asking = [replace(posed[i], prompt=prompt) for i, prompt in zip(told, prompts, strict=True)]
    return float((propensities(engine, asking, [()])[0] - unsteered[told]).mean())
