"""One feature of a sparse autoencoder is read out of its file, and nothing else of it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from steer_tools.core.site import Site
from steer_tools.directions.autoencoders import feature_direction, feature_site
from steer_tools.errors import ArgumentError, SteeringError, VectorFileError, WorkspacePathError
from steer_tools.workspace import Workspace

FEATURES, WIDTH = 7, 5


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "w", is_confined=True)


def decoder(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(FEATURES, WIDTH, generator=torch.Generator().manual_seed(0)).to(dtype)


def save(workspace: Workspace, tensors: dict[str, Tensor], name: str = "sae.safetensors") -> Path:
    path = workspace.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return path


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_feature_is_its_row_of_the_decoder_whatever_stands_beside_it(
    workspace: Workspace, dtype: torch.dtype
) -> None:
    save(workspace, {"W_enc": torch.zeros(WIDTH, FEATURES), "W_dec": decoder(dtype), "b_dec": torch.ones(WIDTH)})

    for feature in range(FEATURES):
        assert torch.equal(feature_direction(workspace, "sae.safetensors", feature), decoder(dtype)[feature].float())


def test_the_weight_of_a_linear_decoder_has_one_column_a_feature(workspace: Workspace) -> None:
    save(workspace, {"decoder.weight": decoder().T.contiguous()})

    assert torch.equal(feature_direction(workspace, "sae.safetensors", 3), decoder()[3])


def test_a_folder_of_saelens_is_read_and_says_where_it_belongs(workspace: Workspace) -> None:
    save(workspace, {"W_dec": decoder()}, "release/blocks.3/sae_weights.safetensors")
    config = workspace.root / "release/blocks.3/cfg.json"

    assert torch.equal(feature_direction(workspace, "release/blocks.3", 6), decoder()[6])
    assert feature_site(workspace, "release/blocks.3") is None
    for hook, site in {
        "blocks.3.hook_resid_post": Site(3),
        "blocks.3.hook_resid_pre": Site(2),
        "blocks.0.hook_resid_pre": Site(0, "embedding"),
        "blocks.11.hook_mlp_out": Site(11, "mlp"),
        "blocks.2.hook_attn_out": Site(2, "attention"),
    }.items():
        config.write_text(json.dumps({"d_sae": FEATURES, "metadata": {"hook_name": hook}}))
        assert feature_site(workspace, "release/blocks.3") == site
    config.write_text(json.dumps({"hook_name": "blocks.3.hook_z"}))
    assert feature_site(workspace, "release/blocks.3") is None


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("savez", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_feature_is_its_row_of_the_decoder_in_an_archive_of_gemma_scope(
    workspace: Workspace, dtype: type, savez: Callable[..., None], order: str
) -> None:
    folder = workspace.root / "layer_3" / "width_7" / "average_l0_5"
    folder.mkdir(parents=True)
    rows = decoder().numpy().astype(dtype)
    savez(
        folder / "params.npz",
        W_enc=np.zeros((WIDTH, FEATURES), dtype),
        W_dec=rows.copy(order),
        b_enc=np.zeros(FEATURES, dtype),
        b_dec=np.ones(WIDTH, dtype),
        threshold=np.ones(FEATURES, dtype),
    )
    savez(workspace.root / "linear.npz", **{"decoder.weight": rows.T.copy(order)})

    for feature in range(FEATURES):
        for path in ("layer_3/width_7/average_l0_5/params.npz", "layer_3/width_7/average_l0_5", "linear.npz"):
            expected = torch.from_numpy(rows[feature].astype(np.float32))
            assert torch.equal(feature_direction(workspace, path, feature), expected)
    assert feature_site(workspace, "layer_3/width_7/average_l0_5") is None
    with pytest.raises(ArgumentError, match="0 to 6"):
        feature_direction(workspace, "linear.npz", FEATURES)


def test_an_archive_without_a_decoder_is_refused(workspace: Workspace) -> None:
    for arrays, words in (
        ({"other": np.ones((2, 3))}, "no decoder"),
        ({"W_dec": np.ones(3)}, "matrix of floats"),
        ({"W_dec": np.ones((2, 3), int)}, "matrix of floats"),
        ({"W_dec": np.array([["a"]], object)}, "pickled objects"),
    ):
        np.savez(workspace.root / "sae.npz", **arrays)
        with pytest.raises(VectorFileError, match=words):
            feature_direction(workspace, "sae.npz", 0)


def test_an_autoencoder_of_torch_is_refused_with_advice_that_works(workspace: Workspace) -> None:
    torch.save({"decoder.weight": decoder().T.contiguous()}, workspace.root / "ae.pt")

    with pytest.raises(VectorFileError, match=r"save_file\(torch\.load\('ae\.pt', weights_only=True\), 'sae\."):
        feature_direction(workspace, "ae.pt", 3)

    save_file(torch.load(workspace.root / "ae.pt", weights_only=True), workspace.root / "sae.safetensors")
    assert torch.equal(feature_direction(workspace, "sae.safetensors", 3), decoder()[3])


@pytest.mark.parametrize("feature", [-1, FEATURES, 2.0, True, "3", None])
def test_a_feature_that_is_not_there_is_refused_with_those_that_are(workspace: Workspace, feature: Any) -> None:
    save(workspace, {"W_dec": decoder()})

    with pytest.raises(ArgumentError, match="0 to 6"):
        feature_direction(workspace, "sae.safetensors", feature)


def test_files_without_a_decoder_and_decoders_that_are_no_float_matrix_are_refused(workspace: Workspace) -> None:
    for tensors in ({"other": decoder()}, {"W_dec": decoder()[0]}, {"W_dec": torch.ones(2, 3, dtype=torch.int32)}):
        save(workspace, tensors)
        with pytest.raises(VectorFileError, match=r"no decoder|matrix of floats"):
            feature_direction(workspace, "sae.safetensors", 0)
    with pytest.raises(VectorFileError, match="no file"):
        feature_direction(workspace, "missing", 0)
    with pytest.raises(WorkspacePathError):
        feature_direction(workspace, "../sae.safetensors", 0)


def test_truncated_and_forged_files_are_refused_without_allocating_what_they_claim(workspace: Workspace) -> None:
    path = save(workspace, {"W_dec": decoder()})
    whole = path.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    table = json.loads(whole[8 : 8 + header])

    def forged(**changes: Any) -> bytes:
        text = json.dumps({"W_dec": {**table["W_dec"], **changes}}).encode()
        return len(text).to_bytes(8, "little") + text + whole[8 + header :]

    huge = 2**40
    files = [whole[:length] for length in range(0, len(whole), 3)]
    files += [forged(shape=[huge, WIDTH]), forged(shape=[FEATURES, huge], data_offsets=[0, FEATURES * huge * 4])]
    files += [forged(data_offsets=[-4, 136]), forged(dtype="F8"), forged(shape=[0, 0]), (2**60).to_bytes(8, "little")]
    files += [b"\xff" * 64, (1000).to_bytes(8, "little") + b"[" * 1000]
    for data in files:
        path.write_bytes(data)
        with pytest.raises(VectorFileError):
            feature_direction(workspace, "sae.safetensors", 0)


@pytest.mark.parametrize("kind", ["safetensors", "stored", "packed"])
def test_flipped_bytes_raise_typed_errors_only(workspace: Workspace, kind: str) -> None:
    path = save(workspace, {"W_dec": decoder()})
    if kind != "safetensors":
        with path.open("wb") as file:
            (np.savez if kind == "stored" else np.savez_compressed)(file, W_dec=decoder().numpy())
    whole, generator = bytearray(path.read_bytes()), random.Random(0)

    outcomes = set()
    for _ in range(1500):
        changed = bytearray(whole)
        for _ in range(generator.randint(1, 4)):
            changed[generator.randrange(len(changed))] = generator.randrange(256)
        path.write_bytes(changed)
        try:
            feature_direction(workspace, "sae.safetensors", 2)
            outcomes.add("read")
        except SteeringError as error:
            outcomes.add(type(error).__name__)

    assert {"read", "VectorFileError"} <= outcomes
