"""What asks for more than it may is refused before it is read, and by one kind of error."""

from __future__ import annotations

import io
import json
import os
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from helpers.small_models import WORDS, make_model, make_tokenizer
from steer_tools import attach_model, create_steering_vector, load_vector, steering_experiment, sweep_steering
from steer_tools.directions.autoencoders import feature_direction
from steer_tools.directions.training import TrainingOptions
from steer_tools.engines.base import Sampling
from steer_tools.engines.huggingface.engine import HuggingFaceEngine
from steer_tools.errors import (
    MOST_CHARACTERS,
    ArgumentError,
    BakingError,
    PromptError,
    SteeringError,
    StrengthError,
    VectorFileError,
)
from steer_tools.experiments.grids import magnitudes, require_cells
from steer_tools.limits import (
    AUTOENCODER_ARCHIVE_BYTES,
    CELLS,
    CHARACTERS_PER_TOKEN,
    CONTROLS,
    JSON_BYTES,
    JSON_LEVELS,
    JSON_VALUES,
    LIMITS,
    PROMPTS,
    ROWS,
    STEPS,
    STRENGTHS,
    TENSORS,
    Limit,
    require_json,
)
from steer_tools.prompts import Prompt, parse_prompt, parse_prompts
from steer_tools.session.comparison import compare
from steer_tools.session.session import Session
from steer_tools.weights.shards import INDEX, read_header, weight_files
from steer_tools.workspace import Workspace

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


def test_an_error_of_megabytes_keeps_its_beginning_and_what_to_do() -> None:
    error = SteeringError(f"It begins {'x' * 15_000_000}", valid="less", fix="Take another.")

    assert len(str(error)) == MOST_CHARACTERS
    assert str(error).startswith("It begins xxx")
    assert "xxx [...] xxx" in str(error)
    assert str(error).endswith("Valid: less. Take another.")


def test_an_error_of_what_has_to_be_made_visible_is_as_short() -> None:
    assert len(str(SteeringError("\x1b" * 15_000_000))) == MOST_CHARACTERS


def test_an_error_that_is_short_enough_is_whole() -> None:
    assert str(SteeringError("x" * (MOST_CHARACTERS - 1))) == "x" * (MOST_CHARACTERS - 1) + "."


@pytest.mark.parametrize(
    ("ask", "kind", "limit"),
    [
        (lambda most: parse_prompts(["a"] * most), PromptError, PROMPTS),
        (lambda most: magnitudes([i + 1.0 for i in range(most)]), StrengthError, STRENGTHS),
        (lambda most: TrainingOptions(steps=most), ArgumentError, STEPS),
        (lambda most: require_cells([0], range(most)), ArgumentError, CELLS),
    ],
    ids=["prompts", "strengths", "steps", "cells"],
)
def test_an_argument_that_asks_for_too_much_is_refused(
    ask: Callable[[int], object], kind: type[Exception], limit: Limit
) -> None:
    ask(limit.most)

    with pytest.raises(kind, match=rf"at most {limit.most:,} {limit.unit}.*{limit.variable}"):
        ask(limit.most + 1)


