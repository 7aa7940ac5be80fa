"""Log-odds of given completions, what controls do to them, side effects → blocks of a report."""

import math

import numpy as np

from steer_tools.evaluation.behaviors.behavior import Behavior
from steer_tools.evaluation.damage import Budget
from steer_tools.evaluation.intervals import Interval
from steer_tools.evaluation.metrics import empirical_p
from steer_tools.experiments.experiment import SideEffects
from steer_tools.experiments.judgement import Dose, Judgement
from steer_tools.experiments.null_distribution import NullDistribution
from steer_tools.experiments.sweeps import Sweep
from steer_tools.reports.json_documents import by_kind, wrong_way
from steer_tools.reports.markdown import code, literal, table
from steer_tools.reports.words import CONTROL_KINDS, CONTROLS_EXPLAINED, counted, share, signed, span

NOTHING = "–"
_DOSES = ("strength", "effect (nats)", "95 % interval")


def effect_blocks(swept: Sweep, behavior: Behavior, judgement: Judgement, strength: float) -> list[str]:
    """Say what the chosen cell of a grid does to the judging items at its strength or, where less is wanted, at the
    opposite of it, with the damage of each dose."""
    rows = [(*_dose(dose, strength), _damage(dose, swept)) for dose in judgement.doses if dose.strength]
    doses = table((*_DOSES, "damage"), rows, numbers_from=0)
    return ["## The effect", *_log_odds(judgement, behavior, doses, sign=1 if strength > 0 else -1)]


def log_odds_blocks(judgement: Judgement, behavior: Behavior, strength: float, sign: int) -> list[str]:
    """Say what a cell that texts chose does to given completions; `sign` is −1 where less is wanted."""
    rows = [_dose(dose, strength) for dose in judgement.doses if dose.strength]
    return [
        "## Log-odds beside it",
        "The verdict is on what the model writes. This is how likely it finds completions that are given to it, at "
        "every strength of the chosen layer.",
        *_log_odds(judgement, behavior, table(_DOSES, rows, numbers_from=0), sign),
    ]


def _log_odds(judgement: Judgement, behavior: Behavior, doses: str, sign: int) -> list[str]:
    positive, negative = map(literal, behavior.poles)
    lines = [
        f"- Up to the chosen strength, {share(judgement.anti_steerable)} of the items move the wrong way as the "
        "strength grows (anti-steerable)."
    ]
    if judgement.prompting is not None:
        lines.append(f"- A prompt that simply asks for the behaviour has {signed(judgement.prompting)} nats.")
    lines.append(
        f"- Log-odds between two {positive} completions of other items, which should not move, shift by "
        f"{judgement.unrelated:.2f} nats, up or down, on average; those of the items themselves by "
        f"{float(np.abs(judgement.effects).mean()):.2f}."
    )
    if judgement.choices is not None:
        asked = counted(len(behavior.choices), "question")
        lines.append(f"- On {asked} with the answers (A) and (B) the effect is {signed(judgement.choices)} nats.")
    return [
        f"Each item is a prompt with two completions, one {positive} and one {negative}. The measure is how much "
        f"likelier the model finds the first one: the logarithm of the odds, in nats{_by_token(judgement)}. "
        "Effects are the steered model's log-odds minus the unsteered model's; unsteered they are "
        f"{signed(float(judgement.unsteered.mean()))} on average.",
        f"Mean effect of the chosen cell: **{signed(judgement.effect)} nats**{bounds(judgement.interval)}. "
        f"{share(wrong_way(judgement.effects, sign))} of the items move the wrong way there.",
        doses,
        "\n".join(lines),
    ]


def control_blocks(null: NullDistribution, judgement: Judgement, sign: int) -> list[str]:
    """Say what directions do to log-odds that know nothing of the behaviour; `sign` is −1 where less is wanted."""
    rows = [
        (
            CONTROL_KINDS.get(kind, literal(kind)),
            CONTROLS_EXPLAINED.get(kind, NOTHING),
            str(len(means)),
            signed(float(means.mean())),
            signed(sign * float((sign * means).max())),
        )
        for kind, means in by_kind(null.means, null.kinds).items()
    ]
    means, effect = sign * null.means, sign * judgement.effect
    reached = int((means >= effect).sum())
    return [
        "## Against control directions, by log-odds",
        f"{counted(len(null.kinds), 'direction')} that know nothing of the behaviour were steered with at the same "
        f"place, norm and strength. {reached or 'None'} of them reach{'es' if reached == 1 else ''} the vector's "
        f"{signed(judgement.effect)} nats (p = {empirical_p(effect, means):.2g}). They move "
        f"{share(wrong_way(null.effects, sign))} of the items the wrong way, the vector "
        f"{share(wrong_way(judgement.effects, sign))}.",
        table(("kind", "drawn as", "count", "mean effect", "largest effect"), rows, numbers_from=2),
    ]


