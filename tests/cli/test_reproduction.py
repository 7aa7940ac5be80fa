"""`steer-tools reproduce`: the same numbers from a result's own words, and what is told where they are not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.small_models import WORDS, make_model, make_tokenizer
from steer_tools import create_steering_vector, find_best_layer, load_model, steering_experiment, sweep_steering
from steer_tools.cli.app import main
from steer_tools.reports.provenance import compare
from steer_tools.session.session import Session

BEHAVIOR = [(f"{one} {other} lili", f"{one} {other} zuzu") for one in WORDS[:4] for other in WORDS[:4]]
FEW = {"layers": [1, 2], "strengths": [0.1]}


@pytest.fixture
def workspace(empty_session: Session, tmp_path: Path) -> Path:
    make_model("llama").save_pretrained(tmp_path / "checkpoint")
    make_tokenizer().save_pretrained(tmp_path / "checkpoint")
    load_model(str(tmp_path / "checkpoint"))
    return empty_session.workspace.root


def written(workspace: Path) -> Path:
    return Path(find_best_layer(BEHAVIOR, **FEW, save_folder="found")["data_path"])


def file_of_items(workspace: Path) -> Path:
    items = [{"positive": a, "negative": b} for a, b in BEHAVIOR]
    workspace.mkdir()
    (workspace / "items.json").write_text(json.dumps(items))
    create_steering_vector(*map(list, zip(*BEHAVIOR, strict=True)), 1, "v")
    return Path(sweep_steering("v", "items.json", **FEW, unit="vector", save_folder="found", seed=3)["data_path"])


def with_texts(workspace: Path) -> Path:
    create_steering_vector(*map(list, zip(*BEHAVIOR, strict=True)), 1, "v")
    scored = {"prompts": ["baba keke"] * 4, "scorer": {"keywords": ["lili"]}, "max_new_tokens": 3}
    return Path(sweep_steering("v", **FEW, **scored, save_folder="found")["data_path"])


def experiment(workspace: Path) -> Path:
    report = steering_experiment(BEHAVIOR, layers=[1], strengths=[0.1], controls=19, max_new_tokens=4)["report_path"]
    return Path(report).with_name("report.json")


def reproduce(path: Path, workspace: Path, *more: str) -> int:
    return main(["reproduce", str(path), "--workspace", str(workspace), "--json", *more])


@pytest.mark.parametrize("make", [written, file_of_items, with_texts, pytest.param(experiment, marks=pytest.mark.slow)])
def test_a_result_holds_all_that_it_takes_to_measure_it_again(
    workspace: Path, make: Callable[[Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = make(workspace)
    before = sorted(workspace.rglob("*"))
    capsys.readouterr()

    assert reproduce(path, workspace) == 0
    found = json.loads(capsys.readouterr().out)

    assert found["is_same"]
    assert found["differences"]["numbers"] > 20
    assert found["differences"]["changed"] == 0
    assert found["changed_versions"] == {}
    assert sorted(workspace.rglob("*")) == before


def test_a_number_that_was_changed_is_told_with_its_place(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(workspace)
    document = json.loads(path.read_text())
    document["judgement"]["effect"] *= 1.1
    document["facts"]["run"]["versions"]["torch"] = "1.0"
    path.write_text(json.dumps(document))
    capsys.readouterr()

    assert reproduce(path, workspace) == 3
    found = json.loads(capsys.readouterr().out)

    assert found["differences"]["where"] == "judgement.effect"
    assert found["differences"]["largest"] == pytest.approx(1 - 1 / 1.1, rel=1e-3)
    assert found["changed_versions"] == {"torch": ["1.0", torch.__version__]}


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda run: run.update(unsaid=["metric"]), "metric, which no file can hold"),
        (lambda run: run.update(tool="nothing"), "arguments of another version"),
        (lambda run: run.update(tool="load_model", arguments={"name_or_path": "x"}), "arguments of another version"),
        (lambda run: run["arguments"].update(save_folder="elsewhere"), "arguments of another version"),
        (lambda run: run["arguments"].update(nonsense=1), "arguments of another version"),
        (lambda run: run["model"].pop("dtype"), "arguments of another version"),
        (lambda run: run["model"].update(fingerprint="0" * 16), "The weights of"),
        (lambda run: run["inputs"].update({"v.safetensors": "0"}), "v.safetensors, which holds something else now"),
        (lambda run: run.pop("tool"), "does not say how it was made"),
    ],
)
def test_what_cannot_be_run_again_is_refused(
    workspace: Path, spoil: Callable[[Any], None], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = file_of_items(workspace)
    document = json.loads(path.read_text())
    assert set(document["facts"]["run"]["inputs"]) == {"v.safetensors", "items.json"}
    spoil(document["facts"]["run"])
    path.write_text(json.dumps(document))
    capsys.readouterr()

    assert reproduce(path, workspace) == 1
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"[" * 9_000, b"", b"3", b"[]", b'{"facts": {"run": []}}', b"\xff"])
def test_what_is_no_result_at_all_is_refused(
    workspace: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace.mkdir()
    (workspace / "report.json").write_bytes(content)

    assert reproduce(workspace / "report.json", workspace) == 1
    assert "report.json" in capsys.readouterr().err


def test_a_function_of_python_is_named_as_what_no_file_holds(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    create_steering_vector(*map(list, zip(*BEHAVIOR, strict=True)), 1, "v")
    result = sweep_steering("v", **FEW, prompts=["baba"] * 4, metric=len, max_new_tokens=2)

    assert reproduce(Path(result["data_path"]), workspace) == 1
    assert "sweep_steering with metric" in capsys.readouterr().err


def test_documents_are_compared_place_by_place() -> None:
    ours = {"a": [1.0, 100.0], "b": {"c": "x"}, "facts": {"seconds": 1.0, "seed": 0}, "d": None}
    theirs = {"a": [1.0, 101.0], "b": {"c": "y"}, "facts": {"seconds": 9.0, "seed": 0}, "d": None}

    found = compare(ours, theirs)

    assert (found.numbers, found.changed, found.where, found.others) == (3, 1, "a[1]", ["b.c"])
    assert found.largest == pytest.approx(1 / 101)
    assert compare(ours, {**ours, "a": [1.0]}).others == ["a"]
    assert compare(ours, ours).changed == 0
