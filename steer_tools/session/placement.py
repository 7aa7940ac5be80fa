"""A steering vector and how it should act → placements, checked against the session's model; and `steering`.

It must not know hooks or what tools return.
"""

import sys
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias, cast, get_args

from steer_tools.core.interventions import Add, Intervention, intervention_named
from steer_tools.core.plan import Placement, Plan
from steer_tools.core.positions import GENERATED, Scope
from steer_tools.core.registry import Applied, Registry
from steer_tools.core.site import Site
from steer_tools.core.vectors import Proof, SteeringVector, Unit, proof_of
from steer_tools.errors import ArgumentError, LayerError, StrengthError, quoted
from steer_tools.foreign_text import visible
from steer_tools.session.condition_grammar import parse_condition
from steer_tools.session.edit_lengths import applied_warnings
from steer_tools.session.proofs import require_proved
from steer_tools.session.session import Session, current_session
from steer_tools.session.vector_loading import LoadedForModel, VectorLike, load_for_model

UNITS: tuple[Unit, ...] = get_args(Unit)
# One, several, or what the strength is multiplied by at each.
Layers: TypeAlias = int | Sequence[int] | Mapping[int, float] | None
# One vector, several, or what each is multiplied by.
Vectors: TypeAlias = VectorLike | Sequence[VectorLike] | Mapping[str, float]


@dataclass(frozen=True)
class Placed:
    """A vector on a model.

    Attributes:
        unit: What strength 1 means.
        unit_placements: Its placements at strength 1, one a layer.
        target: The intervention's own parameter, as it was asked for.
        condition: Which rows it is for, as it was asked for.
        warnings: What the one who applies it should know.
        chosen_strength: What an experiment chose in this unit, if one did.
        taken: What else it chose and the caller left out, in words.
        digests: The SHA-256 of its files, by their paths.
        proof: What its certificate says; None where it has none, and of several vectors.
    """

    source: str
    unit: Unit
    unit_placements: Plan
    target: float | None
    condition: str | None
    warnings: tuple[str, ...]
    chosen_strength: float | None = None
    taken: tuple[str, ...] = ()
    digests: tuple[tuple[str, str], ...] = ()
    proof: Proof | None = None

    @property
    def strength(self) -> float:
        """The strength that is meant where none is given."""
        return 1.0 if self.chosen_strength is None else self.chosen_strength

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that are edited."""
        return tuple(dict.fromkeys(placement.site.layer for placement in self.unit_placements))

    def plan(self, strength: float) -> Plan:
        """Return the placements at `strength`."""
        return tuple(placement.scaled(strength) for placement in self.unit_placements)

    def told(self, *, is_strength_given: bool) -> list[str]:
        """Return what was taken from an experiment's choice, and the warnings."""
        is_taken = not is_strength_given and self.chosen_strength is not None
        taken = [*self.taken, *([f"strength {self.chosen_strength:g}"] if is_taken else [])]
        return [*([f"Taken as the file's experiment chose: {', '.join(taken)}."] if taken else []), *self.warnings]


@dataclass(frozen=True)
class PlacementOptions:
    """How a vector acts.

    Attributes:
        unit: What strength 1 means, where the strength multiplies the direction; None is "vector".
        intervention: What is done to the hidden state.
        target: The intervention's own parameter; None is its default.
        positions: At which tokens; None is "generated".
        condition: On which rows; None is all.
        layer_weights: By what the strength is multiplied at each layer; None is 1.
        allow_other_model: Whether another model's vector may be used.
    """

    unit: str | None = None
    intervention: str = "add"
    target: float | None = None
    positions: str | None = None
    condition: str | SteeringVector | None = None
    layer_weights: Sequence[float] | None = None
    allow_other_model: bool = False

    def checked(self) -> tuple[Scope, Unit, type[Intervention]]:
        """Return what the names stand for.

        Raises:
            ArgumentError: One is unknown, or the unit does not fit the intervention.
        """
        scope = GENERATED if self.positions is None else Scope.parse(self.positions)
        unit = "vector" if self.unit is None else self.unit
        if unit not in UNITS:
            raise ArgumentError(f"unit is {unit!r}", valid=", ".join(map(repr, UNITS)))
        kind = intervention_named(self.intervention)
        if unit != "vector" and not kind.scales_direction:
            raise ArgumentError(
                f"unit is {unit!r}, but the strength of {kind.name!r} is a share of the whole edit",
                valid="'vector', with 1.0 for the whole",
            )
        return scope, unit, kind


