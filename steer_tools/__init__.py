"""Steer a language model by editing its activations, and show with evidence that it worked.

A table of contents: names are resolved on first use (PEP 562), so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from steer_tools.by_hand.vectors import SteeringVector as SteeringVector
    from steer_tools.by_hand.vectors import load_vector as load_vector
    from steer_tools.by_hand.vectors import save_vector as save_vector
    from steer_tools.errors import SteeringError as SteeringError
    from steer_tools.inspection.activations import load_activations as load_activations
    from steer_tools.inspection.activations import read_activations as read_activations
    from steer_tools.inspection.recording import recording as recording
    from steer_tools.progress import reporting_to as reporting_to
    from steer_tools.prompts import split_by_label as split_by_label
    from steer_tools.session.placement import steering as steering
    from steer_tools.session.session import attach_model as attach_model
    from steer_tools.session.session import detach_model as detach_model
    from steer_tools.session.session import loaded_model as loaded_model
    from steer_tools.tools import *  # noqa: F403  # The tools are listed there alone.
    from steer_tools.tools.card import Tool
    from steer_tools.weights.checkpoints import undo_edited_model as undo_edited_model

__version__ = "0.1.0"

# Where the names are that no tool has, and which of them are called by hand with what people have.
_ROOMS = {
    "SteeringError": "errors",
    "SteeringVector": "by_hand.vectors",
    "attach_model": "session.session",
    "detach_model": "session.session",
    "load_activations": "inspection.activations",
    "load_vector": "by_hand.vectors",
    "loaded_model": "session.session",
    "read_activations": "inspection.activations",
    "recording": "inspection.recording",
    "reporting_to": "progress",
    "save_vector": "by_hand.vectors",
    "split_by_label": "prompts",
    "steering": "session.placement",
    "undo_edited_model": "weights.checkpoints",
}
_BY_HAND = ("load_vector", "read_activations", "recording", "save_vector", "steering")


def __getattr__(name: str) -> object:
    if name in _ROOMS:
        value = getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
        if name in _BY_HAND:
            value = import_module(f"{__name__}.by_hand.calls").by_hand(value)
    elif name == "__all__":
        value = __dir__()
    else:
        tools = [] if name.startswith("_") else [tool for tool in _tools() if tool.name == name]
        if not tools:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = import_module(f"{__name__}.by_hand.calls").tool_by_hand(*tools)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*_ROOMS, *(tool.name for tool in _tools())])


def _tools() -> "tuple[Tool, ...]":
    return import_module(f"{__name__}.tools").TOOLS
