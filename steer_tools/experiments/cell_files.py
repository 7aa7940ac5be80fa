"""Cells of a grid ↔ a JSON file of the workspace, so that a grid that was cut off goes on where it was.

It must not know what a cell is.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from steer_tools.errors import VectorFileError
from steer_tools.limits import FILE_BYTES
from steer_tools.workspace import Kind, Workspace

_Cell = TypeVar("_Cell")


@dataclass(frozen=True)
class CellFile:
    """The cells of one grid; `key` changes with all that they depend on."""

    workspace: Workspace
    path: str
    key: str

    def load(self, cell_of: Callable[[Mapping[str, Any]], _Cell]) -> list[_Cell]:
        """Return the cells that were measured before; none where the file is of another grid.

        Raises:
            VectorFileError: It holds something else than cells, which `save` would not replace.
        """
        self.workspace.refuse_strangers({self.path: CELLS})
        if not self.workspace.holds(self.path):
            return []
        try:
            document = _Document.model_validate_json(self.workspace.read(self.path))
            return [cell_of(own) for own in document.cells] if document.key == self.key else []
        except (ValueError, TypeError, KeyError, OverflowError, VectorFileError):
            return []  # What is no grid is measured anew.

    def save(self, cells: Sequence[Any]) -> None:
        """Write the cells, which are dataclasses."""
        content = {"key": self.key, "cells": [asdict(cell) for cell in cells]}
        text = json.dumps(content, indent=1, default=np.ndarray.tolist)
        self.workspace.write(self.path, text.encode(), replaces=CELLS)


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: str
    cells: list[dict[str, Any]]


def _are_in(file: BinaryIO) -> bool:
    try:
        _Document.model_validate_json(file.read(FILE_BYTES.most))
    except ValidationError:
        return False
    return True


CELLS = Kind("the file of a sweep's cells", _are_in)


def key_of(*parts: object) -> str:
    """Return a hash of what a grid depends on."""
    return hashlib.sha256("\n".join(map(repr, parts)).encode()).hexdigest()[:32]
