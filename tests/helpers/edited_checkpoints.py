"""Checkpoints of a few bytes, edited as a bake edits them, with files of a user beside them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from helpers.checkpoints import shard
from steer_tools.weights.checkpoints import edit_checkpoint
from steer_tools.weights.tensor_edits import CheckpointEdits, Increased, ProjectedOut

WIDTH = 4
ALONG = torch.nn.functional.normalize(torch.arange(1.0, WIDTH + 1, dtype=torch.float64), dim=0)
CHANGED = {"embed.weight": ProjectedOut(1, ALONG), "layer.weight": ProjectedOut(0, ALONG)}
EDITS = {
    "changed": CheckpointEdits(CHANGED),
    "changed and added": CheckpointEdits(
        CHANGED | {"layer.bias": Increased(ALONG)},
        zeros={"layer.bias": (WIDTH,)},
        copies={"head.weight": "embed.weight"},
        config={"tie_word_embeddings": False},
    ),
}
SHAPES = [(name, sharded) for name in EDITS for sharded in (False, True)]


def plain_checkpoint(folder: Path, *, sharded: bool, seed: int = 0) -> None:
    """Make one of three matrices."""
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    names = ("embed.weight", "layer.weight", "other.weight")
    save_file({name: torch.randn(WIDTH, WIDTH) for name in names}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text('{"hidden_size": 4, "tie_word_embeddings": true}\n', encoding="utf-8")
    if sharded:
        shard(folder)


def edited_checkpoint(folder: Path, name: str, *, sharded: bool) -> dict[str, bytes]:
    """Make one, edit it, put a user's files beside it; return what an undone one has to be."""
    plain_checkpoint(folder, sharded=sharded)
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    before = contents(folder)
    edit_checkpoint(folder, EDITS[name])
    for path in (folder / "notes.txt", folder / "mine" / "deep" / "v.npy"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine", encoding="utf-8")
    (folder / "README.md").write_text("# What I think of it\n", encoding="utf-8")
    return before | dict.fromkeys(("notes.txt", "mine/deep/v.npy"), b"mine") | {"README.md": b"# What I think of it\n"}


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder and those below it."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def metadata_of(file: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file."""
    data = file.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


def with_metadata(file: Path, metadata: object) -> None:
    """Write a safetensors file again with other metadata."""
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    text = json.dumps(json.loads(data[8 : 8 + length]) | {"__metadata__": metadata}).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
