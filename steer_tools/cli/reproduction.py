"""A result file → the same call again, on the same model and files, and how its numbers differ."""

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from steer_tools.cli.workbench import Workbench
from steer_tools.errors import ArgumentError
from steer_tools.limits import parsed_json
from steer_tools.reports.provenance import Differences, Run, compare, digest_of, versions
from steer_tools.tools import TOOLS
from steer_tools.tools.rendering import Shown, facts, joined, stack
from steer_tools.workspace import Workspace

# By so much of the largest number beside it a number may move on another machine: in half precision they do.
_TOLERANCE = 0.02
_MEASURING = ("steering_experiment", "find_best_layer", "sweep_steering")


class _Facts(BaseModel):
    run: Run
    template_options: dict[str, Any] = {}


class _Document(BaseModel):
    facts: _Facts


@dataclass(frozen=True)
class Reproduction:
    """What came of it.

    Attributes:
        tool: What was run again.
        differences: How the two documents differ.
        changed_versions: Of packages, then and now.
        is_same: Whether no text or choice differs, and no number by more than the tolerance.
        tolerance: As a share of the largest number beside it.
    """

    tool: str
    differences: Differences
    changed_versions: dict[str, tuple[str, str]]
    is_same: bool
    tolerance: float = _TOLERANCE


def reproduced(path: str, model: str | None, workspace: str | None) -> Reproduction:
    """Run again what a result file tells of; nothing of it is kept.

    Raises:
        ArgumentError: It tells of no run, of one with a function of Python, or a file or the weights have changed.
    """
    folder = Workspace(workspace)
    first = parsed_json(folder.read(path), path)
    try:
        told = _Document.model_validate(first).facts
    except ValidationError as error:
        raise ArgumentError(
            f"{path} does not say how it was made",
            valid="report.json or sweep.json, as steering_experiment, find_best_layer and sweep_steering write them",
        ) from error
    run = told.run
    # A file is no caller: it may name what measures, and nothing else.
    tool = next((tool.function for tool in TOOLS if tool.name == run.tool and tool.name in _MEASURING), None)
    known = {} if tool is None else inspect.signature(tool).parameters
    is_known = (
        run.arguments.keys() <= known.keys() - {"save_folder"} and {"name", "fingerprint", "dtype"} <= run.model.keys()
    )
    if tool is None or run.unsaid or not is_known:
        raise ArgumentError(
            f"{path} was made by {run.tool} with {', '.join(run.unsaid) or 'arguments of another version'}, "
            "which no file can hold",
            valid="results of a tool with plain arguments",
            fix="Call the tool again from Python.",
        )
    changed = [name for name, digest in run.inputs.items() if digest_of(folder, name) != digest]
    if changed:
        raise ArgumentError(
            f"{path} was made from {', '.join(changed)}, which holds something else now or is gone",
            fix="Put the files back, or run the tool on what there is now.",
        )
    loading = {"dtype": run.model["dtype"], "template_options": told.template_options or None}
    with Workbench(model or run.model["name"], workspace, loading).at_work():
        from steer_tools.session.session import current_session

        session = current_session()
        info = session.engine.info
        if not info.has_weights_of(run.model["fingerprint"]):
            raise ArgumentError(
                f"The weights of {info.name} are not those that {path} was made with: fingerprint {info.fingerprint}",
                valid=run.model["fingerprint"],
                fix="Say where the model is with --model.",
            )
        with session.workspace.passing_folder() as again:
            result = cast(dict[str, Any], tool(**run.arguments, save_folder=str(again)))
            second = _document_of(result)
    found = compare(cast(dict[str, Any], first), second)
    now = versions()
    return Reproduction(
        tool=run.tool,
        differences=found,
        changed_versions={
            name: (then, now.get(name, "none")) for name, then in run.versions.items() if now.get(name) != then
        },
        is_same=not found.others and found.largest <= _TOLERANCE,
    )


def _document_of(result: dict[str, Any]) -> dict[str, Any]:
    from steer_tools.reports.report_files import DOCUMENT

    path = result.get("data_path") or Path(result["report_path"]).with_name(DOCUMENT)
    return json.loads(Path(path).read_text(encoding="utf-8"))


def reproduction_shown(found: Reproduction) -> Shown:
    """Render whether the numbers are the same."""
    differ = found.differences
    verdict = (
        "same to the last bit"
        if not (differ.changed or differ.others)
        else "the same"
        if found.is_same
        else "not the same"
    )
    return stack(
        joined(("Reproduced: ", "bold"), (verdict, "bold green" if found.is_same else "bold red")),
        facts(
            {
                "ran": found.tool,
                "numbers": f"{differ.numbers:,}, of which {differ.changed:,} differ",
                "largest": f"{differ.largest:.2g} of the largest beside it, at {differ.where}"
                if differ.changed
                else None,
                "accepted": f"{found.tolerance:g}" if differ.changed else None,
                "others": ", ".join(differ.others[:8]) or None,
                "versions": ", ".join(f"{n} {a} → {b}" for n, (a, b) in found.changed_versions.items()) or None,
            }
        ),
    )
