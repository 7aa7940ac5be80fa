"""The command `audit`: two checkpoints → what was baked into one of them. It must not know weights."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from steer_tools.cli import options as given
from steer_tools.cli.bar import progress_bar
from steer_tools.cli.evidence import facts_table
from steer_tools.cli.marking import shown
from steer_tools.cli.output import show
from steer_tools.cli.wording import warning_lines
from steer_tools.cli.work import choose_workspace

if TYPE_CHECKING:  # At run time this would import torch.
    from steer_tools.tools.audit_checkpoint import AuditFinding, AuditResult

_BELOW = "A relative path is meant below the workspace."
Audited = Annotated[str, typer.Argument(metavar="CHECKPOINT", help=f"{{AuditedCheckpoint}} {_BELOW}")]
Base = Annotated[str, typer.Argument(metavar="BASE", help=f"Folder of the checkpoint that it was made from. {_BELOW}")]
SaveFolder = Annotated[str | None, typer.Option("--save", metavar="FOLDER", help="{AuditFolder}")]
_ALIKE = 5


def audit(
    checkpoint: Audited,
    base: Base,
    save_folder: SaveFolder = None,
    workspace: given.WorkspaceFolder = None,
    as_json: given.AsJson = False,
) -> None:
    """Find which weights of a checkpoint differ from its base's, and the vector that was baked in, if one was."""
    choose_workspace(workspace)
    with progress_bar("comparing tensors"):
        from steer_tools.tools import audit_checkpoint

        result = audit_checkpoint(checkpoint, base, save_folder)
    show(result, _rendered(result), as_json=as_json)


def _rendered(result: "AuditResult") -> RenderableType:
    parts: list[RenderableType] = [Text(_verdict(result), style="bold")]
    parts += [part for finding in result["findings"] for part in (Text(), _finding(finding))]
    if result["tensors"]:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("tensor", overflow="fold")
        table.add_column("change", justify="right")
        table.add_column("in one direction", justify="right")
        table.add_column("explained by")
        for own in result["tensors"]:
            table.add_row(
                shown(own["name"]),
                "" if own["change"] is None else f"{own['change']:.3g}",
                "" if own["first_direction"] is None else f"{own['first_direction']:.1%}",
                "" if own["kind"] == "other" else own["kind"],
            )
        rest = result["differing"] - len(result["tensors"])
        parts += [table, *([Text(f"and {rest} more")] if rest else [])]
    return Group(*parts, *warning_lines(result["warnings"]))


def _verdict(result: "AuditResult") -> str:
    counted = f"{result['differing']} of {result['differing'] + result['equal']} tensors differ"
    match result["verdict"]:
        case "equal":
            return f"Equal: all {result['equal']} tensors are the same."
        case "other":
            return f"Other changes: {counted}, and neither an added vector nor an ablated direction explains them."
        case verdict:
            words = {"addition": "an added vector", "ablation": "an ablated direction", "other": "other changes"}
            return f"Found {' and '.join(words[kind] for kind in verdict.split(', '))}: {counted}."


def _finding(finding: "AuditFinding") -> Table:
    first, last = finding["layers"][0], finding["layers"][-1]
    where = f"layer {first}" if first == last else f"{len(finding['layers'])} layers from {first} to {last}"
    alike = [f"{own['vector_path']} (layer {own['layer']}) {own['cosine']:.4f}" for own in finding["saved"]]
    is_added = finding["kind"] == "addition"
    return facts_table(
        {
            finding["kind"]: f"{where} ({finding['component']}), in {finding['tensors']} tensors",
            "norm": f"{finding['norm']:.4g}" if is_added else None,
            "explains": _share(finding["explained"], "of the squared change of these tensors"),
            "left": _share(finding["left"], "of the direction is still in them"),
            "vector": finding["vector_path"],
            "cosine" if is_added else "|cosine|": "; ".join(alike[:_ALIKE]) or None,
        }
    )


def _share(value: float | None, words: str) -> str | None:
    return None if value is None else f"{value:.4%} {words}"
