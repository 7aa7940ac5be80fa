"""The shapes and figures that several tools' results share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NotRequired, TypeVar, cast

from typing_extensions import TypedDict

from steer_tools.tools.arguments import Unit

if TYPE_CHECKING:
    from steer_tools.core.plan import Plan
    from steer_tools.core.registry import Applied
    from steer_tools.engines.base import ModelInfo
    from steer_tools.evaluation.intervals import Interval
    from steer_tools.session.placement import Placed
    from steer_tools.session.session import Session
    from steer_tools.session.vector_loading import VectorLike

_Item = TypeVar("_Item")
_Figure = TypeVar("_Figure", float, float | None)


class ModelStatus(TypedDict):
    """The attached model; `context_length` counts prompt and new tokens, null for no limit."""

    name: str
    family: str
    layer_count: int
    hidden_size: int
    dtype: str
    device: str
    engine: str
    chat_template: bool
    template_options: dict[str, Any]
    context_length: int | None


class ApplyArguments(TypedDict):
    """What repeats it, for apply_steering_vector or compare_generations."""

    vector_path: str
    layer: int
    strength: float
    unit: Unit
    positions: str
    allow_other_model: NotRequired[bool]


class ApplyResult(TypedDict):
    """`residual_strength` is what is added, in typical norms there, null for edits that do not add; `active` counts."""

    success: bool
    steering_id: str
    layer: int | list[int]
    strength: float
    unit: str
    positions: str
    vector_shape: list[int]
    residual_strength: float | list[float | None] | None
    active: int
    warnings: list[str]


class RemoveResult(TypedDict):
    """How many applied vectors were taken off, and how many stay."""

    removed: int
    active: int


def model_status(info: ModelInfo) -> ModelStatus:
    """Return what a tool tells of a model."""
    return ModelStatus(
        name=info.name,
        family=info.family,
        layer_count=info.layers,
        hidden_size=info.hidden_size,
        dtype=info.dtype,
        device=info.device,
        engine=info.engine,
        chat_template=info.has_chat_template,
        template_options=dict(info.template_options),
        context_length=info.context_length,
    )


def applied_result(session: Session, applied: Applied, warnings: list[str]) -> ApplyResult:
    """Return what is told of a vector that was applied, or whose strength was changed."""
    from steer_tools.session.edit_lengths import applied_warnings, residual_strengths

    return ApplyResult(
        success=True,
        steering_id=applied.steering_id,
        layer=one_or_list(applied.layers),
        strength=applied.strength,
        unit=applied.unit,
        positions=str(applied.unit_placements[0].positions),
        vector_shape=[session.engine.width(applied.unit_placements[0].site)],
        residual_strength=one_or_list_rounded(residual_strengths(session, applied.placements)),
        active=len(session.registry),
        warnings=[*warnings, *applied_warnings(session, applied)],
    )


def repeating(
    session: Session, vector: VectorLike, placed: Placed, strength: float, *, allow_other_model: bool = False
) -> ApplyArguments:
    """Return the call that applies a vector as it was placed, at one layer; one in memory has a file afterwards."""
    from steer_tools.session.vector_loading import path_of

    (placement,) = placed.unit_placements
    arguments = ApplyArguments(
        vector_path=path_of(session.workspace, vector, placed.layers),
        layer=placement.site.layer,
        strength=strength,
        unit=placed.unit,
        positions=str(placement.positions),
    )
    return {**arguments, "allow_other_model": True} if allow_other_model else arguments


def residual_unit(session: Session, placed: Placed) -> float:
    """Return what strength 1 adds of a vector that was placed at one layer, in typical norms there."""
    from steer_tools.session.edit_lengths import residual_strengths

    (length,) = residual_strengths(session, placed.plan(1.0))
    assert length is not None  # Additions have a length.
    return length


def added_strength(session: Session, strength: float | None, plan: Plan) -> float | list[float | None] | None:
    """Return what a plan of one strength adds, in typical norms there; None where it stands for what is applied."""
    from steer_tools.session.edit_lengths import residual_strengths

    return None if strength is None else one_or_list_rounded(residual_strengths(session, plan))


def one_or_list(items: Sequence[_Item]) -> _Item | list[_Item]:
    """Return the only item, or a list of several: what was asked for one layer is answered with one value."""
    return items[0] if len(items) == 1 else list(items)


def rounded(value: float | None) -> float | None:
    """Return `value` with six significant digits; None for NaN and infinity, which JSON has no word for."""
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None


def short(value: _Item) -> _Item:
    """Return a figure, or all of a list or dict, with four significant digits, for tables and beside intervals."""
    match value:
        case float():
            return cast(_Item, float(f"{value:.4g}"))
        case list():
            return cast(_Item, [short(item) for item in cast(list[object], value)])
        case dict():
            return cast(_Item, {key: short(item) for key, item in cast(dict[object, object], value).items()})
        case _:
            return value


def short_interval(interval: Interval | None) -> list[float] | None:
    """Return both ends of an interval with four significant digits."""
    return None if interval is None else short(list(interval))


def one_or_list_rounded(values: Sequence[_Figure]) -> _Figure | list[_Figure]:
    """Return figures with six significant digits, and None for those that are not known, one or a list of several."""
    return one_or_list([cast(_Figure, rounded(value)) for value in values])
