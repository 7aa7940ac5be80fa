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
from steer_tools.experiments.experiment import Experiment, Spot
from steer_tools.experiments.grids import magnitudes
from steer_tools.experiments.sweeps import Sweep
from steer_tools.experiments.text_choice import SIGNS, Direction
from steer_tools.experiments.text_sweeps import TextSweep
from steer_tools.figures import PICTURE, SIGNED, signed
from steer_tools.limits import FILE_BYTES
from steer_tools.reports.experiment_documents import experiment_document
from steer_tools.reports.json_documents import Facts, Json, sweep_document, text_sweep_document
from steer_tools.reports.markdown import code, literal
from steer_tools.reports.method_sections import (
    Tried,
    certificate_blocks,
    choice_blocks,
    limit_blocks,
    setting_blocks,
    usage_blocks,
)
from steer_tools.reports.pictures import cells_picture, heat_map_picture, overview_picture, text_heat_map_picture
from steer_tools.reports.result_sections import control_blocks, effect_blocks, log_odds_blocks, side_effect_blocks
from steer_tools.reports.text_sections import (
    contrast_blocks,
    guard_blocks,
    scale_words,
    text_blocks,
    text_choice_blocks,
    text_control_blocks,
    text_effect_blocks,
)
from steer_tools.reports.words import VERDICTS
from steer_tools.workspace import Kind, Workspace

HEAT_MAP, EVIDENCE, REPORT, DOCUMENT = "heat_map.png", "report.png", "report.md", "report.json"
TABLE, SWEEP_DOCUMENT = "sweep.md", "sweep.json"
_AGAIN = "`steer-tools reproduce` with its path runs all of it again and compares."
_NAT = "A nat is the unit of log-odds: one more makes the odds of a positive completion 2.7 times as high."
_UNDECIDED = (
    "Texts could not decide here: the first reason above says why. So log-odds of given completions chose the cell, "
    "and the rest of this report is on them."
)
_OPPOSITE = "Less of the behaviour was asked for, so what follows is at the opposite of that strength."


def experiment_markdown(experiment: Experiment, facts: Facts) -> str:
    """Return the report; its pictures lie beside it."""
    evaluation_set, ruling, texts = experiment.evaluation_set, experiment.ruling, experiment.texts
    direction = experiment.options.direction
    blocks = [
        f"# {_subject(evaluation_set, facts, direction)}: {ruling.verdict}",
        f"**{VERDICTS[ruling.verdict]}**",
        "\n".join(f"- {literal(reason, 2000)}" for reason in ruling.reasons),
        _UNDECIDED if texts is None else scale_words(evaluation_set.behavior, direction),
        _NAT,
        *text_blocks(experiment),
        "## The picture",
        *_picture_blocks(experiment),
        *_method_blocks(experiment),
        *side_effect_blocks(
            experiment.side_effects,
            experiment.log_odds.effect,
            None if experiment.swept is None else experiment.swept.grid.budget,
        ),
        *contrast_blocks(experiment.contrast),
        *limit_blocks(evaluation_set, facts, texts),
        *usage_blocks(experiment.spot, experiment.examples[0].prompt, facts),
        *certificate_blocks(facts),
        *setting_blocks(_tried(experiment, facts), evaluation_set, facts, experiment.extraction),
    ]
    return "\n\n".join(blocks) + "\n"


def _picture_blocks(experiment: Experiment) -> list[str]:
    if experiment.texts is None:
        left = "the effect on log-odds at each strength of the chosen layer, on the items that judge"
        middle = "every cell that was tried, on the items that chose"
    else:
        left = (
            "the change of the score beside the unsteered texts, at each strength of the chosen layer that was "
            "written; each point is a prompt that judges"
        )
        middle = "every cell, on the prompts that chose"
    return [
        f"![Effect by dose, by layer and strength, and beside controls]({EVIDENCE})",
        f"*Left: {left}. Middle: {middle}. Right: each point is a control direction. The middle alone, larger: "
        f"[{HEAT_MAP}]({HEAT_MAP}). {_every_number(DOCUMENT)}*",
    ]


def _method_blocks(experiment: Experiment) -> list[str]:
    """Return how the cell was chosen, its effect, its controls, and where texts decide its guards and log-odds."""
    choice, swept, texts, detector = experiment.choice, experiment.swept, experiment.texts, experiment.detector
    log_odds, sign, strength = experiment.log_odds, SIGNS[experiment.options.direction], experiment.spot.strength
    controls = [] if experiment.null is None else control_blocks(experiment.null, log_odds, sign)
    if choice is None or texts is None or detector is None:
        assert swept is not None
        return [
            *choice_blocks(swept, experiment.evaluation_set),
            *([] if sign > 0 else [_OPPOSITE]),
            *effect_blocks(swept, experiment.evaluation_set.behavior, log_odds, strength),
            *controls,
        ]
    return [
        *text_choice_blocks(choice, magnitudes(experiment.options.strengths)),
        *text_effect_blocks(texts, detector, strength),
        *text_control_blocks(texts),
        *guard_blocks(texts),
        *log_odds_blocks(log_odds, experiment.evaluation_set.behavior, strength, sign),
        *controls,
    ]


def _tried(experiment: Experiment, facts: Facts) -> Tried:
    if experiment.choice is None:
        assert experiment.swept is not None
        return Tried.in_grid(experiment.swept, facts)
    return Tried.in_choice(experiment.choice, magnitudes(experiment.options.strengths), experiment.spot.placed)


def sweep_markdown(swept: Sweep, evaluation_set: EvaluationSet, facts: Facts) -> str:
    """Return a short report of a sweep; its picture lies beside it. Without controls there is no verdict."""
    cell = swept.cell
    spot = Spot(cell.layer, facts.positions, cell.strength, swept.placed)
    blocks = [
        f"# {_subject(evaluation_set, facts)}: layer {cell.layer}, strength {cell.strength:g}",
        "No control directions were measured, so this says where the vector acts best, not that it works.",
        f"![Effect by layer and strength]({HEAT_MAP})",
        f"{_NAT} {_every_number(SWEEP_DOCUMENT)}",
        *setting_blocks(Tried.in_grid(swept, facts), evaluation_set, facts),
        *choice_blocks(swept, evaluation_set),
        *effect_blocks(swept, evaluation_set.behavior, swept.judgement, cell.strength),
        *limit_blocks(evaluation_set, facts),
        *usage_blocks(spot, swept.judgement.asked[0].prompt, facts),
    ]
    return "\n\n".join(blocks) + "\n"


def _subject(evaluation_set: EvaluationSet, facts: Facts, direction: Direction = "more") -> str:
    name = literal(evaluation_set.behavior.name, 80).replace("<br>", " ")
    return f"Steering {name}{' (less of it)' if direction == 'less' else ''} in {code(facts.short_model)}"


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
        HEAT_MAP: cells_picture(experiment, facts),
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
