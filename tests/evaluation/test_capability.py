"""What steering costs on questions with a right answer: shares, their change, and what a file of them must hold."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.small_models import WIDTH, WORDS
from steer_tools import SteeringVector, steering_experiment
from steer_tools.core.plan import Plan
from steer_tools.engines.base import Engine
from steer_tools.errors import PromptError
from steer_tools.evaluation.behaviors.behavior import Item
from steer_tools.evaluation.capability import MOST_QUESTIONS, Capability, capability, read_capability
from steer_tools.evaluation.intervals import Interval
from steer_tools.evaluation.questions import propensities, questions
from steer_tools.prompts import TextPrompt
from steer_tools.session.placement import PlacementOptions, place
from steer_tools.session.session import Session


def file_of(count: int) -> BytesIO:
    records = [
        {"prompt": f"What is {n} + 1?\n(A) {n + 1}\n(B) {n}", "correct": "(A)", "incorrect": "(B)", "category": "sums"}
        for n in range(count)
    ]
    return BytesIO(json.dumps(records).encode())


def test_the_right_answers_of_caas_form_are_the_positive_ones() -> None:
    items = read_capability(file_of(9), "mmlu.json")

    assert [(item.positive, item.negative) for item in items] == [("(A)", "(B)")] * 9
    assert len({item.group for item in items}) == 9


def test_of_many_questions_some_are_drawn_the_same_ones_for_the_same_seed() -> None:
    first, again, other = (read_capability(file_of(MOST_QUESTIONS + 50), "q.json", seed) for seed in (1, 1, 2))

    assert len(set(first)) == MOST_QUESTIONS
    assert first == again != other


@pytest.mark.parametrize("content", [b'[{"positive": "a b", "negative": "c d"}]' * 1, file_of(7).getvalue()])
def test_too_few_questions_are_refused_with_what_a_record_holds(content: bytes) -> None:
    with pytest.raises(PromptError, match=r"at least 8 records, each with 'prompt', 'correct' and 'incorrect'"):
        read_capability(BytesIO(content), "few.json")


def test_shares_are_those_of_the_questions_whose_right_answer_is_likelier(llama_session: Session) -> None:
    engine = llama_session.engine
    items = [
        Item(TextPrompt(f"{WORDS[n]} {WORDS[n + 1]}"), WORDS[n + 2], WORDS[n + 3], f"group {n}") for n in range(20)
    ]
    generator = torch.Generator().manual_seed(3)
    vector = SteeringVector.from_directions({1: torch.randn(WIDTH, generator=generator)})
    plan = place(llama_session, vector, 1, PlacementOptions("residual", positions="all")).plan(3.0)

    found = capability(engine, plan, items)

    unsteered, steered = by_hand(engine, items, ()), by_hand(engine, items, plan)
    assert (found.count, found.unsteered, found.steered) == (20, unsteered.mean(), steered.mean())
    assert not np.array_equal(unsteered, steered)
    assert found.interval is not None
    assert found.interval.low <= steered.mean() - unsteered.mean() <= found.interval.high
    assert capability(engine, (), items).interval == Interval(0.0, 0.0)


def by_hand(engine: Engine, items: list[Item], plan: Plan) -> np.ndarray:
    return np.array([propensities(engine, [own], [plan])[0, 0] > 0 for own in questions(engine, items)])


def test_only_a_loss_beyond_chance_is_one() -> None:
    assert Capability(100, 0.7, 0.5, Interval(-0.3, -0.1)).is_lost
    assert not Capability(100, 0.7, 0.65, Interval(-0.12, 0.02)).is_lost
    assert not Capability(9, 0.7, 0.1, None).is_lost


@pytest.mark.parametrize(
    ("count", "unsteered", "is_at_chance"), [(200, 0.5, True), (200, 0.55, True), (200, 0.57, False)]
)
def test_who_guesses_has_nothing_to_lose_and_is_told_so(count: int, unsteered: float, is_at_chance: bool) -> None:
    found = Capability(count, unsteered, 0.4, Interval(-0.2, -0.05))

    assert found.is_at_chance == is_at_chance
    assert ("no more than by guessing" in found.in_words()) == is_at_chance


def test_an_experiment_tells_what_it_costs(llama_session: Session) -> None:
    llama_session.workspace.write("sums.json", file_of(12).getvalue())
    positive, negative = ([f"{WORDS[n]} {WORDS[n + 7]} {said}" for n in range(12)] for said in WORDS[-2:])

    result = steering_experiment("own", positive, negative, layers=[1], strengths=[0.2], capability="sums.json")
    report = Path(result["report_path"]).read_text()
    bare = steering_experiment("own", positive, negative, layers=[1], strengths=[0.2])

    told = result["side_effects"]["capability"]
    assert told is not None
    assert all(0 <= share <= 1 for share in told)
    assert f"{told[1]:.0%} of 12 questions are answered right, {told[0]:.0%} without steering" in report
    assert bare["side_effects"]["capability"] is None
