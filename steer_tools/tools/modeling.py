"""The tools that say which model is steered, and load one."""

from pathlib import Path

from steer_tools.core.registry import Applied
from steer_tools.engines.base import ModelInfo
from steer_tools.errors import SteeringError
from steer_tools.formats import SUFFIXES, load_vector
from steer_tools.parameters import (
    AppliedStatus,
    DeviceMap,
    Dtype,
    EngineName,
    LoadResult,
    ModelName,
    ModelStatus,
    SavedStatus,
    StatusResult,
)
from steer_tools.session.session import Session, current_session
from steer_tools.tools.results import one_or_list

_MOST_SAVED = 50


def steering_status() -> StatusResult:
    """Show the model, what is applied to it now, and the vectors saved in the workspace."""
    session = current_session()
    with session.lock:
        engine = session.engine
        # Beside a config lie a model's weights, which save_edited_model may have written there.
        paths = [p for p in session.workspace.files(SUFFIXES) if not (p.parent / "config.json").is_file()]
        return StatusResult(
            model=_model_status(engine.info),
            in_force=session.is_in_force,
            applied=[_applied_status(entry) for entry in session.registry.entries()],
            workspace=str(session.workspace.root),
            saved=[_saved_status(session, path) for path in paths[:_MOST_SAVED]],
            saved_total=len(paths),
        )


def load_model(
    name_or_path: ModelName, engine: EngineName = "huggingface", dtype: Dtype = "auto", device_map: DeviceMap = None
) -> LoadResult:
    """Load a causal language model and steer it from now on; whatever is applied is dropped."""
    session = current_session()
    with session.lock:
        before = len(session.registry)
        info = session.load(name_or_path, engine, dtype, device_map)
        return LoadResult(success=True, model=_model_status(info), dropped=before)


def _model_status(info: ModelInfo) -> ModelStatus:
    return ModelStatus(
        name=info.name,
        family=info.family,
        layers=info.layers,
        hidden_size=info.hidden_size,
        dtype=info.dtype,
        device=info.device,
        engine=info.engine,
        chat_template=info.has_chat_template,
        context_length=info.context_length,
    )


def _applied_status(entry: Applied) -> AppliedStatus:
    first = entry.unit_placements[0]
    return AppliedStatus(
        steering_id=entry.steering_id,
        vector_path=entry.source,
        layer=one_or_list(entry.layers),
        strength=entry.strength,
        unit=entry.unit,
        component=first.site.part,
        intervention=first.intervention.name,
        target=entry.target,
        positions=str(first.positions),
        condition=entry.condition,
    )


def _saved_status(session: Session, path: Path) -> SavedStatus:
    try:
        # A bare array has no layer of its own; any will do to read it.
        vector = load_vector(path, layer_if_unknown=0, workspace=session.workspace)
    except SteeringError as error:
        return SavedStatus(vector_path=str(path), layer=None, method=None, problem=str(error))
    layer = one_or_list(vector.layers) if vector.info.method is not None else None
    return SavedStatus(vector_path=str(path), layer=layer, method=vector.info.method, problem=None)