@pytest.mark.parametrize("is_chat", [False, True], ids=["text", "chat"])
def test_a_prompt_far_beyond_the_context_is_refused_before_it_is_tokenised(
    is_chat: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = HuggingFaceEngine(make_model("llama"), make_tokenizer())
    context = engine.info.context_length
    assert context is not None
    texts: list[str] = []
    plain = type(engine.tokenizer).__call__
    monkeypatch.setattr(
        type(engine.tokenizer), "__call__", lambda self, text, **more: texts.append(text) or plain(self, text, **more)
    )

    def prompt(words: int) -> Prompt:
        text = "baba " * words
        return parse_prompt([{"role": "user", "content": text}] if is_chat else text)

    with pytest.raises(PromptError, match=rf"at most {CHARACTERS_PER_TOKEN.most} characters"):
        engine.tokenize(prompt(context * CHARACTERS_PER_TOKEN.most))
    assert texts == []

    with pytest.raises(PromptError, match="does not fit into the model's context"):
        engine.tokenize(prompt(2 * context))
    assert texts


def test_an_autoencoder_with_a_header_of_too_many_values_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(JSON_VALUES.variable, "100")
    header = json.dumps({f"t{i}": [] for i in range(100)}).encode()
    (tmp_path / "sae.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)

    with pytest.raises(VectorFileError, match="at most 100 values"):
        feature_direction(Workspace(tmp_path), "sae.safetensors", 0)


def test_a_vectors_file_of_too_many_tensors_is_refused_before_they_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TENSORS.variable, "100")
    for count, problem in ((100, "which of them is the vector"), (101, "at most 100 tensors")):
        entries = {f"t{i}": {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]} for i in range(count)}
        header = json.dumps(entries).encode()
        (tmp_path / "v.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4 * count))

        with pytest.raises(VectorFileError, match=problem):
            load_vector("v.safetensors", workspace=Workspace(tmp_path))


def test_an_autoencoders_archive_with_a_table_of_too_many_records_is_refused_before_it_is_read(tmp_path: Path) -> None:
    decoder = io.BytesIO()
    np.save(decoder, np.arange(32, dtype=np.float32).reshape(4, 8))
    with zipfile.ZipFile(tmp_path / "many.npz", "w") as archive:
        archive.writestr("W_dec.npy", decoder.getvalue())
        archive.comment = b"PK"
    assert feature_direction(Workspace(tmp_path), "many.npz", 2).tolist() == [*range(16, 24)]
    with zipfile.ZipFile(tmp_path / "many.npz", "a") as archive:
        for i in range(AUTOENCODER_ARCHIVE_BYTES.most // 60):
            archive.writestr(f"array of some name {i:08}", b"")
    tracemalloc.start()

    try:
        with pytest.raises(VectorFileError, match="its table of arrays takes more than"):
            feature_direction(Workspace(tmp_path), "many.npz", 2)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 2 * 2**20


def test_a_comparison_of_too_many_rows_is_refused_before_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ROWS.variable, "6")
    engine = HuggingFaceEngine(make_model("llama"), make_tokenizer())
    prompts = parse_prompts(["baba keke", "lili"])

    assert len(compare(engine, prompts, [(), ()], Sampling(1), 0)) == 3
    with pytest.raises(ArgumentError, match=rf"The comparison has 8 rows.*at most 6 rows.*{ROWS.variable}"):
        compare(engine, prompts, [(), (), ()], Sampling(1), 0)


@pytest.mark.parametrize("scored", [{}, {"scorer": {"keywords": ["lili"]}, "prompts": ["baba keke"]}])
def test_a_sweep_of_too_many_cells_is_refused_before_it_runs(
    scored: dict[str, object], empty_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach_model(make_model("llama"), make_tokenizer())
    pairs = [(f"{one} {other} lili", f"{one} {other} zuzu") for one in WORDS[:4] for other in WORDS[:4]]
    create_steering_vector(*map(list, zip(*pairs, strict=True)), 1, "v")
    measured = scored or {"behavior_name": pairs}
    monkeypatch.setenv(CELLS.variable, "3")

    with pytest.raises(ArgumentError, match=r"The grid has 4 cells"):
        sweep_steering("v", layers=[0, 1], strengths=[0.1, 0.2], **measured)
    assert not [*empty_session.workspace.root.rglob("*.json")]


def test_an_experiment_with_too_many_controls_is_refused_before_it_runs() -> None:
    attach_model(make_model("llama"), make_tokenizer())

    with pytest.raises(ArgumentError, match=rf"have 1,000,000,000 controls.*{CONTROLS.variable}"):
        steering_experiment("sycophancy", controls=10**9)
