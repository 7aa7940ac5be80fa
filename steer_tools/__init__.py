"""Steer a language model by editing its activations, and show with evidence that it worked.

A table of contents: names are resolved on first use (PEP 562), so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from steer_tools.core.vectors import SteeringVector
    from steer_tools.errors import SteeringError
    from steer_tools.formats import load_vector, save_vector
    from steer_tools.progress import reporting_to
    from steer_tools.prompts import split_by_label
    from steer_tools.session.placement import steering
    from steer_tools.session.session import attach_model, detach_model
    from steer_tools.tools import (
        ablate_component,
        analyze_steering_vector,
        apply_steering_vector,
        audit_checkpoint,
        calibrate_strength,
        check_steering,
        combine_steering_vectors,
        compare_generations,
        compare_next_tokens,
        create_steering_vector,
        evaluate_steering_robustness,
        find_best_layer,
        generate,
        load_model,
        patch_activations,
        read_activations,
        remove_all_steering_vectors,
        remove_steering_vector,
        save_edited_model,
        show_tokens,
        steering_experiment,
        steering_status,
        sweep_steering,
        update_steering_vector,
    )
    from steer_tools.weights.checkpoints import undo_edited_model

__version__ = "0.1.0"

_ROOMS = {
    "SteeringError": "errors",
    "SteeringVector": "core.vectors",
    "ablate_component": "tools",
    "analyze_steering_vector": "tools",
    "apply_steering_vector": "tools",
    "attach_model": "session.session",
    "audit_checkpoint": "tools",
    "calibrate_strength": "tools",
    "check_steering": "tools",
    "combine_steering_vectors": "tools",
    "compare_generations": "tools",
    "compare_next_tokens": "tools",
    "create_steering_vector": "tools",
    "detach_model": "session.session",
    "evaluate_steering_robustness": "tools",
    "find_best_layer": "tools",
    "generate": "tools",
    "load_model": "tools",
    "load_vector": "formats",
    "patch_activations": "tools",
    "read_activations": "tools",
    "remove_all_steering_vectors": "tools",
    "remove_steering_vector": "tools",
    "reporting_to": "progress",
    "save_edited_model": "tools",
    "save_vector": "formats",
    "show_tokens": "tools",
    "split_by_label": "prompts",
    "steering": "session.placement",
    "steering_experiment": "tools",
    "steering_status": "tools",
    "sweep_steering": "tools",
    "undo_edited_model": "weights.checkpoints",
    "update_steering_vector": "tools",
}

__all__ = [
    "SteeringError",
    "SteeringVector",
    "ablate_component",
    "analyze_steering_vector",
    "apply_steering_vector",
    "attach_model",
    "audit_checkpoint",
    "calibrate_strength",
    "check_steering",
    "combine_steering_vectors",
    "compare_generations",
    "compare_next_tokens",
    "create_steering_vector",
    "detach_model",
    "evaluate_steering_robustness",
    "find_best_layer",
    "generate",
    "load_model",
    "load_vector",
    "patch_activations",
    "read_activations",
    "remove_all_steering_vectors",
    "remove_steering_vector",
    "reporting_to",
    "save_edited_model",
    "save_vector",
    "show_tokens",
    "split_by_label",
    "steering",
    "steering_experiment",
    "steering_status",
    "sweep_steering",
    "undo_edited_model",
    "update_steering_vector",
]


def __getattr__(name: str) -> object:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
    if _ROOMS[name] == "tools":
        value = import_module(f"{__name__}.tools.documentation").document(value)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
