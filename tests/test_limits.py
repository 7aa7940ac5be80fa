"""What asks for more than it may is refused before it is read, and by one kind of error."""

from __future__ import annotations

import json
import os
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from steer_tools.errors import ArgumentError, BakingError, VectorFileError
from steer_tools.limits import JSON_BYTES, JSON_LEVELS, JSON_VALUES, LIMITS, TENSORS, Limit, require_json
from steer_tools.weights.shards import INDEX, read_header, weight_files

FEW = Limit(3, "things", "a box", "it is small", "STEER_TOOLS_MAX_THINGS")


def test_as_much_as_is_allowed_passes_and_one_more_is_told_what_is_and_who_may_raise_it() -> None:
    FEW.require(3, "The box has")

    with pytest.raises(VectorFileError) as refusal:
        FEW.require(4, "The box has", VectorFileError, valid="it is small", fix="Take one out.")

    assert str(refusal.value) == (
        "The box has 4 things. Valid: at most 3 things: it is small. "
        "Take one out. Whoever starts this process may set STEER_TOOLS_MAX_THINGS."
    )


def test_the_environment_raises_and_lowers_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FEW.variable, "5")
    FEW.require(5, "The box has")

    monkeypatch.setenv(FEW.variable, "2")
    with pytest.raises(ArgumentError, match="at most 2 things"):
        FEW.require(3, "The box has")


@pytest.mark.parametrize("given", ["many", "-1", "0", "1e6", "9" * 40])
def test_an_environment_variable_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv(FEW.variable, given)

    with pytest.raises(ArgumentError, match=rf"{FEW.variable} is .*Unset it for 3"):
        FEW.require(1, "The box has")


def test_a_limit_without_a_variable_tells_of_none() -> None:
    with pytest.raises(ArgumentError, match=r"at most 3 things\.$"):
        Limit(3, "things", "a box", "it is small").require(4, "The box has")


def test_each_limit_has_a_variable_of_its_own() -> None:
    variables = [limit.variable for limit in LIMITS if limit.variable]

    assert len(set(variables)) == len(variables)
    assert all(variable.startswith("STEER_TOOLS_MAX_") for variable in variables)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (b"[" * (JSON_LEVELS.most + 1), f"nested in {JSON_LEVELS.most + 1}"),
        (b'{"a":' * (JSON_LEVELS.most + 1), f"nested in {JSON_LEVELS.most + 1}"),
        (b"[" + b"0," * JSON_VALUES.most + b"0]", "values"),
        (b" " * (JSON_BYTES.most + 1), "bytes"),
    ],
    ids=["lists", "objects", "values", "bytes"],
)
def test_a_document_that_takes_too_much_is_refused_unparsed(document: bytes, words: str) -> None:
    started = time.process_time()

    with pytest.raises(BakingError, match=words):
        require_json(document, "a.json", BakingError)

    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    "value",
    [
        [[]] * (JSON_LEVELS.most + 1),
        '"\\' + "[" * (JSON_LEVELS.most + 1),
    ],
    ids=["lists beside each other", "brackets in a text"],
)
def test_what_only_looks_as_if_it_were_much_passes(value: object) -> None:
    require_json(json.dumps(value).encode(), "a.json")


def checkpoint_index(folder: Path) -> Callable[[], object]:
    (folder / INDEX).write_bytes(b"{}")
    os.truncate(folder / INDEX, 2**31)
    return lambda: weight_files(folder)


def many_tensors(folder: Path) -> Callable[[], object]:
    entries = (f'"t{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(TENSORS.most + 1))
    header = f"{{{','.join(entries)}}}".encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return lambda: read_header(folder / "model.safetensors")


def much_metadata(folder: Path) -> Callable[[], object]:
    header = json.dumps({"__metadata__": {str(i): "" for i in range(JSON_VALUES.most)}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return lambda: read_header(folder / "model.safetensors")


@pytest.mark.parametrize("make", [checkpoint_index, many_tensors, much_metadata])
def test_a_file_of_a_checkpoint_that_claims_too_much_is_refused_before_memory_is_taken(
    make: Callable[[Path], Callable[[], object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(JSON_VALUES.variable, "100000")
    reading = make(tmp_path)
    started = time.process_time()
    tracemalloc.start()

    try:
        with pytest.raises(BakingError, match="at most"):
            reading()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert time.process_time() - started < 2
    assert peak < 100 * 2**20


def test_a_header_of_as_many_tensors_as_is_allowed_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TENSORS.variable, "3")
    entries = {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(3)}
    header = json.dumps(entries).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)

    places, _ = read_header(tmp_path / "model.safetensors")

    assert set(places) == set(entries)
