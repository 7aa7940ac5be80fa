"""What a format has no place for: it says so itself, the files bear it out, and whoever writes one is told."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from helpers.certificates import certificate
from helpers.small_models import NEGATIVE, POSITIVE
from steer_tools import (
    SteeringVector,
    apply_steering_vector,
    combine_steering_vectors,
    create_steering_vector,
    load_vector,
    save_vector,
)
from steer_tools.core.vectors import ChosenCell, VectorInfo
from steer_tools.errors import VectorFileError
from steer_tools.formats import FORMATS, write_vector
from steer_tools.formats.base import EVERYTHING, VectorFormat
from steer_tools.session.session import Session
from steer_tools.workspace import Workspace

WIDTH, LAYER = 8, 3
# Every field differs from what it is where nothing is known.
INFO = VectorInfo(
    method="mean_difference",
    pooling="mean",
    is_unit=True,
    positive_count=8,
    negative_count=9,
    contrast_norms={LAYER: 14.25},
    residual_norms={LAYER: 34.5},
    positive_projections={LAYER: 2.0},
    negative_projections={LAYER: -1.0},
    thresholds={LAYER: 0.5},
    misses={LAYER: 0.125},
    false_alarms={LAYER: 0.25},
    model_name="tiny",
    model_family="llama",
    model_fingerprint="0123456789abcdef",
    model_layers=6,
    chosen=ChosenCell(layer=LAYER, strength=2.0, unit="contrast", positions="generated"),
    certificate=certificate(),
    template_options={"enable_thinking": False},
)
by_format = pytest.mark.parametrize("vector_format", FORMATS, ids=lambda vector_format: vector_format.name)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def vector(info: VectorInfo = INFO, *, is_whole: bool = True) -> SteeringVector:
    ones = {LAYER: torch.ones(WIDTH)}
    more = {"means": ones, "erasers": ones} if is_whole else {}
    return SteeringVector.from_directions({LAYER: torch.arange(1.0, WIDTH + 1)}, info=info, **more)


def missing(path: Path, workspace: Workspace) -> set[str]:
    """Return what the file of the whole vector does not give back."""
    try:
        loaded, without_layer = load_vector(path, workspace=workspace), set[str]()
    except VectorFileError:
        loaded, without_layer = load_vector(path, layer_if_unknown=LAYER, workspace=workspace), {"layer"}
    saved = vector()
    kinds = {kind for kind in ("means", "erasers") if not getattr(loaded, kind)}
    fields = {field for field in VectorInfo.model_fields if getattr(loaded.info, field) != getattr(saved.info, field)}
    return without_layer | kinds | fields


def test_the_whole_vector_says_everything_that_can_be_lost() -> None:
    unknown = VectorInfo()

    assert [field for field in VectorInfo.model_fields if getattr(INFO, field) == getattr(unknown, field)] == []
    assert EVERYTHING - set(VectorInfo.model_fields) == {"layer", "means", "erasers"}


@by_format
def test_what_a_format_says_that_it_keeps_is_what_its_files_give_back(
    workspace: Workspace, vector_format: VectorFormat
) -> None:
    written = write_vector(vector(), "v", format_name=vector_format.name, workspace=workspace)

    assert set(written.lost) == missing(written.path, workspace) == EVERYTHING - vector_format.keeps
    assert len(written.lost) == len(set(written.lost))


@by_format
def test_what_is_not_known_is_not_lost(workspace: Workspace, vector_format: VectorFormat) -> None:
    bare = vector(VectorInfo(), is_whole=False)

    written = write_vector(bare, "v", format_name=vector_format.name, workspace=workspace)

    assert set(written.lost) == {"layer"} - vector_format.keeps


@by_format
def test_saving_in_python_warns_of_each_thing_that_is_lost_and_of_nothing_else(
    workspace: Workspace, vector_format: VectorFormat
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        path = save_vector(vector(), "v", format_name=vector_format.name, workspace=workspace)

    lost = missing(path, workspace)
    assert len(caught) == bool(lost)
    for warning in caught:
        told, _, rest = str(warning.message).partition(": ")
        assert warning.category is UserWarning
        assert warning.filename == __file__
        assert set(told.removeprefix(f"{path.name} does not keep ").split(", ")) == lost
        assert "ends in .safetensors keeps all" in rest
        assert (f"Give layer={LAYER} " in rest) == ("layer" in lost)


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("v.pt", ["layer", "contrast_norms", "model_fingerprint"]),
        ("v.gguf", ["contrast_norms", "model_fingerprint"]),
        ("v.json", ["contrast_norms", "model_fingerprint"]),
        ("v.npz", ["contrast_norms", "model_fingerprint"]),
    ],
)
def test_the_tools_warn_of_what_the_ending_that_they_are_given_loses(
    llama_session: Session, name: str, lost: list[str]
) -> None:
    created = create_steering_vector(POSITIVE, NEGATIVE, 2, name)
    create_steering_vector(POSITIVE, NEGATIVE, 2, "whole")
    combined = combine_steering_vectors(["whole"], f"sum_{name}", weights=[2.0])

    for result in (created, combined):
        (warning,) = [told for told in result["warnings"] if "does not keep" in told]
        assert all(field in warning.partition(": ")[0] for field in lost)
        assert ("Give layer=2 " in warning) == ("layer" in lost)


@pytest.mark.parametrize("name", ["v", "v.safetensors", "v.npy"])
def test_the_tools_warn_of_nothing_where_nothing_is_lost(llama_session: Session, name: str) -> None:
    created = create_steering_vector(POSITIVE, NEGATIVE, 2, name)
    combined = combine_steering_vectors([name], f"sum_{name}", weights=[2.0])

    assert not [told for told in (*created["warnings"], *combined["warnings"]) if "does not keep" in told]


def test_a_pt_file_is_applied_at_the_layer_that_the_warning_names_and_refused_without(llama_session: Session) -> None:
    create_steering_vector(POSITIVE, NEGATIVE, 2, "v.pt")

    with pytest.raises(VectorFileError, match="Give `layer` as a number"):
        apply_steering_vector("v.pt")
    assert apply_steering_vector("v.pt", layer=2)["layer"] == 2


@pytest.mark.parametrize("name", ["v.npy", "v.npz", "v.gguf", "v.json"])
def test_a_file_that_keeps_its_layer_is_applied_there_without_being_told(llama_session: Session, name: str) -> None:
    create_steering_vector(POSITIVE, NEGATIVE, 2, name)

    assert apply_steering_vector(name)["layer"] == 2
