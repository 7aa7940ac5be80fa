"""What a caller wants baked → a plan with its sources, as one of the two kinds that weights can hold, or a refusal.

An ablation everywhere needs nothing applied: its plan is made here, and compared with hooks at the same places. It must
not know folders.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

from torch import Tensor

from steer_tools.core.interventions import Add, ProjectOut
from steer_tools.core.plan import Placement, Plan
from steer_tools.core.positions import Scope
from steer_tools.core.site import Site
from steer_tools.engines.facets import EditableWeights, Writer, require
from steer_tools.errors import ArgumentError, BakingError
from steer_tools.session.session import Session
from steer_tools.session.vector_loading import load_for_model, one_direction

_VALID = (
    "additions ('add') at positions 'all' without a condition; or 'project_out' of one direction everywhere, as "
    "save_edited_model(..., ablate=vector_path) does it"
)
_ALL = Scope(("all",))


@dataclass(frozen=True)
class Addition:
    """What is added at each site to every token, (width,) float64."""

    by_site: Mapping[Site, Tensor]


@dataclass(frozen=True)
class Ablation:
    """The unit direction, (width,) float64, that is projected out of all that is written to the residual stream."""

    along: Tensor


Bakeable: TypeAlias = Addition | Ablation


def ablation_everywhere(direction: Tensor, sites: Iterable[Site]) -> Plan:
    """Return the plan that projects one direction (width,) out at each of the sites, for every token."""
    return tuple(Placement(ProjectOut(direction), site, 1.0, _ALL) for site in sites)


def read_plan(plan: Plan, writing: Iterable[Site]) -> Bakeable:
    """Tell the kind of a plan; `writing` are all sites where something is written to the residual stream.

    Raises:
        BakingError: Weights cannot hold it.
    """
    for placement in plan:
        if placement.condition is not None:
            raise BakingError("A condition cannot be baked: weights act on every prompt", valid=_VALID)
        if "all" not in placement.positions.terms:
            raise BakingError(
                f"positions is '{placement.positions}', and weights act on every token",
                valid=_VALID,
                fix="Apply the vector with positions='all'.",
            )
        if placement.site.head is not None:
            raise BakingError(f"What is applied at {placement.site} cannot be baked", valid=_VALID)
    kinds = {type(placement.intervention) for placement in plan}
    if kinds == {Add}:
        return _addition(plan)
    if kinds == {ProjectOut}:
        return _ablation(plan, set(writing))
    names = sorted({placement.intervention.name for placement in plan})
    raise BakingError(f"{' with '.join(map(repr, names)) or 'Nothing'} cannot be baked", valid=_VALID)


def _addition(plan: Plan) -> Addition:
    by_site: dict[Site, Tensor] = {}
    for placement in plan:
        assert isinstance(placement.intervention, Add)
        added = placement.strength * placement.intervention.direction.double()
        by_site[placement.site] = by_site[placement.site] + added if placement.site in by_site else added
    return Addition(by_site)


def _ablation(plan: Plan, writing: set[Site]) -> Ablation:
    directions = [p.intervention.direction.double() for p in plan if isinstance(p.intervention, ProjectOut)]
    units = [direction / direction.norm() for direction in directions]
    if any(placement.strength != 1 for placement in plan):
        raise BakingError("A part of 'project_out' cannot be baked", valid=f"strength 1; {_VALID}")
    if any(abs(float(unit @ units[0])) < 1 - 1e-6 for unit in units):
        raise BakingError("Several directions are projected out", valid=_VALID)
    if {placement.site for placement in plan} != writing:
        missing = sorted(map(str, writing - {placement.site for placement in plan}))
        where = f", and not at {', '.join(missing[:3])}" if missing else ", and at a layer's output"
        raise BakingError(
            f"'project_out' is applied at {len(plan)} sites{where}: what is written elsewhere would keep the direction",
            valid=_VALID,
            fix="Remove what is applied, and give the vector as `ablate`.",
        )
    return Ablation(units[0])


@dataclass(frozen=True)
class Baking:
    """A plan and what it is made of: `source` names the vectors, `warnings` are about them."""

    plan: Plan
    source: str
    warnings: tuple[str, ...] = ()


def what_is_applied(session: Session) -> Baking:
    """Return what is applied now.

    Raises:
        ArgumentError: Nothing is.
    """
    entries = session.registry.entries()
    if not entries:
        raise ArgumentError(
            "Nothing is applied, so there is nothing to bake",
            fix="Call apply_steering_vector(..., positions='all') first, or give a vector as `ablate`.",
        )
    sources = dict.fromkeys(f"{Path(entry.source).name} at strength {entry.strength:g}" for entry in entries)
    return Baking(session.registry.plan(), ", ".join(sources))


def ablation_of(session: Session, vector_path: str, layer: int | None, *, allow_other_model: bool) -> Baking:
    """Return the plan that projects a vector's direction, at `layer` where it has several, out everywhere.

    Raises:
        LayerError: The vector has several directions, or none for the layer.
    """
    engine = engine_for_baking(session)
    at = None if layer is None else engine.resolve_layer(layer)
    loaded = load_for_model(session, vector_path, at, allow_other_model=allow_other_model)
    if loaded.vector.head is not None:
        raise BakingError("The vector is of a head's own space", valid="vectors of the residual stream's width")
    at, direction = one_direction(loaded.vector, at)
    plan = ablation_everywhere(direction, writing_sites(engine.find_writers()))
    left_out = ["What is applied now is not in the weights: `ablate` is."] if len(session.registry) else []
    return Baking(plan, f"{Path(loaded.source).name}, layer {at}", (*loaded.warnings, *left_out))


def engine_for_baking(session: Session) -> EditableWeights:
    """Return the session's engine, if its weights can be read and saved.

    Raises:
        BakingError: They are quantised, or lie under an adapter.
        UnsupportedFeatureError: The engine has none that can be edited.
    """
    engine = require(session.engine, EditableWeights, "save_edited_model")
    model = cast(Any, engine.module)
    if hasattr(model, "peft_config") or getattr(model, "_hf_peft_config_loaded", False):
        raise BakingError("The model has an adapter", fix="Merge it first: model.merge_and_unload().")
    if getattr(model.config, "quantization_config", None) is not None or not hasattr(model, "save_pretrained"):
        raise BakingError("The weights are quantised, or not a transformers model's", valid="floating-point weights")
    return engine


def writing_sites(writers: Sequence[Writer]) -> list[Site]:
    """Return the sites where something is written to the stream, the embedding first."""
    return [Site(0, "embedding"), *(w.site for w in writers if w.site.component != "embedding")]
