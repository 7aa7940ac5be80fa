"""The tool that shows unsteered and steered texts side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from typing_extensions import TypedDict

from steer_tools.errors import ArgumentError
from steer_tools.prompts import PromptLike, parse_prompts, prompt_text
from steer_tools.tools import arguments as given
from steer_tools.tools.argument_checks import checked
from steer_tools.tools.card import Card
from steer_tools.tools.rendering import (
    Shown,
    badge_line,
    figure,
    joined,
    line,
    marked,
    residual_name,
    shown,
    stack,
    strength_name,
    table,
    text_table,
    warning_lines,
)
from steer_tools.tools.resolving import bypass_warnings, locked_session
from steer_tools.tools.results import added_strength, rounded

if TYPE_CHECKING:
    from steer_tools.session.comparison import Side


OneStrength = Annotated[float | None, given.Doc("Or one.")]


class TextMetrics(TypedDict):
    """`changed`: share of tokens unlike the baseline's; `perplexity`: under the unsteered model; `distinct_2`."""

    changed: float | None
    perplexity: float | None
    distinct_2: float | None


class BaselineTexts(TypedDict):
    """New tokens only, one text a prompt."""

    texts: list[str]
    metrics: TextMetrics


class VariantTexts(TypedDict):
    """One strength; both are null for several applied vectors. `acting`: 1 or 0 a prompt, null without a condition.

    `badge`: what the vector's certificate says of just this, "verified: ..." or "not verified: ..."; null without one.
    """

    strength: float | None
    residual_strength: float | list[float | None] | None
    badge: str | None
    acting: list[int] | None
    texts: list[str]
    metrics: TextMetrics


class CompareResult(TypedDict):
    """Baseline and steered texts in the order of the prompts."""

    prompts: list[PromptLike]
    baseline: BaselineTexts
    variants: list[VariantTexts]
    warnings: list[str]


@checked
def compare_generations(
    prompts: given.Prompts,
    vector_path: given.OptionalVectorPath = None,
    layer: given.ApplyLayer = None,
    strengths: given.Strengths = None,
    unit: given.OptionalUnit = None,
    positions: given.OptionalScoredPositions = None,
    max_new_tokens: given.MaxNewTokens = 48,
    temperature: given.Temperature = 0.0,
    seed: given.Seed = 0,
    allow_other_model: given.AllowOtherModel = False,
    intervention: given.Intervention = "add",
    target: given.TriedTarget = None,
    condition: given.TriedCondition = None,
    strength: OneStrength = None,
    repetition_penalty: given.RepetitionPenalty = 1.0,
) -> CompareResult:
    """Show unsteered and steered texts side by side, and leave what is applied as it is.

    With vector_path the vector is tried at each strength by itself; without it, what is applied now is compared.
    perplexity is under the unsteered model: far above the baseline's, or distinct_2 far below, the text is breaking, so
    lower the strength. changed is near 1 as soon as texts part, so it is no measure of the effect: read the texts.
    """
    from steer_tools.engines.base import Sampling
    from steer_tools.session.comparison import acting, compare, tried_plans
    from steer_tools.session.placement import PlacementOptions
    from steer_tools.session.unreached_prompts import unreached_warnings

    with locked_session() as session:
        engine, parsed = session.engine, parse_prompts(prompts)
        options = PlacementOptions(
            unit, intervention, target, positions, condition, allow_other_model=allow_other_model
        )
        if strength is not None:
            if strengths is not None:
                raise ArgumentError("Both strength and strengths were given", valid="one of them")
            strengths = [strength]
        tried, warnings = tried_plans(session, vector_path, layer, strengths, options)
        plans = [own.plan for own in tried]
        sampling = Sampling(max_new_tokens, temperature, repetition_penalty=repetition_penalty)
        baseline, *variants = compare(engine, parsed, plans, sampling, seed)
        # The strengths have one condition.
        steered = acting(engine, parsed, plans[:1])
        return CompareResult(
            prompts=list(prompts),
            baseline=_told(baseline),
            variants=[
                VariantTexts(
                    strength=own.strength,
                    residual_strength=added_strength(session, own.strength, own.plan),
                    badge=own.badge,
                    acting=steered,
                    **_told(side),
                )
                for own, side in zip(tried, variants, strict=True)
            ],
            warnings=[
                *warnings,
                *unreached_warnings(engine, parsed, plans),
                *bypass_warnings(session, parsed),
            ],
        )


