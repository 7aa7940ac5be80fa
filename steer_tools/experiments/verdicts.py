"""What a cell does, what controls do in its place, and what it breaks → a verdict with its reasons.

It must not know models.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from steer_tools.evaluation.damage import Budget, Damage
from steer_tools.evaluation.metrics import empirical_p
from steer_tools.experiments.judgement import Judgement
from steer_tools.experiments.null_distribution import NullDistribution

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
    # The first that holds decides, for the reason of its number.
    rulings: tuple[tuple[bool, Verdict, int], ...] = (
        (is_opposite, "weak", 0),
        (not is_clear, "indistinguishable from random", 0),
        (not (was_within and damage.is_within(budget.relaxed())), "breaks the model", 3),
        (empirical_p(effect, null.means) > _LARGEST_P, "indistinguishable from random", 1),
        (reached > 0, "weak", 1),
        (judgement.anti_steerable > _MOST_ANTI_STEERABLE, "weak", 2),
        (True, "works", 0),
    )
    _, verdict, deciding = next(ruling for ruling in rulings if ruling[0])
    return Ruling(verdict, (reasons.pop(deciding), *reasons))


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