def place(session: Session, vector: Vectors, layer: Layers, options: PlacementOptions | None = None) -> Placed:
    """Choose a vector's directions and express one unit of strength at each layer; of several vectors, side by side.

    Of layer, unit and positions, what is None is taken from the cell that an experiment chose for the vector, where it
    has one and is added. Else `layer` None takes all layers of the vector; layers that the vector has take their own
    directions, and where it has only one, any other layer takes that. A mapping of layers is one with layer weights.

    Raises:
        LayerError: The model or the vector lacks a layer.
        ForeignVectorError: It was made on another kind of model.
        ArgumentError: An option is unknown, or cannot be had with this vector.
        VectorFileError: A file cannot be read.
    """
    options = options or PlacementOptions()
    if isinstance(layer, Mapping):
        if options.layer_weights is not None:
            raise ArgumentError("layer is a mapping, and layer_weights were given, too", valid="one of them")
        options = replace(options, layer_weights=list(layer.values()))
        layer = list(layer)
    options.checked()  # Before a file is read: what is wrong with the call is told first.
    weighted = _weighted(vector)
    if weighted is not None:
        return _together([(place(session, one, layer, options), weight) for one, weight in weighted])
    single = cast(VectorLike, vector)
    at = layer
    if isinstance(layer, Sequence) and not isinstance(layer, str):
        at = session.resolved_layers(layer, "layer", _SOME_LAYERS)
    loaded = load_for_model(
        session,
        single,
        session.engine.resolve_layer(at) if isinstance(at, int) else at,
        allow_other_model=options.allow_other_model,
    )
    return _placed(session, loaded, at, options)


def place_at_each(
    session: Session, vector: SteeringVector, layers: Sequence[int], options: PlacementOptions
) -> dict[int, Placed]:
    """Place a vector at each layer by itself, as `place` does; whether it fits the model is judged once."""
    options.checked()
    loaded = load_for_model(session, vector, None, allow_other_model=options.allow_other_model)
    return {layer: _placed(session, loaded, layer, options) for layer in layers}


def place_once(
    session: Session, vector: VectorLike, layer: int | None, options: PlacementOptions | None = None
) -> Placed:
    """Place a vector at one layer.

    Raises:
        ArgumentError: The vector has several and none was named; or as `place` does.
    """
    placed = place(session, vector, layer, options)
    if len(placed.layers) > 1:
        raise ArgumentError(
            f"The vector has the layers {list(placed.layers)}, and none was named",
            valid="one of them",
            fix="sweep_steering finds the best one.",
        )
    return placed


def apply(session: Session, placed: Placed, strength: float | None, steering_id: str = "") -> Applied:
    """Put a placed vector on the live model, on top of what is applied already.

    Raises:
        UnverifiedVectorError: Only verified vectors may be applied, and it is none.
    """
    applied = Applied(
        steering_id=steering_id,
        source=placed.source,
        unit=placed.unit,
        strength=placed.strength if strength is None else require_finite(strength),
        unit_placements=placed.unit_placements,
        target=placed.target,
        condition=placed.condition,
        digests=placed.digests,
        proof=placed.proof,
    )
    require_proved(session, applied)
    return session.change(lambda registry: registry.add(applied))


def change_strength(session: Session, steering_id: str, strength: float) -> Applied:
    """Give what is applied under a handle another strength; raises as `apply` does."""

    def change(registry: Registry) -> Applied:
        require_proved(session, replace(registry.find(steering_id), strength=strength))
        return registry.update(steering_id, strength)

    return session.change(change)


