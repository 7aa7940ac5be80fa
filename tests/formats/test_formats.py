"""Vector files: what was saved is what is loaded, bit for bit; and the laws of the vector itself."""

from __future__ import annotations

import dataclasses
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from pydantic import ValidationError

from steer_tools import SteeringVector, formats, load_vector, save_vector
from steer_tools.core.vectors import VectorInfo
from steer_tools.errors import ArgumentError, DirectionError, LayerError, UnsupportedFeatureError, VectorFileError
from steer_tools.formats import FORMATS, SUFFIXES, format_for, with_suffix
from steer_tools.formats.base import Encoded, Header, Unsaid, VectorFormat
from steer_tools.workspace import ENVIRONMENT_VARIABLE, Workspace

# Most of these formats keep less than a vector knows; test_formats_lost.py holds the warnings that say so.
pytestmark = pytest.mark.filterwarnings("ignore:.* does not keep :UserWarning")
WIDTH = 24
INFO = VectorInfo(
    method="mean_difference",
    pooling="last",
    positive_count=8,
    negative_count=9,
    contrast_norms={2: 14.25, 5: 1 / 3},
    residual_norms={2: 34.5, 5: 1e-3},
    model_name="tiny",
    model_family="llama",
    model_fingerprint="0123456789abcdef",
    model_layers=6,
)
NAMES = [
    "v",
    "v.npy",
    "v.safetensors",
    "V.NPY",
    "refusal_v1.5",
    "refusal_v1.5.npy",
    "deep/er/v",
    "deep/er/v.npy",
    "./v",
    "a name/größe.npy",
    "v.npy.safetensors",
    "v.txt",
]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


def direction(seed: int = 0, width: int = WIDTH) -> torch.Tensor:
    return torch.randn(width, generator=torch.Generator().manual_seed(seed))


def vector_at(*layers: int, info: VectorInfo | None = INFO, width: int = WIDTH) -> SteeringVector:
    return SteeringVector.from_directions({layer: direction(layer, width) for layer in layers}, info=info)


def is_same(first: SteeringVector, second: SteeringVector) -> bool:
    """Return whether two vectors are equal in every bit of every direction and in all that they remember."""
    directions = [
        {layer: own.numpy().tobytes() for layer, own in vector.directions.items()} for vector in (first, second)
    ]
    return directions[0] == directions[1] and (first.component, first.info) == (second.component, second.info)


def names_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let the system refuse to write beyond `size` bytes of a file, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# --- save and load


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_vector_loads_bit_for_bit_under_the_name_it_was_given(workspace: Workspace, name: str) -> None:
    vector = vector_at(2)

    save_vector(vector, name, workspace=workspace)

    assert is_same(load_vector(name, workspace=workspace), vector)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("is_absolute", [False, True])
def test_the_returned_path_is_the_absolute_path_of_the_file(workspace: Workspace, name: str, is_absolute: bool) -> None:
    vector = vector_at(2)

    path = save_vector(vector, workspace.root / name if is_absolute else name, workspace=workspace)

    assert path.is_absolute()
    assert path.is_file()
    assert path.parent == (workspace.root / name).parent
    assert path.name.startswith(Path(name).name)
    assert path.name.lower().endswith(SUFFIXES)
    assert is_same(load_vector(path, workspace=workspace), vector)
    assert is_same(load_vector(str(path)), vector)


def test_names_that_differ_after_a_dot_are_different_files(workspace: Workspace) -> None:
    first, second = vector_at(2), vector_at(5)

    paths = {
        save_vector(first, "refusal_v1.5", workspace=workspace),
        save_vector(second, "refusal_v1.6", workspace=workspace),
    }

    assert {path.name for path in paths} == {"refusal_v1.5.safetensors", "refusal_v1.6.safetensors"}
    assert is_same(load_vector("refusal_v1.5", workspace=workspace), first)
    assert is_same(load_vector("refusal_v1.6", workspace=workspace), second)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("v", "v.safetensors"),
        ("v.npy", "v.npy"),
        ("v.safetensors", "v.safetensors"),
        ("V.NPY", "V.NPY"),
        ("v1.5", "v1.5.safetensors"),
        ("v.txt", "v.txt.safetensors"),
        ("v.gguf", "v.gguf"),
        ("v.json", "v.json"),
        ("V.PT", "V.PT"),
        (Path("a/v"), "a/v.safetensors"),
    ],
)
def test_a_suffix_is_added_unless_there_is_a_known_one(given: Any, expected: str) -> None:
    assert with_suffix(given) == expected


