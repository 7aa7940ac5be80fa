"""The tool that says which model is steered, what is applied to it and what is saved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import TypedDict

from steer_tools.errors import SteeringError
from steer_tools.reports.words import option_texts
from steer_tools.tools.argument_checks import checked
from steer_tools.tools.card import Card
from steer_tools.tools.rendering import Shown, badge_line, facts, layer_names, line, shown, stack, table
from steer_tools.tools.resolving import locked_session
from steer_tools.tools.results import ModelStatus, added_strength, model_status, one_or_list

if TYPE_CHECKING:
    from steer_tools.core.registry import Applied
    from steer_tools.session.session import Session

_MOST_SAVED = 50


class AppliedStatus(TypedDict):
    """One applied vector; `residual_strength` as apply_steering_vector gave it.

    `file_changed`: its file holds something else by now, or is gone; what acts is what it held. `badge`: what its
    certificate says of it as it acts, "verified: ..." or "not verified: ..."; null without one.
    """

    steering_id: str
    vector_path: str
    layer: int | list[int]
    strength: float
    unit: str
    residual_strength: float | list[float | None] | None
    component: str
    intervention: str
    target: float | None
    positions: str
    condition: str | None
    file_changed: bool
    badge: str | None


class SavedStatus(TypedDict):
    """One vector file of the workspace; `problem` says why it cannot be read, `badge` what is proved of its cell."""

    vector_path: str
    layer: int | list[int] | None
    method: str | None
    problem: str | None
    badge: str | None


class StatusResult(TypedDict):
    """`in_force`: whether the hooks on the live model are those of `applied`."""

    model: ModelStatus
    in_force: bool
    applied: list[AppliedStatus]
    workspace: str
    saved: list[SavedStatus]
    saved_total: int


@checked
def steering_status() -> StatusResult:
    """Show the model, what is applied to it now, and the vectors saved in the workspace."""
    from steer_tools.formats import SUFFIXES

    with locked_session() as session:
        engine = session.engine
        # Beside a config lie a model's weights, which save_edited_model may have written there.
        paths = [p for p in session.workspace.files(SUFFIXES) if not (p.parent / "config.json").is_file()]
        return StatusResult(
            model=model_status(engine.info),
            in_force=session.is_in_force,
            applied=[_applied_status(session, entry) for entry in session.registry.entries()],
            workspace=str(session.workspace.root),
            saved=[_saved_status(session, path) for path in paths[:_MOST_SAVED]],
            saved_total=len(paths),
        )


def _applied_status(session: Session, entry: Applied) -> AppliedStatus:
    from steer_tools.session.proofs import applied_badge
    from steer_tools.session.vector_loading import changed_files

    first = entry.unit_placements[0]
    return AppliedStatus(
        steering_id=entry.steering_id,
        vector_path=entry.source,
        layer=one_or_list(entry.layers),
        strength=entry.strength,
        unit=entry.unit,
        residual_strength=added_strength(session, entry.strength, entry.placements),
        component=first.site.part,
        intervention=first.intervention.name,
        target=entry.target,
        positions=str(first.positions),
        condition=entry.condition,
        file_changed=bool(changed_files(session.workspace, entry)),
        badge=applied_badge(session, entry),
    )


def _saved_status(session: Session, path: Path) -> SavedStatus:
    from steer_tools.core.vectors import proof_of
    from steer_tools.formats import read_vector
    from steer_tools.formats.base import Unsaid
    from steer_tools.session.proofs import saved_badge

    try:
        # A bare array has no layer of its own; any will do to read it.
        vector = read_vector(path, Unsaid(layer=0), workspace=session.workspace).vector
    except SteeringError as error:
        return SavedStatus(vector_path=str(path), layer=None, method=None, problem=str(error), badge=None)
    layer = one_or_list(vector.layers) if vector.info.method is not None else None
    badge = saved_badge(session.engine.info, proof_of(vector))
    return SavedStatus(vector_path=str(path), layer=layer, method=vector.info.method, problem=None, badge=badge)


def show(result: StatusResult) -> Shown:
    """Render the model, the workspace and the saved vectors."""
    model = result["model"]
    limit = model["context_length"]
    known = facts(
        {
            "model": f"{model['name']} ({model['family']}, {model['engine']})",
            "size": f"{model['layer_count']} layers, hidden size {model['hidden_size']}",
            "runs in": f"{model['dtype']} on {model['device']}",
            "chat": _template_told(model),
            "context": "no limit" if limit is None else f"{limit} tokens",
            "workspace": result["workspace"],
        }
    )
    if not result["saved"]:
        return stack(known, line(""), line("No vectors are saved there; `steer-tools create` makes one."))
    rows = [
        (shown(entry["vector_path"]), layer_names(entry["layer"]), entry["method"] or "", badge_line(entry["badge"]))
        if entry["problem"] is None
        else (shown(entry["vector_path"]), "", line(entry["problem"], "red"), "")
        for entry in result["saved"]
    ]
    rest = result["saved_total"] - len(rows)
    columns = {"vector": "fold", "layer": "left", "method": "left", "certificate": "fold"}
    if not any(entry["badge"] for entry in result["saved"]):
        rows, columns = [row[:-1] for row in rows], {"vector": "fold", "layer": "left", "method": "left"}
    return stack(known, table(columns, rows), *([line(f"and {rest} more")] if rest else []))


def _template_told(model: ModelStatus) -> str:
    options = ", ".join(option_texts(model["template_options"]))
    return "no chat template" if not model["chat_template"] else f"has a chat template{options and f' ({options})'}"


TOOL = Card(
    "Show the model and what is applied",
    "core",
    command="status",
    about="Show the model and the vectors that are saved in the workspace.",
    is_read_only=True,
).tool(steering_status, show)
