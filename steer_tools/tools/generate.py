"""The tool that writes text under what is applied."""

from collections.abc import Sequence

from typing_extensions import TypedDict

from steer_tools.prompts import PromptLike, parse_prompts
from steer_tools.tools import arguments as given
from steer_tools.tools.argument_checks import checked
from steer_tools.tools.card import Card
from steer_tools.tools.rendering import Shown, shown, stack, text_table, warning_lines
from steer_tools.tools.resolving import bypass_warnings, locked_session


class GenerateResult(TypedDict):
    """New tokens only; `ended` says whether a text ended by itself; `active` counts the vectors that are applied.

    `acting` counts those that act on each prompt, null where none has a condition.
    """

    texts: list[str]
    ended: list[bool]
    active: int
    acting: list[int] | None
    warnings: list[str]


@checked
def generate(
    prompts: given.Prompts,
    max_new_tokens: given.MaxNewTokens = 64,
    temperature: given.Temperature = 0.0,
    seed: given.Seed = 0,
    repetition_penalty: given.RepetitionPenalty = 1.0,
) -> GenerateResult:
    """Continue prompts under what is applied now; returns only the new text."""
    from steer_tools.engines.base import Row, Sampling, row_seed
    from steer_tools.session.comparison import acting
    from steer_tools.session.edit_lengths import applied_warnings
    from steer_tools.session.unreached_prompts import unreached_warnings

    with locked_session() as session:
        plan, parsed = session.registry.plan(), parse_prompts(prompts)
        rows = [Row(prompt, plan, row_seed(seed, prompt)) for prompt in parsed]
        sampling = Sampling(max_new_tokens, temperature, repetition_penalty=repetition_penalty)
        generations = session.engine.generate(rows, sampling)
        return GenerateResult(
            texts=[generation.text for generation in generations],
            ended=[generation.ended for generation in generations],
            active=len(session.registry),
            acting=acting(session.engine, parsed, [entry.placements for entry in session.registry.entries()]),
            warnings=[
                *applied_warnings(session),
                *unreached_warnings(session.engine, parsed, [plan]),
                *bypass_warnings(session, parsed),
            ],
        )


def show(result: GenerateResult, prompts: Sequence[PromptLike]) -> Shown:
    """Render one table a prompt."""
    texts = zip(prompts, result["texts"], result["ended"], strict=True)
    return stack(
        *(text_table(prompt, [("text" if ended else "text (cut)", shown(text))]) for prompt, text, ended in texts),
        *warning_lines(result["warnings"]),
    )


TOOL = Card(
    "Generate under what is applied",
    "core",
    command="generate",
    about="Continue prompts, with a vector or without.",
    vector="optional",
    positional=("prompts",),
    not_typed=("repetition_penalty",),
    is_read_only=True,
    items="texts",
    rows=lambda result: [
        {"text": text, "ended": ended} for text, ended in zip(result["texts"], result["ended"], strict=True)
    ],
).tool(generate, show)
