"""The tool that reads raw activations into a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from typing_extensions import TypedDict

from steer_tools.prompts import PromptLike
from steer_tools.tools import arguments as given
from steer_tools.tools.argument_checks import checked
from steer_tools.tools.card import Card
from steer_tools.tools.rendering import Shown, facts, layer_names, saved, stack, warning_lines
from steer_tools.tools.resolving import locked_session

ReadPrompts = Annotated[list[PromptLike], given.Doc("Texts, chats or token ids.")]
ActivationsPath = Annotated[str, given.Doc("A .safetensors file in the workspace.")]
ReadLayers = Annotated[list[int] | None, given.Doc("All if omitted.")]
ReadComponent = Annotated[
    Literal["residual", "embedding", "attention", "mlp"], given.Doc("As for create_steering_vector.")
]
ReadHead = Annotated[int | None, given.Doc("As for create_steering_vector.")]
ReadPooling = Annotated[
    Literal["last", "first", "mean", "response", "all"] | int | Annotated[Callable[[Any], Any], given.ONLY_IN_PYTHON],
    given.Doc("Tokens to read; a number is one's index, all keeps each."),
]
PromptLabels = Annotated[list[str] | None, given.Doc("One a prompt, kept beside them.")]


class SavedActivations(TypedDict):
    """`path` holds a float32 tensor `layer.<n>` of `shape` for each layer: (prompts, width), or, with pooling "all",
    (tokens of all prompts, width); its metadata has prompts, labels and, for "all", tokens.
    """

    path: str
    layers: list[int]
    component: str
    pooling: str | int
    shape: list[int]
    warnings: list[str]


@checked
def save_activations(
    prompts: ReadPrompts,
    save_path: ActivationsPath,
    layers: ReadLayers = None,
    component: ReadComponent = "residual",
    head: ReadHead = None,
    pooling: ReadPooling = "last",
    labels: PromptLabels = None,
) -> SavedActivations:
    """Save the unsteered model's raw activations on prompts, for analyses of your own."""
    from steer_tools.inspection.activations import activations_of

    with locked_session() as session:
        session.workspace.resolve(save_path)
        found, warnings = activations_of(session, prompts, layers, component, head, pooling, labels)
        return SavedActivations(
            path=found.save(save_path),
            layers=list(found.layers),
            component=found.component,
            pooling=found.pooling,
            shape=list(found.shape),
            warnings=warnings,
        )


def show(result: SavedActivations) -> Shown:
    """Render what was saved."""
    rows = "tokens" if result["pooling"] == "all" else "prompts"
    told = {
        "layers": layer_names(result["layers"]),
        "read": f"{result['component']}, pooling {result['pooling']}",
        "each": f"{result['shape'][0]} {rows} × {result['shape'][1]}",
    }
    return stack(saved(result["path"]), facts(told), *warning_lines(result["warnings"]))


TOOL = Card(
    "Save raw activations",
    "inspect",
    command="activations",
    about="Save what the unsteered model holds on prompts, as tensors in a safetensors file.",
    positional=("prompts",),
    is_repeatable=True,
).tool(save_activations, show)
