"""Which direction of a vector is meant, and where a vector in hand comes from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from steer_tools.core.vectors import SteeringVector, VectorInfo
from steer_tools.core.vectors.vector import ChosenCell
from steer_tools.errors import LayerError
from steer_tools.session.vector_loading import one_direction, path_of, read_vector_like, saved_vectors
from steer_tools.workspace import Workspace


def vector_at(*layers: int, chosen: int | None = None) -> SteeringVector:
    cell = None if chosen is None else ChosenCell(layer=chosen, unit="vector", strength=1.0, positions="generated")
    directions = {layer: torch.full((4,), float(layer + 1)) for layer in layers}
    return SteeringVector.from_directions(directions, info=VectorInfo(chosen=cell))


@pytest.mark.parametrize(
    ("vector", "asked", "meant"),
    [
        (vector_at(3), None, 3),
        (vector_at(1, 2), 2, 2),
        (vector_at(1, 2), 1, 1),
        (vector_at(1, 2, chosen=2), None, 2),
        (vector_at(1, 2, chosen=2), 1, 1),
        (vector_at(0, 2), 0, 0),
    ],
)
def test_the_layer_that_is_asked_for_goes_before_the_chosen_one_and_that_before_the_only_one(
    vector: SteeringVector, asked: int | None, meant: int
) -> None:
    layer, direction = one_direction(vector, asked)

    assert layer == meant
    assert torch.equal(direction, vector.directions[meant])


@pytest.mark.parametrize(("layers", "asked"), [((1, 2), None), ((1, 2), 3), ((3,), 1)])
def test_a_direction_that_is_not_named_or_not_there_is_refused(layers: tuple[int, ...], asked: int | None) -> None:
    with pytest.raises(LayerError, match=rf"layer is {asked}, .*{list(layers)}".replace("[", r"\[")):
        one_direction(vector_at(*layers), asked)


def test_a_path_stays_as_it_was_given_and_a_vector_in_hand_is_saved_under_a_name_of_its_content(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)

    paths = [path_of(workspace, vector_at(*layers)) for layers in ((1, 2), (1, 2), (2,))]

    assert path_of(workspace, "v.npy") == "v.npy" and path_of(workspace, Path("v.npy")) == "v.npy"
    assert paths[0] == paths[1] != paths[2]
    assert read_vector_like(workspace, paths[0])[0].layers == (1, 2)
    array = path_of(workspace, torch.ones(4), [3])
    assert read_vector_like(workspace, array)[0].layers == (3,)
    with pytest.raises(LayerError, match=r"an array of shape \(4,\), which does not say its layer"):
        path_of(workspace, torch.ones(4))


def test_the_vectors_of_a_workspace_are_those_that_can_be_read_and_lie_beside_no_model(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    path = path_of(workspace, vector_at(1))
    workspace.write("broken.safetensors", b"{")
    for name in ("model/config.json", "other/config.txt"):
        workspace.write(name, b"{}")
        workspace.write(str(Path(name).with_name("v.safetensors")), Path(path).read_bytes())

    assert sorted(saved_vectors(workspace)) == sorted([path, str(tmp_path / "other/v.safetensors")])
