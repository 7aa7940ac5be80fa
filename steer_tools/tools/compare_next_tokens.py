"""The tool that shows unsteered and steered next tokens, without writing any text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from typing_extensions import TypedDict

from steer_tools.prompts import PromptLike, parse_prompts
from steer_tools.tools import arguments as given
from steer_tools.tools.argument_checks import checked
from steer_tools.tools.card import Card
from steer_tools.tools.rendering import Shown, figure, line, shown_prompt, stack, strength_name, table, warning_lines
from steer_tools.tools.resolving import locked_session, require_at_least_one
from steer_tools.tools.results import added_strength, short

AskedTokens = Annotated[
    list[str | int] | None,
    given.Doc("Tokens to show as well, however unlikely: texts of one token each, or ids."),
    given.ONLY_IN_PYTHON,
]


class NextTokensStatus(TypedDict):
    """One prompt: `probabilities` of the likeliest next tokens, unsteered and then at each strength; `kl` in nats."""

    probabilities: dict[str, list[float]]
    ids: list[int]
    kl: list[float]


class NextTokensResult(TypedDict):
    """The prompts in their order; a strength is null for several applied vectors.

    `acting`: 1 or 0 a prompt, null without a condition.
    """

    strengths: list[float | None]
    residual_strengths: list[float | list[float | None] | None]
    prompts: list[NextTokensStatus]
    acting: list[int] | None
    warnings: list[str]


@checked
def compare_next_tokens(
    prompts: given.Prompts,
    vector_path: given.OptionalVectorPath = None,
    layer: given.ApplyLayer = None,
    strengths: given.Strengths = None,
    unit: given.OptionalUnit = None,
    positions: given.OptionalScoredPositions = None,
    top: given.Top = 5,
    allow_other_model: given.AllowOtherModel = False,
    intervention: given.Intervention = "add",
    target: given.TriedTarget = None,
    tokens: AskedTokens = None,
) -> NextTokensResult:
    """Show the likeliest next tokens, unsteered and steered, of a single forward pass; nothing stays applied.

    The quickest look at an intervention: no text is written. The rest is as in compare_generations.
    """
    from steer_tools.session.comparison import acting, asked_tokens, next_tokens, tried_plans
    from steer_tools.session.placement import PlacementOptions
    from steer_tools.session.unreached_prompts import unreached_warnings

    with locked_session() as session:
        engine, parsed = session.engine, parse_prompts(prompts)
        options = PlacementOptions(unit, intervention, target, positions, allow_other_model=allow_other_model)
        require_at_least_one("top", top)
        tried, warnings = tried_plans(session, vector_path, layer, strengths, options)
        asked, told = asked_tokens(engine, () if tokens is None else tokens)
        found = next_tokens(engine, parsed, [own.plan for own in tried], top, asked)
        return NextTokensResult(
            strengths=[own.strength for own in tried],
            residual_strengths=[added_strength(session, own.strength, own.plan) for own in tried],
            prompts=[
                NextTokensStatus(
                    probabilities={text: short(list(own)) for text, own in one.probabilities.items()},
                    ids=list(one.tokens),
                    kl=short(list(one.divergences)),
                )
                for one in found
            ],
            acting=acting(engine, parsed, [own.plan for own in tried[:1]]),
            warnings=[*warnings, *told, *unreached_warnings(engine, parsed, [own.plan for own in tried])],
        )


def show(result: NextTokensResult, prompts: Sequence[PromptLike]) -> Shown:
    """Render one table a prompt: the likeliest next tokens with their probability, unsteered and at each strength."""
    from steer_tools.tools.colours import token_text

    names = ["baseline", *map(strength_name, result["strengths"])]
    parts: list[Shown] = []
    for prompt, found in zip(prompts, result["prompts"], strict=True):
        rows: list[list[Shown]] = [
            [token_text(token), *(f"{probability:.1%}" for probability in probabilities)]
            for token, probabilities in found["probabilities"].items()
        ]
        rows.append([line("KL, nats", "dim"), "", *map(figure, found["kl"])])
        parts += [shown_prompt(prompt), table({"next token": "whole", **dict.fromkeys(names, "right")}, rows)]
    return stack(*parts, *warning_lines(result["warnings"]))


def rows(result: NextTokensResult) -> list[dict[str, Any]]:
    """Return a row a token of each prompt, with its probability unsteered and at each strength."""
    names = ["baseline", *map(strength_name, result["strengths"])]
    return [
        {"prompt": i, "token": token, **dict(zip(names, probabilities, strict=True))}
        for i, found in enumerate(result["prompts"])
        for token, probabilities in found["probabilities"].items()
    ]


TOOL = Card(
    "Compare unsteered and steered next tokens",
    "core",
    command="next-tokens",
    about="Show the likeliest next tokens, unsteered and steered, of one forward pass.",
    required=("vector_path",),
    not_typed=("tokens",),
    positional=("prompts",),
    is_read_only=True,
    items="prompts",
    rows=rows,
).tool(compare_next_tokens, show)