@contextmanager
def steering(
    vector: Vectors,
    layer: Layers = None,
    strength: float | None = None,
    *,
    unit: Unit | None = None,
    intervention: str = "add",
    target: float | None = None,
    positions: str | None = None,
    condition: str | SteeringVector | None = None,
    layer_weights: Sequence[float] | None = None,
    allow_other_model: bool = False,
) -> Generator[Applied]:
    """Steer the attached model inside a `with` block; on leaving it, also by an error, this one vector is taken off.

    Args:
        vector: A `SteeringVector`, the path of a file, a tensor or array (with `layer`), or {layer: array}; or several
            of them in a list, or {path: weight}.
        layer: Where it acts: a layer, a list, a range, or {layer: weight}. What is left out of layer, strength, unit
            and positions is what an experiment chose for the file; where none did, every layer that the vector has,
            1.0, "vector" and "generated".
        strength: Multiplies the unit, or is the share of a whole edit.
        unit: "vector" (what the file holds), "contrast" (one mean difference) or "residual" (one residual norm).
        intervention: What is done to the hidden state; see `apply_steering_vector`.
        target: The intervention's own parameter.
        positions: Which tokens are steered.
        condition: Which rows are steered.
        layer_weights: By what the strength is multiplied at each layer.
        allow_other_model: Whether another model's vector may be used.

    Where more is added than texts tend to bear, `warnings.warn` says so.

    Raises:
        SteeringError: As `apply_steering_vector` does.
    """
    session = current_session()
    options = PlacementOptions(unit, intervention, target, positions, condition, layer_weights, allow_other_model)
    registry, steering_id = session.registry, ""

    def take_off() -> None:
        with session.lock:
            # It was refused, or somebody has removed it, or everything, or attached another model inside the block.
            if session.registry is registry and steering_id in {own.steering_id for own in registry.entries()}:
                session.take_off(lambda registry: registry.remove(steering_id))

    try:
        with session.at_work():
            placed = place(session, vector, layer, options)
            registry = session.registry  # A model that is found in the main namespace comes with its own.
            steering_id = registry.reserve()
            applied = apply(session, placed, strength, steering_id)
            too_long = applied_warnings(session, applied)
        for warning in too_long:
            warnings.warn(visible(warning), stacklevel=3)  # At the caller's `with`.
        yield applied
    finally:
        try:
            take_off()
        except BaseException:  # An interrupt.
            take_off()
            raise


def require_finite(strength: object, name: str = "strength") -> float:
    """Return a strength as a float.

    Raises:
        StrengthError: It is no finite number.
    """
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not abs(strength) <= sys.float_info.max:
        raise StrengthError(
            f"{name} is {quoted(strength)}", valid="a finite number; 0 changes nothing, negative steers the other way"
        )
    return float(strength)


def _placed(session: Session, loaded: LoadedForModel, layer: Layers, options: PlacementOptions) -> Placed:
    vector, warnings = loaded.vector, list(loaded.warnings)
    chosen = vector.info.chosen if options.intervention == Add.name else None
    taken: dict[str, object] = {}
    if chosen is not None:
        said = {"layer": layer, "unit": options.unit, "positions": options.positions}
        taken = {name: getattr(chosen, name) for name, value in said.items() if value is None}
        layer = chosen.layer if layer is None else layer
        options = replace(options, unit=options.unit or chosen.unit, positions=options.positions or chosen.positions)
    scope, unit, kind = options.checked()
    if layer is None and len(vector.layers) > 1 and kind.scales_direction:
        warnings.append(
            f"All {len(vector.layers)} layers of the vector are steered at once, and what they add accumulates: give "
            f"layer={vector.layers[len(vector.layers) // 2]}, for instance, to steer one."
        )
    condition = None
    if options.condition is not None:
        parsed = parse_condition(session, options.condition, allow_other_model=options.allow_other_model)
        condition, warnings = parsed.condition, [*warnings, *parsed.warnings]
    target = None if options.target is None else require_finite(options.target, "target")
    placements: list[Placement] = []
    layers = _chosen_layers(session, vector, layer)
    for (at, made_at), weight in zip(layers, _weights(options.layer_weights, len(layers)), strict=True):
        site = Site(at, vector.component, vector.head)
        if at != made_at:
            warnings.append(_moved_warning(session, site, made_at, scales=kind.scales_direction))
        intervention = kind.from_vector(vector, made_at, target)
        factor = weight * _factor(session, vector, made_at, site, unit)
        placements.append(Placement(intervention, site, factor, scope, condition))
    return Placed(
        loaded.source,
        unit,
        tuple(placements),
        target,
        None if options.condition is None else str(options.condition),
        tuple(dict.fromkeys(warnings)),
        chosen_strength=chosen.strength if chosen is not None and chosen.unit == unit else None,
        taken=tuple(f"{name} {value}" for name, value in taken.items() if value != str(GENERATED)),
        digests=loaded.digests,
        proof=proof_of(vector),
    )


