"""A vector at one strength, items → how evenly it works over prompts, wordings and the chat template.

It must not know how layer and strength were chosen.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle

import numpy as np

from steer_tools.core.plan import Plan
from steer_tools.engines.base import Engine
from steer_tools.evaluation.behaviors.behavior import Item
from steer_tools.evaluation.intervals import Floats, Interval, cluster_interval, cluster_share_interval
from steer_tools.evaluation.metrics import anti_steerable_share, paraphrase_share, robustness, slopes
from steer_tools.evaluation.questions import Question, propensities, questions
from steer_tools.prompts import ChatPrompt, Prompt, TextPrompt
from steer_tools.session.placement import Placed


@dataclass(frozen=True)
class Robustness:
    """How evenly a strength works; effects are changes of log-odds, in nats.

    A positive strength asks for more of the behaviour, a negative one for less.

    Attributes:
        asked: The items as the model was asked them.
        effects: (items,) change of each.
        interval: 95 % interval of the mean, over groups; None with fewer than two groups.
        anti_steerable: Share of items that move against the asked way between the opposite strength and this one.
        anti_steerable_interval: 95 % interval of that share, over groups.
        paraphrase_share: Share of the effects' variance that lies between wordings of one question; None without such.
        without_template: (items,) effects without the chat template; None where the model has none, or an item none.
        score: Share of groups all of whose items, with the template and without, move the asked way by at least a
            quarter of the median effect; 0 where the median is not the asked way.
        sign: That of the strength.
    """

    asked: tuple[Question, ...]
    effects: Floats
    interval: Interval | None
    anti_steerable: float
    anti_steerable_interval: Interval | None
    paraphrase_share: float | None
    without_template: Floats | None
    score: float
    sign: float

    @property
    def failing(self) -> list[int]:
        """The items that do not move the asked way, from the worst on."""
        moved = self.sign * self.effects
        return [int(i) for i in np.argsort(moved, kind="stable") if moved[i] <= 0]


def evaluate(
    engine: Engine, placed: Placed, strength: float, items: Sequence[Item], *, per_token: bool = False
) -> Robustness:
    """Measure `strength` on every item, in its own form and without the chat template."""
    posed = questions(engine, items, per_token=per_token)
    groups = [question.group for question in posed]
    plans: list[Plan] = [placed.plan(-strength), (), placed.plan(strength)]
    measured = propensities(engine, posed, plans)
    effects = measured[2] - measured[1]
    plain = _without_template(items) if engine.info.has_chat_template else None
    without = None
    if plain is not None:
        plain_questions = questions(engine, plain, per_token=per_token, as_chat=False)
        _, unsteered, steered = propensities(engine, plain_questions, plans)
        without = steered - unsteered
    sign = math.copysign(1.0, strength)
    steerability = sign * slopes(measured, [-1.0, 0.0, 1.0])
    variants = sign * np.stack([effects] if without is None else [effects, without])
    return Robustness(
        asked=posed,
        effects=effects,
        interval=cluster_interval(effects, groups),
        anti_steerable=anti_steerable_share(steerability) or 0.0,
        anti_steerable_interval=cluster_share_interval((steerability < 0).tolist(), groups),
        paraphrase_share=paraphrase_share(effects, groups),
        without_template=without,
        score=robustness(variants, groups) or 0.0,
        sign=sign,
    )


def with_prompts(items: Sequence[Item], prompts: Sequence[Prompt]) -> tuple[Item, ...]:
    """Return an item for each prompt, with the items' completions in turn; equal prompts are one group."""
    pairs = zip(cycle(items), prompts, strict=False)
    return tuple(replace(item, prompt=prompt, group=str(prompt)) for item, prompt in pairs)


def _without_template(items: Sequence[Item]) -> list[Item] | None:
    """Return the items with plain texts for prompts; None where one is a longer chat."""
    plain: list[Item] = []
    for item in items:
        match item.prompt:
            case ChatPrompt((("user", text),)):
                plain.append(replace(item, prompt=TextPrompt(text)))
            case None | TextPrompt():
                plain.append(item)
            case _:
                return None
    return plain
