"""What an experiment chose is repeated by what it returns, and by its file alone: best → apply → compare."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from typing_extensions import is_typeddict

from helpers.places import STORIES
from helpers.small_models import NEGATIVE, POSITIVE, PROMPTS, WORDS, make_model, make_tokenizer
from steer_tools import (
    analyze_steering_vector,
    apply_steering_vector,
    calibrate_strength,
    compare_generations,
    compare_next_tokens,
    create_steering_vector,
    evaluate_steering_robustness,
    find_best_layer,
    generate,
    load_model,
    load_vector,
    remove_all_steering_vectors,
    save_vector,
    steering,
    steering_experiment,
    steering_status,
    sweep_steering,
)
from steer_tools.core.vectors import ChosenCell
from steer_tools.errors import ArgumentError, SteeringError, VectorFileError
from steer_tools.formats.base import Unsaid
from steer_tools.formats.conversion import convert_vector
from steer_tools.session.session import Session
from steer_tools.session.vector_loading import one_direction
from steer_tools.tools import TOOLS
from steer_tools.tools.arguments import LEFT_OUT, NEEDED
from steer_tools.tools.results import ApplyArguments

NAMES = ("Tim", "Lily", "Ben", "Mia", "Sam", "Anna", "Max", "Lucy")
HAPPY = ["very happy", "glad and proud", "full of joy", "so excited", "smiling", "laughing", "the best", "loved"]
SAD = ["very sad", "upset and hurt", "full of grief", "so angry", "crying", "sobbing", "the worst", "hated"]
OPENINGS = ["Once upon a time, there was a little girl named Mia.", "Ben had a red ball.", "One day, a boy named Sam"]
CELL = ChosenCell(layer=2, strength=0.25, unit="residual", positions="all")


def texts(prompts: list[str] = PROMPTS, tokens: int = 8) -> list[str]:
    return generate(prompts, max_new_tokens=tokens)["texts"]


def steered_texts(apply: Callable[[], Any], prompts: list[str] = PROMPTS, tokens: int = 8) -> list[str]:
    apply()
    own = texts(prompts, tokens)
    remove_all_steering_vectors()
    return own


@pytest.fixture
def behavior(llama_session: Session) -> str:
    """A file of items in the words of the tiny models."""
    items = [
        {
            "prompt": f"{WORDS[i]} {WORDS[i + 9]}",
            "positive": f"baba {WORDS[i + 20]}",
            "negative": f"zuzu {WORDS[i + 20]}",
        }
        for i in range(16)
    ]
    llama_session.workspace.write("liking.json", json.dumps(items).encode())
    return "liking.json"


@pytest.fixture
def remembering(llama_session: Session) -> str:
    """A vector with three layers whose file knows a cell."""
    created = create_steering_vector(POSITIVE, NEGATIVE, [1, 2, 3], "plain")
    return remember(created["vector_path"], CELL)


def remember(path: str, cell: ChosenCell) -> str:
    vector = load_vector(path)
    known = replace(vector, info=vector.info.model_copy(update={"chosen": cell}))
    return str(save_vector(known, Path(path).with_name("remembering.safetensors")))


# best → apply → compare


@pytest.mark.slow
@pytest.mark.shared
def test_on_a_real_model_best_apply_and_compare_give_the_texts_of_the_report(empty_session: Session) -> None:
    load_model(str(STORIES), dtype="float32")
    found = steering_experiment(
        "happy",
        [f"{name} was {how}." for name, how in zip(NAMES, HAPPY, strict=True)],
        [f"{name} was {how}." for name, how in zip(NAMES, SAD, strict=True)],
        layers=[2, 3],
        strengths=[0.2, 0.4],
        controls=19,
    )
    path, cell = found["vector_path"], found["apply"]
    (example, *_) = json.loads(Path(found["report_path"]).with_name("report.json").read_text(encoding="utf-8"))[
        "examples"
    ]
    prompts = [example["prompt"], *OPENINGS]

    unsteered = texts(prompts, 32)
    by_apply = steered_texts(lambda: apply_steering_vector(**cell), prompts, 32)
    by_path = steered_texts(lambda: apply_steering_vector(path), prompts, 32)
    in_vectors = steered_texts(lambda: apply_steering_vector(**{**cell, "unit": "vector"}), prompts, 32)
    compared = compare_generations(prompts, **cell, max_new_tokens=32)
    by_compare = compare_generations(prompts, path, max_new_tokens=32)["variants"][0]["texts"]
    with steering(path):
        inside = texts(prompts, 32)

    assert (cell["layer"], cell["strength"]) == (found["best_layer"], found["best_strength"])
    assert by_apply == by_path == compared["variants"][0]["texts"] == by_compare == inside
    assert by_apply[0] == example["steered"]
    assert unsteered[0] == example["unsteered"]
    assert unsteered != by_apply != in_vectors
    assert compared["variants"][0]["residual_strength"] == pytest.approx(found["residual_strength"], rel=1e-3)


@pytest.mark.parametrize("positions", ["generated", "all"])
def test_the_file_and_the_result_of_a_search_repeat_its_cell(
    llama_session: Session, behavior: str, positions: str
) -> None:
    found = find_best_layer(behavior, layers=[1, 2], strengths=[0.3, 0.4], positions=positions)

    unsteered = texts()
    by_apply = steered_texts(lambda: apply_steering_vector(**found["apply"]))
    by_path = steered_texts(lambda: apply_steering_vector(found["vector_path"]))
    in_vectors = steered_texts(lambda: apply_steering_vector(**{**found["apply"], "unit": "vector"}))
    (compared,) = compare_generations(PROMPTS, found["vector_path"], max_new_tokens=8)["variants"]

    assert found["apply"] == {
        "vector_path": found["vector_path"],
        "layer": found["best_layer"],
        "strength": found["best_strength"],
        "unit": "residual",
        "positions": positions,
    }
    assert by_apply == by_path == compared["texts"]
    assert compared["strength"] == found["best_strength"]
    assert by_apply != unsteered
    assert by_apply != in_vectors


def test_whoever_measures_a_saved_vector_returns_the_call_that_applies_what_was_measured(
    llama_session: Session, behavior: str
) -> None:
    made = create_steering_vector(POSITIVE, NEGATIVE, [1, 2], "v")["vector_path"]
    llama_session.attach(make_model("llama", seed=5), make_tokenizer(), "other")
    options: dict[str, Any] = {"allow_other_model": True, "positions": "all"}

    swept = sweep_steering("v", behavior, strengths=[0.5, 1.5], unit="vector", **options)
    calibrated = calibrate_strength("v", 2, target_damage=0.01, **options)
    robust = evaluate_steering_robustness("v", behavior, 1, 0.3, **options)

    for result in (swept, calibrated, robust):
        applied = apply_steering_vector(**result["apply"])
        assert result["apply"]["vector_path"] in (made, "v")
        assert (applied["positions"], applied["unit"]) == ("all", result["unit"])
        assert applied["residual_strength"] == pytest.approx(result["residual_strength"], rel=1e-3)
        assert result["apply"]["allow_other_model"]
    assert swept["residual_strength"] == pytest.approx(
        swept["best_strength"] * swept["residual_units"][str(swept["best_layer"])], rel=1e-3
    )
    assert calibrated["apply"]["strength"] == calibrated["strength"]
    assert (robust["apply"]["layer"], robust["apply"]["strength"]) == (1, 0.3)


def test_robustness_and_calibration_start_from_the_chosen_cell(
    llama_session: Session, behavior: str, remembering: str
) -> None:
    omitted = evaluate_steering_robustness(remembering, behavior)
    said = evaluate_steering_robustness(remembering, behavior, 2, 0.25, unit="residual", positions="all")
    whole = evaluate_steering_robustness(remembering, behavior, strength=1.0)
    calibrated = calibrate_strength(remembering, target_damage=0.01)

    assert (omitted["layer"], omitted["strength"], omitted["residual_strength"]) == (2, 0.25, 0.25)
    assert {**omitted, "warnings": []} == {**said, "warnings": []}
    taken = "layer 2, unit residual, positions all, strength 0.25"
    assert omitted["warnings"][0] == f"Taken as the file's experiment chose: {taken}."
    assert any("adds 1 of the typical norm" in warning for warning in whole["warnings"])
    assert abs(whole["log_odds_effect"]) > abs(omitted["log_odds_effect"]) > 0
    assert (calibrated["layer"], calibrated["apply"]["positions"]) == (2, "all")


# What is left out


@pytest.mark.parametrize(
    ("given", "expected", "note"),
    [
        ({}, (2, 0.25, "residual", "all"), "layer 2, unit residual, positions all, strength 0.25"),
        ({"layer": 1}, (1, 0.25, "residual", "all"), "unit residual, positions all, strength 0.25"),
        ({"layer": [1, 3]}, ([1, 3], 0.25, "residual", "all"), "unit residual, positions all, strength 0.25"),
        ({"strength": -0.1}, (2, -0.1, "residual", "all"), "layer 2, unit residual, positions all"),
        ({"unit": "vector"}, (2, 1.0, "vector", "all"), "layer 2, positions all"),
        ({"unit": "residual"}, (2, 0.25, "residual", "all"), "layer 2, positions all, strength 0.25"),
        ({"positions": "prompt"}, (2, 0.25, "residual", "prompt"), "layer 2, unit residual, strength 0.25"),
        ({"layer": 3, "strength": 0.3, "unit": "contrast", "positions": "generated"}, (3, 0.3, "contrast", None), None),
        ({"intervention": "project_out"}, ([1, 2, 3], 1.0, "vector", "generated"), None),
        ({"intervention": "add_keeping_norm", "layer": 1}, (1, 1.0, "vector", "generated"), None),
    ],
)
def test_what_is_left_out_is_as_the_experiment_chose(
    remembering: str, given: dict[str, Any], expected: tuple[Any, ...], note: str | None
) -> None:
    applied = apply_steering_vector(remembering, **given)
    remove_all_steering_vectors()

    found = tuple(applied[key] for key in ("layer", "strength", "unit", "positions"))
    assert found == (*expected[:3], expected[3] or given["positions"])
    said = [text for text in applied["warnings"] if text.startswith("Taken as the file's experiment chose: ")]
    assert said == ([] if note is None else [f"Taken as the file's experiment chose: {note}."])


@pytest.mark.parametrize("given", [{}, {"strength": -0.1}, {"layer": 1, "strength": 0.5, "positions": "prompt"}])
def test_every_way_to_steer_leaves_out_alike(remembering: str, given: dict[str, Any]) -> None:
    by_apply = steered_texts(lambda: apply_steering_vector(remembering, **given))
    (compared,) = compare_generations(PROMPTS, remembering, max_new_tokens=8, **given)["variants"]
    others = {key: value for key, value in given.items() if key != "strength"}
    strengths = [given["strength"]] if "strength" in given else None
    (listed,) = compare_generations(PROMPTS, remembering, strengths=strengths, max_new_tokens=8, **others)["variants"]
    next_tokens = compare_next_tokens(PROMPTS, remembering, strengths=strengths, **others)
    with steering(remembering, **given) as applied:
        inside = texts()

    assert by_apply == compared["texts"] == listed["texts"] == inside
    assert by_apply != texts()
    assert next_tokens["strengths"] == [applied.strength] == [compared["strength"]]
    assert next_tokens["residual_strengths"] == [compared["residual_strength"]]


def test_a_file_without_a_cell_is_applied_whole(llama_session: Session) -> None:
    path = create_steering_vector(POSITIVE, NEGATIVE, [1, 2], "v")["vector_path"]

    applied = apply_steering_vector(path)

    assert (applied["layer"], applied["strength"], applied["unit"]) == ([1, 2], 1.0, "vector")
    assert applied["positions"] == "generated"
    assert not any("experiment chose" in warning for warning in applied["warnings"])


def test_strength_and_strengths_together_are_refused(remembering: str) -> None:
    with pytest.raises(ArgumentError, match="one of them"):
        compare_generations(PROMPTS, remembering, strengths=[1.0], strength=1.0)


# One rule for the layer

LAYER_NAMES = ("layer", "vector_layer")


def optional_layers() -> dict[str, str]:
    """Return tools that take a vector's layer and can do without it, with the parameter's description."""
    found: dict[str, str] = {}
    for tool in TOOLS:
        hints = get_type_hints(tool.function, include_extras=True)
        for parameter in signature(tool.function).parameters.values():
            is_optional = parameter.name in LAYER_NAMES and parameter.default is not Parameter.empty
            if is_optional and NEEDED not in hints[parameter.name].__metadata__:
                found[tool.name] = hints[parameter.name].__metadata__[0].description
    return found


def layers_used(tool: str, path: str, behavior: str) -> Any:
    """Call a tool without a layer and return where the vector acted."""
    match tool:
        case "apply_steering_vector":
            return apply_steering_vector(path)["layer"]
        case "compare_generations":
            added = compare_generations(PROMPTS[:1], path, max_new_tokens=1)["variants"][0]["residual_strength"]
            return layers_of(path, added)
        case "compare_next_tokens":
            return layers_of(path, compare_next_tokens(PROMPTS[:1], path)["residual_strengths"][0])
        case "evaluate_steering_robustness":
            return evaluate_steering_robustness(path, behavior)["layer"]
        case "calibrate_strength":
            return calibrate_strength(path, target_damage=0.01)["layer"]
        case "analyze_steering_vector":
            return analyze_steering_vector(path)["layer"]
        case "ablate_component" | "save_edited_model":
            return one_direction(load_vector(path), None)[0]
        case _:
            raise AssertionError(f"nobody says where {tool} acts")


def layers_of(path: str, added: Any) -> Any:
    """Return the layers whose additions have these lengths."""
    applied = apply_steering_vector(path)
    assert applied["residual_strength"] == added
    return applied["layer"]


def test_every_description_of_a_layer_says_the_same_of_leaving_it_out() -> None:
    described = optional_layers()

    assert len(described) == 8
    assert [name for name, text in described.items() if LEFT_OUT not in text] == []


@pytest.mark.parametrize("tool", optional_layers())
def test_a_layer_that_is_left_out_means_the_same_in_every_tool(remembering: str, behavior: str, tool: str) -> None:
    several = create_steering_vector(POSITIVE, NEGATIVE, [1, 3], "several")["vector_path"]
    single = create_steering_vector(POSITIVE, NEGATIVE, 3, "single")["vector_path"]

    assert layers_used(tool, remembering, behavior) == 2
    assert layers_used(tool, single, behavior) == 3
    try:
        assert layers_used(tool, several, behavior) == [1, 3]
    except SteeringError as refusal:
        assert "[1, 3]" in str(refusal)


# One unit


def result_types() -> list[type]:
    found: dict[str, type] = {}

    def walk(kind: Any) -> None:
        if is_typeddict(kind) and kind.__name__ not in found:
            found[kind.__name__] = kind
            for hint in get_type_hints(kind).values():
                walk(hint)
        for part in getattr(kind, "__args__", ()):
            walk(part)

    for tool in TOOLS:
        walk(get_type_hints(tool.function)["return"])
    return list(found.values())


# Arguments, not a finding; a strength that is one in residual norms; and a part of a sweep, which has `residual_units`.
EXEMPT = {
    ApplyArguments.__name__: {"strength"},
    "AnalysisResult": {"observed_strength"},
    "WindowStatus": {"least_strength", "largest_strength"},
}


def test_every_result_that_has_a_strength_has_its_residual_strength() -> None:
    kinds, lacking = result_types(), list[str]()
    for kind in kinds:
        names = set(kind.__annotations__) - EXEMPT.get(kind.__name__, set())
        strengths = {name for name in names if "strength" in name and "residual" not in name}
        if strengths and not any("residual" in name and ("strength" in name or "unit" in name) for name in names):
            lacking.append(kind.__name__)

    assert lacking == []
    assert {"AppliedStatus", "ExperimentResult", "VariantTexts"} <= {kind.__name__ for kind in kinds}


def test_the_residual_strengths_of_a_sweep_and_of_the_status_are_what_is_added(
    llama_session: Session, behavior: str
) -> None:
    create_steering_vector(POSITIVE, NEGATIVE, [1, 2], "v")

    swept = sweep_steering("v", behavior, strengths=[0.5], unit="vector")
    added = {layer: apply_steering_vector("v", layer, 1.0)["residual_strength"] for layer in (1, 2)}

    assert swept["residual_units"] == {str(layer): pytest.approx(own, rel=1e-3) for layer, own in added.items()}
    assert [entry["residual_strength"] for entry in steering_status()["applied"]] == list(added.values())


# Files and algebra


@pytest.mark.parametrize(
    ("ending", "is_kept"), [(".safetensors", True), (".npy", True), (".gguf", False), (".pt", False)]
)
def test_a_cell_lives_in_the_formats_that_have_room_and_is_reported_as_lost_elsewhere(
    llama_session: Session, remembering: str, ending: str, is_kept: bool
) -> None:
    done = convert_vector(remembering, f"{remembering}{ending}", Unsaid(2))
    other = convert_vector(remembering, f"{remembering}.other{ending}", Unsaid(3))

    assert (done.written.info.chosen == CELL) == is_kept
    assert ("chosen" in done.made.lost) == (not is_kept)
    assert other.written.info.chosen is None
    assert "chosen" not in other.made.lost


def test_a_changed_vector_has_no_cell(remembering: str) -> None:
    vector = load_vector(remembering)

    assert vector.info.chosen == CELL
    for changed in (-vector, 2 * vector, vector + vector, vector.normalized()):
        assert changed.info.chosen is None


@pytest.mark.parametrize("change", [{"layer": -1}, {"strength": "NaN"}, {"unit": "miles"}, {"positions": None}])
def test_a_malformed_cell_is_refused_by_name(remembering: str, change: dict[str, Any]) -> None:
    path = Path(remembering).with_suffix(".npy")
    convert_vector(remembering, path, Unsaid(2))
    header = json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))
    header["info"]["chosen"] |= change
    Path(f"{path}.json").write_text(json.dumps(header), encoding="utf-8")

    with pytest.raises(VectorFileError, match=rf"info\.chosen\.{next(iter(change))}"):
        load_vector(path)
