"""vllm-lens' JSON and steering-vectors' objects: what they say more than a vector does is refused, not dropped."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zstandard

from steer_tools import SteeringVector, load_vector, save_vector
from steer_tools.errors import DirectionError, LayerError, SteeringError, UnsupportedFeatureError, VectorFileError
from steer_tools.formats import from_steering_vectors, read_vector, to_steering_vectors
from steer_tools.formats.base import Unsaid
from steer_tools.workspace import Workspace

ROWS = torch.randn(2, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def wire(tensor: torch.Tensor = ROWS, numbers: dict[str, Any] | None = None, **changes: Any) -> bytes:
    """Return what vllm-lens 1.3 sends: zstd inside base64, bfloat16 as int16."""
    is_bfloat16 = tensor.dtype == torch.bfloat16
    array = (tensor.view(torch.int16) if is_bfloat16 else tensor).numpy()
    activations = {
        "data": base64.b64encode(zstandard.ZstdCompressor(level=1).compress(array.tobytes())).decode(),
        "dtype": str(array.dtype),
        "original_dtype": str(tensor.dtype),
        "shape": list(array.shape),
        "compression": "zstd",
    } | (numbers or {})
    rest = {"layer_indices": [4, 1], "scale": 1.0, "norm_match": False, "position_indices": None}
    return json.dumps({"activations": activations} | rest | changes).encode()


def plain(data: bytes) -> dict[str, Any]:
    return {"data": base64.b64encode(data).decode(), "compression": None}


def packed(data: bytes) -> dict[str, Any]:
    return {"data": base64.b64encode(data).decode()}


# --- vllm-lens


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_row_i_belongs_to_the_i_th_layer_index(workspace: Workspace, dtype: torch.dtype) -> None:
    workspace.write("v.json", wire(ROWS.to(dtype)))

    loaded = read_vector("v.json", Unsaid(), workspace=workspace)

    assert loaded.vector.layers == (1, 4)
    assert torch.equal(loaded.vector.directions[4], ROWS[0].to(dtype).float())
    assert torch.equal(loaded.vector.directions[1], ROWS[1].to(dtype).float())
    assert loaded.notes == ()


def test_numbers_that_are_not_packed_are_read(workspace: Workspace) -> None:
    workspace.write("v.json", wire(numbers=plain(ROWS.numpy().tobytes())))

    assert torch.equal(load_vector("v.json", workspace=workspace).directions[4], ROWS[0])


def test_the_scale_is_part_of_what_strength_1_adds(workspace: Workspace) -> None:
    workspace.write("v.json", wire(scale=-2.5))

    loaded = read_vector("v.json", Unsaid(), workspace=workspace)

    assert torch.equal(loaded.vector.directions[4], -2.5 * ROWS[0])
    assert "-2.5, is multiplied into" in loaded.notes[0]


def test_what_is_written_is_plain_float32_at_scale_1(workspace: Workspace) -> None:
    vector = SteeringVector.from_directions({4: ROWS[0], 1: ROWS[1]})

    written = json.loads(save_vector(vector, "v.json", workspace=workspace).read_bytes())

    activations = written.pop("activations")
    array = np.frombuffer(base64.b64decode(activations.pop("data")), activations["dtype"])
    assert np.array_equal(array.reshape(activations["shape"]), ROWS.flip(0).numpy())
    assert activations == {"dtype": "float32", "original_dtype": "torch.float32", "shape": [2, 6]}
    assert written == {"layer_indices": [1, 4], "scale": 1.0, "norm_match": False, "position_indices": None}


WIDE = zstandard.ZstdCompressor(
    compression_params=zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
).compressobj()
WIDE_WINDOW = WIDE.compress(ROWS.numpy().tobytes()) + WIDE.flush()
BOMB = zstandard.ZstdCompressor(level=19).compress(bytes(2**28))


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        pytest.param(b"", VectorFileError, "an empty file", id="empty"),
        pytest.param(b"[]", VectorFileError, "no steering vector in JSON", id="list"),
        pytest.param(b"[" * 10**5, VectorFileError, "no steering vector in JSON", id="deep"),
        pytest.param(b"{}", VectorFileError, "activations: Field required", id="other_json"),
        pytest.param(b" " * (16 * 2**20 + 1), VectorFileError, "at most 16,777,216", id="large"),
        pytest.param(wire(norm_match=True), UnsupportedFeatureError, "norm_match", id="norm_match"),
        pytest.param(wire(ROWS[:, None]), UnsupportedFeatureError, "one row a position", id="positions"),
        pytest.param(wire(ROWS[0]), DirectionError, "one row a layer", id="one_dimension"),
        pytest.param(wire(layer_indices=[1]), DirectionError, "one row a layer", id="layers_too_few"),
        pytest.param(wire(layer_indices=[1, 1]), DirectionError, "each layer once", id="layer_twice"),
        pytest.param(wire(layer_indices=[1, -1]), LayerError, "0 and above", id="layer_negative"),
        pytest.param(wire(layer_indices=["1", 2]), VectorFileError, "layer_indices.0", id="layer_is_text"),
        pytest.param(wire(scale=0), DirectionError, "all zero", id="scale_zero"),
        pytest.param(wire(scale=1e39), DirectionError, "NaN or infinity", id="scale_overflows"),
        pytest.param(wire().replace(b"1.0", b"NaN"), VectorFileError, "scale", id="scale_nan"),
        pytest.param(wire(ROWS * torch.nan), DirectionError, "NaN or infinity", id="nan"),
        pytest.param(wire(ROWS.int()), VectorFileError, "'int32'", id="integers"),
        pytest.param(wire(numbers={"compression": "gzip"}), VectorFileError, "compression", id="compression"),
        pytest.param(wire(numbers={"data": "!"}), VectorFileError, "damaged", id="no_base64"),
        pytest.param(wire(numbers=packed(b"baba")), VectorFileError, "damaged", id="no_zstd"),
        pytest.param(wire(numbers={"shape": [2, 5]}), VectorFileError, "40 bytes, but there are 41", id="more"),
        pytest.param(wire(numbers={"shape": [2, 7]}), VectorFileError, "56 bytes, but there are 48", id="fewer"),
        pytest.param(wire(numbers={"shape": [2, -6]}), VectorFileError, "claims", id="negative_shape"),
        pytest.param(wire(numbers={"shape": []}), DirectionError, r"shape \(\)", id="no_shape"),
        pytest.param(wire(numbers={"shape": [2, 0]}), VectorFileError, "0 bytes, but there are 1", id="no_width"),
        pytest.param(wire(numbers={"shape": [2, 2**40]}), VectorFileError, "claims", id="huge_shape"),
        pytest.param(wire(numbers=packed(BOMB)), VectorFileError, "48 bytes, but there are 49 or more", id="bomb"),
        pytest.param(wire(numbers=packed(WIDE_WINDOW)), VectorFileError, "damaged", id="window_of_128_MiB"),
        pytest.param(
            wire(numbers={**packed(BOMB), "shape": [2, 2**25]}), VectorFileError, "claims", id="bomb_as_claimed"
        ),
    ],
)
def test_a_malformed_file_is_refused(
    workspace: Workspace, content: bytes, error: type[SteeringError], words: str
) -> None:
    workspace.write("v.json", content)

    with pytest.raises(error, match=words):
        load_vector("v.json", workspace=workspace)


def test_the_description_of_an_array_is_not_taken_for_a_vector(workspace: Workspace) -> None:
    save_vector(SteeringVector.from_directions({2: ROWS[0]}), "v.npy", workspace=workspace)

    with pytest.raises(VectorFileError, match="give the path of the array"):
        load_vector("v.npy.json", workspace=workspace)


# --- steering-vectors


@dataclass
class Theirs:
    """The class of the package steering-vectors, as far as it is used."""

    layer_activations: dict[int, torch.Tensor] = field(default_factory=dict)
    layer_type: str = "decoder_block"


@pytest.mark.parametrize(
    ("layer_type", "component"), [("decoder_block", "residual"), ("self_attn", "attention"), ("mlp", "mlp")]
)
def test_an_object_goes_there_and_back(layer_type: str, component: str) -> None:
    theirs = Theirs({3: ROWS[0], 0: ROWS[1]}, layer_type)

    ours = from_steering_vectors(theirs)
    again = Theirs(**to_steering_vectors(ours))

    assert (ours.layers, ours.component) == ((0, 3), component)
    assert torch.equal(ours.directions[3], ROWS[0])
    assert again.layer_type == layer_type
    assert again.layer_activations.keys() == theirs.layer_activations.keys()
    assert all(torch.equal(again.layer_activations[n], t) for n, t in theirs.layer_activations.items())


def test_what_goes_there_is_a_copy() -> None:
    ours = SteeringVector.from_directions({3: ROWS[0]})

    to_steering_vectors(ours)["layer_activations"][3].zero_()

    assert torch.equal(ours.directions[3], ROWS[0])


def test_a_layer_type_that_is_no_component_is_refused() -> None:
    with pytest.raises(UnsupportedFeatureError, match=r"'input_layernorm'.*'decoder_block', 'self_attn', 'mlp'"):
        from_steering_vectors(Theirs({3: ROWS[0]}, "input_layernorm"))


@pytest.mark.parametrize(("component", "head"), [("embedding", None), ("attention", 2)])
def test_a_component_that_is_no_layer_type_is_refused(component: Any, head: int | None) -> None:
    vector = SteeringVector.from_directions({0: ROWS[0]}, component=component, head=head)

    with pytest.raises(UnsupportedFeatureError, match=f"'{component}' and the head {head}"):
        to_steering_vectors(vector)


def test_an_object_without_directions_is_refused() -> None:
    with pytest.raises(DirectionError, match="There is no direction"):
        from_steering_vectors(Theirs())