def side_effect_blocks(found: SideEffects, effect: float, budget: Budget | None) -> list[str]:
    """Say what else the chosen cell does; its `effect` is in nats, and a cell that texts chose has no budget."""
    damage, limit = found.damage, None if budget is None else budget.relaxed()
    rows = [
        ("drift of predictions on neutral prompts (KL divergence, nats a token)", f"{damage.divergence:.2f}"),
        ("surprise of the unsteered model at the texts (mean −log p)", f"{damage.surprisal:.2f} times"),
        ("the same as perplexity", f"{damage.perplexity:.2f} times"),
        ("variety of word pairs (distinct-2)", f"{damage.distinct:.2f} times"),
        ("length of the texts", f"{damage.length:.2f} times"),
    ]
    told = "On prompts that did not choose the cell; all but the first beside the unsteered texts."
    columns = ("", "steered")
    if limit is not None:
        allowed = (
            f"at most {limit.divergence:.2f}",
            f"at most {limit.surprisal:.2f}",
            NOTHING,
            f"at least {limit.distinct:.2f}",
            f"at least {limit.length:.2f}",
        )
        rows = [(*row, own) for row, own in zip(rows, allowed, strict=True)]
        columns = (*columns, "allowed")
        told += (
            " Here half as much damage again as the budget is allowed, for what was chosen within it may lie a little "
            "above it elsewhere."
        )
    blocks = ["## Side effects", told, table(columns, rows)]
    if found.text_scores:
        scores = [(code(name), *map(_score, pair)) for name, pair in found.text_scores.items()]
        is_exact = "exact" in found.text_scores
        remark = " `exact` is the true score, from -1 to 1, of the model's own language." if is_exact else ""
        blocks += [f"Mean scores of those texts.{remark}", table(("score", "unsteered", "steered"), scores)]
    if found.capability is not None:
        blocks.append(f"{found.capability.in_words()}.")
    if found.others:
        ordered = sorted(found.others.items(), key=lambda own: -abs(own[1]))
        further = [code(name) for name, value in ordered if abs(value) >= abs(effect)]
        remark = f" As far as the behaviour itself, or further, move: {', '.join(further)}." if further else ""
        blocks += [
            f"Log-odds of other behaviours, each on a few items; the behaviour's own move by {signed(effect)} nats."
            f"{remark}",
            table(("behaviour", "shift (nats)"), [(code(name), signed(value)) for name, value in ordered]),
        ]
    return blocks


def bounds(interval: Interval | None) -> str:
    """Return an interval behind a mean, in words."""
    few = " (too few groups for an interval)"
    return few if interval is None else f", 95 % interval {spanned(interval)} over groups"


def spanned(interval: Interval | None) -> str:
    """Return an interval for a cell of a table."""
    return NOTHING if interval is None or not all(map(math.isfinite, interval)) else span(interval)


def _dose(dose: Dose, chosen: float) -> tuple[str, ...]:
    mark = " (chosen)" if dose.strength == chosen else ""
    return f"{dose.strength:+g}{mark}", signed(dose.effect), spanned(dose.interval)


def _damage(dose: Dose, swept: Sweep) -> str:
    place, budget = (swept.cell.layer, dose.strength), swept.grid.budget
    alike = [own.damage for own in swept.grid.cells if (own.layer, own.strength) == place]
    return next(("within budget" if own.is_within(budget) else "**above budget**" for own in alike), "not measured")


def _score(value: float | None) -> str:
    return NOTHING if value is None else signed(value)


def _by_token(judgement: Judgement) -> str:
    per_token = judgement.asked[0].per_token
    return ", each completion's log-probability divided by its number of tokens" if per_token else ""
