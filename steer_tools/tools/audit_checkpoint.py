"""The tool that finds what was baked into a checkpoint."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

from typing_extensions import TypedDict

from steer_tools.errors import ArgumentError
from steer_tools.tools import arguments as given
from steer_tools.tools.argument_checks import checked
from steer_tools.tools.card import Card
from steer_tools.tools.rendering import Shown, brief, facts, line, shown, stack, table, warning_lines
from steer_tools.tools.resolving import locked_session
from steer_tools.tools.results import rounded, short

if TYPE_CHECKING:
    from steer_tools.session.session import Session
    from steer_tools.weights.audit import Audit, Difference, Recovered
    from steer_tools.weights.tensor_pairs import Checkpoint

_MOST_TENSORS, _MOST_KEYS = 20, 5
# Whoever steers by hand chooses fewer sites.
_FEW_BIASES = 4


AuditedCheckpoint = Annotated[str, given.Doc("Folder of the checkpoint to examine.")]
BaseCheckpoint = Annotated[
    str | None,
    given.Doc("Folder of the checkpoint that it was made from; the attached model's own if omitted."),
]
AuditFolder = Annotated[str | None, given.Doc("Folder for recovered vectors; named after the checkpoint if omitted.")]


class KnownVector(TypedDict):
    """A saved vector, and its cosine with a recovered one; without a sign beside an ablation, which has none."""

    vector_path: str
    layer: int
    cosine: float


class AuditFinding(TypedDict):
    """A vector that was recovered from weights: an `addition` at one layer, which is what the file adds at strength 1,
    or an `ablation`, one direction of length 1 and of arbitrary sign projected out at `layers`.

    `tensor_count` counts those that hold it. Of an ablation, `explained` is its share of their squared change, and
    `left` is |ûᵀW'| / |ûᵀW|: the share of the direction that they kept.
    """

    kind: str
    layers: list[int]
    component: str
    norm: float
    tensor_count: int
    explained: float | None
    left: float | None
    vector_path: str
    known: list[KnownVector]


class TensorChange(TypedDict):
    """`change`: |W' − W| / |W|, null where W is zero. `first_direction`: share of |W' − W|² along its first singular
    direction, null for vectors. `kind`: addition, ablation or other.
    """

    name: str
    kind: str
    change: float | None
    first_direction: float | None


class AuditResult(TypedDict):
    """`verdict`: equal, or the kinds that there are, such as "addition", "ablation, other"; other is training, merging
    or whatever else is neither, and no vector is claimed of it.

    `stand_ins` counts compared tensors that one of the two lacks: they stand beside zeros, or what they are tied to;
    `only_in_checkpoint` and `only_in_base` name those that stand beside nothing. `tensors`: the largest changes. By
    chance, cosines reach `cosine_chance`.
    """

    verdict: str
    checkpoint: str
    base: str
    equal: int
    differing: int
    stand_ins: int
    only_in_checkpoint: list[str]
    only_in_base: list[str]
    tensors: list[TensorChange]
    findings: list[AuditFinding]
    cosine_chance: float
    warnings: list[str]


@checked
def audit_checkpoint(
    checkpoint: AuditedCheckpoint, base: BaseCheckpoint = None, save_folder: AuditFolder = None
) -> AuditResult:
    """Compare two checkpoints on disk: which tensors differ, and which vector was added or projected out, if one was.

    Recovered vectors are saved, and compared with those of the workspace. No model is loaded.
    """
    from steer_tools.weights.audit import audit, save_findings
    from steer_tools.weights.tensor_pairs import open_checkpoint

    with locked_session() as session:
        edited = open_checkpoint(session.workspace.resolve(checkpoint), session.workspace.opened)
        original = _base(session, base)
        found = audit(edited, original)
        recovered = save_findings(found, original, session.workspace, save_folder or f"audits/{edited.folder.name}")
        return AuditResult(
            verdict=found.verdict,
            checkpoint=str(edited.folder),
            base=str(original.folder),
            equal=found.equal,
            differing=len(found.differences),
            stand_ins=found.stand_ins,
            only_in_checkpoint=list(found.only_in_checkpoint[:_MOST_TENSORS]),
            only_in_base=list(found.only_in_base[:_MOST_TENSORS]),
            tensors=[*map(_change, found.differences[:_MOST_TENSORS])],
            findings=[*map(_finding, recovered)],
            cosine_chance=short(2 / math.sqrt(original.sizes.width)),
            warnings=_warnings(found, original.sizes.layers),
        )


def _base(session: Session, base: str | None) -> Checkpoint:
    from steer_tools.weights.saved_model import model_folder
    from steer_tools.weights.shards import open_file
    from steer_tools.weights.tensor_pairs import open_checkpoint

    if base is not None:
        return open_checkpoint(session.workspace.resolve(base), session.workspace.opened)
    folder = model_folder(session)
    if folder is None:
        raise ArgumentError(
            "base is omitted, and the attached model was not loaded from a folder",
            valid="a folder with a safetensors checkpoint",
            fix="Give the folder of the checkpoint that this one was made from.",
        )
    # Whoever loaded the model chose its folder, which may lie outside a confined workspace.
    return open_checkpoint(folder, open_file)


def _change(own: Difference) -> TensorChange:
    return TensorChange(name=own.name, kind=own.kind, change=_short(own.change), first_direction=_short(own.share))


def _finding(recovered: Recovered) -> AuditFinding:
    finding = recovered.finding
    return AuditFinding(
        kind=finding.kind,
        layers=list(finding.layers),
        component=finding.component,
        norm=short(recovered.norm),
        tensor_count=len(finding.tensors),
        explained=_short(finding.explained),
        left=_short(finding.left),
        vector_path=recovered.path,
        known=[KnownVector(vector_path=path, layer=at, cosine=short(cosine)) for path, at, cosine in recovered.alike],
    )


def _warnings(found: Audit, layers: int) -> list[str]:
    alone = len(found.only_in_checkpoint) + len(found.only_in_base)
    more = len(found.config_keys) - _MOST_KEYS
    names = ", ".join(found.config_keys[:_MOST_KEYS]) + (f" and {more} more" if more > 0 else "")
    added = [finding for finding in found.findings if finding.kind == "addition"]
    is_everywhere = {layer for finding in added for layer in finding.layers} >= set(range(layers))
    doubts = {
        "The checkpoints have different dtypes: what is the same after rounding counts as equal.": found.are_rounded,
        f"{found.unclaimed} biases of layers' outputs differ beside other weights: they may be a training's, so no "
        "vector is claimed.": found.unclaimed,
        f"{alone} tensors are in one of the checkpoints only, and were not compared.": alone,
        f"{found.ignored} biases are in a checkpoint whose config says that the model has none (mlp_bias, "
        "attention_bias): transformers ignores them, and so they count as in one checkpoint only.": found.ignored,
        f"Tensors are compared, and the configs differ in {names}.": found.config_keys,
        f"{len(added)} biases of outputs differ, at every layer: it may be a training of biases (BitFit) as well.": (
            len(added) >= _FEW_BIASES and is_everywhere
        ),
        "The sign of an ablated direction cannot be recovered: compare absolute cosines.": any(
            finding.kind == "ablation" for finding in found.findings
        ),
    }
    return [doubt for doubt, is_there in doubts.items() if is_there]


def _short(value: float | None) -> float | None:
    return short(rounded(value))


_ALIKE = 5
_COLUMNS = {"tensor": "fold", "change": "right", "in one direction": "right", "explained by": "left"}


def show(result: AuditResult) -> Shown:
    """Render the verdict, each vector that was found, and the tensors that differ."""
    parts: list[Shown] = [line(_verdict(result), "bold")]
    parts += [part for finding in result["findings"] for part in (line(""), facts(_facts(finding)))]
    if result["tensors"]:
        rows = [
            (
                shown(own["name"]),
                "" if own["change"] is None else brief(own["change"]),
                "" if own["first_direction"] is None else f"{own['first_direction']:.1%}",
                "" if own["kind"] == "other" else own["kind"],
            )
            for own in result["tensors"]
        ]
        rest = result["differing"] - len(rows)
        parts += [table(_COLUMNS, rows), *([line(f"and {rest} more")] if rest else [])]
    return stack(*parts, *warning_lines(result["warnings"]))


def _verdict(result: AuditResult) -> str:
    counted = f"{result['differing']} of {result['differing'] + result['equal']} tensors differ"
    match result["verdict"]:
        case "equal":
            return f"Equal: all {result['equal']} tensors are the same."
        case "other":
            return f"Other changes: {counted}, and neither an added vector nor an ablated direction explains them."
        case verdict:
            words = {"addition": "an added vector", "ablation": "an ablated direction", "other": "other changes"}
            return f"Found {' and '.join(words[kind] for kind in verdict.split(', '))}: {counted}."


def _facts(finding: AuditFinding) -> dict[str, str | None]:
    first, last = finding["layers"][0], finding["layers"][-1]
    where = f"layer {first}" if first == last else f"{len(finding['layers'])} layers from {first} to {last}"
    alike = [f"{own['vector_path']} (layer {own['layer']}) {own['cosine']:.4f}" for own in finding["known"]]
    is_added = finding["kind"] == "addition"
    return {
        finding["kind"]: f"{where} ({finding['component']}), in {finding['tensor_count']} tensors",
        "norm": f"{finding['norm']:.4g}" if is_added else None,
        "explains": _share(finding["explained"], "of the squared change of these tensors"),
        "left": _share(finding["left"], "of the direction is still in them"),
        "vector": finding["vector_path"],
        "cosine" if is_added else "|cosine|": "; ".join(alike[:_ALIKE]) or None,
    }


def _share(value: float | None, words: str) -> str | None:
    return None if value is None else f"{value:.4%} {words}"


TOOL = Card(
    "Find what was baked into a checkpoint",
    "edit",
    command="audit",
    about="Find which weights of a checkpoint differ from its base's, and the vector that was baked in, if one was.",
    positional=("checkpoint", "base"),
    is_repeatable=True,
    needs_model=False,
).tool(audit_checkpoint, show)
