"""What an experiment made a model write, how texts chose a cell and judge it → blocks of a report."""

from collections.abc import Sequence

from steer_tools.evaluation.behaviors.behavior import Behavior
from steer_tools.evaluation.text_detector import TextDetector
from steer_tools.evaluation.text_guards import LEAST_RELEVANCE, LEAST_VARIETY, LEAST_WHOLE
from steer_tools.experiments.experiment import Experiment
from steer_tools.experiments.exploration import ENOUGH
from steer_tools.experiments.list_contrast import ContrastTest
from steer_tools.experiments.text_choice import SIGNS, Direction, TextCell, TextChoice
from steer_tools.experiments.text_judgement import SLACK, TextControls, TextJudgement
from steer_tools.experiments.verdicts import LEAST_EFFECT, LEAST_OWN_SHARE
from steer_tools.reports.experiment_documents import unwritten
from steer_tools.reports.json_documents import by_kind
from steer_tools.reports.markdown import code, literal, question_text, table
from steer_tools.reports.result_sections import NOTHING, spanned
from steer_tools.reports.words import CONTROL_KINDS, CONTROLS_EXPLAINED, FAILURES, POSITIONS, counted, share, signed


def text_blocks(experiment: Experiment) -> list[str]:
    """Show what is written to every prompt that judges, in their order."""
    texts, count = experiment.texts, counted(len(experiment.examples), "prompt")
    told = (
        f"What the model writes to {count} that did not choose the cell, in no order: the likeliest token at each step "
        f"(greedy), up to {experiment.evaluation_set.text_tokens} of them."
    )
    if texts is not None:
        told += (
            ' "Opposite" is the same strength with the other sign. The number before a prompt is its effect. A text '
            "that is marked as broken counts as the unsteered one."
        )
    return ["## Texts", told, "\n".join(_example(experiment, index) for index in range(len(experiment.examples)))]


def _example(experiment: Experiment, index: int) -> str:
    example, texts = experiment.examples[index], experiment.texts
    prompt = question_text(example.prompt)
    effect = "" if example.effect is None else f"**{signed(example.effect)}** "
    said = [("unsteered", example.unsteered, None), ("steered", example.steered, texts and texts.steered)]
    if example.opposite is not None:
        said.append(("opposite", example.opposite, texts and texts.opposite))
    lines = [f"- {effect}{literal(prompt) if prompt.strip() else '*(no prompt)*'}"]
    for name, text, written in said:
        is_broken = written is not None and not written.checked.is_whole[index]
        lines.append(f"  - {name}{' (**broken**)' if is_broken else ''}: {literal(text)}")
    return "\n".join(lines)


def scale_words(behavior: Behavior, direction: Direction) -> str:
    """Say what effects of texts are measured in."""
    positive, negative = map(literal, behavior.poles)
    way = "" if direction == "more" else " Since less was asked for, effects above 0 mean less of it."
    return (
        f"How much of the behaviour a text shows is a score: this behaviour's own {positive} answers have +1 on "
        f"average, its {negative} ones −1. The effect on a prompt is half of what the steered text scores above the "
        f"opposite one, so +1 is all of the way from one kind of answer to the other.{way}"
    )


def text_choice_blocks(choice: TextChoice, strengths: Sequence[float]) -> list[str]:
    """Say how the cell was chosen; `strengths` are the magnitudes that were tried."""
    cell, missing = choice.cell, unwritten(choice, strengths)
    kinds = list(dict.fromkeys(own.positions for own in choice.cells))
    rest = (
        f" The other {len(missing)}, shown as {NOTHING}, could not be chosen any more by what was known: they are "
        "stronger than one that fails, too far below the best, or of a sign that acts the wrong way."
        if missing
        else ""
    )
    taken = f"**layer {cell.layer} at strength {cell.strength:+g}, positions {code(cell.positions)}**"
    blocks = [
        "## How the cell was chosen",
        "A cell is a layer, a strength, and the tokens that are steered. Texts to "
        f"{counted(len(choice.prompts), 'other prompt')} chose, none of which judge. At each layer the middle "
        "strength came first, then stronger ones as long as their texts pass and gentler ones as long as they do "
        f"enough. Texts were written at {counted(len(choice.cells), 'cell')}.{rest} A number is how much more of the "
        "behaviour the texts show than the unsteered ones, as their mean score.",
    ]
    for positions in kinds:
        own = [one for one in choice.cells if one.positions == positions]
        blocks += [
            f"Steered: {POSITIONS.get(positions, literal(positions))} ({code(positions)}).",
            _cells(own, choice, strengths),
        ]
    failures = [failure for failure in FAILURES if any(failure in own.failures for own in choice.cells)]
    if failures:
        blocks += [
            "Texts do not pass as texts where they are:",
            "\n".join(f"- {failure}: {FAILURES[failure]} ({_LIMITS[failure]});" for failure in failures)[:-1] + ".",
        ]
    if choice.does_enough:
        return [
            *blocks,
            f"Of the cells that pass, those with at least {share(ENOUGH)} of the largest effect do enough, and the "
            f"gentlest of these was taken: {taken}, with {signed(cell.effect)} on the prompts that chose.",
        ]
    why = "gentlest of all" if cell.failures else "one that does most of those that pass"
    return [
        *blocks,
        f"No cell passes whose texts show {choice.direction} of the behaviour. The {why} was taken all the same, to "
        f"show what it does: {taken}, with {signed(cell.effect)} on the prompts that chose.",
    ]


