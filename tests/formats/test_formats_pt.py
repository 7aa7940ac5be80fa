"""`.pt` files: `torch.save` is the oracle, and nothing in a file is ever run."""

from __future__ import annotations

import codecs
import collections
import io
import json
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steer_tools import SteeringVector, load_vector, save_vector
from steer_tools.core.vectors import VectorInfo
from steer_tools.errors import DirectionError, SteeringError, VectorFileError
from steer_tools.formats import read_vector
from steer_tools.formats.base import Unsaid
from steer_tools.formats.pt_format import read_arrays, write_tensor
from steer_tools.workspace import Workspace

# Most of these formats keep less than a vector knows; test_formats_lost.py holds the warnings that say so.
pytestmark = pytest.mark.filterwarnings("ignore:.* does not keep :UserWarning")
WIDTH = 6


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def saved(value: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def rewritten(
    data: bytes, changes: dict[str, Callable[[bytes], bytes]], compression: int = zipfile.ZIP_STORED
) -> bytes:
    """Return an archive with some of its records changed, by the end of their names."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", compression) as new:
        for name in old.namelist():
            change = changes.get(name.partition("/")[2], bytes)
            new.writestr(name, change(old.read(name)))
    return buffer.getvalue()


def with_pickle(old: bytes, new: bytes) -> bytes:
    """Return a saved tensor of four numbers, with a part of its pickle exchanged."""

    def change(pickled: bytes) -> bytes:
        assert old in pickled
        return pickled.replace(old, new)

    return rewritten(saved(torch.ones(4)), {"data.pkl": change})


# --- what torch saves


@pytest.mark.parametrize(
    "tensor",
    [
        pytest.param(numbers(WIDTH), id="vector"),
        pytest.param(numbers(5, WIDTH), id="stack"),
        pytest.param(numbers(5, WIDTH)[3], id="row_of_a_stack"),
        pytest.param(numbers(WIDTH, 5)[:, 3], id="column"),
        pytest.param(numbers(5, WIDTH).T, id="transposed"),
        pytest.param(numbers(30)[4:16:2], id="every_other"),
        pytest.param(numbers(1).expand(9), id="repeated"),
        pytest.param(numbers(70_000), id="long"),
        pytest.param(numbers(WIDTH).half(), id="float16"),
        pytest.param(numbers(WIDTH).bfloat16(), id="bfloat16"),
        pytest.param(numbers(WIDTH).double(), id="float64"),
        pytest.param(torch.nn.Parameter(numbers(WIDTH)), id="parameter"),
        pytest.param(numbers(WIDTH).requires_grad_(), id="requires_grad"),
    ],
)
def test_a_tensor_is_read_as_torch_reads_it(tensor: torch.Tensor) -> None:
    data = saved(tensor)

    read = read_arrays(data, "v.pt")

    assert isinstance(read, torch.Tensor)
    assert read.dtype == tensor.dtype
    assert torch.equal(read, torch.load(io.BytesIO(data), weights_only=True))


@pytest.mark.parametrize("layers", [(3,), (0, 1, 2), (7, 300, 70_000)])
def test_a_dict_of_tensors_is_read_as_torch_reads_it(layers: tuple[int, ...]) -> None:
    rows = numbers(len(layers), WIDTH)
    data = saved(dict(zip(layers, rows, strict=True)))

    read = read_arrays(data, "v.pt")

    assert isinstance(read, dict)
    assert list(read) == list(layers)
    assert all(torch.equal(read[n], t) for n, t in torch.load(io.BytesIO(data), weights_only=True).items())


def test_the_keys_of_a_dict_are_its_layers(workspace: Workspace) -> None:
    workspace.write("v.pt", saved({5: numbers(WIDTH), 2: -numbers(WIDTH)}))

    vector = load_vector("v.pt", workspace=workspace)

    assert vector.layers == (2, 5)
    assert torch.equal(vector.directions[2], -numbers(WIDTH))


def test_torch_reads_what_is_written_and_a_view_is_written_alone(workspace: Workspace) -> None:
    vector = SteeringVector.from_directions({2: numbers(WIDTH)})

    path = save_vector(vector, "v.pt", workspace=workspace)

    assert torch.equal(torch.load(path, weights_only=True), numbers(WIDTH))
    assert len(write_tensor(numbers(1000, WIDTH)[0])) == path.stat().st_size


def test_arrays_lists_and_notes_are_read_as_torch_reads_them() -> None:
    value = {
        "vector": numbers(WIDTH).numpy(),
        "half": numbers(2, WIDTH).numpy().astype(np.float16),
        "turned": np.asfortranarray(numbers(2, WIDTH).numpy()),
        "big-endian": numbers(WIDTH).numpy().astype(">f4"),
        "rows": [numbers(WIDTH), {3: numbers(WIDTH, 2)}],
        "state": collections.OrderedDict({"weight": numbers(3)}),
        "notes": ["a", 1, 2.5, True, None],
    }

    read: Any = read_arrays(saved(value), "v.pt")

    for name in ("vector", "half", "turned", "big-endian"):
        assert torch.equal(read[name], torch.from_numpy(value[name].astype(value[name].dtype.newbyteorder("="))))
    assert torch.equal(read["rows"][0], numbers(WIDTH))
    assert torch.equal(read["rows"][1][3], numbers(WIDTH, 2))
    assert torch.equal(read["state"]["weight"], numbers(3))
    assert read["notes"] == ["a", 1, 2.5, True, None]
    assert read_arrays(saved(torch.nn.Linear(2, 2).state_dict()), "v.pt").keys() == {"weight", "bias"}  # type: ignore[union-attr]


def test_flipped_bytes_of_arrays_in_lists_give_a_typed_error_or_a_sound_vector(workspace: Workspace) -> None:
    whole = saved({"rows": [numbers(WIDTH), {3: numbers(WIDTH).numpy()}], "layer": 2})
    choose, outcomes = random.Random(3), set[str]()

    for _ in range(3000):
        data = bytearray(whole)
        for _ in range(choose.choice((1, 1, 2, 8))):
            data[choose.randrange(len(data))] = choose.randrange(256)
        workspace.write("v.pt", bytes(data))
        try:
            load_vector("v.pt[rows, 1, 3]", workspace=workspace)
            outcomes.add("read")
        except SteeringError as error:
            outcomes.add(type(error).__name__)
            assert len(str(error)) < 2000

    assert {"read", "VectorFileError"} <= outcomes


# --- nothing is run


class Trap:
    """Unpickled by anyone who runs it, this makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.folder),))


