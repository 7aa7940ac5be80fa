"""The tools that write text, with and without steering."""

from collections.abc import Sequence
from typing import cast

from steer_tools.core.plan import Plan
from steer_tools.engines.base import Row, Sampling, row_seed
from steer_tools.errors import ArgumentError, StrengthError
from steer_tools.parameters import (
    AllowOtherModel,
    ApplyLayer,
    CompareResult,
    Condition,
    GenerateResult,
    Intervention,
    MaxNewTokens,
    NextTokensResult,
    NextTokensStatus,
    OptionalVectorPath,
    Positions,
    Prompts,
    ScoredPositions,
    Seed,
    Strengths,
    Target,
    Temperature,
    TextMetrics,
    Top,
    UnitName,
    VariantTexts,
)
from steer_tools.prompts import parse_prompts
from steer_tools.session.comparison import Side, acting, compare, next_tokens
from steer_tools.session.placement import Layers, PlacementOptions, place, require_finite, residual_strengths
from steer_tools.session.session import Session, current_session
from steer_tools.tools.resolving import require_at_least_one
from steer_tools.tools.results import one_or_list_rounded, rounded, short


def generate(
    prompts: Prompts,
    max_new_tokens: MaxNewTokens = 64,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
) -> GenerateResult:
    """Continue prompts under what is applied now; returns only the new text."""
    session = current_session()
    with session.lock:
        plan, parsed = session.registry.plan(), parse_prompts(prompts)
        rows = [Row(prompt, plan, row_seed(seed, prompt)) for prompt in parsed]
        generations = session.engine.generate(rows, Sampling(max_new_tokens, temperature))
        return GenerateResult(
            texts=[generation.text for generation in generations],
            ended=[generation.ended for generation in generations],
            active=len(session.registry),
            steered=acting(session.engine, parsed, [entry.placements for entry in session.registry.entries()]),
        )


def compare_generations(
    prompts: Prompts,
    vector_path: OptionalVectorPath = None,
    layer: ApplyLayer = None,
    strengths: Strengths = None,
    unit: UnitName = "vector",
    positions: Positions = "generated",
    max_new_tokens: MaxNewTokens = 48,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    allow_other_model: AllowOtherModel = False,
    intervention: Intervention = "add",
    target: Target = None,
    condition: Condition = None,
) -> CompareResult:
    """Show unsteered and steered texts side by side, and leave what is applied as it is.

    With vector_path the vector is tried at each strength by itself; without it, what is applied now is compared.
    perplexity is under the unsteered model: far above the baseline's, or distinct_2 far below, the text is breaking, so
    lower the strength. changed is near 1 as soon as texts part, so it is no measure of the effect: read the texts.
    """
    session = current_session()
    with session.lock:
        engine, parsed = session.engine, parse_prompts(prompts)
        options = PlacementOptions(
            unit, intervention, target, positions, condition, allow_other_model=allow_other_model
        )
        tried, warnings = _tried(session, vector_path, layer, strengths, options)
        plans = [plan for _, plan in tried]
        sampling = Sampling(max_new_tokens, temperature)
        baseline, *variants = compare(engine, parsed, plans, sampling, seed)
        # The strengths have one condition.
        steered = acting(engine, parsed, plans[:1])
        return CompareResult(
            prompts=list(prompts),
            baseline={"texts": _texts(baseline), "metrics": _metrics(baseline)},
            variants=[
                VariantTexts(
                    strength=strength,
                    residual_strength=_residual_strength(session, strength, plan),
                    steered=steered,
                    texts=_texts(side),
                    metrics=_metrics(side),
                )
                for (strength, plan), side in zip(tried, variants, strict=True)
            ],
            warnings=warnings,
        )


def compare_next_tokens(
    prompts: Prompts,
    vector_path: OptionalVectorPath = None,
    layer: ApplyLayer = None,
    strengths: Strengths = None,
    unit: UnitName = "vector",
    positions: ScoredPositions = "generated",
    top: Top = 5,
    allow_other_model: AllowOtherModel = False,
    intervention: Intervention = "add",
    target: Target = None,
) -> NextTokensResult:
    """Show the likeliest next tokens, unsteered and steered, of a single forward pass; nothing stays applied.

    The quickest look at an intervention: no text is written. The rest is as in compare_generations.
    """
    session = current_session()
    with session.lock:
        engine, parsed = session.engine, parse_prompts(prompts)
        options = PlacementOptions(unit, intervention, target, positions, allow_other_model=allow_other_model)
        require_at_least_one("top", top)
        tried, warnings = _tried(session, vector_path, layer, strengths, options)
        found = next_tokens(engine, parsed, [plan for _, plan in tried], top)
        return NextTokensResult(
            strengths=[strength for strength, _ in tried],
            residual_strengths=[_residual_strength(session, strength, plan) for strength, plan in tried],
            prompts=[
                NextTokensStatus(
                    tokens={piece: [short(value) for value in own] for piece, own in one.probabilities.items()},
                    kl=[short(value) for value in one.divergences],
                )
                for one in found
            ],
            steered=acting(engine, parsed, [plan for _, plan in tried[:1]]),
            warnings=warnings,
        )


def _tried(
    session: Session, vector_path: str | None, layer: Layers, strengths: object, options: PlacementOptions
) -> tuple[list[tuple[float | None, Plan]], list[str]]:
    """Return the plans to compare with their strengths: those of a vector, or what is applied now; and warnings."""
    if vector_path is None:
        if layer is not None or strengths is not None or options != PlacementOptions():
            raise ArgumentError(
                "How a vector acts was said without vector_path, and what is applied now acts in its own way",
                fix="Give vector_path as well, or leave out layer, strengths, unit, positions, intervention, "
                "target, condition and allow_other_model.",
            )
        return [_applied_now(session)], []
    values = [1.0] if strengths is None else _finite_strengths(strengths)
    placed = place(session, vector_path, layer, options)
    return [(value, placed.plan(value)) for value in values], list(placed.warnings)


def _finite_strengths(strengths: object) -> list[float]:
    if isinstance(strengths, str) or not isinstance(strengths, Sequence) or not strengths:
        raise StrengthError(f"strengths is {strengths!r:.80}", valid="at least one finite number, such as [-1, 1]")
    return [require_finite(value, "a strength") for value in cast(Sequence[object], strengths)]


def _applied_now(session: Session) -> tuple[float | None, Plan]:
    """Return what is applied, with its strength where it is one vector."""
    entries = session.registry.entries()
    if not entries:
        raise ArgumentError(
            "Nothing is applied and no vector_path was given, so there is nothing to compare",
            fix="Give vector_path, or call apply_steering_vector first.",
        )
    return (entries[0].strength if len(entries) == 1 else None), session.registry.plan()


def _residual_strength(session: Session, strength: float | None, plan: Plan) -> float | list[float | None] | None:
    return None if strength is None else one_or_list_rounded(residual_strengths(session, plan))


def _texts(side: Side) -> list[str]:
    return [generation.text for generation in side.generations]


def _metrics(side: Side) -> TextMetrics:
    scores = side.scores
    return TextMetrics(
        changed=rounded(scores.changed), perplexity=rounded(scores.perplexity), distinct_2=rounded(scores.distinct_2)
    )
