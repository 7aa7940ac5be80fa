"""The folder of a set that rotalabs-steer saved is one vector with a direction for each of its layers.

The folder that the package itself wrote is among tests/peers/files; these are made by hand in its layout.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.small_models import WIDTH
from steer_tools import apply_steering_vector, load_vector
from steer_tools.errors import ArgumentError, SteeringError, VectorFileError
from steer_tools.formats import read_vector
from steer_tools.formats.base import Unsaid
from steer_tools.formats.conversion import convert_vector
from steer_tools.session.session import Session
from steer_tools.workspace import Workspace

LAYERS = (1, 2)


def direction(layer: int) -> torch.Tensor:
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(layer))


@pytest.fixture
def save_set(tmp_path: Path) -> Callable[..., Path]:
    def save(name: str = "happy", **changed: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        for layer in LAYERS:
            told = {
                "behavior": "happy",
                "layer_index": layer,
                "model_name": "tiny",
                "extraction_method": "caa",
                "metadata": {"created_at": "2026-01-01T00:00:00"},
                "vector_shape": [WIDTH],
            }
            (folder / f"layer_{layer}.json").write_text(json.dumps(told | changed), encoding="utf-8")
            torch.save(direction(layer), folder / f"layer_{layer}.pt")
        told = {"behavior": "happy", "layers": list(LAYERS), "model_name": "tiny"}
        (folder / "metadata.json").write_text(json.dumps(told), encoding="utf-8")
        return folder

    return save


@pytest.mark.parametrize("is_confined", [False, True])
@pytest.mark.parametrize("name", ["happy", "happy/", "deep/er/happy"])
def test_a_set_is_read_whole(save_set: Callable[..., Path], tmp_path: Path, name: str, is_confined: bool) -> None:
    save_set(name)

    loaded = read_vector(name, Unsaid(), workspace=Workspace(tmp_path, is_confined=is_confined))

    assert loaded.vector.layers == LAYERS
    assert all(torch.equal(loaded.vector.directions[layer], direction(layer)) for layer in LAYERS)
    assert (loaded.vector.info.method, loaded.vector.info.model_name) == ("caa", "tiny")
    assert loaded.notes == ("It is meant for the behaviour 'happy'.",)


def test_a_set_is_read_as_a_path_object_and_one_of_its_files_alone(save_set: Callable[..., Path]) -> None:
    folder = save_set()

    assert load_vector(folder).layers == LAYERS
    assert load_vector(folder / "layer_2.pt").layers == (2,)


def test_a_set_is_applied_at_all_its_layers_or_at_one(llama_session: Session, save_set: Callable[..., Path]) -> None:
    folder = str(save_set())

    assert apply_steering_vector(folder)["layer"] == [1, 2]
    assert apply_steering_vector(folder, layer=2)["layer"] == 2


def test_a_set_becomes_a_file_of_ours(save_set: Callable[..., Path], tmp_path: Path) -> None:
    save_set()

    done = convert_vector("happy", "ours", Unsaid(), workspace=Workspace(tmp_path))

    assert load_vector(done.made.path).layers == LAYERS


def test_a_set_that_says_another_layer_than_its_file_is_refused(save_set: Callable[..., Path]) -> None:
    folder = save_set(layer_index=2)

    with pytest.raises(VectorFileError, match=r"layer_1 belongs to layer 1, and its own description says layer 2"):
        load_vector(folder)


@pytest.mark.parametrize("ending", ["pt", "json"])
def test_a_set_that_lacks_a_file_is_refused_by_its_name(save_set: Callable[..., Path], ending: str) -> None:
    folder = save_set()
    (folder / f"layer_2.{ending}").unlink()

    with pytest.raises(SteeringError, match=r"layer_2\.(pt|json)"):
        load_vector(folder)


@pytest.mark.parametrize("told", ["{}", "[]", '{"behavior": "happy", "layers": []}', "{", '{"behavior": 1}'])
def test_a_folder_with_another_description_is_a_folder(save_set: Callable[..., Path], told: str) -> None:
    folder = save_set()
    (folder / "metadata.json").write_text(told, encoding="utf-8")

    with pytest.raises(VectorFileError, match=r"is a folder.*rotalabs-steer saved"):
        load_vector(folder)


def test_a_set_has_no_index_since_it_says_its_layers(save_set: Callable[..., Path]) -> None:
    with pytest.raises(ArgumentError, match="says its layers itself"):
        load_vector(f"{save_set()}[1]")


def test_the_description_of_a_set_leads_to_its_folder(save_set: Callable[..., Path]) -> None:
    with pytest.raises(VectorFileError, match="give the folder"):
        load_vector(save_set() / "metadata.json")