@pytest.mark.parametrize(
    "wrap", [lambda t: t, lambda t: {2: t}, lambda t: [t], lambda t: {"vector": torch.ones(4), 1: t}]
)
@pytest.mark.parametrize("is_archive", [True, False])
def test_the_code_in_a_pickle_does_not_run(
    workspace: Workspace, tmp_path: Path, wrap: Callable[[Any], Any], is_archive: bool
) -> None:
    trapped = wrap(Trap(tmp_path / "sprung"))
    content = saved(trapped) if is_archive else pickle.dumps(trapped)
    workspace.write("v.pt", content)

    with pytest.raises(VectorFileError, match=r"bare pickle|holds no plain tensors"):
        load_vector("v.pt", layer_if_unknown=2, workspace=workspace)
    assert not (tmp_path / "sprung").exists()

    # The trap is a real one: whoever runs the pickle springs it.
    if is_archive:
        torch.load(io.BytesIO(content), weights_only=False)
    else:
        pickle.loads(content)
    assert (tmp_path / "sprung").is_dir()


class SteeringVectorOfAnotherPackage:
    def __init__(self) -> None:
        self.layer_activations = {2: torch.ones(4)}


def test_a_pickled_object_is_refused_with_the_way_out(workspace: Workspace) -> None:
    workspace.write("v.pt", saved(SteeringVectorOfAnotherPackage()))

    with pytest.raises(VectorFileError, match=r"test_formats_pt.SteeringVectorOf.*SteeringVector\.from_directions"):
        load_vector("v.pt", layer_if_unknown=2, workspace=workspace)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(torch.ones(4, dtype=torch.complex64), id="complex_numbers"),
        pytest.param(torch.ones(4, device="meta"), id="meta"),
        pytest.param(torch.ones(4).to_sparse(), id="sparse"),
        pytest.param((torch.ones(4), torch.ones(4)), id="tuple"),
        pytest.param({True: torch.ones(4)}, id="dict_by_boolean"),
        pytest.param({(2, 3): torch.ones(4)}, id="dict_by_tuple"),
        pytest.param({2: {3, 4}}, id="set"),
        pytest.param(b"baba", id="bytes"),
        pytest.param(np.ones(4, complex), id="complex_array"),
        pytest.param(np.array(["baba"], object), id="array_of_objects"),
        pytest.param(np.float32(2), id="number_of_numpy"),
    ],
)
def test_what_is_no_plain_tensor_is_refused(value: object) -> None:
    with pytest.raises(VectorFileError, match=r"v\.pt holds no plain tensors"):
        read_arrays(saved(value), "v.pt")


