"""Measured cells ↔ a JSON file of the workspace, so that a grid that was cut off goes on where it was.

It must not know how cells are measured.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from steer_tools.errors import VectorFileError
from steer_tools.evaluation.damage import Damage
from steer_tools.experiments.grids import Cell, by_layer
from steer_tools.workspace import Workspace


@dataclass(frozen=True)
class CellFile:
    """The cells of one grid; `key` changes with all that they depend on."""

    workspace: Workspace
    path: str
    key: str

    def load(self) -> dict[int, list[Cell]]:
        """Return the cells of each layer that were measured before; none where the file is of another grid."""
        if not self.workspace.holds(self.path):
            return {}
        try:
            document = json.loads(self.workspace.read(self.path))
            if document["key"] != self.key:
                return {}
            return by_layer([_cell(own) for own in document["cells"]])
        except (ValueError, TypeError, KeyError, VectorFileError):
            return {}  # What is no grid is measured anew.

    def save(self, cells: Sequence[Cell]) -> None:
        """Write the cells."""
        content = {"key": self.key, "cells": [_document(cell) for cell in cells]}
        self.workspace.write(self.path, json.dumps(content, indent=1).encode())


def key_of(*parts: object) -> str:
    """Return a hash of what a grid depends on."""
    return hashlib.sha256("\n".join(map(repr, parts)).encode()).hexdigest()[:32]


def _document(cell: Cell) -> dict[str, Any]:
    return {
        "layer": cell.layer,
        "strength": cell.strength,
        "effects": cell.effects.tolist(),
        "opposite_effects": cell.opposite_effects.tolist(),
        "damage": asdict(cell.damage),
    }


def _cell(document: dict[str, Any]) -> Cell:
    return Cell(
        int(document["layer"]),
        float(document["strength"]),
        np.asarray(document["effects"], dtype=np.float64),
        np.asarray(document["opposite_effects"], dtype=np.float64),
        Damage(**document["damage"]),
    )
