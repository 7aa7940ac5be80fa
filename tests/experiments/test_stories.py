"""Real input: a 3 M-parameter Llama that others trained on children's stories; happy against sad.

Test data only, found beside the checkout.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.places import STORIES
from steer_tools import (
    apply_steering_vector,
    check_steering,
    compare_generations,
    create_steering_vector,
    evaluate_steering_robustness,
    load_model,
    remove_all_steering_vectors,
    steering_experiment,
)
from steer_tools.engines.base import Row
from steer_tools.evaluation.behaviors.behavior import contrast_prompts
from steer_tools.evaluation.behaviors.behavior_loading import load_behavior
from steer_tools.prompts import parse_prompts, plain
from steer_tools.session.placement import place
from steer_tools.session.session import Session

LAYER = 3  # The middle of six.
STRENGTHS = (-1.5, -0.75, 0.0, 0.75, 1.5)

HAPPY = [
    "Tim was very happy.",
    "Lily smiled and laughed with joy.",
    "It was the best day ever and everyone was glad.",
    "She felt happy and began to dance.",
    "The happy dog wagged its tail.",
    "They all cheered and had so much fun.",
]
SAD = [
    "Tim was very sad.",
    "Lily cried and sobbed with grief.",
    "It was the worst day ever and everyone was upset.",
    "She felt sad and began to cry.",
    "The sad dog hid its face.",
    "They all wept and felt so much pain.",
]
OPENINGS = [
    "Once upon a time, there was a little girl named Mia.",
    "One day, a boy named Sam went to the park.",
    "There was a big bear who lived in the forest.",
    "Anna and her mom went to the store.",
    "A little bird sat on a tree.",
    "Ben had a red ball.",
    "The old man lived in a small house.",
    "In the morning, the cat went outside.",
    "Lucy found a box in the garden.",
    "Two friends were walking by the lake.",
    "The farmer had a brown horse.",
    "Max opened the door and looked around.",
]
HAPPY_CONTINUATIONS = [" He was very happy.", " She smiled.", " They laughed and played.", " It was so much fun."]
SAD_CONTINUATIONS = [" He was very sad.", " She cried.", " They were scared and hurt.", " It was so bad."]
HAPPY_WORDS = (
    "happy happily glad joy smile smiled smiles smiling laugh laughed laughing fun love loved loves excited proud "
    "cheered best wonderful beautiful hugged enjoyed"
)
SAD_WORDS = (
    "sad sadly cry cried crying cries tears upset scared afraid hurt angry mad worst bad sorry lonely lost worried "
    "frowned pain"
)

pytestmark = pytest.mark.shared


@pytest.fixture
def happy_vector(empty_session: Session) -> str:
    load_model(str(STORIES), dtype="float32")
    return create_steering_vector(HAPPY, SAD, LAYER, "happy")["vector_path"]


def margins(session: Session, plan: Any) -> torch.Tensor:
    """Return, for each opening, mean log-probability of the happy continuations minus that of the sad ones."""
    openings = parse_prompts(OPENINGS)
    both = [*HAPPY_CONTINUATIONS, *SAD_CONTINUATIONS]
    rows = [Row(opening, plan) for opening in openings for _ in both]
    scores = session.engine.score(rows, both * len(openings))
    means = torch.stack([score.mean() for score in scores]).reshape(len(openings), len(both))
    happy = len(HAPPY_CONTINUATIONS)
    return means[:, :happy].mean(dim=1) - means[:, happy:].mean(dim=1)


def emotion_words(texts: list[str]) -> tuple[int, int]:
    """Return how many happy and how many sad words of the lists above the texts hold."""
    words = re.findall(r"[a-z]+", " ".join(texts).lower())
    return sum(w in HAPPY_WORDS.split() for w in words), sum(w in SAD_WORDS.split() for w in words)


def test_happy_continuations_gain_with_every_step_of_strength(empty_session: Session, happy_vector: str) -> None:
    placed = place(empty_session, happy_vector, LAYER)

    by_strength = torch.stack([margins(empty_session, placed.plan(strength)) for strength in STRENGTHS])

    rising = (by_strength.diff(dim=0) > 0).all(dim=0)
    print("mean margin by strength", dict(zip(STRENGTHS, by_strength.mean(dim=1).tolist(), strict=True)))
    print("openings that rise at each step", int(rising.sum()), "of", len(OPENINGS))
    assert rising.sum() >= 11
    assert torch.equal(by_strength[2], margins(empty_session, ()))


def test_greedy_texts_turn_happy_and_sad_and_stay_readable(happy_vector: str) -> None:
    result = compare_generations(OPENINGS, happy_vector, LAYER, [-1.5, 1.5], max_new_tokens=50)

    baseline, (sad, happy) = result["baseline"], result["variants"]
    counts = {name: emotion_words(side["texts"]) for name, side in (("-1.5", sad), ("0", baseline), ("1.5", happy))}
    shares = {name: happy / (happy + sad) for name, (happy, sad) in counts.items()}
    print("happy words:", HAPPY_WORDS, "\nsad words:", SAD_WORDS)
    print("(happy, sad) words by strength", counts, "happy share", shares)
    print("metrics at 0, -1.5, 1.5", baseline["metrics"], sad["metrics"], happy["metrics"])
    assert shares["1.5"] >= 0.9
    assert shares["-1.5"] <= 0.1
    assert 0.6 < shares["0"] < 0.9
    for variant in (sad, happy):
        assert variant["metrics"]["distinct_2"] >= 0.6 * baseline["metrics"]["distinct_2"]
        assert variant["metrics"]["perplexity"] <= 3 * baseline["metrics"]["perplexity"]


def test_a_real_model_is_steered_exactly_and_given_back(empty_session: Session, happy_vector: str) -> None:
    apply_steering_vector(happy_vector, LAYER, 1.5)

    result = check_steering(OPENINGS[:4])

    assert result["passed"], result
    assert remove_all_steering_vectors()["removed"] == 1
    assert not empty_session.engine.ambient()


def experiment_on_lists() -> Any:
    load_model(str(STORIES), dtype="float32")
    behavior = load_behavior("sentiment", as_chat=False)
    sides = contrast_prompts([*behavior.pairs, *behavior.items], as_chat=False)
    return steering_experiment(
        "happy",
        [plain(prompt) for prompt in sides.positive],
        [plain(prompt) for prompt in sides.negative],
        direction="less",
        layers=[2, 4],
        strengths=[0.2, 0.4],
    )


@pytest.mark.slow
@pytest.mark.xfail(reason="One control that lies where the activations do makes happy stories as sad as the vector.")
def test_happy_and_sad_are_found_by_themselves_from_two_lists_of_sentences(empty_session: Session) -> None:
    found = experiment_on_lists()

    assert found["verdict"] == "works", found
    assert found["controls"]["reached"] == 0
    assert found["effect"] > found["controls"]["largest"]


@pytest.mark.slow
def test_stories_turn_sad_by_what_two_lists_of_sentences_differ_in(empty_session: Session) -> None:
    found = experiment_on_lists()

    assert found["own_effect"] > 0.5
    assert found["interval"] is not None
    assert found["interval"][0] > 0
    assert found["best_strength"] < 0
    assert found["log_odds"]["items"] >= 25
    report = Path(found["report_path"]).read_text(encoding="utf-8")
    assert found["verdict"] in report
    # The lists have become a file, with the same items held out.
    again = evaluate_steering_robustness(
        found["vector_path"], found["dataset"], found["best_layer"], found["best_strength"]
    )
    assert again["items"] == found["log_odds"]["items"]
    assert again["log_odds_effect"] == pytest.approx(found["log_odds"]["log_odds_effect"], abs=1e-3)
    assert not empty_session.registry.entries()
