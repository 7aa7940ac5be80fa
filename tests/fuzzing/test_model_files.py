"""Files of vectors, autoencoders, checkpoints, cells and edits, mutated: each is read, or refused by our own error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from helpers.fuzzing import fuzz, mutated
from helpers.small_models import make_model
from steer_tools.core.vectors import SteeringVector, VectorInfo
from steer_tools.directions.autoencoders import feature_direction, feature_site
from steer_tools.engines.fingerprint import contents_of_checkpoint, fingerprint_of
from steer_tools.evaluation.damage import Damage
from steer_tools.experiments.cell_files import CellFile
from steer_tools.experiments.grids import Cell, cell_of
from steer_tools.formats import FORMATS, read_vector, write_vector
from steer_tools.formats.base import Unsaid
from steer_tools.weights.shards import find_tensors, read_header
from steer_tools.weights.tensor_pairs import open_checkpoint
from steer_tools.workspace import Workspace

PIECES = [
    *(b"\0", b"\xff" * 8, b"\x00" * 8, b"[", b"]", b"{", b"}", b'"', b",", b":", b"null", b"true", b"-1", b"NaN"),
    *(
        b"9" * 30,
        b"1e999",
        b'"F32"',
        b'"BF16"',
        b"[0,9223372036854775807]",
        b"[[]]",
        b"\\ud800",
        b"[" * 200,
        b"PK\x03\x04",
    ),
    *(b"__metadata__", b"layers", b"dtype", b"shape", b"data_offsets", b"(1, 999999999999)", b"<f8", b"|O", b"GGUF"),
]


@pytest.mark.parametrize("vector_format", FORMATS, ids=lambda f: f.name)
@pytest.mark.parametrize("part", [0, 1])
def test_any_bytes_of_a_vector(vector_format: object, part: int, tmp_path: Path) -> None:
    """Mutate the file, or the one beside it."""
    workspace = Workspace(tmp_path)
    name = f"v{vector_format.suffix}"
    wholes: list[list[bytes]] = []
    for layers in ((1,), (1, 3)):
        vector = SteeringVector(
            {layer: torch.randn(8) for layer in layers},
            info=VectorInfo(method="pca", contrast_norms=dict.fromkeys(layers, 1.0)),
        )
        if len(layers) == 1 or vector_format.holds_several_layers:
            write_vector(vector, name, format_name=vector_format.name, workspace=workspace)
            wholes.append([path.read_bytes() for path in sorted(tmp_path.iterdir())])
    paths = sorted(tmp_path.iterdir())
    if part >= len(paths):
        assert len(paths) == 1
        return

    def read(content: bytes) -> None:
        paths[part].write_bytes(content)
        read_vector(name, Unsaid(layer=0), workspace=workspace)

    found = fuzz(read, mutated([whole[part] for whole in wholes], PIECES))

    print(f"\n{vector_format.name} {paths[part].name}: {found}")
    assert 0 < found.read < found.examples


def autoencoder(folder: Path) -> tuple[dict[str, bytes], Callable[[], object]]:
    workspace = Workspace(folder)
    weights = {"W_dec": torch.randn(4, 8), "W_enc": torch.randn(8, 4)}
    files = {
        "sae_weights.safetensors": save(weights),
        "cfg.json": json.dumps({"hook_name": "blocks.2.hook_resid_post", "d_in": 8}).encode(),
    }
    np.savez(folder / "params.npz", W_dec=np.ones((4, 8), np.float32))
    files["params.npz"] = (folder / "params.npz").read_bytes()

    def read() -> None:
        feature_site(workspace, "sae_weights.safetensors")
        feature_direction(workspace, "sae_weights.safetensors", 2)
        feature_direction(workspace, "params.npz", 2)

    return files, read


def checkpoint(folder: Path) -> tuple[dict[str, bytes], Callable[[], object]]:
    make_model("llama", layers=1).save_pretrained(folder, max_shard_size="40KB")
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "generation_config.json"}
    workspace = Workspace(folder)

    def read() -> None:
        open_checkpoint(folder, workspace.opened)
        find_tensors(folder)
        fingerprint_of(contents_of_checkpoint(folder))

    return files, read


def one_file(folder: Path) -> tuple[dict[str, bytes], Callable[[], object]]:
    content = save({"a": torch.ones(3), "b": torch.ones(2, 2, dtype=torch.bfloat16)}, {"steer_tools_undo": "{}"})
    return {"v.safetensors": content}, lambda: read_header(folder / "v.safetensors")


def fingerprint(folder: Path) -> tuple[dict[str, bytes], Callable[[], object]]:
    content = save({"a": torch.ones(3), "b": torch.ones(2, 2, dtype=torch.bfloat16)}, {"format": "pt"})
    return {"v.safetensors": content}, lambda: fingerprint_of(contents_of_checkpoint(folder))


def cells(folder: Path) -> tuple[dict[str, bytes], Callable[[], object]]:
    file = CellFile(Workspace(folder), "cells.json", "key")
    file.save([Cell(1, 0.5, np.ones(3), -np.ones(3), Damage(0.1, 1.0, 1.0, 1.0, 1.0))])
    return {"cells.json": (folder / "cells.json").read_bytes()}, lambda: file.load(cell_of)


@pytest.mark.parametrize(
    "kind", [autoencoder, checkpoint, one_file, fingerprint, cells], ids=lambda kind: kind.__name__
)
def test_any_bytes_of_what_lies_beside_models(
    kind: Callable[[Path], tuple[dict[str, bytes], Callable[[], object]]], tmp_path: Path
) -> None:
    files, read = kind(tmp_path)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    for name in files:

        def read_mutated(content: bytes, name: str = name) -> None:
            (tmp_path / name).write_bytes(content)
            read()

        found = fuzz(read_mutated, mutated([files[name]], PIECES))
        (tmp_path / name).write_bytes(files[name])

        print(f"\n{kind.__name__} {name}: {found}")
        assert found.read > 0
