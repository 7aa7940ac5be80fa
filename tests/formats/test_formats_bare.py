"""Arrays that say nothing of themselves: the caller says their layer or their rows, and nothing is guessed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from steer_tools import load_vector
from steer_tools.errors import ArgumentError, DirectionError, SteeringError, VectorFileError
from steer_tools.formats import read_vector
from steer_tools.formats.base import Unsaid
from steer_tools.workspace import Workspace

WIDTH = 6
Put = Callable[[torch.Tensor], str]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture(params=["bare.npy", "bare.npz", "bare.pt", "bare.safetensors"])
def put(request: pytest.FixtureRequest, workspace: Workspace) -> Put:
    """Write a tensor as somebody else would, in each of the formats that hold a bare one; return the file's name."""

    def write(tensor: torch.Tensor) -> str:
        path = workspace.root / request.param
        if path.suffix == ".npy":
            np.save(path, tensor.numpy())
        elif path.suffix == ".npz":
            np.savez(path, tensor.numpy())
        elif path.suffix == ".pt":
            torch.save(tensor, path)
        else:
            safetensors.torch.save_file({"vector": tensor}, path)
        return path.name

    return write


def stack(rows: int) -> torch.Tensor:
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(rows))


def test_a_bare_vector_belongs_to_the_layer_that_is_given(workspace: Workspace, put: Put) -> None:
    name = put(stack(4)[1].clone())

    vector = load_vector(name, layer_if_unknown=13, workspace=workspace)

    assert vector.layers == (13,)
    assert torch.equal(vector.directions[13], stack(4)[1])


def test_a_bare_vector_without_a_layer_is_refused(workspace: Workspace, put: Put) -> None:
    with pytest.raises(VectorFileError, match=r"its layer is not known.*Give `layer` as a number"):
        load_vector(put(torch.ones(WIDTH)), workspace=workspace)


def test_row_i_of_block_outputs_is_the_output_of_block_i(workspace: Workspace, put: Put) -> None:
    loaded = read_vector(put(stack(4)), Unsaid(rows="block_outputs"), workspace=workspace)

    assert loaded.vector.layers == (0, 1, 2, 3)
    assert all(torch.equal(loaded.vector.directions[i], stack(4)[i]) for i in range(4))
    assert loaded.vector.info.model_layers == 4
    assert loaded.notes == ()


def test_row_i_of_hidden_states_is_the_input_of_block_i_and_the_first_and_last_are_no_outputs(
    workspace: Workspace, put: Put
) -> None:
    loaded = read_vector(put(stack(5)), Unsaid(rows="hidden_states"), workspace=workspace)

    assert loaded.vector.layers == (0, 1, 2)
    assert all(torch.equal(loaded.vector.directions[i], stack(5)[i + 1]) for i in range(3))
    assert loaded.vector.info.model_layers == 4
    assert "row 0 (the embedding) and row 4 (the last block after the final norm" in loaded.notes[0]


@pytest.mark.parametrize("shape", [(4, WIDTH), (1, WIDTH), (WIDTH, 1)])
def test_what_the_rows_of_a_stack_are_is_not_guessed(workspace: Workspace, put: Put, shape: tuple[int, ...]) -> None:
    with pytest.raises(DirectionError, match=r"rows='block_outputs'.*rows='hidden_states'"):
        load_vector(put(torch.ones(shape)), layer_if_unknown=2, workspace=workspace)


def test_rows_of_one_vector_are_refused(workspace: Workspace, put: Put) -> None:
    with pytest.raises(ArgumentError, match=r"'hidden_states', but .* which has no rows"):
        load_vector(put(torch.ones(WIDTH)), layer_if_unknown=14, rows="hidden_states", workspace=workspace)


def test_unknown_rows_are_refused(workspace: Workspace, put: Put) -> None:
    with pytest.raises(ArgumentError, match=r"rows is 'outputs'.*'block_outputs' or 'block_inputs' or 'hidden_states'"):
        load_vector(put(stack(4)), rows="outputs", workspace=workspace)


def test_row_i_of_block_inputs_is_the_input_of_block_i_and_the_first_is_no_output(
    workspace: Workspace, put: Put
) -> None:
    loaded = read_vector(put(stack(5)), Unsaid(rows="block_inputs"), workspace=workspace)

    assert loaded.vector.layers == (0, 1, 2, 3)
    assert all(torch.equal(loaded.vector.directions[i], stack(5)[i + 1]) for i in range(4))
    assert loaded.vector.info.model_layers == 5
    assert loaded.notes == ("Of 5 rows, row 0 (the embedding) is left out.",)
    with pytest.raises(DirectionError, match=r"of block inputs the first is no output.*at least 2 rows"):
        load_vector(put(stack(1)), rows="block_inputs", workspace=workspace)


