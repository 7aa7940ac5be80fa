"""What a caller wants baked, and the model that it acts on → a plan with its sources. It must not know folders.

An ablation everywhere needs nothing applied: its plan is made here, and compared with hooks at the same places.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from steer_tools.core.plan import Plan
from steer_tools.core.site import Site
from steer_tools.engines.facets import EditableWeights, Writer, require
from steer_tools.errors import ArgumentError, BakingError
from steer_tools.session.session import Session
from steer_tools.session.vector_loading import load_for_model, one_direction
from steer_tools.weights.bakeable_plans import ablation_everywhere


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
