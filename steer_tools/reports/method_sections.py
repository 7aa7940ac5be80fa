"""What was steered, how a cell was chosen, what that does not show, how to use it → blocks of a report."""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from steer_tools.directions.extraction import Extraction
from steer_tools.evaluation.damage import Budget
from steer_tools.experiments.evaluation_set import EvaluationSet
from steer_tools.experiments.experiment import Spot
from steer_tools.experiments.exploration import ENOUGH
from steer_tools.experiments.sweeps import Sweep
from steer_tools.experiments.text_choice import TextChoice
from steer_tools.experiments.text_judgement import TextJudgement
from steer_tools.prompts import ChatPrompt, Prompt, TextPrompt
from steer_tools.reports.json_documents import Facts
from steer_tools.reports.markdown import code, code_block, literal, table
from steer_tools.reports.words import POOLINGS, POSITIONS, UNITS, counted, listed, option_texts, share, signed
from steer_tools.session.placement import Placed


@dataclass(frozen=True)
class Tried:
    """What was tried, the strengths in words, and how the vector was placed where it was chosen."""

    layers: Sequence[int]
    strengths: str
    positions: Sequence[str]
    placed: Placed

    @classmethod
    def in_grid(cls, swept: Sweep, facts: Facts) -> "Tried":
        """Return what a grid of log-odds was made of."""
        cells = swept.grid.cells
        strengths = f"{_strengths({cell.strength for cell in cells})}, each with both signs"
        return cls(sorted({cell.layer for cell in cells}), strengths, (facts.positions,), swept.placed)

    @classmethod
    def in_choice(cls, choice: TextChoice, magnitudes: Sequence[float], placed: Placed) -> "Tried":
        """Return what texts chose from."""
        sign = "the positive sign" if choice.direction == "more" else "the negative sign"
        strengths = f"{_strengths(magnitudes)}, with {sign}, and the other one where texts moved the wrong way"
        layers, positions = ([*dict.fromkeys(own)] for own in zip(*(cell.place for cell in choice.cells), strict=True))
        return cls(sorted(layers), strengths, positions, placed)


def _strengths(magnitudes: Iterable[float]) -> str:
    return listed([f"{strength:g}" for strength in sorted(magnitudes)])


def setting_blocks(
    tried: Tried, evaluation_set: EvaluationSet, facts: Facts, extraction: Extraction | None = None
) -> list[str]:
    """Say what was steered; without `extraction` nothing is known of the vector's making here."""
    behavior, unit = evaluation_set.behavior, UNITS[tried.placed.unit]
    rows = [
        ("model", f"{code(facts.model)}, {facts.model_layers} layers, hidden size {facts.hidden_size}"),
        ("behaviour", f"{literal(behavior.name)}: {literal(behavior.description)}"),
        ("positive, negative", ", ".join(map(literal, behavior.poles))),
        ("source", literal(behavior.source)),
        ("vector", code(facts.vector_path) + (f", method {code(facts.method)}" if facts.method else "")),
    ]
    if facts.template_options:
        rows.append(("chat template", listed([code(text) for text in option_texts(facts.template_options)])))
    if extraction is not None:
        pooling = extraction.vector.info.pooling
        read = "" if pooling is None else f"; of each, {POOLINGS.get(pooling, literal(pooling))} was read"
        rows.append(("made of", f"{counted(len(behavior.pairs), 'pair')} of texts{read}"))
    rows += [
        ("layers tried", f"{listed([str(layer) for layer in tried.layers])}, one at a time"),
        ("strengths tried", f"{tried.strengths}; 1 is {unit.one}"),
        ("steered tokens", "; or ".join(POSITIONS.get(own, literal(own)) for own in tried.positions)),
        ("run", f"seed {facts.seed}, {facts.seconds:.0f} s, steer-tools {literal(facts.version)}"),
    ]
    warnings = dict.fromkeys([*behavior.notes, *(extraction.warnings if extraction else ()), *tried.placed.warnings])
    told = "\n".join(f"- **Warning:** {literal(warning, 1000)}" for warning in warnings)
    return ["## What was steered", table(("", ""), rows, numbers_from=2), *([told] if told else [])]


