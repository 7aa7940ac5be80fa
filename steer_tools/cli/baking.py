"""The commands `bake` and `undo`: a vector into a checkpoint's weights, and out again. It must not know weights."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from steer_tools.cli import options as given
from steer_tools.cli.inputs import PromptSource
from steer_tools.cli.marking import shown
from steer_tools.cli.output import show, show_command
from steer_tools.cli.wording import warning_lines
from steer_tools.cli.work import VectorUse, Workbench
from steer_tools.errors import ArgumentError

if TYPE_CHECKING:  # At run time this would import torch.
    from steer_tools.tools.save_edited_model import SaveModelResult

NewFolder = Annotated[str, typer.Option("--save", metavar="FOLDER", help="{CheckpointFolder}")]
EditedFolder = Annotated[str, typer.Argument(metavar="FOLDER", help="A folder that `bake` wrote.")]
Ablate = Annotated[str | None, typer.Option("--ablate", metavar="FILE", help="{AblatedVector}")]
AblatedLayer = Annotated[int | None, typer.Option("--ablate-layer", metavar="N", help="{AblatedLayer}")]


def bake(
    *,
    source: PromptSource,
    save_folder: NewFolder,
    vector: given.OptionalVector = None,
    use: VectorUse,
    ablate: Ablate = None,
    ablate_layer: AblatedLayer = None,
    bench: Workbench,
    as_json: given.AsJson = False,
) -> None:
    """Save the model with a vector in its weights: --vector with --positions all, or --ablate; PROMPTS are compared."""
    prompts = source.read()
    use.require(vector)
    if (vector is None) == (ablate is None):
        raise ArgumentError("One vector is needed", valid="--vector with --positions all, or --ablate")
    with bench.at_work(), use.in_force(vector) as warnings:
        from steer_tools.tools import save_edited_model

        result = save_edited_model(
            save_folder, ablate, ablate_layer, prompts or None, allow_other_model=use.allow_other_model
        )
        result["warnings"] = [*warnings, *result["warnings"]]

    show(result, _rendered(result), as_json=as_json)
    if not as_json:
        show_command("Take it out again:", result["undo"])
        if result["llama_cpp"]:
            show_command("The same in llama.cpp, on the unedited model:", result["llama_cpp"])


def undo(folder: EditedFolder, as_json: given.AsJson = False) -> None:
    """Give every weight of a baked checkpoint its own bits again."""
    from steer_tools.weights.checkpoints import undo_edited_model

    done = undo_edited_model(folder)
    show(asdict(done), Text(f"{done.restored} tensors restored, {done.removed} removed"), as_json=as_json)


def _rendered(result: "SaveModelResult") -> RenderableType:
    return Group(
        Text.assemble(("Saved ", "bold"), shown(result["folder"])),
        Text(f"{result['kind']}: {result['changed']} tensors changed, {result['added']} added", style="dim"),
        Text(
            f"logits differ by {result['difference']:.2g} from the steered model's (accepted: "
            f"{result['tolerance']:.2g}); steering moves them by {result['effect']:.2g}"
        ),
        Text(f"{result['same_tokens']} of {result['prompts']} greedy continuations are the same"),
        *warning_lines(result["warnings"]),
    )
