"""The command `convert`: one vector file → another, and what got lost. It must not know formats."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from steer_tools.cli import options as given
from steer_tools.cli.marking import shown
from steer_tools.cli.output import show

if TYPE_CHECKING:  # At run time this would import torch.
    from steer_tools.formats.conversion import Conversion

Source = Annotated[
    str, typer.Argument(metavar="SOURCE", help="A vector's file; a relative path is meant below the workspace.")
]
TargetFile = Annotated[
    str, typer.Argument(metavar="TARGET", help="The new file: .safetensors, .npy, .gguf, .json (vllm-lens) or .pt.")
]
Layer = Annotated[
    int | None,
    typer.Option("--layer", metavar="N", min=0, help="The layer of a bare array, or the one layer to take of several."),
]
Rows = Annotated[
    str | None,
    typer.Option(
        "--rows",
        help="What row i of a stack is: block_outputs (the output of block i) or hidden_states (its input).",
    ),
]
FormatName = Annotated[
    str | None,
    typer.Option(
        "--format", help="The target's format, where its ending leaves a choice: pt (the default) or rotalabs."
    ),
]


def convert(
    source: Source,
    target: TargetFile,
    layer: Layer = None,
    rows: Rows = None,
    format_name: FormatName = None,
    workspace: given.WorkspaceFolder = None,
    as_json: given.AsJson = False,
) -> None:
    """Convert a vector's file from or to another library's format, and tell what the new file does not say."""
    from steer_tools.formats.conversion import ConversionOptions, convert_vector
    from steer_tools.workspace import Workspace

    folder = Workspace(workspace or Workspace.default().root)
    done = convert_vector(source, target, ConversionOptions(layer, rows, format_name), workspace=folder)
    show(_result(source, done), _rendered(source, done), as_json=as_json)


def _result(source: str, done: "Conversion") -> dict[str, object]:
    return {
        "read": {
            "path": source,
            "format": done.read.format.name,
            "convention": done.read.format.convention,
            "component": done.read.vector.component,
            "width": done.read.vector.width,
            "layers": list(done.read.vector.layers),
            "norms": [done.read.vector.magnitude(layer) for layer in done.read.vector.layers],
            "notes": list(done.read.notes),
        },
        "written": {
            "path": str(done.path),
            "format": done.format.name,
            "convention": done.format.convention,
            "layers": list(done.written.layers),
        },
        "lost": list(done.lost),
    }


def _rendered(source: str, done: "Conversion") -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("layer", "norm", "written"):
        table.add_column(column, justify="right")
    for layer in done.read.vector.layers:
        is_written = layer in done.written.layers
        table.add_row(str(layer), f"{done.read.vector.magnitude(layer):.4g}", "yes" if is_written else "no")
    lost = ", ".join(done.lost) or "nothing"
    return Group(
        Text.assemble(("Read    ", "bold"), shown(source)),
        Text(f"{done.read.format.name}, width {done.read.vector.width}: {done.read.format.convention}", style="dim"),
        *(Text.assemble(("Note: ", "yellow"), shown(note)) for note in done.read.notes),
        table,
        Text.assemble(("Written ", "bold"), shown(str(done.path))),
        Text(f"{done.format.name}: {done.format.convention}", style="dim"),
        Text.assemble(("Lost    ", "bold"), lost),
    )