class Call:
    """A call in a pickle."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.made = function, arguments

    def __reduce__(self) -> tuple[object, ...]:
        return self.made


@pytest.mark.parametrize(
    "call",
    [
        Call(collections.OrderedDict, "baba", "latin1"),
        Call(np.dtype, "baba", "latin1"),
        Call(codecs.encode, "baba", "utf-8"),
        Call(codecs.encode),
        Call(codecs.encode, "f4", False, True),
        Call(np.dtype, "O8", False, True),
    ],
    ids=lambda call: f"{call.made[0].__name__}{call.made[1]}",
)
def test_a_function_that_is_called_with_what_is_not_its_own_is_refused(call: Call) -> None:
    with pytest.raises(VectorFileError, match="a pickle that calls something else"):
        read_arrays(saved({"vector": torch.ones(4), "note": call}), "v.pt")


def test_the_format_of_old_versions_is_refused() -> None:
    with pytest.raises(
        VectorFileError, match=r"no zip archive.*Save it again: torch\.save\(torch\.load\('v\.pt', weights_only=True\)"
    ):
        read_arrays(saved(torch.ones(4), _use_new_zipfile_serialization=False), "v.pt")


# --- what is claimed is held against what is there


ONES = saved(torch.ones(4))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"", "no zip archive", id="empty"),
        pytest.param(b"PK\x03\x04", "truncated or forged", id="magic_only"),
        pytest.param(with_pickle(b"K\x04", b"J\x00\x00\x00\x7f"), "truncated or forged", id="both_lengths"),
        pytest.param(with_pickle(b"K\x04\x85", b"J\x00\x00\x00\x7f\x85"), "claims more numbers", id="shape"),
        pytest.param(with_pickle(b"K\x04\x85", b"K\x05\x85"), "truncated or forged", id="shape_by_one"),
        pytest.param(with_pickle(b"K\x04t", b"K\x05t"), "5 numbers and holds 16 bytes", id="storage"),
        pytest.param(with_pickle(b"K\x04t", b"J\xff\xff\xff\xfft"), "a storage of another kind", id="negative_storage"),
        pytest.param(with_pickle(b"K\x00K\x04", b"K\x01K\x04"), "truncated or forged", id="offset"),
        pytest.param(with_pickle(b"K\x01\x85", b"K\x02\x85"), "truncated or forged", id="stride"),
        pytest.param(with_pickle(b"QK\x00", b"QJ\xff\xff\xff\xff"), "no plain tensors", id="negative_offset"),
        pytest.param(with_pickle(b"K\x04\x85", b"J\xff\xff\xff\xff\x85"), "no plain tensors", id="negative_shape"),
        pytest.param(with_pickle(b"K\x01\x85", b"J\xff\xff\xff\xff\x85"), "no plain tensors", id="negative_stride"),
        pytest.param(with_pickle(b"K\x01\x85", b")"), "no plain tensors", id="strides_of_another_length"),
        pytest.param(with_pickle(b"K\x04\x85q\x06", b"K\x04\x85h\x63"), "truncated or forged", id="unknown_memo"),
        pytest.param(with_pickle(b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x009"), "truncated or forged", id="no_record"),
        pytest.param(with_pickle(b"Q", b"0"), "step POP", id="another_step"),
        pytest.param(with_pickle(b"t", b""), "truncated or forged|no plain", id="missing_step"),
        pytest.param(with_pickle(b"q\x0b.", b"q\x0b0"), "step POP", id="no_end"),
        pytest.param(rewritten(ONES, {"data.pkl": lambda _: b""}), "truncated or forged", id="empty_pickle"),
        pytest.param(rewritten(ONES, {"data.pkl": lambda p: p + bytes(2**24)}), "claims 16", id="long_pickle"),
        pytest.param(rewritten(ONES, {"data/0": lambda b: b[:-1]}), "holds 15 bytes", id="short_record"),
        pytest.param(rewritten(ONES, {"byteorder": lambda _: b"big"}), "big-endian", id="big_endian"),
        pytest.param(rewritten(ONES, {}, zipfile.ZIP_DEFLATED), "is compressed", id="compressed"),
    ],
)
def test_a_malformed_archive_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(VectorFileError, match=words):
        read_arrays(content, "v.pt")


def test_a_record_that_says_that_it_is_compressed_is_not_unpacked() -> None:
    data = bytearray(ONES)
    # The first record is data.pkl; its method stands 8 bytes after its own start, and 10 in the directory at the end.
    data[8] = data[data.index(b"PK\x01\x02") + 10] = zipfile.ZIP_DEFLATED

    with pytest.raises(VectorFileError, match="is compressed"):
        read_arrays(bytes(data), "v.pt")


def test_records_that_together_claim_more_than_the_file_are_not_read() -> None:
    data = bytearray(saved({0: torch.ones(64), 1: torch.ones(64)}))
    for name in (b"data/0", b"data/1"):
        # In the directory at the end, an entry's two sizes stand 20 bytes after its start, and its name after 46.
        start = data.rindex(b"PK\x01\x02", 0, data.rindex(name))
        data[start + 20 : start + 28] = (len(data) - 1).to_bytes(4, "little") * 2

    with pytest.raises(VectorFileError, match="its records overlap"):
        read_arrays(bytes(data), "v.pt")


def test_a_view_that_repeats_its_numbers_without_end_is_refused() -> None:
    repeated = saved(torch.ones(1).expand(2**30))

    assert len(repeated) < 2000
    with pytest.raises(VectorFileError, match="claims more numbers"):
        read_arrays(repeated, "v.pt")


def test_many_views_of_the_same_numbers_are_refused() -> None:
    row = torch.ones(4096)

    assert isinstance(read_arrays(saved({0: row}), "v.pt"), dict)
    with pytest.raises(VectorFileError, match="claims more numbers"):
        read_arrays(saved(dict.fromkeys(range(4), row)), "v.pt")


def test_an_archive_of_very_many_records_is_not_walked() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(1001):
            archive.writestr(f"v/{number}", b"")

    with pytest.raises(VectorFileError, match="more records than tensors have"):
        read_arrays(buffer.getvalue(), "v.pt")


# --- rotalabs' pair


INFO = VectorInfo(method="caa", model_name="tiny")


def test_a_pair_is_found_by_either_name(workspace: Workspace) -> None:
    vector = SteeringVector.from_directions({3: numbers(WIDTH)}, info=INFO)

    path = save_vector(vector, "v", format_name="rotalabs", workspace=workspace)

    assert sorted(file.name for file in workspace.root.iterdir()) == ["v.json", "v.pt"]
    assert path.name == "v.pt"
    for name in ("v.pt", "v.json"):
        loaded = read_vector(name, Unsaid(5), workspace=workspace)
        assert (loaded.format.name, loaded.vector.layers, loaded.vector.info) == ("rotalabs", (3,), INFO)
        assert torch.equal(loaded.vector.directions[3], numbers(WIDTH))


def test_a_pair_is_written_to_a_name_that_ends_in_json(workspace: Workspace) -> None:
    vector = SteeringVector.from_directions({3: numbers(WIDTH)})

    path = save_vector(vector, "v1.5.json", format_name="rotalabs", workspace=workspace)

    assert path.name == "v1.5.pt"
    assert load_vector("v1.5.json", workspace=workspace).layers == (3,)
    assert load_vector("v1.5.pt", workspace=workspace).info == VectorInfo()


def test_half_a_pair_is_refused(workspace: Workspace) -> None:
    path = save_vector(
        SteeringVector.from_directions({3: numbers(WIDTH)}), "v", format_name="rotalabs", workspace=workspace
    )
    path.unlink()

    with pytest.raises(VectorFileError, match=r"no file .*v\.pt"):
        load_vector("v.json", workspace=workspace)


def test_a_pair_of_two_vectors_is_refused(workspace: Workspace) -> None:
    save_vector(SteeringVector.from_directions({3: numbers(WIDTH)}), "v", format_name="rotalabs", workspace=workspace)
    workspace.write("v.pt", saved(numbers(WIDTH + 1)))

    with pytest.raises(VectorFileError, match=r"v.json does not describe the array in .*v.pt.*remove .*v.json"):
        load_vector("v.pt", workspace=workspace)
    # Their own package writes no digest.
    description = json.loads((workspace.root / "v.json").read_bytes())
    workspace.write(
        "v.json", json.dumps({key: description[key] for key in description if "sha256" not in key}).encode()
    )
    with pytest.raises(DirectionError, match=r"does not hold the shape \(6,\)"):
        load_vector("v.pt", workspace=workspace)


def test_a_bare_tensor_is_not_written_beside_the_description_of_another(workspace: Workspace) -> None:
    pair = SteeringVector.from_directions({3: numbers(WIDTH)})
    save_vector(pair, "v", format_name="rotalabs", workspace=workspace)
    other = SteeringVector.from_directions({5: -numbers(WIDTH)})

    with pytest.raises(VectorFileError, match="describes another vector"):
        save_vector(other, "v.pt", workspace=workspace)
    assert torch.equal(load_vector("v.pt", workspace=workspace).directions[3], numbers(WIDTH))
    save_vector(other, "v.pt", format_name="rotalabs", workspace=workspace)
    assert load_vector("v.pt", workspace=workspace).layers == (5,)


@pytest.mark.parametrize("beside", [b"{}", b"", b'{"behavior": "x"}', b"[" * 9999, b"\xff", b" " * 2**21])
def test_another_json_file_beside_a_bare_tensor_is_not_its_description(workspace: Workspace, beside: bytes) -> None:
    workspace.write("v.pt", saved(numbers(WIDTH)))
    workspace.write("v.json", beside)

    assert load_vector("v.pt", layer_if_unknown=4, workspace=workspace).layers == (4,)


def test_a_description_of_a_megabyte_is_none(workspace: Workspace) -> None:
    pair = SteeringVector.from_directions({3: numbers(WIDTH)})
    save_vector(pair, "v", format_name="rotalabs", workspace=workspace)
    description = (workspace.root / "v.json").read_bytes()

    workspace.write("v.json", description + b" " * 1000)
    assert load_vector("v.pt", layer_if_unknown=4, workspace=workspace).layers == (3,)
    workspace.write("v.json", description + b" " * 2**20)
    assert load_vector("v.pt", layer_if_unknown=4, workspace=workspace).layers == (4,)


@pytest.mark.parametrize("name", ["v.json", "v.pt"])
def test_a_layer_below_0_is_refused(workspace: Workspace, name: str) -> None:
    save_vector(SteeringVector.from_directions({3: numbers(WIDTH)}), "v", format_name="rotalabs", workspace=workspace)
    description = (workspace.root / "v.json").read_bytes()
    workspace.write("v.json", description.replace(b'"layer_index": 3', b'"layer_index": -1'))

    with pytest.raises(SteeringError, match="0 and above"):
        load_vector(name, workspace=workspace)


def test_a_pickle_with_an_unknown_escape_is_refused_without_a_warning(tmp_path: Path) -> None:
    (tmp_path / "v.pt").write_bytes(b"\x80\x02S'\\ud800'\n.")

    with pytest.raises(VectorFileError, match="is a bare pickle"):
        load_vector("v.pt", workspace=Workspace(tmp_path))
