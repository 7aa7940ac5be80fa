"""The rooms above the engines on the fake engine: each tool does its work without a model, or refuses by name."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest

from helpers.small_models import NEGATIVE, POSITIVE, PROMPTS
from steer_tools import (
    ablate_component,
    analyze_steering_vector,
    apply_steering_vector,
    calibrate_strength,
    check_steering,
    combine_steering_vectors,
    compare_generations,
    compare_next_tokens,
    create_steering_vector,
    evaluate_steering_robustness,
    find_best_layer,
    generate,
    patch_activations,
    project_activations,
    remove_all_steering_vectors,
    save_edited_model,
    show_tokens,
    steering_experiment,
    steering_status,
    sweep_steering,
    update_steering_vector,
)
from steer_tools.engines.base import Row
from steer_tools.engines.fake import FakeEngine
from steer_tools.errors import UnsupportedFeatureError
from steer_tools.prompts import parse_prompt
from steer_tools.session.session import Session


@pytest.fixture
def fake_session(empty_session: Session) -> Session:
    empty_session.load("toy", "fake")
    return empty_session


@pytest.fixture
def vector(fake_session: Session) -> str:
    return create_steering_vector(POSITIVE, NEGATIVE, "all", "v")["vector_path"]


@pytest.fixture
def behavior(fake_session: Session) -> str:
    """A behaviour of the toy: after the words that it likes, one completion rather than the other."""
    words = ("keke", "lili", "mora", "seti", "vozu", "nura", "tili", "kemo")
    records = [
        {"prompt": f"{first} {second}", "positive": " baba", "negative": " zuzu"}
        for first, second in itertools.permutations(words, 2)
    ]
    path = fake_session.workspace.root / "liking.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(map(json.dumps, records[:40])), encoding="utf-8")
    return "liking.jsonl"


def test_a_model_is_loaded_on_the_fake_engine_by_name_and_is_the_same_each_time(fake_session: Session) -> None:
    assert steering_status()["model"]["engine"] == "fake"
    same, other = FakeEngine("toy"), FakeEngine("other toy")

    assert same.info == fake_session.engine.info != other.info
    row = Row(parse_prompt("baba keke"))
    assert same.distributions([row])[0].tolist() == fake_session.engine.distributions([row])[0].tolist()
    assert other.distributions([row])[0].tolist() != same.distributions([row])[0].tolist()


def test_a_vector_is_created_applied_changed_and_removed(vector: str) -> None:
    before = generate(PROMPTS, max_new_tokens=6)["texts"]

    applied = apply_steering_vector(vector, 2, 8.0)
    steered = generate(PROMPTS, max_new_tokens=6)["texts"]
    status = steering_status()
    update_steering_vector(applied["steering_id"], 0.0)
    at_zero = generate(PROMPTS, max_new_tokens=6)["texts"]
    remove_all_steering_vectors()

    assert ["0.2" in warning for warning in applied["warnings"]] == [True]
    assert steered != before == at_zero == generate(PROMPTS, max_new_tokens=6)["texts"]
    assert status["in_force"] and len(status["applied"]) == 1


def test_what_is_applied_is_what_another_caller_of_the_toy_gets(fake_session: Session, vector: str) -> None:
    engine = fake_session.engine
    assert isinstance(engine, FakeEngine)
    before = [engine.next_word(text) for text in PROMPTS]

    apply_steering_vector(vector, 3, 30.0)

    assert [engine.next_word(text) for text in PROMPTS] != before


@pytest.mark.parametrize("method", ["mean_difference", "paired_mean_difference", "pca"])
def test_the_methods_that_only_read_make_vectors(fake_session: Session, method: Any) -> None:
    made = create_steering_vector(POSITIVE, NEGATIVE, 1, method, method=method)

    assert made["success"] and made["magnitude"] == pytest.approx(made["contrast_norm"], rel=1e-3)


def test_texts_and_next_tokens_are_compared(vector: str) -> None:
    compared = compare_generations(PROMPTS, vector, 2, [0.0, 9.0], max_new_tokens=6)
    tokens = compare_next_tokens(PROMPTS[:2], vector, 3, [9.0])

    assert compared["variants"][0]["texts"] == compared["baseline"]["texts"] != compared["variants"][1]["texts"]
    assert tokens["prompts"]


def test_a_vector_is_analyzed_read_and_combined(vector: str) -> None:
    words = ("keke", "lili", "mora", "seti", "vozu", "nura", "tili", "kemo")
    sides = [[f"{side} {word} {side}" for word in words] for side in ("baba", "zuzu")]

    analyzed = analyze_steering_vector(vector, 3)
    read = project_activations(vector, positive=sides[0], negative=sides[1])
    opposite = combine_steering_vectors([vector, vector], "twice", [1.0, 1.0])
    shown = show_tokens(PROMPTS[:1])

    assert analyzed and read and opposite["vector_path"] and shown


def test_at_the_last_layer_of_a_linear_model_a_sweeps_effect_is_linear_in_the_strength(
    vector: str, behavior: str
) -> None:
    swept = sweep_steering(vector, behavior, [3], [0.5, 1.0, 2.0])

    half, whole, double = swept["cells"][0]["log_odds_effects"]
    assert abs(half) > 0.05
    assert (whole, double) == (pytest.approx(2 * half, rel=0.01), pytest.approx(4 * half, rel=0.01))
    assert swept["cells"][0]["opposite_log_odds_effects"] == pytest.approx([-half, -whole, -double], rel=0.01)


def test_an_experiment_reports_a_verdict(fake_session: Session, behavior: str) -> None:
    found = steering_experiment(behavior, layers=[1, 2], strengths=[0.5, 1.0], controls=19)

    assert found["verdict"] and (fake_session.workspace.root / found["report_path"]).is_file()
    assert set(found["side_effects"])


def test_layers_strengths_and_robustness_are_measured(vector: str, behavior: str) -> None:
    best = find_best_layer(behavior, layers=[1, 3], strengths=[1.0])
    calibrated = calibrate_strength(vector, 3, target_damage=0.2, behavior_name=behavior)
    robust = evaluate_steering_robustness(vector, behavior, 3, 1.0)

    assert best["vector_path"] and calibrated and robust


def test_blocks_are_ablated_and_states_patched(fake_session: Session, behavior: str) -> None:
    ablated = ablate_component(behavior, "mlp")
    patched = patch_activations("baba keke", "zuzu keke", " lili", " mora")

    assert ablated and len(patched["recovered"]) == fake_session.engine.info.layers


@pytest.mark.parametrize(
    ("feature", "call"),
    [
        ("'trained'", lambda: create_steering_vector(PAIRED, UNPAIRED, 1, "t", method="trained")),
        ("method='gradient'", lambda: patch_activations("baba ke", "zuzu ke", " lili", " mora", method="gradient")),
        ("check_steering", lambda: (apply_steering_vector("v", 1), check_steering())),
        ("save_edited_model", lambda: (apply_steering_vector("v", 1), save_edited_model("baked"))),
        ("component='head'", lambda: ablate_component("liking.jsonl", "head")),
    ],
)
def test_what_the_engine_cannot_do_is_refused_by_its_name(
    vector: str, behavior: str, feature: str, call: Callable[[], object]
) -> None:
    with pytest.raises(UnsupportedFeatureError, match=f"{feature} needs .* 'fake' has none"):
        call()


PAIRED = ["mora baba keke", "seti baba lili", "vozu baba nura", "tili baba kemo"]
UNPAIRED = ["mora zuzu keke", "seti zuzu lili", "vozu zuzu nura", "tili zuzu kemo"]