def _weighted(vector: Vectors) -> list[tuple[VectorLike, float]] | None:
    """Return several vectors with their weights; None where it is one."""
    if isinstance(vector, list | tuple):
        several = cast(Sequence[VectorLike], vector)
        if nested := [one for one in several if isinstance(one, list | tuple)]:
            raise ArgumentError(f"Among the vectors is {quoted(nested[0])}", valid="files, or vectors in memory")
        return [(one, 1.0) for one in several]
    if isinstance(vector, Mapping) and all(isinstance(name, str) for name in vector):
        weights = cast(Mapping[str, float], vector)
        return [(name, require_finite(weight, "a vector's weight")) for name, weight in weights.items()]
    return None


def _together(placed: Sequence[tuple[Placed, float]]) -> Placed:
    """Return several placed vectors as one, whose strength multiplies them all."""
    if not placed:
        raise ArgumentError("There is no vector", valid="at least one")
    first = placed[0][0]
    return replace(
        first,
        source=" and ".join(one.source for one, _ in placed),
        unit_placements=tuple(unit.scaled(weight) for one, weight in placed for unit in one.unit_placements),
        warnings=tuple(dict.fromkeys(warning for one, _ in placed for warning in one.warnings)),
        chosen_strength=None,
        taken=(),
        digests=tuple(digest for one, _ in placed for digest in one.digests),
        proof=None,
    )


def _weights(weights: object, count: int) -> list[float]:
    if weights is None:
        return [1.0] * count
    items = [] if isinstance(weights, str) or not isinstance(weights, Sequence) else cast(Sequence[object], weights)
    if len(items) != count:
        raise ArgumentError(
            f"layer_weights is {quoted(weights)}", valid=f"{count} numbers, one for each layer that is steered"
        )
    return [require_finite(item, "a layer weight") for item in items]


def _moved_warning(session: Session, site: Site, made_at: int, *, scales: bool) -> str:
    """Say how much stronger the stream is than where the direction was made."""
    text = f"The vector has no direction for layer {site.layer}; its only one, made at layer {made_at}, is used there"
    if not scales:
        return f"{text}, with means and projections that were measured where it was made."
    text += ". Norms differ between layers"
    if made_at in session.engine.info.steerable_layers:
        ratio = session.typical_norm(site) / session.typical_norm(Site(made_at, site.component, site.head))
        text += f", here by a factor of {ratio:.3g}"
    return f"{text}: unit='residual' makes strengths comparable."


def _chosen_layers(session: Session, vector: SteeringVector, layer: Layers) -> list[tuple[int, int]]:
    """Return (layer to edit, layer whose direction is used) pairs."""
    engine = session.engine
    if layer is None:
        return [(engine.resolve_layer(own), own) for own in vector.layers]
    if isinstance(layer, str) or not isinstance(layer, Sequence):
        at = engine.resolve_layer(layer)
        return [(at, _own(vector, at) if len(vector.directions) > 1 else vector.layers[0])]
    return [(at, _own(vector, at) if len(vector.directions) > 1 else vector.layers[0]) for at in layer]


_SOME_LAYERS = "at least one of the model's layers, or leave it out for all that the vector has"


def _own(vector: SteeringVector, layer: int) -> int:
    if layer not in vector.directions:
        raise LayerError(
            f"The vector has no direction for layer {layer}",
            valid=f"its layers {list(vector.layers)}",
            fix="Leave `layer` out to use all of them.",
        )
    return layer


def _factor(session: Session, vector: SteeringVector, made_at: int, site: Site, unit: Unit) -> float:
    """Return by what the stored direction is multiplied at strength 1."""
    match unit:
        case "vector":
            return 1.0
        case "contrast":
            contrast_norm = vector.contrast_norm(made_at)
            if contrast_norm is None:
                raise ArgumentError(
                    "unit is 'contrast', but the vector's file does not say how long its contrast was",
                    valid="'vector' or 'residual' for this file",
                )
            return contrast_norm / vector.magnitude(made_at)
        case "residual":
            return session.typical_norm(site) / vector.magnitude(made_at)
