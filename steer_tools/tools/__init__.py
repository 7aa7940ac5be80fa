"""The tools, and the explicit list of them that every protocol loops over.

A tool looks up the session, resolves its arguments, makes one call into a room and returns a JSON-safe dict.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from steer_tools.tools.analyzing import analyze_steering_vector
from steer_tools.tools.applying import (
    apply_steering_vector,
    remove_all_steering_vectors,
    remove_steering_vector,
    update_steering_vector,
)
from steer_tools.tools.auditing import audit_checkpoint
from steer_tools.tools.baking import save_edited_model
from steer_tools.tools.checking import check_steering, show_tokens
from steer_tools.tools.creating import combine_steering_vectors, create_steering_vector
from steer_tools.tools.dissecting import ablate_component
from steer_tools.tools.evaluating import calibrate_strength, evaluate_steering_robustness
from steer_tools.tools.experimenting import find_best_layer, steering_experiment, sweep_steering
from steer_tools.tools.generating import compare_generations, compare_next_tokens, generate
from steer_tools.tools.modeling import load_model, steering_status
from steer_tools.tools.patching import patch_activations
from steer_tools.tools.reading import read_activations


@dataclass(frozen=True)
class Tool:
    """A tool function with what a protocol says about it beside its signature and docstring.

    Attributes:
        function: Called with JSON values; returns a JSON-safe dict.
        title: For people.
        is_read_only: It changes neither the model nor a file.
        is_destructive: It takes something away or overwrites it.
        is_idempotent: A second equal call changes nothing more.
        reaches_out: It may touch something beyond the model and the workspace.
        needs_model: It works on the attached model.
    """

    function: Callable[..., Any]
    title: str
    is_read_only: bool
    is_destructive: bool = False
    is_idempotent: bool = False
    reaches_out: bool = False
    needs_model: bool = True

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.__name__


TOOLS: tuple[Tool, ...] = (
    Tool(steering_status, "Show the model and what is applied", is_read_only=True, is_idempotent=True),
    Tool(
        create_steering_vector, "Create a steering vector", is_read_only=False, is_destructive=True, is_idempotent=True
    ),
    Tool(
        combine_steering_vectors,
        "Combine steering vectors",
        is_read_only=False,
        is_destructive=True,
        is_idempotent=True,
        needs_model=False,
    ),
    Tool(apply_steering_vector, "Apply a steering vector", is_read_only=False),
    Tool(compare_generations, "Compare unsteered and steered texts", is_read_only=True, is_idempotent=True),
    Tool(compare_next_tokens, "Compare unsteered and steered next tokens", is_read_only=True, is_idempotent=True),
    Tool(steering_experiment, "Find out whether a behaviour can be steered", is_read_only=False, is_destructive=True),
    Tool(sweep_steering, "Measure layers and strengths", is_read_only=False, is_destructive=True),
    Tool(find_best_layer, "Find the best layer", is_read_only=False, is_destructive=True),
    Tool(evaluate_steering_robustness, "Measure how evenly it works", is_read_only=True, is_idempotent=True),
    Tool(calibrate_strength, "Find the strength for a target", is_read_only=True, is_idempotent=True),
    Tool(analyze_steering_vector, "Show what a vector means and does", is_read_only=False, is_destructive=True),
    Tool(read_activations, "Read a model along a vector", is_read_only=False, is_destructive=True),
    Tool(ablate_component, "Find the parts that a behaviour needs", is_read_only=False, is_destructive=True),
    Tool(patch_activations, "Patch activations between prompts", is_read_only=False, is_destructive=True),
    Tool(generate, "Generate under what is applied", is_read_only=True, is_idempotent=True),
    Tool(check_steering, "Prove that the steering is exact", is_read_only=True, is_idempotent=True),
    Tool(show_tokens, "Show tokens and which would be steered", is_read_only=True, is_idempotent=True),
    Tool(update_steering_vector, "Change a strength", is_read_only=False, is_idempotent=True),
    Tool(remove_steering_vector, "Remove one applied vector", is_read_only=False, is_destructive=True),
    Tool(
        remove_all_steering_vectors,
        "Remove all applied vectors",
        is_read_only=False,
        is_destructive=True,
        is_idempotent=True,
    ),
    Tool(save_edited_model, "Save the steered model", is_read_only=False, is_destructive=True, is_idempotent=True),
    Tool(
        audit_checkpoint,
        "Find what was baked into a checkpoint",
        is_read_only=False,
        is_destructive=True,
        is_idempotent=True,
        needs_model=False,
    ),
    Tool(
        load_model,
        "Load another model",
        is_read_only=False,
        is_destructive=True,
        is_idempotent=True,
        reaches_out=True,
        needs_model=False,
    ),
)

__all__ = [
    "TOOLS",
    "Tool",
    "ablate_component",
    "analyze_steering_vector",
    "apply_steering_vector",
    "audit_checkpoint",
    "calibrate_strength",
    "check_steering",
    "combine_steering_vectors",
    "compare_generations",
    "compare_next_tokens",
    "create_steering_vector",
    "evaluate_steering_robustness",
    "find_best_layer",
    "generate",
    "load_model",
    "patch_activations",
    "read_activations",
    "remove_all_steering_vectors",
    "remove_steering_vector",
    "save_edited_model",
    "show_tokens",
    "steering_experiment",
    "steering_status",
    "sweep_steering",
    "update_steering_vector",
]
