"""The effect on judging items, the controls, the side effects, the texts → blocks of a report."""

import math

import numpy as np

from steer_tools.evaluation.damage import Budget
from steer_tools.evaluation.intervals import Interval
from steer_tools.evaluation.metrics import empirical_p
from steer_tools.experiments.evaluation_set import EvaluationSet
from steer_tools.experiments.experiment import Example, Experiment, SideEffects
from steer_tools.experiments.judgement import Dose, Judgement
from steer_tools.experiments.null_distribution import NullDistribution
from steer_tools.experiments.sweeps import Sweep
from steer_tools.reports.json_documents import means_by_kind
from steer_tools.reports.markdown import code, literal, question_text, table
from steer_tools.reports.words import CONTROL_KINDS, CONTROLS_EXPLAINED, counted, share, signed, span

_NOTHING = "–"


def effect_blocks(swept: Sweep, evaluation_set: EvaluationSet) -> list[str]:
    """Say what the chosen cell does to the judging items."""
    judgement = swept.judgement
    positive, negative = map(literal, evaluation_set.behavior.poles)
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
        asked = counted(len(evaluation_set.behavior.choices), "question")
        lines.append(f"- On {asked} with the answers (A) and (B) the effect is {signed(judgement.choices)} nats.")
    return [
        "## The effect",
        f"Each item is a prompt with two completions, one {positive} and one {negative}. The measure is how much "
        f"likelier the model finds the first one: the logarithm of the odds, in nats{_by_token(judgement)}. "
        "Effects are the steered model's log-odds minus the unsteered model's; unsteered they are "
        f"{signed(float(judgement.unsteered.mean()))} on average.",
        f"Mean effect of the chosen cell: **{signed(judgement.effect)} nats**{_bounds(judgement.interval)}. "
        f"{share(judgement.moved_wrong_way)} of the items move the wrong way there.",
        table(
            ("strength", "effect (nats)", "95 % interval", "damage"),
            [_dose(dose, swept) for dose in judgement.doses if dose.strength],
            numbers_from=0,
        ),
        "\n".join(lines),
    ]


def control_blocks(null: NullDistribution, judgement: Judgement) -> list[str]:
    """Say what directions do that know nothing of the behaviour."""
    rows = [
        (
            CONTROL_KINDS.get(kind, literal(kind)),
            CONTROLS_EXPLAINED.get(kind, _NOTHING),
            str(len(means)),
            signed(float(means.mean())),
            signed(float(means.max())),
        )
        for kind, means in means_by_kind(null).items()
    ]
    reached = int((null.means >= judgement.effect).sum())
    return [
        "## Against control directions",
        f"{counted(len(null.kinds), 'direction')} that know nothing of the behaviour were steered with at the same "
        f"place, norm and strength. {reached or 'None'} of them reach{'es' if reached == 1 else ''} the vector's "
        f"{signed(judgement.effect)} nats (p = {empirical_p(judgement.effect, null.means):.2g}). They move "
        f"{share(null.moved_wrong_way)} of the items the wrong way, the vector "
        f"{share(judgement.moved_wrong_way)}.",
        table(("kind", "drawn as", "count", "mean effect", "largest effect"), rows, numbers_from=2),
    ]


def side_effect_blocks(found: SideEffects, effect: float, budget: Budget) -> list[str]:
    """Say what else the chosen cell does."""
    damage, limit = found.damage, budget.relaxed()
    rows = [
        (
            "drift of predictions on neutral prompts (KL divergence, nats a token)",
            f"{damage.divergence:.2f}",
            f"at most {limit.divergence:.2f}",
        ),
        (
            "surprise of the unsteered model at the texts (mean −log p)",
            f"{damage.surprisal:.2f} times",
            f"at most {limit.surprisal:.2f}",
        ),
        ("the same as perplexity", f"{damage.perplexity:.2f} times", _NOTHING),
        ("variety of word pairs (distinct-2)", f"{damage.distinct:.2f} times", f"at least {limit.distinct:.2f}"),
        ("length of the texts", f"{damage.length:.2f} times", f"at least {limit.length:.2f}"),
    ]
    blocks = [
        "## Side effects",
        "On prompts that did not choose the cell; all but the first beside the unsteered texts. Here half as much "
        "damage again as the budget is allowed, for what was chosen within it may lie a little above it "
        "elsewhere:",
        table(("", "steered", "allowed"), rows),
    ]
    if found.text_scores:
        scores = [(code(name), *map(_score, pair)) for name, pair in found.text_scores.items()]
        remark = " `exact` is the true score, from -1 to 1, of the model's own language." if found.exact else ""
        blocks += [f"Mean scores of those texts.{remark}", table(("score", "unsteered", "steered"), scores)]
    if found.others:
        ordered = sorted(found.others.items(), key=lambda own: -abs(own[1]))
        further = [code(name) for name, value in ordered if abs(value) >= abs(effect)]
        remark = f" As far as the behaviour itself, or further, move: {', '.join(further)}." if further else ""
        blocks += [
            f"Other behaviours, by the same measure, each on a few items.{remark}",
            table(("behaviour", "shift (nats)"), [(code(name), signed(value)) for name, value in ordered]),
        ]
    return blocks


def example_blocks(experiment: Experiment) -> list[str]:
    """Show the texts at both ends."""
    blocks = ["## Texts", "What the model writes to judging items with the likeliest token at each step (greedy)."]
    for title, examples in (("moved most", experiment.best), ("moved least, or the wrong way", experiment.worst)):
        if examples:
            blocks += [f"### The {len(examples)} that were {title}", "\n".join(map(_example, examples))]
    return blocks


def _dose(dose: Dose, swept: Sweep) -> tuple[str, ...]:
    cell, budget = swept.cell, swept.grid.budget
    mark = " (chosen)" if dose.strength == cell.strength else ""
    alike = [own for own in swept.grid.cells if (own.layer, own.strength) == (cell.layer, dose.strength)]
    damage = ["within budget" if own.damage.is_within(budget) else "**above budget**" for own in alike]
    return f"{dose.strength:+g}{mark}", signed(dose.effect), _span(dose.interval), *(damage or ["not measured"])


def _example(example: Example) -> str:
    question = example.question
    prompt = question_text(question.prompt)
    return (
        f"- **{signed(example.effect)} nats** {literal(prompt) if prompt.strip() else '*(no prompt)*'}\n"
        f"  - measured: {literal(question.positive, 160)} *rather than* {literal(question.negative, 160)}\n"
        f"  - unsteered: {literal(example.unsteered)}\n"
        f"  - steered: {literal(example.steered)}"
    )


def _score(value: float | None) -> str:
    return _NOTHING if value is None else signed(value)


def _by_token(judgement: Judgement) -> str:
    per_token = judgement.asked[0].per_token
    return ", each completion's log-probability divided by its number of tokens" if per_token else ""


def _bounds(interval: Interval | None) -> str:
    few = " (too few groups for an interval)"
    return few if interval is None else f", 95 % interval {_span(interval)} over groups"


def _span(interval: Interval | None) -> str:
    return _NOTHING if interval is None or not all(map(math.isfinite, interval)) else span(interval)
