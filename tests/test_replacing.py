"""A save replaces only what is of its own kind, told by its contents: every kind of save over every kind of file."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from safetensors.torch import save as tensors

import steer_tools
from helpers.small_models import NEGATIVE, POSITIVE, WIDTH
from steer_tools import SteeringVector, read_activations, save_vector
from steer_tools.errors import VectorFileError
from steer_tools.evaluation.behaviors.behavior_json import BEHAVIOR, behavior_document
from steer_tools.evaluation.behaviors.behavior_loading import load_behavior
from steer_tools.experiments.cell_files import CELLS, CellFile
from steer_tools.experiments.grids import cell_of
from steer_tools.figures import PICTURE, SIGNED, new_figure, png, signed
from steer_tools.formats import FORMATS, format_named, write_vector
from steer_tools.formats.base import Unsaid
from steer_tools.formats.conversion import convert_vector
from steer_tools.formats.safetensors_format import ACTIVATIONS_KEY
from steer_tools.inspection.activations import ACTIVATIONS
from steer_tools.reports.report_files import KINDS
from steer_tools.session.session import Session, current_session
from steer_tools.workspace import Kind, Workspace

# Most of these formats keep less than a vector knows.
pytestmark = pytest.mark.filterwarnings("ignore:.* does not keep :UserWarning")
NEW = SteeringVector({1: torch.arange(1.0, WIDTH + 1)})
OLD = SteeringVector({2: torch.ones(WIDTH)})


def array(save: Callable[..., None], *given: Any, **named: Any) -> bytes:
    file = io.BytesIO()
    save(file, *given, **named)
    return file.getvalue()


def foreign_picture() -> bytes:
    file = io.BytesIO()
    Figure(figsize=(1, 1)).savefig(file)
    return file.getvalue()


def of_format(name: str) -> bytes:
    return format_named(name).encode(OLD).data


def description(name: str) -> bytes:
    return format_named(name).encode(OLD).sidecar or b""


MATRIX = torch.ones(4, WIDTH)
BEHAVIOR_TEXT = json.dumps(behavior_document(load_behavior("honesty"))).encode()
FACTS = b'{"facts": {"version": "0.1.0"}, "chosen": {"layer": 1}, "grid": {}}'
ABOUT = {
    "component": "residual",
    "head": None,
    "pooling": "last",
    "is_single": False,
    "model_name": "tiny",
    "model_layers": 4,
    "model_fingerprint": "f",
    "prompts": ["a"] * 4,
    "labels": None,
    "tokens": None,
}
# What may lie at a path, with the kind of save that may replace it; "" where none may.
FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    **{f"{own.name} vector": (lambda name=own.name: of_format(name), "vector") for own in FORMATS},
    "bare array": (lambda: array(np.save, np.ones(WIDTH, np.float32)), "vector"),
    "npy description": (lambda: description("npy"), "npy"),
    "rotalabs description": (lambda: description("rotalabs"), "rotalabs"),
    "activations": (lambda: tensors({"layer.1": MATRIX}, {ACTIVATIONS_KEY: json.dumps(ABOUT)}), "activations"),
    "cells": (lambda: b'{"key": "0123", "cells": []}', "cells"),
    "behaviour": (lambda: BEHAVIOR_TEXT, "behaviour"),
    "picture": (lambda: png(new_figure(1, 1, "ours")), "picture"),
    "report": (lambda: signed("# Steering"), "page"),
    "document": (lambda: FACTS, "document"),
    "checkpoint": (lambda: tensors({"a.weight": MATRIX, "a.bias": torch.ones(4)}, {"format": "pt"}), ""),
    "adapter": (lambda: tensors({"q.lora_A.weight": MATRIX, "q.lora_B.weight": MATRIX.T.contiguous()}), ""),
    "autoencoder": (lambda: tensors({"W_dec": MATRIX, "W_enc": MATRIX.T.contiguous(), "b_dec": torch.ones(WIDTH)}), ""),
    "packed autoencoder": (lambda: array(np.savez, W_dec=MATRIX.numpy(), W_enc=MATRIX.T.numpy()), ""),
    "data": (lambda: array(np.save, np.ones((40, WIDTH), np.float32)), ""),
    "labels": (lambda: array(np.save, np.arange(WIDTH)), ""),
    "weights of torch": (lambda: array(lambda file, own: torch.save(own, file), {"a": MATRIX, "b": MATRIX}), ""),
    "model of llama.cpp": (lambda: b"GGUF" + (3).to_bytes(4, "little") + bytes(16), ""),
    "config": (lambda: b'{"model_type": "llama", "hidden_size": 32}', ""),
    "index": (lambda: b'{"metadata": {}, "weight_map": {"a": "model.safetensors"}}', ""),
    "nested JSON": (lambda: b"[" * 100_000, ""),
    "nested objects": (lambda: b'{"key":' * 100_000, ""),
    "notes": (lambda: b"# steer-tools\n\nWhat I tried with steer-tools.\n", ""),
    "report with notes": (lambda: signed("# Steering") + b"\nLayer 3 looks odd.\n", ""),
    "photo": (foreign_picture, ""),
    "header that lies": (lambda: b"\xff" * 7 + b"\x00{", ""),
    "one byte": (lambda: b"\x93", ""),
}


def written(name: str) -> Callable[[Workspace], object]:
    return lambda workspace: write_vector(NEW, f"x{format_named(name).suffix}", format_name=name, workspace=workspace)


def of_kind(kind: Kind) -> Callable[[Workspace], object]:
    return lambda workspace: workspace.write("x", b"new", replaces=kind)


# Save → the kind that it replaces, the name of the file, and the call.
SAVES: dict[str, tuple[str, str, Callable[[Workspace], object]]] = {
    **{f"{own.name} vector": ("vector", f"x{own.suffix}", written(own.name)) for own in FORMATS},
    "npy description": ("npy", "x.npy.json", written("npy")),
    "rotalabs description": ("rotalabs", "x.json", written("rotalabs")),
    "activations": ("activations", "x", of_kind(ACTIVATIONS)),
    "cells": ("cells", "x", of_kind(CELLS)),
    "behaviour": ("behaviour", "x", of_kind(BEHAVIOR)),
    "picture": ("picture", "x", of_kind(PICTURE)),
    "page": ("page", "x", of_kind(SIGNED)),
    "document": ("document", "x", of_kind(KINDS[".json"])),
}


@pytest.mark.parametrize("there", FILES)
@pytest.mark.parametrize("save", SAVES)
def test_a_save_replaces_its_own_kind_and_no_other(save: str, there: str, tmp_path: Path) -> None:
    kind, name, run = SAVES[save]
    make, replaced_by = FILES[there]
    content, path = make(), tmp_path / name
    path.write_bytes(content)

    if replaced_by == kind:
        run(Workspace(tmp_path))
        assert path.read_bytes() != content
    else:
        with pytest.raises(VectorFileError, match=r"x.* is there already and is not .*Valid: .*Choose another path"):
            run(Workspace(tmp_path))
        assert path.read_bytes() == content
        assert [own.name for own in tmp_path.iterdir()] == [name]


def test_every_kind_of_file_that_is_written_may_be_replaced_by_its_own_kind() -> None:
    assert {kind for kind, _, _ in SAVES.values()} == {kind for _, kind in FILES.values()} - {""}


@pytest.mark.parametrize("save", SAVES)
def test_an_empty_file_may_be_filled(save: str, tmp_path: Path) -> None:
    _, name, run = SAVES[save]
    (tmp_path / name).touch()

    run(Workspace(tmp_path))

    assert (tmp_path / name).read_bytes()


# Through the tools


@pytest.fixture
def checkpoint(llama_session: Session) -> Path:
    """A checkpoint in the workspace, of which a user might type the name."""
    folder = llama_session.workspace.root / "baked"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(FILES["checkpoint"][0]())
    return folder / "model.safetensors"


TOOLS: dict[str, Callable[[str], object]] = {
    "create_steering_vector": lambda path: steer_tools.create_steering_vector(POSITIVE, NEGATIVE, 1, path),
    "combine_steering_vectors": lambda path: steer_tools.combine_steering_vectors({"v": 1.0}, path),
    "save_activations": lambda path: steer_tools.save_activations(POSITIVE, path),
    "save_vector": lambda path: save_vector(NEW, path),
    "SteeringVector.save": NEW.save,
    "convert": lambda path: convert_vector("v", path, Unsaid(), workspace=current_session().workspace),
    "read_activations": lambda path: read_activations(POSITIVE, [1]).save(path),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_no_tool_writes_over_a_checkpoint_but_beside_it_and_over_its_own_again(tool: str, checkpoint: Path) -> None:
    save_vector(OLD, "v")
    before = checkpoint.read_bytes()

    with pytest.raises(VectorFileError, match=r"baked/model\.safetensors is there already and is not"):
        TOOLS[tool]("baked/model.safetensors")
    for _ in range(2):
        TOOLS[tool]("baked/mine.safetensors")

    assert checkpoint.read_bytes() == before
    assert sorted(path.name for path in checkpoint.parent.iterdir()) == ["mine.safetensors", "model.safetensors"]


def test_a_picture_of_a_tool_leaves_a_users_picture(llama_session: Session) -> None:
    path = llama_session.workspace.write("patches/patches.png", foreign_picture())

    def run() -> object:
        return steer_tools.patch_activations("keke lili", "lili keke", "lili", "seti", layers=[1])

    with pytest.raises(VectorFileError, match=r"patches\.png is there already and is not a picture"):
        run()
    path.unlink()
    assert [run() and path.is_file() for _ in range(2)] == [True, True]


def test_a_sweep_says_before_it_measures_that_the_file_of_its_cells_is_another(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.write("s/cells.json", b'{"mine": 1}')

    with pytest.raises(VectorFileError, match=r"cells\.json is there already"):
        CellFile(workspace, "s/cells.json", "key").load(cell_of)

    workspace.write("s/cells.json", b'{"key": "another", "cells": []}')
    assert CellFile(workspace, "s/cells.json", "key").load(cell_of) == []
