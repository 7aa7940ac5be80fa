"""A sweep or an experiment → a Markdown report for somebody who has not seen the code, with its pictures and its JSON.

All files of it are written into a folder of the workspace, or none. It must not know tools.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel, ValidationError

from steer_tools.experiments.evaluation_set import EvaluationSet
from steer_tools.experiments.experiment import Experiment
from steer_tools.experiments.sweeps import Sweep
from steer_tools.experiments.text_sweeps import TextSweep
from steer_tools.figures import PICTURE, SIGNED, signed
from steer_tools.limits import FILE_BYTES
from steer_tools.reports.json_documents import Facts, Json, experiment_document, sweep_document, text_sweep_document
from steer_tools.reports.markdown import code, literal
from steer_tools.reports.method_sections import choice_blocks, limit_blocks, setting_blocks, usage_blocks
from steer_tools.reports.pictures import heat_map_picture, overview_picture, text_heat_map_picture
from steer_tools.reports.result_sections import control_blocks, effect_blocks, example_blocks, side_effect_blocks
from steer_tools.reports.words import VERDICTS
from steer_tools.workspace import Kind, Workspace

HEAT_MAP, EVIDENCE, REPORT, DOCUMENT = "heat_map.png", "report.png", "report.md", "report.json"
TABLE, SWEEP_DOCUMENT = "sweep.md", "sweep.json"
_AGAIN = "`steer-tools reproduce` with its path runs all of it again and compares."
_NAT = "A nat is the unit of log-odds: one more makes the odds of a positive completion 2.7 times as high."


def experiment_markdown(experiment: Experiment, facts: Facts) -> str:
    """Return the report; its pictures lie beside it."""
    swept, evaluation_set, ruling = experiment.swept, experiment.evaluation_set, experiment.ruling
    blocks = [
        f"# {_subject(evaluation_set, facts)}: {ruling.verdict}",
        f"**{VERDICTS[ruling.verdict]}**",
        "\n".join(f"- {literal(reason)}" for reason in ruling.reasons),
        _NAT,
        f"![Effect by dose, by layer and strength, and beside controls]({EVIDENCE})",
        "*Left: the effect at each strength of the chosen layer, on the items that judge. Middle: every cell that was "
        "tried, on the items that chose. Right: each point is a control direction. The middle one alone, larger: "
        f"[{HEAT_MAP}]({HEAT_MAP}). {_every_number(DOCUMENT)}*",
        *setting_blocks(swept, evaluation_set, facts, experiment.extraction),
        *choice_blocks(swept, evaluation_set),
        *effect_blocks(swept, evaluation_set),
        *control_blocks(experiment.null, swept.judgement),
        *side_effect_blocks(experiment.side_effects, swept.judgement.effect, swept.grid.budget),
        *example_blocks(experiment),
        *limit_blocks(evaluation_set, facts),
        *usage_blocks(swept, facts),
    ]
    return "\n\n".join(blocks) + "\n"


def sweep_markdown(swept: Sweep, evaluation_set: EvaluationSet, facts: Facts) -> str:
    """Return a short report of a sweep; its picture lies beside it. Without controls there is no verdict."""
    cell = swept.cell
    blocks = [
        f"# {_subject(evaluation_set, facts)}: layer {cell.layer}, strength {cell.strength:g}",
        "No control directions were measured, so this says where the vector acts best, not that it works.",
        f"![Effect by layer and strength]({HEAT_MAP})",
        f"{_NAT} {_every_number(SWEEP_DOCUMENT)}",
        *setting_blocks(swept, evaluation_set, facts),
        *choice_blocks(swept, evaluation_set),
        *effect_blocks(swept, evaluation_set),
        *limit_blocks(evaluation_set, facts),
        *usage_blocks(swept, facts),
    ]
    return "\n\n".join(blocks) + "\n"


def _subject(evaluation_set: EvaluationSet, facts: Facts) -> str:
    return f"Steering {literal(evaluation_set.behavior.name, 80).replace('<br>', ' ')} in {code(facts.short_model)}"


def _every_number(document: str) -> str:
    return f"Every number: [{document}]({document}). {_AGAIN}"


@dataclass(frozen=True)
class ReportFiles:
    """Where the files of a sweep or an experiment are; `picture` is an experiment's."""

    report: Path
    heat_map: Path
    document: Path
    picture: Path | None = None


