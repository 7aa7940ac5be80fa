"""`steer-tools convert`: what it writes is what it read, and what it says got lost is what the new file lacks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steer_tools import SteeringVector, load_vector, save_vector
from steer_tools.cli import main
from steer_tools.core.vectors import VectorInfo
from steer_tools.errors import LayerError
from steer_tools.formats import FORMATS
from steer_tools.formats.base import Unsaid
from steer_tools.formats.conversion import convert_vector
from steer_tools.workspace import Workspace

# Most of these formats keep less than a vector knows; test_formats_lost.py holds the warnings that say so.
pytestmark = pytest.mark.filterwarnings("ignore:.* does not keep :UserWarning")
WIDTH = 6
INFO = VectorInfo(method="mean_difference", pooling="last", model_name="tiny", model_family="llama", model_layers=9)


@dataclass(frozen=True)
class Done:
    code: int
    stdout: str
    stderr: str


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture
def convert(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Done]:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("FORCE_COLOR", raising=False)

    def run(*arguments: object) -> Done:
        code = main(["convert", "--workspace", str(workspace.root), *map(str, arguments)])
        written = capsys.readouterr()
        return Done(code, written.out, written.err)

    return run


def direction(seed: int) -> torch.Tensor:
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))


def vector_at(*layers: int, **more: Any) -> SteeringVector:
    return SteeringVector.from_directions({n: direction(n) for n in layers}, info=INFO, **more)


NAMES = [vector_format.name for vector_format in FORMATS]


@pytest.mark.parametrize("source", NAMES)
@pytest.mark.parametrize("target", NAMES)
def test_every_format_converts_to_every_other_bit_for_bit(workspace: Workspace, source: str, target: str) -> None:
    path = save_vector(vector_at(3), "source", format_name=source, workspace=workspace)

    done = convert_vector(path, "target", Unsaid(3), target, workspace=workspace)

    loaded = load_vector(done.made.path, layer_if_unknown=3, workspace=workspace)
    assert (done.read.format.name, done.made.format.name) == (source, target)
    assert torch.equal(loaded.directions[3], direction(3))


def test_a_gguf_file_becomes_ours_and_ours_gguf(convert: Callable[..., Done], workspace: Workspace) -> None:
    save_vector(vector_at(1, 4), "theirs.gguf", workspace=workspace)

    first = convert("theirs.gguf", "ours")
    second = convert("ours", "again.gguf")

    assert (first.code, second.code) == (0, 0), first.stderr + second.stderr
    assert load_vector("ours", workspace=workspace).layers == (1, 4)
    theirs, again = (load_vector(name, workspace=workspace) for name in ("theirs.gguf", "again.gguf"))
    assert again.layers == theirs.layers
    assert all(torch.equal(again.directions[n], theirs.directions[n]) for n in theirs.layers)


def test_the_text_says_what_was_read_what_was_written_and_what_got_lost(
    convert: Callable[..., Done], workspace: Workspace
) -> None:
    save_vector(vector_at(1, 4, means={1: torch.ones(WIDTH)}), "v", workspace=workspace)

    done = convert("v", "v.gguf")

    assert done.code == 0, done.stderr
    assert "safetensors, width 6: `layer.<n>` acts on the output of block n, from 0" in done.stdout
    assert "gguf: `direction.<N>` acts on the output of block N, from 0" in done.stdout
    assert f"{float(direction(4).norm()):.4g}" in done.stdout
    lost = done.stdout.partition("Lost")[2].split()
    assert lost == ["means,", "method,", "pooling,", "model_name,", "model_family,", "model_layers"]


def test_nothing_is_lost_between_copies_of_ours(convert: Callable[..., Done], workspace: Workspace) -> None:
    vector = vector_at(1, 4, means={1: torch.ones(WIDTH)}, erasers={4: torch.ones(WIDTH)}, component="mlp")
    save_vector(vector, "v", workspace=workspace)

    done = convert("v", "copy")

    assert done.stdout.partition("Lost")[2].split() == ["nothing"]
    assert (workspace.root / "copy.safetensors").read_bytes() == (workspace.root / "v.safetensors").read_bytes()


def test_json_holds_the_same(convert: Callable[..., Done], workspace: Workspace) -> None:
    save_vector(vector_at(4), "v", workspace=workspace)

    done = convert("v", "v.pt", "--json")

    result = json.loads(done.stdout)
    assert result["read"]["format"] == "safetensors"
    assert (result["read"]["layers"], result["read"]["component"], result["read"]["width"]) == ([4], "residual", WIDTH)
    assert result["read"]["norms"] == [pytest.approx(float(direction(4).norm()))]
    assert result["written"]["path"] == str(workspace.root / "v.pt")
    assert (result["written"]["format"], result["written"]["layers"]) == ("pt", [4])
    assert result["lost"] == ["layer", "method", "pooling", "model_name", "model_family", "model_layers"]


def test_a_stack_needs_to_be_told_what_its_rows_are(convert: Callable[..., Done], workspace: Workspace) -> None:
    rows = torch.stack([direction(seed) for seed in range(5)])
    torch.save(rows, workspace.root / "stack.pt")

    refused, done = convert("stack.pt", "v"), convert("stack.pt", "v", "--rows", "hidden_states")

    assert refused.code == 1
    assert "rows='block_outputs'" in refused.stderr
    assert done.code == 0
    assert "Note: Of 5 rows, row 0 (the embedding)" in done.stdout
    vector = load_vector("v", workspace=workspace)
    assert vector.layers == (0, 1, 2)
    assert torch.equal(vector.directions[0], rows[1])


def test_one_layer_is_taken_of_several_with_all_that_belongs_to_it(
    convert: Callable[..., Done], workspace: Workspace
) -> None:
    both = {1: torch.ones(WIDTH), 4: 2 * torch.ones(WIDTH)}
    save_vector(vector_at(1, 4, means=both, erasers=both), "v", workspace=workspace)

    done = convert("v", "one", "--layer", 4)

    vector = load_vector("one", workspace=workspace)
    assert done.code == 0
    assert vector.layers == (4,)
    assert (list(vector.means), list(vector.erasers)) == ([4], [4])
    assert [line.split()[0::2] for line in done.stdout.splitlines() if line.endswith((" yes ", " no "))] == [
        ["1", "no"],
        ["4", "yes"],
    ]


def test_a_bare_array_gets_the_layer_that_is_given(convert: Callable[..., Done], workspace: Workspace) -> None:
    np.save(workspace.root / "bare.npy", direction(1).numpy())

    assert convert("bare.npy", "v").code == 1
    assert convert("bare.npy", "v", "--layer", 7).code == 0
    assert load_vector("v", workspace=workspace).layers == (7,)


def test_a_layer_is_not_given_another_number(workspace: Workspace) -> None:
    save_vector(vector_at(1), "v", workspace=workspace)

    with pytest.raises(LayerError, match=r"layer is 2, and the file holds the layers \[1\]"):
        convert_vector("v", "w", Unsaid(2), workspace=workspace)
    assert not (workspace.root / "w.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing", "w"], "There is no file"),
        (["v", "w.gguf"], "no layer 0"),
        (["v", "w.npy"], "holds one direction, but there are 2 layers"),
        (["v", "w.npy", "--format", "gguf"], "ends as another format's do"),
        (["v", "w", "--format", "pickle"], "format is 'pickle'"),
        (["v", "w", "--rows", "all"], "rows is 'all'"),
    ],
)
def test_a_refusal_says_what_is_wrong_and_writes_nothing(
    convert: Callable[..., Done], workspace: Workspace, arguments: list[str], words: str
) -> None:
    save_vector(vector_at(0, 1), "v", workspace=workspace)

    done = convert(*arguments)

    assert (done.code, done.stdout) == (1, "")
    assert words in done.stderr
    assert [path.name for path in workspace.root.iterdir()] == ["v.safetensors"]


def test_a_rotalabs_pair_is_written_by_name(convert: Callable[..., Done], workspace: Workspace) -> None:
    save_vector(vector_at(4), "v", workspace=workspace)

    done = convert("v", "pair", "--format", "rotalabs", "--json")

    assert json.loads(done.stdout)["lost"] == ["pooling", "model_family", "model_layers"]
    assert sorted(path.name for path in workspace.root.iterdir()) == ["pair.json", "pair.pt", "v.safetensors"]