@pytest.mark.parametrize("rows", [1, 2])
def test_hidden_states_of_no_block_are_refused(workspace: Workspace, put: Put, rows: int) -> None:
    with pytest.raises(DirectionError, match="at least 3 rows"):
        load_vector(put(torch.ones(rows, WIDTH)), rows="hidden_states", workspace=workspace)


@pytest.mark.parametrize("shape", [(), (0,), (0, WIDTH), (WIDTH, 0), (2, 3, 4)])
@pytest.mark.parametrize("rows", [None, "block_outputs", "hidden_states"])
def test_what_is_no_vector_and_no_stack_is_refused(
    workspace: Workspace, put: Put, shape: tuple[int, ...], rows: str | None
) -> None:
    with pytest.raises(SteeringError):
        load_vector(put(torch.ones(shape)), layer_if_unknown=2, rows=rows, workspace=workspace)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 0.0])
def test_a_row_that_is_no_direction_is_refused_where_it_counts(workspace: Workspace, put: Put, bad: float) -> None:
    within, first = stack(5), stack(5)
    within[2], first[0] = bad, bad

    with pytest.raises(DirectionError, match="layer 1"):
        load_vector(put(within), rows="hidden_states", workspace=workspace)
    assert load_vector(put(first), rows="hidden_states", workspace=workspace).layers == (0, 1, 2)


def test_a_safetensors_file_of_several_tensors_is_not_taken_for_a_bare_one(workspace: Workspace) -> None:
    tensors = {"positive": torch.ones(WIDTH), "negative": torch.ones(WIDTH)}
    safetensors.torch.save_file(tensors, workspace.root / "v.safetensors")

    with pytest.raises(VectorFileError, match=r"several arrays.*'positive' \(6,\)"):
        load_vector("v", layer_if_unknown=2, workspace=workspace)


def test_our_own_file_without_its_description_is_not_taken_for_a_bare_one(workspace: Workspace) -> None:
    safetensors.torch.save_file({"layer.2": torch.ones(WIDTH)}, workspace.root / "v.safetensors")

    with pytest.raises(VectorFileError, match=r"not a steering vector of ours.*'v\.safetensors\[layer\.2\]'"):
        load_vector("v", layer_if_unknown=3, workspace=workspace)
    assert load_vector("v.safetensors[layer.2]", layer_if_unknown=3, workspace=workspace).layers == (3,)


def test_a_number_of_up_to_five_digits_names_a_layer_and_a_longer_one_does_not(workspace: Workspace) -> None:
    np.savez(workspace.root / "v.npz", **{"0": stack(2)[0].numpy(), "65535": stack(2)[1].numpy()})
    np.savez(workspace.root / "w.npz", **{"100000": stack(2)[0].numpy()})

    assert load_vector("v.npz", workspace=workspace).layers == (0, 65535)
    with pytest.raises(VectorFileError, match="its layer is not known"):
        load_vector("w.npz", workspace=workspace)


def test_of_arrays_of_a_list_none_is_said_to_count_from_the_end(workspace: Workspace) -> None:
    torch.save([torch.ones(WIDTH), torch.ones(WIDTH + 1)], workspace.root / "v.pt")

    with pytest.raises(VectorFileError, match=r"several arrays.*0 \(6,\), 1 \(7,\)") as refused:
        load_vector("v.pt", layer_if_unknown=2, workspace=workspace)
    assert "below 0" not in str(refused.value)


def test_a_sparse_autoencoder_is_told_by_its_two_matrices(workspace: Workspace) -> None:
    np.savez(workspace.root / "v.npz", W_dec=np.ones((2, WIDTH)), W_enc=np.ones((WIDTH, 2)))
    np.savez(workspace.root / "w.npz", W_dec=np.ones((2, WIDTH)))

    with pytest.raises(VectorFileError, match=r"v\.npz is a sparse autoencoder.*'sae_feature'"):
        load_vector("v.npz", layer_if_unknown=2, workspace=workspace)
    with pytest.raises(DirectionError, match="rows='block_outputs'"):
        load_vector("w.npz", layer_if_unknown=2, workspace=workspace)