_LIMITS = {
    "broken": f"fewer than {share(LEAST_WHOLE)} are whole",
    "alike": f"less than {LEAST_VARIETY:g} of the unsteered texts' variety of word pairs",
    "irrelevant": f"they fit their own prompts better than others by less than {LEAST_RELEVANCE:g} of what the "
    "unsteered ones do, or the behaviour's own answers",
}


def _cells(cells: Sequence[TextCell], choice: TextChoice, strengths: Sequence[float]) -> str:
    sign = SIGNS[choice.direction]
    columns = sorted({*(sign * strength for strength in strengths), *(cell.strength for cell in cells)})
    known = {(cell.layer, cell.strength): cell for cell in cells}
    rows = [
        (str(layer), *(_cell(known.get((layer, strength)), choice) for strength in columns))
        for layer in sorted({cell.layer for cell in cells})
    ]
    return table(("layer", *(f"{strength:+g}" for strength in columns)), rows, numbers_from=0)


def _cell(cell: TextCell | None, choice: TextChoice) -> str:
    if cell is None:
        return NOTHING
    if cell.failures:
        return f"({literal(', '.join(cell.failures))})"
    return f"**{signed(cell.effect)}** (chosen)" if cell == choice.cell else signed(cell.effect)


def text_effect_blocks(texts: TextJudgement, detector: TextDetector, strength: float) -> list[str]:
    """Say what the texts show, of both signs and beside asking."""
    sides = [
        (f"the chosen strength, {strength:+g}", texts.steered.effects.tolist()),
        (f"the opposite one, {-strength:+g}", texts.opposite.effects.tolist()),
    ]
    rows = [(name, signed(sum(own) / len(own)), signed(min(own)), signed(max(own))) for name, own in sides]
    if texts.prompting is not None:
        rows.append(("no steering, but a prompt that asks for it", signed(texts.prompting), NOTHING, NOTHING))
    few = " (too few prompts for an interval)"
    interval = few if texts.interval is None else f", 95 % interval {spanned(texts.interval)} over prompts"
    return [
        "## The effect on texts",
        f"Mean effect on {counted(len(texts.prompts), 'prompt')} that did not choose: "
        f"**{signed(texts.effect)}**{interval}. To count, it has to be at least {LEAST_EFFECT:g} and its interval "
        f"above 0, and the chosen sign alone has to have at least {share(LEAST_OWN_SHARE)} of it beside the "
        f"unsteered texts: it has {signed(texts.own_effect)}.",
        "Change of the score beside the unsteered text to the same prompt, by what is done:",
        table(("", "mean", "lowest", "highest"), rows),
        f"The unsteered model itself reads the scores, at layer {detector.layer}, without any judge: held-out "
        f"answers of the two kinds are {detector.d_prime:.1f} standard deviations apart there.",
    ]


def text_control_blocks(texts: TextJudgement) -> list[str]:
    """Say what texts show under directions that know nothing of the behaviour."""
    controls = texts.controls
    if controls is None:
        return []
    rows = [
        (
            CONTROL_KINDS.get(kind, literal(kind)),
            CONTROLS_EXPLAINED.get(kind, NOTHING),
            str(len(sizes)),
            f"{sizes.mean():.2f}",
            f"{sizes.max():.2f}",
        )
        for kind, sizes in by_kind(controls.sizes, controls.kinds).items()
    ]
    return [
        "## Against control directions",
        f"{_counted_controls(controls)} that know nothing of the behaviour were added at the same place, norm and "
        f"strength, with both signs, and judged as the vector was. {_reached(controls, texts.effect)} the vector's "
        f"{signed(texts.effect)}, of either sign (p = {controls.p(texts.effect):.2g}). Sizes are effects without "
        "their signs.",
        table(("kind", "drawn as", "count", "mean size", "largest size"), rows, numbers_from=2),
    ]


def _counted_controls(controls: TextControls) -> str:
    count = counted(len(controls.kinds), "direction")
    early = f" (of {controls.wanted} that were planned: one that does as much ends it)"
    return count + (early if len(controls.kinds) < controls.wanted else "")


def _reached(controls: TextControls, effect: float) -> str:
    reached = controls.reached(effect)
    return f"{reached or 'None'} of them reach{'es' if reached == 1 else ''}"


def guard_blocks(texts: TextJudgement) -> list[str]:
    """Say whether the texts are texts at all."""
    pair = (texts.steered.checked, texts.opposite.checked)
    rows = [
        ("texts that are not broken", *(share(own.is_whole.mean()) for own in pair), share(SLACK * LEAST_WHOLE)),
        ("variety of word pairs over all texts", *(_of(own.variety) for own in pair), f"{SLACK * LEAST_VARIETY:.2f}"),
        ("fit of texts to their own prompts", *(_of(own.relevance) for own in pair), f"{SLACK * LEAST_RELEVANCE:.2f}"),
    ]
    failures = f" They do not pass: {_failing(texts.failures)}." if texts.failures else ""
    return [
        "## Whether the texts are whole",
        "A text is broken where it is a loop, or more surprising to the unsteered model than nearly all that it "
        "draws itself. Variety and fit are shares of the unsteered texts' own. Only the steered texts have to "
        f"pass, by {share(SLACK)} of what was asked of the cells that were chosen from.{failures}",
        table(("", "steered", "opposite", "at least"), rows),
    ]


def _failing(failures: Sequence[str]) -> str:
    return "; ".join(FAILURES[failure] for failure in failures)


def _of(value: float | None) -> str:
    return "not measurable" if value is None else f"{value:.2f}"


def contrast_blocks(contrast: ContrastTest | None) -> list[str]:
    """Say whether the contrast of the pairs acts at all, where that was asked."""
    if contrast is None:
        return []
    return ["## Whether the contrast acts at all", literal(contrast.in_words(), 2000)]
