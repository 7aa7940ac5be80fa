"""Readers of a user's files: what is no file of theirs is refused with its name and what is valid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from steer_tools import load_vector
from steer_tools.directions.autoencoders import feature_direction
from steer_tools.errors import SteeringError
from steer_tools.evaluation.behaviors.behavior_loading import read_behavior
from steer_tools.weights.tensor_pairs import open_checkpoint
from steer_tools.workspace import Workspace

Read = Callable[[Workspace, str], object]


def vector(workspace: Workspace, name: str) -> object:
    return load_vector(name, layer_if_unknown=1, workspace=workspace)


def feature(workspace: Workspace, name: str) -> object:
    return feature_direction(workspace, name, 0)


def behavior(workspace: Workspace, name: str) -> object:
    with workspace.opened(name) as file:
        return read_behavior(file, name)


def checkpoint(workspace: Workspace, name: str) -> object:
    return open_checkpoint(workspace.root, workspace.opened)


READERS: list[tuple[Read, str]] = [
    *((vector, f"x.{ending}") for ending in ("safetensors", "npy", "npz", "gguf", "json", "pt")),
    *((feature, f"x.{ending}") for ending in ("safetensors", "npz")),
    *((behavior, f"x.{ending}") for ending in ("json", "jsonl", "csv")),
    (checkpoint, "model.safetensors"),
]
WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "pointer": (
        lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\nsize 12\n"),
        "git lfs pull",
    ),
    "empty": (lambda path: path.write_bytes(b""), "Valid: "),
    "folder": (lambda path: path.mkdir(), "Valid: "),
    "web page": (lambda path: path.write_bytes(b"<!doctype html><html>"), "Valid: "),
}


@pytest.mark.parametrize("data", [bytes(64), b"\xff" * 8 + b"{" + bytes(64), b"GGU", b"PK", b"\x93NUMP"])
def test_bytes_that_begin_as_no_format_does_are_claimed_by_none(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(data)

    with pytest.raises(SteeringError, match="x is no file of a steering vector: it begins with"):
        load_vector("x", layer_if_unknown=1, workspace=Workspace(tmp_path))


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize(("read", "name"), READERS, ids=[f"{read.__name__} {name}" for read, name in READERS])
def test_what_is_no_file_of_the_reader_is_refused_by_name(read: Read, name: str, wrong: str, tmp_path: Path) -> None:
    make, words = WRONG[wrong]
    make(tmp_path / name)

    with pytest.raises(SteeringError, match=r"(?s)(?=.*(x\.|model\.safetensors))(?=.*Valid: )" + f".*{words}"):
        read(Workspace(tmp_path), name)
