"""The tool that bakes what is applied into a checkpoint."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

from typing_extensions import TypedDict

from steer_tools.prompts import parse_prompts
from steer_tools.tools import arguments as given
from steer_tools.tools.argument_checks import checked
from steer_tools.tools.card import Card
from steer_tools.tools.rendering import Shown, line, saved, stack, warning_lines
from steer_tools.tools.resolving import locked_session
from steer_tools.tools.results import short

if TYPE_CHECKING:
    from steer_tools.weights.saved_model import SavedModel


CheckpointFolder = Annotated[
    str, given.Doc("New folder, or one that this tool wrote, which is replaced; in the workspace.")
]
AblatedVector = Annotated[
    str | None,
    given.Doc("Vector to project out of all that is written to the stream, instead of what is applied."),
]


class SaveModelResult(TypedDict):
    """`kind` is addition or ablation.

    `difference`: the largest between logits of the reloaded checkpoint and of the steered model, on prompts and greedy
    new tokens, of which `same_tokens` are the same; `logit_change`: between the unsteered and the steered model. `undo`
    and `llama_cpp` are commands; null where llama.cpp cannot add it.
    """

    success: bool
    folder: str
    kind: str
    changed_tensors: int
    added_tensors: int
    prompt_count: int
    same_tokens: int
    difference: float
    tolerance: float
    logit_change: float
    undo: str
    llama_cpp: str | None
    warnings: list[str]


@checked
def save_edited_model(
    save_folder: CheckpointFolder,
    ablate: AblatedVector = None,
    layer: given.AblatedLayer = None,
    prompts: given.CheckPrompts = None,
    allow_other_model: given.AllowOtherModel = False,
) -> SaveModelResult:
    """Save the model with what is applied in its weights, for transformers without this package; logits are compared.

    Weights can hold additions with positions="all", as biases, and one direction projected out everywhere (ablate).
    """
    from steer_tools.weights.bakeable_plans import ablation_of, what_is_applied
    from steer_tools.weights.saved_model import save_edited

    with locked_session() as session:
        chosen = () if prompts is None else parse_prompts(prompts)
        if ablate is None:
            baking = what_is_applied(session)
        else:
            baking = ablation_of(session, ablate, layer, allow_other_model=allow_other_model)
        saved = save_edited(session, save_folder, baking, chosen)
        return SaveModelResult(
            success=True,
            folder=str(saved.folder),
            kind=saved.kind,
            changed_tensors=saved.changed,
            added_tensors=saved.added,
            prompt_count=saved.proof.prompts,
            same_tokens=saved.proof.same_tokens,
            difference=short(saved.proof.difference),
            tolerance=short(saved.proof.tolerance),
            logit_change=short(saved.proof.effect),
            undo=shlex.join(["steer-tools", "undo", str(saved.folder)]),
            llama_cpp=_llama_cpp(saved),
            warnings=list(saved.warnings),
        )


def _llama_cpp(saved: SavedModel) -> str | None:
    """Return the command that adds the same to the unedited model in llama.cpp; the strength is in the file."""
    from steer_tools.weights.undo_file import CONTROL_VECTOR

    layers = saved.control_vector_layers
    if not layers:
        return None
    file, first, last = str(saved.folder / CONTROL_VECTOR), str(layers[0]), str(layers[-1])
    options = ["--control-vector", file, "--control-vector-layer-range", first, last]
    return shlex.join(["llama-cli", "-m", "UNEDITED_MODEL.gguf", *options])


def show(result: SaveModelResult) -> Shown:
    """Render where the checkpoint is, what changed, and how near it is to the steered model."""
    return stack(
        saved(result["folder"]),
        line(f"{result['kind']}: {result['changed_tensors']} tensors changed, {result['added_tensors']} added", "dim"),
        line(
            f"logits differ by {result['difference']:.2g} from the steered model's (accepted: "
            f"{result['tolerance']:.2g}); steering moves them by {result['logit_change']:.2g}"
        ),
        line(f"{result['same_tokens']} of {result['prompt_count']} greedy continuations are the same"),
        *warning_lines(result["warnings"]),
    )


TOOL = Card(
    "Save the steered model",
    "edit",
    command="bake",
    about="Save the model with a vector in its weights: --vector with --positions all, or --ablate; "
    "PROMPTS are compared.",
    vector="optional",
    flags={"layer": "ablate_layer"},
    instead_of_vector="ablate",
    positional=("prompts",),
    is_repeatable=True,
).tool(save_edited_model, show)
