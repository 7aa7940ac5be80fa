"""Writers in processes of their own that save A, B, A, B ... until they are killed, and what is then read."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from multiprocessing import forkserver, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np
import pytest
import torch

from steer_tools import leftovers
from steer_tools.core.vectors import SteeringVector
from steer_tools.evaluation.damage import Damage
from steer_tools.experiments.cell_files import CellFile
from steer_tools.experiments.grids import Cell, cell_of
from steer_tools.formats import FORMATS, format_named, read_vector, write_vector
from steer_tools.formats.base import Unsaid
from steer_tools.workspace import Workspace

WIDTH = 512
_REPORT = ("report.md", "heat_map.png", "report.json", "report.png")


@dataclass(frozen=True)
class Saving:
    """A kind of save: `save` writes A or B into a workspace, and `read` returns which of them is there."""

    save: Callable[[Workspace, str], object]
    read: Callable[[Workspace], str]


def _vector(name: str) -> Saving:
    def save(workspace: Workspace, which: str) -> None:
        layer = 1 if which == "A" else 2
        vector = SteeringVector({layer: torch.full((WIDTH,), float(layer))})
        write_vector(vector, f"v{format_named(name).suffix}", format_name=name, workspace=workspace)

    def read(workspace: Workspace) -> str:
        path = f"v{format_named(name).suffix}"
        vector = read_vector(path, Unsaid(layer=None if "layer" in keeps else 0), workspace=workspace).vector
        (layer, direction), *_ = vector.directions.items()
        value = int(direction[0])
        assert bool((direction == value).all()), "the numbers are of two saves"
        assert "layer" not in keeps or layer == value, f"the numbers of layer {value} are said to be of layer {layer}"
        return "AB"[value - 1]

    keeps = format_named(name).keeps
    return Saving(save, read)


def _save_folder(workspace: Workspace, which: str) -> None:
    with workspace.new_folder("models/one") as part:
        for name in ("config.json", "deep/a.bin", "deep/b.bin"):
            (part / name).parent.mkdir(exist_ok=True)
            (part / name).write_bytes(which.encode() * 5000)


def _read_folder(workspace: Workspace) -> str:
    root = workspace.resolve("models/one")
    return _same(path.read_bytes() for path in root.rglob("*") if path.is_file())


def _save_report(workspace: Workspace, which: str) -> None:
    workspace.write_together({f"report/{name}": which.encode() * 5000 for name in _REPORT})


def _read_report(workspace: Workspace) -> str:
    return _same(workspace.read(f"report/{name}") for name in _REPORT)


def _save_cells(workspace: Workspace, which: str) -> None:
    effects = np.arange(100.0)
    cells = [Cell(layer, 0.1, effects, -effects, Damage(0.0, 1.0, 1.0, 1.0, 1.0)) for layer in range(4)]
    CellFile(workspace, "cells.json", which).save(cells)


def _read_cells(workspace: Workspace) -> str:
    found = {which: CellFile(workspace, "cells.json", which).load(cell_of) for which in "AB"}
    (which,) = (which for which, cells in found.items() if len(cells) == 4)
    return which


def _same(contents: Iterable[bytes]) -> str:
    kept = [*contents]
    assert {len(content) for content in kept} == {5000}, "files that are not whole"
    letters = {content.decode() for content in kept}
    assert len(letters) == 1, f"files of {len(letters)} saves"
    return letters.pop()[0]


SAVINGS = {
    **{one.name: _vector(one.name) for one in FORMATS},
    "folder": Saving(_save_folder, _read_folder),
    "report": Saving(_save_report, _read_report),
    "cells": Saving(_save_cells, _read_cells),
}


def save_for_ever(name: str, root: Path, started: Connection, *, is_confined: bool = False) -> None:
    """Save A, B, A, B ...; tell once that there is a first one."""
    torch.set_num_threads(1)
    workspace = Workspace(root, is_confined=is_confined)
    SAVINGS[name].save(workspace, "A")
    started.send(True)
    for which in cycle("BA"):
        SAVINGS[name].save(workspace, which)


@cache
def forking() -> ForkServerContext:
    """Start a process that has imported all and forks: a killed child costs milliseconds, and no thread is forked."""
    context = get_context("forkserver")
    # What a bake needs, too, which takes a child seconds to import.
    context.set_forkserver_preload(
        [__name__, "helpers.crashes", "helpers.small_models", "steer_tools.weights.saved_model"]
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        forkserver.ensure_running()
    return context


class Writer:
    """A process that saves for ever, from when it has saved once."""

    def __init__(self, name: str, root: Path, *, is_confined: bool = False) -> None:
        told, started = forking().Pipe(duplex=False)
        options = {"is_confined": is_confined}
        self._process = forking().Process(target=save_for_ever, args=(name, root, started), kwargs=options)
        self._process.start()
        started.close()
        assert told.recv()

    def kill(self) -> None:
        """End it by SIGKILL, which nothing can answer."""
        self._process.kill()
        self._process.join()


def kill_at_random(name: str, root: Path, choose: random.Random, *, is_confined: bool = False) -> None:
    """Kill a writer within its next 60 ms, which are some saves."""
    writer = Writer(name, root, is_confined=is_confined)
    time.sleep(choose.random() * 0.06)
    writer.kill()


def start_anew(root: Path) -> None:
    """Let this process use a root as one does that has just started."""
    leftovers._SWEPT.discard(root)


def left_over(root: Path) -> list[str]:
    """Return what has a name that only a save under way has."""
    return [str(path) for path in root.rglob("*") if leftovers.is_leftover(path.name) or ".part" in path.name]