def save_experiment(workspace: Workspace, folder: str, experiment: Experiment, facts: Facts) -> ReportFiles:
    """Write report, pictures and document into `folder`.

    Raises:
        VectorFileError: A file cannot be written; none is then changed.
        WorkspacePathError: The folder lies outside a confined root.
    """
    contents = {
        REPORT: signed(experiment_markdown(experiment, facts)),
        HEAT_MAP: heat_map_picture(experiment.swept, experiment.evaluation_set.behavior.name, facts),
        DOCUMENT: _json(experiment_document(experiment, facts)),
        EVIDENCE: overview_picture(experiment, facts),
    }
    return _write(workspace, folder, contents)


def save_sweep(
    workspace: Workspace, folder: str, swept: Sweep, evaluation_set: EvaluationSet, facts: Facts
) -> ReportFiles:
    """Write table, picture and document into `folder`.

    Raises:
        VectorFileError: A file cannot be written; none is then changed.
        WorkspacePathError: The folder lies outside a confined root.
    """
    contents = {
        TABLE: signed(sweep_markdown(swept, evaluation_set, facts)),
        HEAT_MAP: heat_map_picture(swept, evaluation_set.behavior.name, facts),
        SWEEP_DOCUMENT: _json(sweep_document(swept, evaluation_set, facts)),
    }
    return _write(workspace, folder, contents)


def save_text_sweep(workspace: Workspace, folder: str, swept: TextSweep, metric: str, facts: Facts) -> ReportFiles:
    """Write the texts of the chosen cell, the picture and the document with all texts into `folder`.

    Raises:
        VectorFileError: A file cannot be written; none is then changed.
        WorkspacePathError: The folder lies outside a confined root.
    """
    cell = swept.cell
    blocks = [
        f"# {literal(metric)}: layer {cell.layer}, strength {cell.strength:g}",
        f"![Change by layer and strength]({HEAT_MAP})",
        f"Every text with its score: [{SWEEP_DOCUMENT}]({SWEEP_DOCUMENT}). {_AGAIN}",
    ]
    said = zip(swept.choosing, swept.unsteered, cell.texts, swept.scores, cell.scores, strict=True)
    for prompt, unsteered, steered, before, after in said:
        blocks += [
            f"## {literal(str(prompt), 200)}",
            f"{before:g}: {literal(unsteered)}",
            f"{after:g}: {literal(steered)}",
        ]
    contents = {
        TABLE: signed("\n\n".join(blocks)),
        HEAT_MAP: text_heat_map_picture(swept, metric),
        SWEEP_DOCUMENT: _json(text_sweep_document(swept, metric, facts)),
    }
    return _write(workspace, folder, contents)


def _write(workspace: Workspace, folder: str, contents: Mapping[str, bytes]) -> ReportFiles:
    files = {f"{folder}/{name}": content for name, content in contents.items()}
    kinds = {path: KINDS[Path(path).suffix] for path in files}
    return ReportFiles(*workspace.write_together(files, replaces=kinds))


class _Document(BaseModel):
    facts: dict[str, Any]
    chosen: dict[str, Any]


def _is_document(file: BinaryIO) -> bool:
    try:
        return "version" in _Document.model_validate_json(file.read(FILE_BYTES.most)).facts
    except ValidationError:
        return False


KINDS = {".md": SIGNED, ".png": PICTURE, ".json": Kind("the JSON of a sweep or an experiment", _is_document)}


def _json(document: Json) -> bytes:
    return json.dumps(document, indent=1, allow_nan=False).encode()
