"""Metrics of one's own: what is written at each layer and strength, how a cell is chosen, and who judges it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.small_models import NEGATIVE, POSITIVE, WORDS
from steer_tools import (
    create_steering_vector,
    find_best_layer,
    load_vector,
    steering_experiment,
    sweep_steering,
)
from steer_tools.engines.base import Row, Sampling
from steer_tools.errors import ArgumentError, PromptError, StrengthError
from steer_tools.evaluation.damage import Budget, Damage
from steer_tools.evaluation.scorers import metric_of
from steer_tools.experiments.text_sweeps import TextCell, choose_text_cell
from steer_tools.prompts import TextPrompt
from steer_tools.session.placement import PlacementOptions, place
from steer_tools.session.session import Session
from steer_tools.tools.sweep_results import rows

PROMPTS = [f"baba {word} keke" for word in WORDS[:10]]


def letters(text: str) -> int:
    return text.count("a")


@pytest.fixture
def vector(llama_session: Session) -> str:
    return create_steering_vector(POSITIVE, NEGATIVE, [1, 2], "v.safetensors")["vector_path"]


def cell(strength: float, effect: float, divergence: float = 0.1) -> TextCell:
    damage = Damage(divergence, 1.1, 1.1, 1.0, 1.0)
    return TextCell(1, strength, np.array([effect]), np.array([effect]), damage, ("",))


# The grid


def test_each_cell_holds_the_scores_of_what_its_strength_writes(llama_session: Session, vector: str) -> None:
    few = PROMPTS[:3]

    found = sweep_steering(
        vector, prompts=few, layers=[1, 2], strengths=[-1, 0, 1], metric=letters, max_new_tokens=6, damage_budget=99
    )

    engine, held = llama_session.engine, load_vector(vector)
    before = [letters(one.text) for one in engine.generate([Row(TextPrompt(p)) for p in few], Sampling(6))]
    for cells in found["cells"]:
        for strength, score, effect in zip(
            found["strengths"], cells["metric_scores"], cells["metric_effects"], strict=True
        ):
            plan = place(llama_session, held, cells["layer"], PlacementOptions("residual")).plan(strength)
            texts = engine.generate([Row(TextPrompt(p), plan) for p in few], Sampling(6))
            mean = np.mean([letters(one.text) for one in texts])
            assert score == pytest.approx(mean, rel=1e-3)
            assert effect == pytest.approx(mean - np.mean(before), abs=1e-3)
    assert found["unsteered_score"] == pytest.approx(np.mean(before), rel=1e-3)
    assert (found["metric"], found["items"], found["metric_interval"]) == ("letters", 3, None)
    assert len({score for cells in found["cells"] for score in cells["metric_scores"]}) > 2
    assert any("all of them both chose the cell and judged it" in warning for warning in found["warnings"])


def test_half_of_enough_prompts_choose_and_the_others_judge(llama_session: Session, vector: str) -> None:
    asked: list[str] = []

    def metric(prompt: str, text: str) -> float:
        asked.append(prompt)
        return letters(text)

    found = sweep_steering(vector, prompts=PROMPTS, layers=[1], strengths=[1.0], metric=metric, max_new_tokens=6)

    document = json.loads(Path(found["data_path"]).read_text(encoding="utf-8"))
    choosing, judging = set(document["choosing"]), set(document["judging"])
    assert (len(choosing), len(judging), found["items"]) == (5, 5, 5)
    assert choosing | judging == set(PROMPTS)
    assert found["metric_interval"] is not None
    # Unsteered and at the one strength, each prompt once.
    assert sorted(asked) == sorted([*PROMPTS, *PROMPTS])


def test_a_row_is_a_layer_and_strength(llama_session: Session, vector: str) -> None:
    asked: dict[str, Any] = {"layers": [1, 2], "strengths": [-1, 1], "max_new_tokens": 4}

    texts = sweep_steering(vector, prompts=PROMPTS[:2], metric=letters, **asked)

    assert [(row["layer"], row["strength"]) for row in rows(texts)] == [(1, -1), (1, 1), (2, -1), (2, 1)]
    assert [row["metric_score"] for row in rows(texts)] == [
        score for cells in texts["cells"] for score in cells["metric_scores"]
    ]
    assert {*rows(texts)[0]} == {"layer", "strength", "metric_score", "metric_effect", "kl", "within_budget"}


def test_the_gentlest_cell_of_either_sign_that_does_enough_is_chosen() -> None:
    cells = [cell(-0.2, 4.5), cell(0.1, 1.0), cell(0.4, 5.0), cell(0.8, 50.0, divergence=9)]

    assert choose_text_cell(cells, Budget()) is cells[0]
    assert choose_text_cell(cells[3:], Budget()) is cells[3]
    assert choose_text_cell([cell(0.4, 0.0), cell(0.1, 0.0), cell(0.1, -1.0)], Budget()).strength == 0.1


def test_prompts_may_come_first_and_a_scorer_is_a_metric(llama_session: Session, vector: str) -> None:
    asked: dict[str, Any] = {"layers": [1], "strengths": [1.0], "max_new_tokens": 4}

    by_keyword = sweep_steering(vector, prompts=PROMPTS[:2], scorer={"pattern": "a"}, **asked)
    swapped = sweep_steering(PROMPTS[:2], vector, scorer={"pattern": "a"}, **asked)

    assert by_keyword["metric"] == "pattern"
    assert swapped["cells"] == by_keyword["cells"]


def test_without_prompts_the_behaviours_questions_are_written_to(llama_session: Session, vector: str) -> None:
    found = sweep_steering(vector, "honesty", layers=[1], strengths=[0.5], metric=letters, max_new_tokens=2)

    assert found["items"] == 8
    assert found["metric"] == "letters"


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({"prompts": PROMPTS}, ArgumentError, "without what scores the texts"),
        ({}, ArgumentError, "behavior_name, or prompts with a scorer"),
        ({"prompts": PROMPTS, "metric": letters, "scorer": {"pattern": "a"}}, ArgumentError, "as well as a metric"),
        ({"prompts": PROMPTS, "metric": letters, "strengths": [0]}, StrengthError, "one of them not 0"),
        ({"prompts": [], "metric": letters}, PromptError, "prompts is empty"),
    ],
)
def test_what_cannot_be_measured_is_told_what_is_missing(
    vector: str, given: dict[str, Any], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        sweep_steering(vector, **given)


def test_the_best_layer_may_be_that_of_a_metric(llama_session: Session) -> None:
    lists = ([f"baba {word}" for word in WORDS[:12]], [f"keke {word}" for word in WORDS[:12]])
    tried: dict[str, Any] = {"layers": [1, 2], "strengths": [-1, 1], "damage_budget": 99, "max_new_tokens": 6}

    found = find_best_layer(*lists, metric=letters, test_prompts=PROMPTS, **tried)
    again = sweep_steering(found["vector_path"], prompts=PROMPTS, unit="residual", metric=letters, **tried)

    assert (found["metric"], found["cells"]) == ("letters", again["cells"])
    assert (found["best_layer"], found["best_strength"]) == (again["best_layer"], again["best_strength"])
    chosen = load_vector(found["vector_path"]).info.chosen
    assert chosen is not None and (chosen.layer, chosen.strength) == (found["best_layer"], found["best_strength"])
    with pytest.raises(PromptError, match="Give prompts as well"):
        find_best_layer(*lists, metric=letters)


def test_two_lists_in_a_vectors_place_are_sent_to_the_tool_that_makes_one(vector: str) -> None:
    with pytest.raises(ArgumentError, match="find_best_layer makes one"):
        sweep_steering(POSITIVE, NEGATIVE, prompts=PROMPTS, metric=letters)  # type: ignore[arg-type]  # Refused.


def test_an_experiment_shows_the_metric_beside_its_log_odds(llama_session: Session) -> None:
    positive, negative = ([f"{prompt} {end}" for prompt in PROMPTS] for end in ("lili", "zuzu"))

    def experiment(max_new_tokens: int | None) -> list[float | None]:
        found = steering_experiment(
            *("own", positive, negative),
            layers=[1],
            strengths=[0.2],
            controls=19,
            metric=letters,
            metric_name="count of a",
            max_new_tokens=max_new_tokens,
        )
        return found["side_effects"]["text_scores"]["count of a"]

    before, after = experiment(None)
    assert before is not None and before > 1
    assert after is not None
    (short, _) = experiment(2)
    assert short is not None and short < before / 4


# Metrics


@pytest.mark.parametrize(
    ("function", "value"),
    [
        (len, 3.0),
        (lambda text: -2.5, -2.5),
        (lambda prompt, text: len(prompt) - len(text), -1.0),
        (lambda text, power=2: len(text) ** power, 9.0),
        (lambda *anything: len(anything), 1.0),
        (lambda text: np.float32(7), 7.0),
        (lambda text: np.array([7]), 7.0),
        (lambda text: True, 1.0),
    ],
)
def test_a_metric_of_a_text_or_of_prompt_and_text_gives_any_number(function: Any, value: float) -> None:
    assert metric_of(function)[1]("ab", "abc") == value


def test_a_metric_has_the_name_of_its_function_or_another() -> None:
    assert metric_of(letters)[0] == "letters"
    assert metric_of(letters, "a")[0] == "a"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "1"])
def test_what_is_no_finite_number_is_refused_with_metric_and_prompt(value: object) -> None:
    with pytest.raises(ArgumentError, match=r"The metric letters returned .* on the prompt 'ab'"):
        metric_of(lambda text: value, "letters")[1]("ab", "abc")


def test_what_a_metric_raises_passes_with_the_prompt_named() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        metric_of(lambda text: 1 / 0, "letters")[1]("ab", "abc")

    assert caught.value.__notes__ == ["The metric letters raised this on the prompt 'ab'."]


def test_a_function_of_more_is_refused() -> None:
    with pytest.raises(ArgumentError, match="needs 3 arguments"):
        metric_of(lambda a, b, c: 0)
