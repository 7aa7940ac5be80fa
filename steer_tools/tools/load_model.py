"""The tool that loads a model."""

from typing_extensions import TypedDict

from steer_tools.tools import arguments as given
from steer_tools.tools.card import Card, Tool
from steer_tools.tools.resolving import locked_session
from steer_tools.tools.results import ModelStatus, model_status


class LoadResult(TypedDict):
    """The model that is attached now; `dropped` counts the vectors that were applied before."""

    success: bool
    model: ModelStatus
    dropped: int


def load_model(
    name_or_path: given.ModelName,
    engine: given.EngineName = "huggingface",
    dtype: given.Dtype = "auto",
    device_map: given.DeviceMap = None,
) -> LoadResult:
    """Load a causal language model and steer it from now on; whatever is applied is dropped."""
    with locked_session() as session:
        before = len(session.registry)
        info = session.load(name_or_path, engine, dtype, device_map)
        return LoadResult(success=True, model=model_status(info), dropped=before)


TOOL = Tool(
    load_model,
    Card("Load another model", "edit", is_destructive=True, is_idempotent=True, reaches_out=True, needs_model=False),
)