def choice_blocks(swept: Sweep, evaluation_set: EvaluationSet) -> list[str]:
    """Say how layer and strength were chosen."""
    choosing, judging = evaluation_set.splits.choosing, evaluation_set.splits.judging
    groups = [len({item.group for item in part}) for part in (choosing, judging)]
    cell = swept.cell
    blocks = [
        "## How layer and strength were chosen",
        f"{counted(len(choosing), 'item')} in {counted(groups[0], 'group')} chose. "
        f"{counted(len(judging), 'other item')} in {counted(groups[1], 'group')} judge what was chosen. Items that are "
        "alike share a group, no group is in both parts, and none of them made the vector.",
        f"Every cell, one layer at one strength, has a damage budget: {_budget(swept.grid.budget)}. "
        "Damage was measured for the positive strengths.",
    ]
    if not swept.grid.enough:
        return [
            *blocks,
            "No cell moves the choosing items the right way within that budget, so there is no window of strengths "
            "to work with. The cell of the largest effect was taken all the same, to show what it does: "
            f"layer {cell.layer} at strength {cell.strength:g}, with {signed(cell.effect)} nats on the items that "
            "chose.",
        ]
    windows = [(str(window.layer), f"{window.least:g}", f"{window.largest:g}") for window in swept.grid.window]
    return [
        *blocks,
        f"Of the cells within it, those with at least {share(ENOUGH)} of the largest effect do enough. The gentlest of "
        "these was taken, for the largest effect lies next to where texts break: "
        f"**layer {cell.layer} at strength {cell.strength:g}**, with {signed(cell.effect)} nats on the items that "
        "chose.",
        "Strengths that do enough within the budget:",
        table(("layer", "from", "to"), windows, numbers_from=0),
    ]


def limit_blocks(evaluation_set: EvaluationSet, facts: Facts, texts: TextJudgement | None = None) -> list[str]:
    """Say what the numbers do not show; without `texts` they are log-odds."""
    behavior = evaluation_set.behavior
    is_of_texts = any(item.prompt is None for item in (*behavior.pairs, *behavior.items))
    if texts is None:
        lines = [
            "- Log-odds compare two completions that were given. They do not say what the model would write by itself: "
            "read its texts."
        ]
        if behavior.instruction is None:
            lines.append(
                "- The measure asks whether the model finds the positive texts of this behaviour likelier, not whether "
                "it does the thing that they were chosen for. Whatever else differs between the two sides counts too."
            )
        if is_of_texts:
            lines.append("- Some items are two whole texts without a prompt: the model judged the texts, not answers.")
    else:
        lines = [
            "- Scores tell which of the two kinds of answers a text is like, not whether it does the thing that these "
            "were chosen for. Whatever else they differ in counts too: read the texts.",
            "- The texts are short and the likeliest ones (greedy). Long ones and sampled ones were not tried.",
            "- Controls were added at the chosen cell. They did not choose cells of their own, as the vector did.",
        ]
        if is_of_texts:
            lines.append("- Some items are two whole texts without a prompt, so texts were written to other prompts.")
    if (behavior.instruction if texts is None else texts.prompting) is None:
        lines.append("- No prompt that asks for the behaviour was tried, so nothing says whether asking does as well.")
    lines.append(f"- One model and one seed ({facts.seed}) were tried.")
    return ["## What this does not show", "\n".join(lines)]


def usage_blocks(spot: Spot, prompt: Prompt, facts: Facts) -> list[str]:
    """Say how to steer with the chosen cell."""
    unit, strength = spot.placed.unit, spot.strength
    call = (
        f"apply_steering_vector({facts.vector_path!r}, layer={spot.layer}, strength={strength:g}, unit={unit!r}, "
        f"positions={spot.positions!r})"
    )
    command = (
        f"steer-tools compare {_arguments(prompt)} --model {shlex.quote(facts.model)} "
        f"--vector {shlex.quote(facts.vector_path)} --layer {spot.layer} --strength {strength:g} --unit {unit} "
        f"--positions {shlex.quote(spot.positions)}"
        + "".join(f" --template-option {shlex.quote(option)}" for option in option_texts(facts.template_options))
    )
    return ["## How to use it", code_block("python", call), code_block("sh", command)]


def certificate_blocks(facts: Facts) -> list[str]:
    """Say how another judges the cell anew, by what the vector's file says of how it was judged."""
    command = f"steer-tools verify {shlex.quote(facts.vector_path)} --model {shlex.quote(facts.model)}" + "".join(
        f" --template-option {shlex.quote(option)}" for option in option_texts(facts.template_options)
    )
    told = (
        "The vector's file holds these figures as its certificate, with digests of the direction, of the model and of "
        "the data. This judges the cell anew, and says what differs:"
    )
    return ["## How to check it", told, code_block("sh", command)]


def _arguments(prompt: Prompt) -> str:
    """Return a prompt as a shell's arguments; a model of a small language knows few other words than its own."""
    match prompt:
        case TextPrompt(text) if text.strip():
            return shlex.quote(text)
        case ChatPrompt((("user", content), *_)):
            return f"{shlex.quote(content)} --chat"
        case _:
            return "'Once upon a time'"


def _budget(budget: Budget) -> str:
    return (
        "the model's next-token predictions on neutral prompts may drift by at most "
        f"{budget.divergence:g} nats a token (KL divergence), the steered texts may be at most "
        f"{budget.surprisal:g} times as surprising to the unsteered model as its own (mean −log p of a token), and "
        f"they must keep {budget.distinct:.0%} of the variety of its word pairs (distinct-2) and {budget.length:.0%} "
        "of its length"
    )
