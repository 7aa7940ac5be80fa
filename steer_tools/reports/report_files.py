"""A sweep or an experiment → its files in a folder of the workspace, all of them or none. It must not know tools."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from steer_tools.evaluation.evaluation_set import EvaluationSet
from steer_tools.experiments.experiment import Experiment
from steer_tools.experiments.sweeps import Sweep
from steer_tools.reports.facts import Facts
from steer_tools.reports.json_documents import Json, experiment_document, sweep_document
from steer_tools.reports.markdown_report import (
    DOCUMENT,
    EVIDENCE,
    HEAT_MAP,
    REPORT,
    SWEEP_DOCUMENT,
    TABLE,
    experiment_markdown,
    sweep_markdown,
)
from steer_tools.reports.pictures import heat_map_picture, overview_picture
from steer_tools.workspace import Workspace


@dataclass(frozen=True)
class ExperimentFiles:
    """Where the files of an experiment are."""

    report: Path
    picture: Path
    heat_map: Path
    document: Path


@dataclass(frozen=True)
class SweepFiles:
    """Where the files of a sweep are."""

    table: Path
    heat_map: Path
    document: Path


def save_experiment(workspace: Workspace, folder: str, experiment: Experiment, facts: Facts) -> ExperimentFiles:
    """Write report, pictures and document into `folder`.

    Raises:
        VectorFileError: A file cannot be written; none is then changed.
        WorkspacePathError: The folder lies outside a confined root.
    """
    contents = {
        REPORT: experiment_markdown(experiment, facts).encode(),
        EVIDENCE: overview_picture(experiment, facts),
        HEAT_MAP: heat_map_picture(experiment.swept, experiment.evaluation_set.behavior.name, facts),
        DOCUMENT: _json(experiment_document(experiment, facts)),
    }
    return ExperimentFiles(*_write(workspace, folder, contents))


def save_sweep(
    workspace: Workspace, folder: str, swept: Sweep, evaluation_set: EvaluationSet, facts: Facts
) -> SweepFiles:
    """Write table, picture and document into `folder`.

    Raises:
        VectorFileError: A file cannot be written; none is then changed.
        WorkspacePathError: The folder lies outside a confined root.
    """
    contents = {
        TABLE: sweep_markdown(swept, evaluation_set, facts).encode(),
        HEAT_MAP: heat_map_picture(swept, evaluation_set.behavior.name, facts),
        SWEEP_DOCUMENT: _json(sweep_document(swept, evaluation_set, facts)),
    }
    return SweepFiles(*_write(workspace, folder, contents))


def _write(workspace: Workspace, folder: str, contents: Mapping[str, bytes]) -> list[Path]:
    paths = {f"{folder}/{name}": content for name, content in contents.items()}
    workspace.write_together(paths)
    return [workspace.resolve(path) for path in paths]


def _json(document: Json) -> bytes:
    return json.dumps(document, indent=1, allow_nan=False).encode()