def _told(side: Side) -> BaselineTexts:
    scores = side.scores
    metrics = TextMetrics(
        changed=rounded(scores.changed), perplexity=rounded(scores.perplexity), distinct_2=rounded(scores.distinct_2)
    )
    return BaselineTexts(texts=[generation.text for generation in side.generations], metrics=metrics)


_BREAKING = (
    "perplexity is under the unsteered model. Far above the baseline's, or distinct_2 far below: the text is breaking, "
    "so lower the strength."
)
_ADDED = " residual is what is added, in the model's typical norms there."


def show(result: CompareResult, *, is_plain: bool) -> Shown:
    """Render one table a prompt, the baseline first and then the strengths in order, and one of the figures.

    Words that the baseline does not have there are marked, in plain text by {+ +}.
    """
    variants = sorted(result["variants"], key=lambda variant: variant["strength"] or 0.0)
    parts: list[Shown] = []
    for i, prompt in enumerate(result["prompts"]):
        baseline = result["baseline"]["texts"][i]
        steered = [
            (strength_name(variant["strength"]), marked(variant["texts"][i], baseline, is_plain=is_plain))
            for variant in variants
        ]
        parts += [text_table(prompt, [("baseline", shown(baseline)), *steered]), line("")]
    residuals = [residual_name(variant["residual_strength"]) for variant in variants]
    explained = f" words differ from the baseline's. {_BREAKING}{_ADDED if any(residuals) else ''}"
    legend = joined(marked("Marked", "", is_plain=is_plain), (explained, "dim"))
    badges = [badge_line(v["badge"], strength_name(v["strength"])) for v in variants if v["badge"] is not None]
    return stack(*parts, _figures(result, variants, residuals), *badges, legend, *warning_lines(result["warnings"]))


def _figures(result: CompareResult, variants: Sequence[VariantTexts], residuals: Sequence[str]) -> Shown:
    """Return the figures of each strength, without a column for what is added where nothing is."""
    columns = ["strength", *(["residual"] if any(residuals) else []), "perplexity", "distinct_2", "changed"]
    metrics = result["baseline"]["metrics"]
    rows = [["baseline", "", figure(metrics["perplexity"]), figure(metrics["distinct_2"]), ""]]
    for variant, residual in zip(variants, residuals, strict=True):
        metrics = variant["metrics"]
        told = (metrics["perplexity"], metrics["distinct_2"], metrics["changed"])
        rows.append([strength_name(variant["strength"]), residual, *map(figure, told)])
    if not any(residuals):
        rows = [[label, *figures] for label, _, *figures in rows]
    return table(dict.fromkeys(columns, "right"), rows)


def rows(result: CompareResult) -> list[dict[str, Any]]:
    """Return a row a prompt, with a column for each of its texts."""
    texts = {"baseline": result["baseline"]["texts"]}
    texts |= {strength_name(variant["strength"]): variant["texts"] for variant in result["variants"]}
    return [
        {"prompt": prompt_text(prompt), **{name: own[i] for name, own in texts.items()}}
        for i, prompt in enumerate(result["prompts"])
    ]


TOOL = Card(
    "Compare unsteered and steered texts",
    "core",
    command="compare",
    about="Show unsteered and steered texts side by side.",
    required=("vector_path",),
    positional=("prompts",),
    not_typed=("strength", "repetition_penalty"),
    is_read_only=True,
    items=rows,
    rows=rows,
).tool(compare_generations, show)
