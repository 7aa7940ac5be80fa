"""The tool that bakes what is applied into a checkpoint."""

import shlex

from steer_tools.parameters import (
    AblatedLayer,
    AblatedVector,
    AllowOtherModel,
    CheckpointFolder,
    CheckPrompts,
    SaveModelResult,
)
from steer_tools.prompts import parse_prompts
from steer_tools.session.session import current_session
from steer_tools.tools.results import short
from steer_tools.weights.bakeable_plans import ablation_of, what_is_applied
from steer_tools.weights.checkpoints import CONTROL_VECTOR
from steer_tools.weights.saved_model import SavedModel, save_edited


def save_edited_model(
    save_folder: CheckpointFolder,
    ablate: AblatedVector = None,
    layer: AblatedLayer = None,
    prompts: CheckPrompts = None,
    allow_other_model: AllowOtherModel = False,
) -> SaveModelResult:
    """Save the model with what is applied in its weights, for transformers without this package; logits are compared.

    Weights can hold additions with positions="all", as biases, and one direction projected out everywhere (ablate).
    """
    session = current_session()
    with session.lock:
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
            changed=saved.changed,
            added=saved.added,
            prompts=saved.proof.prompts,
            same_tokens=saved.proof.same_tokens,
            difference=short(saved.proof.difference),
            tolerance=short(saved.proof.tolerance),
            effect=short(saved.proof.effect),
            undo=shlex.join(["steer-tools", "undo", str(saved.folder)]),
            llama_cpp=_llama_cpp(saved),
            warnings=list(saved.warnings),
        )


def _llama_cpp(saved: SavedModel) -> str | None:
    """Return the command that adds the same to the unedited model in llama.cpp; the strength is in the file."""
    layers = saved.control_vector_layers
    if not layers:
        return None
    file, first, last = str(saved.folder / CONTROL_VECTOR), str(layers[0]), str(layers[-1])
    options = ["--control-vector", file, "--control-vector-layer-range", first, last]
    return shlex.join(["llama-cli", "-m", "UNEDITED_MODEL.gguf", *options])