def test_without_a_workspace_a_relative_path_is_below_the_default_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)

    path = formats.write_vector(vector_at(2), "deep/v").path

    assert path == tmp_path / "workspace" / "deep" / "v.safetensors"
    assert is_same(formats.read_vector("workspace/deep/v").vector, vector_at(2))


@pytest.mark.parametrize("layers", [(0,), (2, 5), (5, 2, 0), tuple(range(40))])
def test_safetensors_holds_any_layers(workspace: Workspace, layers: tuple[int, ...]) -> None:
    vector = vector_at(*layers)

    save_vector(vector, "v", workspace=workspace)
    loaded = load_vector("v", workspace=workspace)

    assert loaded.layers == tuple(sorted(layers))
    assert is_same(loaded, vector)


@pytest.mark.parametrize("name", ["v.npy", "V.NPY"])
def test_npy_holds_one_layer(workspace: Workspace, name: str) -> None:
    with pytest.raises(UnsupportedFeatureError, match=r"2 layers.*one layer, or a path that ends in \.safetensors"):
        save_vector(vector_at(2, 5), name, workspace=workspace)
    assert not workspace.root.exists()
    assert format_for(name, 1).suffix == ".npy"


@pytest.mark.parametrize("name", ["v.npy", "v.safetensors"])
@pytest.mark.parametrize("info", [INFO, VectorInfo(), VectorInfo(is_unit=True, contrast_norms={2: 5e-324})])
def test_all_that_a_vector_remembers_survives(workspace: Workspace, name: str, info: VectorInfo) -> None:
    save_vector(vector_at(2, info=info), name, workspace=workspace)

    loaded = load_vector(name, workspace=workspace)

    assert loaded.info == info
    assert loaded.contrast_norm(2) == info.contrast_norms.get(2)


