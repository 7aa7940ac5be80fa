"""The commands that are no tools: the demo, the server, the models of this machine, and files of vectors.

What needs torch or draws something is imported inside them: `--help` and `--version` should not wait for it.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from steer_tools.bundled_model import NAME as BUNDLED
from steer_tools.cli.terminal import show
from steer_tools.cli.workbench import AsJson, WorkspaceFolder, spare_threads
from steer_tools.engines.named_models import SMOLLM2, has_smollm2
from steer_tools.tools.rendering import Shown, joined, line, shown, stack, table

if TYPE_CHECKING:
    from steer_tools.formats.conversion import Conversion

DemoModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="Any that load_model takes. (default: smollm2 where it is installed, else bundled)",
    ),
]
Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A vector's file; a relative path is meant below the workspace. Of several arrays, PATH[NAME] takes one.",
    ),
]
TargetFile = Annotated[
    str,
    typer.Argument(metavar="TARGET", help="The new file: .safetensors, .npy, .npz, .gguf, .json (vllm-lens) or .pt."),
]
Layer = Annotated[
    int | None,
    typer.Option("--layer", metavar="N", min=0, help="The layer of a bare array, or the one layer to take of several."),
]
Rows = Annotated[
    str | None,
    typer.Option(
        "--rows",
        help="What row i of a stack is: block_outputs (the output of block i), block_inputs (its input) or "
        "hidden_states (its input, with a last row after the final norm).",
    ),
]
FormatName = Annotated[
    str | None,
    typer.Option(
        "--format", help="The target's format, where its ending leaves a choice: pt (the default), rotalabs or lm-eval."
    ),
]
EditedFolder = Annotated[str, typer.Argument(metavar="FOLDER", help="A folder that `bake` wrote.")]

ResultFile = Annotated[
    str, typer.Argument(metavar="RESULT", help="A report.json or sweep.json; a relative path is below the workspace.")
]
OtherModel = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME", help="Where the model is now. (default: where it was)"),
]


def demo(model: DemoModel = None, workspace: WorkspaceFolder = None, as_json: AsJson = False) -> None:
    """Show steering from a vector to the proof, in a minute."""
    chosen = model or (SMOLLM2 if has_smollm2() else BUNDLED)
    if chosen in (BUNDLED, SMOLLM2):
        spare_threads()
    from steer_tools.cli.demo import run_demo

    run_demo(model=chosen, workspace=workspace, as_json=as_json, is_fallback=model is None and chosen == BUNDLED)


def serve(context: typer.Context) -> None:
    """Run the MCP server over stdio; `serve --help` lists its options."""
    from mcp_server.__main__ import main as serve_over_stdio

    raise typer.Exit(serve_over_stdio(context.args))


def models(as_json: AsJson = False) -> None:
    """List the models that load without a network."""
    from steer_tools.cli.local_models import find_models, model_table

    result = find_models()
    show(result, model_table(result), as_json=as_json)


def convert(
    source: Source,
    target: TargetFile,
    layer: Layer = None,
    rows: Rows = None,
    format_name: FormatName = None,
    workspace: WorkspaceFolder = None,
    as_json: AsJson = False,
) -> None:
    """Convert a vector's file from or to another library's format, and tell what the new file does not say."""
    from steer_tools.formats.base import Unsaid
    from steer_tools.formats.conversion import convert_vector
    from steer_tools.workspace import Workspace

    folder = Workspace(workspace)
    done = convert_vector(source, target, Unsaid(layer, rows), format_name, workspace=folder)
    show(_conversion_document(source, done), _conversion_shown(source, done), as_json=as_json)


def undo(folder: EditedFolder, as_json: AsJson = False) -> None:
    """Give every weight of a baked checkpoint its own bits again."""
    from steer_tools.weights.checkpoints import undo_edited_model

    done = undo_edited_model(folder)
    show(asdict(done), f"{done.restored} tensors restored, {done.removed} removed", as_json=as_json)


def reproduce(
    result: ResultFile, model: OtherModel = None, workspace: WorkspaceFolder = None, as_json: AsJson = False
) -> None:
    """Run again what a sweep or an experiment ran, and compare every number; exit code 3 where they differ."""
    from steer_tools.cli.reproduction import reproduced, reproduction_shown

    found = reproduced(result, model, workspace)
    show(asdict(found), reproduction_shown(found), as_json=as_json)
    if not found.is_same:
        raise typer.Exit(3)


def _conversion_document(source: str, done: "Conversion") -> Mapping[str, object]:
    """Return what was read and written, and what got lost, as JSON."""
    vector = done.read.vector
    return {
        "read": {
            "path": source,
            "format": done.read.format.name,
            "convention": done.read.format.convention,
            "component": vector.component,
            "width": vector.width,
            "layers": list(vector.layers),
            "norms": [vector.magnitude(layer) for layer in vector.layers],
            "notes": list(done.read.notes),
        },
        "written": {
            "path": str(done.made.path),
            "format": done.made.format.name,
            "convention": done.made.format.convention,
            "layers": list(done.written.layers),
        },
        "lost": list(done.made.lost),
    }


def _conversion_shown(source: str, done: "Conversion") -> Shown:
    """Render what was read and written, and what got lost."""
    vector, written = done.read.vector, done.written.layers
    rows = [
        (str(layer), f"{vector.magnitude(layer):.4g}", "yes" if layer in written else "no") for layer in vector.layers
    ]
    return stack(
        joined(("Read    ", "bold"), shown(source)),
        line(f"{done.read.format.name}, width {vector.width}: {done.read.format.convention}", "dim"),
        *(joined(("Note: ", "yellow"), shown(note)) for note in done.read.notes),
        table(dict.fromkeys(("layer", "norm", "written"), "right"), rows),
        joined(("Written ", "bold"), shown(str(done.made.path))),
        line(f"{done.made.format.name}: {done.made.format.convention}", "dim"),
        joined(("Lost    ", "bold"), ", ".join(done.made.lost) or "nothing"),
    )