@pytest.mark.parametrize("name", ["v.npy", "v.safetensors"])
def test_means_and_erasers_survive_bit_for_bit(workspace: Workspace, name: str) -> None:
    vector = SteeringVector.from_directions(
        {2: direction()}, means={2: direction(1)}, erasers={2: torch.tensor([1e-45, -0.0, 1 / 3] * (WIDTH // 3))}
    )

    save_vector(vector, name, workspace=workspace)

    loaded = load_vector(name, workspace=workspace)
    for kind in ("means", "erasers"):
        (kept,), (held,) = (getattr(own, kind).values() for own in (loaded, vector))
        assert kept.numpy().tobytes() == held.numpy().tobytes()


@pytest.mark.parametrize("name", ["v.npy", "v.safetensors"])
def test_the_component_survives(workspace: Workspace, name: str) -> None:
    vector = SteeringVector.from_directions({2: direction()}, component="mlp")

    save_vector(vector, name, workspace=workspace)

    assert load_vector(name, workspace=workspace).component == "mlp"


@pytest.mark.parametrize("name", ["v.npy", "v.safetensors"])
def test_special_floats_survive_bit_for_bit(workspace: Workspace, name: str) -> None:
    smallest, largest = torch.finfo(torch.float32).smallest_normal, torch.finfo(torch.float32).max
    vector = SteeringVector.from_directions({2: torch.tensor([-0.0, 1e-45, smallest, -largest, 1 / 3])})

    save_vector(vector, name, workspace=workspace)

    assert is_same(load_vector(name, workspace=workspace), vector)


def test_saving_is_deterministic(workspace: Workspace) -> None:
    for name in ("v.npy", "v.safetensors"):
        first = save_vector(vector_at(2), name, workspace=workspace).read_bytes()
        second = save_vector(vector_at(2), name, workspace=workspace).read_bytes()

        assert first == second


def test_an_npy_file_is_numpys_own(workspace: Workspace) -> None:
    path = save_vector(vector_at(2), "v.npy", workspace=workspace)

    array = np.load(path, allow_pickle=False)

    assert array.dtype == np.float32
    assert np.array_equal(array, direction(2).numpy())


def test_a_safetensors_file_is_the_librarys_own(workspace: Workspace) -> None:
    path = save_vector(vector_at(2, 5), "v", workspace=workspace)

    tensors = safetensors.torch.load_file(path)

    assert set(tensors) == {"layer.2", "layer.5"}
    assert torch.equal(tensors["layer.5"], direction(5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_safetensors_file_of_another_precision_is_read_in_float32(workspace: Workspace, dtype: torch.dtype) -> None:
    tensor = direction(2).to(dtype)
    metadata = {"steer_tools": Header.of(vector_at(2)).model_dump_json()}
    workspace.write("v.safetensors", safetensors.torch.save({"layer.2": tensor}, metadata=metadata))

    loaded = load_vector("v", workspace=workspace)

    assert loaded.directions[2].dtype == torch.float32
    assert torch.equal(loaded.directions[2], tensor.float())


@pytest.mark.parametrize(
    ("header", "place"), [("{}", "layers: Field"), ('{"layers": [2, "x"]}', r"layers\.1: "), ("[", "the whole text")]
)
def test_a_description_that_is_malformed_says_where(workspace: Workspace, header: str, place: str) -> None:
    workspace.write("v.safetensors", safetensors.torch.save({"layer.2": direction(2)}, {"steer_tools": header}))

    with pytest.raises(VectorFileError, match=f"malformed at .*{place}"):
        load_vector("v", workspace=workspace)


# --- bare arrays


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f2", ">f4", ">f8"])
def test_a_bare_array_of_any_float_is_read_in_float32_at_the_layer_that_is_given(
    workspace: Workspace, dtype: str
) -> None:
    array = direction().numpy().astype(dtype)
    workspace.root.mkdir()
    np.save(workspace.root / "bare.npy", array)

    loaded = load_vector("bare.npy", layer_if_unknown=3, workspace=workspace)

    assert loaded.layers == (3,)
    assert loaded.info == VectorInfo()
    assert np.array_equal(loaded.directions[3].numpy(), array.astype(np.float32))


def test_a_bare_array_needs_a_layer(workspace: Workspace) -> None:
    workspace.root.mkdir()
    np.save(workspace.root / "bare.npy", direction().numpy())

    with pytest.raises(VectorFileError, match=r"its layer is not known.*Give `layer` as a number"):
        load_vector("bare.npy", workspace=workspace)


@pytest.mark.parametrize("name", ["v.npy", "v.safetensors"])
def test_a_file_that_says_its_layer_needs_none_and_keeps_its_own(workspace: Workspace, name: str) -> None:
    save_vector(vector_at(2), name, workspace=workspace)

    assert load_vector(name, layer_if_unknown=4, workspace=workspace).layers == (2,)


def test_saving_over_a_bare_array_makes_it_say_its_layer(workspace: Workspace) -> None:
    workspace.root.mkdir()
    np.save(workspace.root / "v.npy", np.ones(3, np.float32))

    save_vector(vector_at(2), "v.npy", workspace=workspace)

    assert is_same(load_vector("v.npy", workspace=workspace), vector_at(2))


# --- whole or not at all


@pytest.mark.parametrize(("name", "files"), [("v.npy", ["v.npy", "v.npy.json"]), ("v", ["v.safetensors"])])
def test_an_existing_file_is_replaced_whole(workspace: Workspace, name: str, files: list[str]) -> None:
    save_vector(vector_at(5, width=1000), name, workspace=workspace)

    save_vector(vector_at(2), name, workspace=workspace)

    assert is_same(load_vector(name, workspace=workspace), vector_at(2))
    assert names_below(workspace.root) == files


@pytest.mark.parametrize("is_confined", [False, True])
@pytest.mark.parametrize("name", ["v.npy", "v.safetensors"])
def test_a_write_that_fails_midway_leaves_the_old_vector_and_nothing_else(
    workspace: Workspace, name: str, is_confined: bool
) -> None:
    workspace = Workspace(workspace.root, is_confined=is_confined)
    save_vector(vector_at(5), name, workspace=workspace)
    before = names_below(workspace.root)

    # The description beside an .npy file fits below the limit, and the array does not.
    with largest_file(2000), pytest.raises(VectorFileError, match=r"cannot be written \(File too large\)"):
        save_vector(vector_at(2, width=1000), name, workspace=workspace)

    assert names_below(workspace.root) == before
    assert is_same(load_vector(name, workspace=workspace), vector_at(5))


@pytest.mark.parametrize("is_confined", [False, True])
@pytest.mark.parametrize("name", ["v.npy", "v.safetensors"])
def test_a_write_onto_a_folder_leaves_nothing(workspace: Workspace, name: str, is_confined: bool) -> None:
    workspace = Workspace(workspace.root, is_confined=is_confined)
    (workspace.root / name).mkdir(parents=True)

    with pytest.raises(VectorFileError, match=r"cannot be written.*Choose another save_path"):
        save_vector(vector_at(2), name, workspace=workspace)

    assert names_below(workspace.root) == []


# --- whose memory it is


@pytest.mark.parametrize("name", ["v.npy", "v.safetensors"])
def test_saving_and_loading_leave_the_directions_alone(workspace: Workspace, name: str) -> None:
    vector = vector_at(2)
    before = vector.directions[2].clone()

    path = save_vector(vector, name, workspace=workspace)
    loaded = load_vector(path)
    loaded.directions[2].zero_()

    assert torch.equal(vector.directions[2], before)
    assert torch.equal(load_vector(path).directions[2], before)


@pytest.mark.parametrize("vector_format", FORMATS, ids=lambda vector_format: vector_format.name)
def test_decoding_does_not_write_into_the_bytes_it_was_given(vector_format: Any) -> None:
    encoded = vector_format.encode(vector_at(2))
    data = bytearray(encoded.data)

    decoded = vector_format.decode(Encoded(bytes(data), encoded.sidecar), "v", Unsaid(2)).vector
    decoded.directions[2].zero_()

    assert bytes(data) == encoded.data
    assert torch.equal(vector_format.decode(encoded, "v", Unsaid(2)).vector.directions[2], direction(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_vector_is_a_copy_of_the_callers_tensors(dtype: torch.dtype) -> None:
    own = direction().to(dtype).requires_grad_()
    given = {2: own}
    before = own.detach().clone()

    vector = SteeringVector.from_directions(given)
    with torch.no_grad():
        own.zero_()
    given[3] = direction()

    assert torch.equal(vector.directions[2], before.float())
    assert vector.layers == (2,)
    assert not vector.directions[2].requires_grad


def test_a_vector_does_not_write_into_the_callers_tensors() -> None:
    own = direction()
    before = own.clone()

    vector = SteeringVector.from_directions({2: own})
    vector.directions[2].zero_()
    vector_at(2).normalized()

    assert torch.equal(own, before)


def test_a_view_into_a_larger_tensor_is_saved_alone(workspace: Workspace) -> None:
    rows = torch.stack([direction(seed) for seed in range(4)], dim=1)

    path = save_vector(SteeringVector.from_directions({2: rows[:, 1]}), "v", workspace=workspace)

    assert torch.equal(load_vector(path).directions[2], direction(1))
    assert path.stat().st_size < 2 * rows.nbytes + 1000


# --- the vector itself


def test_a_vector_is_frozen() -> None:
    vector = vector_at(2)

    with pytest.raises(TypeError):
        vector.directions[2] = direction()  # type: ignore[index]  # This is what must fail.
    with pytest.raises(dataclasses.FrozenInstanceError):
        vector.component = "mlp"  # type: ignore[misc]  # This is what must fail.
    with pytest.raises(ValidationError):
        vector.info.method = "other"  # type: ignore[misc]  # This is what must fail.


def test_layers_are_in_order_and_all_of_one_width() -> None:
    vector = vector_at(5, 0, 2)

    assert vector.layers == (0, 2, 5)
    assert list(vector.directions) == [0, 2, 5]
    assert vector.width == WIDTH


@pytest.mark.parametrize("layer", [2, 5])
def test_magnitude_is_the_norm_of_the_direction_as_it_is(layer: int) -> None:
    assert vector_at(2, 5).magnitude(layer) == pytest.approx(float(direction(layer).double().norm()), rel=1e-12)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e3, 1e30])
def test_a_normalized_vector_has_length_one_and_the_same_way(scale: float) -> None:
    vector = SteeringVector.from_directions({2: scale * direction(), 5: scale * direction(1)}, info=INFO)

    unit = vector.normalized()

    for layer in vector.layers:
        own, was = unit.directions[layer].double(), vector.directions[layer].double()
        assert unit.magnitude(layer) == pytest.approx(1, abs=1e-6)
        assert float(own @ was / was.norm()) == pytest.approx(1, abs=1e-6)
        assert unit.contrast_norm(layer) == vector.contrast_norm(layer) == INFO.contrast_norms[layer]


def test_normalizing_is_noted_and_changes_a_second_time_nothing_but_rounding() -> None:
    vector = vector_at(2)

    once, twice = vector.normalized(), vector.normalized().normalized()

    assert (vector.info.is_unit, once.info.is_unit) == (False, True)
    assert once.info.model_copy(update={"is_unit": False}) == vector.info
    assert torch.allclose(once.directions[2], twice.directions[2], rtol=0, atol=1e-7)
    assert is_same(vector, vector_at(2))


def test_the_norm_of_a_contrast_that_is_not_known_is_none() -> None:
    assert vector_at(2, info=None).contrast_norm(2) is None
    assert vector_at(2).contrast_norm(2) == 14.25


@pytest.mark.parametrize(
    ("directions", "error", "text"),
    [
        ({}, DirectionError, "at least one layer"),
        ({-1: direction()}, LayerError, "0 and above"),
        ({0: torch.zeros(4)}, DirectionError, "a vector of some length"),
        ({0: torch.tensor([1.0, torch.nan])}, DirectionError, "finite floats"),
        ({0: torch.tensor([1.0, torch.inf])}, DirectionError, "finite floats"),
        ({0: torch.tensor([1e300], dtype=torch.float64)}, DirectionError, "finite floats"),
        ({0: torch.tensor([1e-300], dtype=torch.float64)}, DirectionError, "a vector of some length"),
        ({0: torch.ones(4, dtype=torch.int64)}, DirectionError, "floats"),
        ({0: torch.ones(4, dtype=torch.complex64)}, DirectionError, "floats"),
        ({0: torch.ones(())}, DirectionError, r"shape \(width,\)"),
        ({0: torch.ones(0)}, DirectionError, r"shape \(width,\)"),
        ({0: torch.ones(4), 1: torch.ones(5)}, DirectionError, "one width"),
    ],
)
def test_what_is_no_direction_makes_no_vector(directions: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        SteeringVector.from_directions(directions)


# --- any format


@pytest.mark.parametrize("vector_format", FORMATS, ids=lambda vector_format: vector_format.name)
def test_every_format_keeps_the_directions_bit_for_bit_and_their_layers(
    workspace: Workspace, vector_format: VectorFormat
) -> None:
    layers = (1, 5, 12) if vector_format.holds_several_layers else (5,)
    smallest, largest = torch.finfo(torch.float32).smallest_normal, torch.finfo(torch.float32).max
    numbers = torch.tensor([-0.0, 1e-45, smallest, -largest, 1 / 3])
    vector = SteeringVector.from_directions({layer: numbers.roll(layer) for layer in layers})

    path = save_vector(vector, "v", format_name=vector_format.name, workspace=workspace)
    loaded = load_vector(path, layer_if_unknown=layers[0], workspace=workspace)

    assert path.suffix == vector_format.suffix
    assert loaded.layers == layers
    assert [t.numpy().tobytes() for t in loaded.directions.values()] == [
        t.numpy().tobytes() for t in vector.directions.values()
    ]


@pytest.mark.parametrize("vector_format", FORMATS, ids=lambda vector_format: vector_format.name)
def test_every_format_writes_the_same_bytes_twice(workspace: Workspace, vector_format: VectorFormat) -> None:
    contents = []
    for name in ("first", "second"):
        save_vector(vector_at(2), name, format_name=vector_format.name, workspace=workspace)
        contents.append([path.read_bytes() for path in sorted(workspace.root.glob(f"{name}.*"))])

    assert contents[0] == contents[1]


@pytest.mark.parametrize("vector_format", FORMATS, ids=lambda vector_format: vector_format.name)
@pytest.mark.parametrize(("component", "head"), [("mlp", None), ("attention", 3)])
def test_a_format_keeps_the_component_and_the_head_or_refuses_them(
    workspace: Workspace, vector_format: VectorFormat, component: Any, head: int | None
) -> None:
    vector = SteeringVector.from_directions({2: direction()}, component=component, head=head)

    if vector_format.name in ("safetensors", "npy"):
        loaded = load_vector(save_vector(vector, "v", format_name=vector_format.name, workspace=workspace))
        assert (loaded.component, loaded.head) == (component, head)
    else:
        with pytest.raises(UnsupportedFeatureError, match=rf"{component}.*ends in \.safetensors"):
            save_vector(vector, "v", format_name=vector_format.name, workspace=workspace)
        assert not workspace.root.exists()


@pytest.mark.parametrize("vector_format", FORMATS, ids=lambda vector_format: vector_format.name)
def test_a_format_holds_several_layers_or_refuses_them(workspace: Workspace, vector_format: VectorFormat) -> None:
    if vector_format.holds_several_layers:
        path = save_vector(vector_at(2, 5), "v", format_name=vector_format.name, workspace=workspace)
        assert load_vector(path).layers == (2, 5)
    else:
        with pytest.raises(UnsupportedFeatureError, match=r"holds one direction, but there are 2 layers"):
            save_vector(vector_at(2, 5), "v", format_name=vector_format.name, workspace=workspace)


@pytest.mark.parametrize(("name", "format_name"), [("v.npy", "gguf"), ("v.json", "pt"), ("v.pt", "safetensors")])
def test_a_path_that_ends_as_another_formats_do_is_refused(workspace: Workspace, name: str, format_name: str) -> None:
    with pytest.raises(ArgumentError, match="ends as another format's do"):
        save_vector(vector_at(2), name, format_name=format_name, workspace=workspace)


def test_an_unknown_format_is_refused_with_those_that_are_known(workspace: Workspace) -> None:
    with pytest.raises(
        ArgumentError, match=r"'pickle'.*'safetensors', 'npy', 'npz', 'gguf', 'vllm-lens', 'pt', 'rotalabs', 'lm-eval'"
    ):
        save_vector(vector_at(2), "v", format_name="pickle", workspace=workspace)


def test_a_listing_holds_what_is_a_vector_by_its_ending_and_no_file_that_may_be_anything(workspace: Workspace) -> None:
    for name in ("a", "b.npy", "c.gguf", "d.json", "e.pt"):
        save_vector(vector_at(2), name, workspace=workspace)
    workspace.write("report.json", b"{}")

    listed = [path.name for path in workspace.files(SUFFIXES)]

    assert listed == ["a.safetensors", "b.npy", "c.gguf"]
    assert "b.npy.json" in names_below(workspace.root)
