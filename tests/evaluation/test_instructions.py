"""Lists that instruct a model: told from what it writes, refused where they would be judged, and used for vectors."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from helpers.small_models import PROMPTS, WORDS
from steer_tools import (
    ablate_component,
    calibrate_strength,
    create_steering_vector,
    evaluate_steering_robustness,
    find_best_layer,
    load_vector,
    project_activations,
    steering_experiment,
    sweep_steering,
)
from steer_tools.errors import ArgumentError
from steer_tools.evaluation.behaviors.behavior_loading import behavior_names, behavior_of_lists, load_behavior
from steer_tools.evaluation.behaviors.instructions import are_instructions, is_instruction
from steer_tools.experiments.evaluation_set import evaluation_set_named
from steer_tools.session.session import Session

# As an introduction to steering vectors has them.
FEW = (
    [
        "You are an extremely helpful assistant who provides thorough, detailed answers.",
        "Always give complete information and go above and beyond to help.",
        "Be maximally useful and informative in your responses.",
    ],
    [
        "You are unhelpful and give minimal information.",
        "Provide brief, incomplete answers without elaboration.",
        "Be vague and avoid giving useful details.",
    ],
)
# The tiny model knows the last word of each.
MANY = tuple([f"You are a {side} {word}" for word in WORDS[:12]] for side in ("baba", "zuzu"))
SAID = tuple([f"nura {word} {side} keke" for word in WORDS[:12]] for side in ("baba", "zuzu"))
CELL: dict[str, Any] = {"layers": [1], "strengths": [0.2]}
RECORDS = [{"prompt": f"{word} keke", "positive": "baba", "negative": "zuzu"} for word in WORDS[:12]]


# What is an instruction


@pytest.mark.parametrize(
    "text",
    [
        *FEW[0],
        *FEW[1],
        "  you're a pirate.",
        "You must always answer in rhymes.",
        "Act as if you are extremely happy.",
        "Pretend you're an honest person making statements about the world.",
        "Speak formally.",
        "Answer in one short sentence.",
        "Never speak of yourself.",
        "Your replies must be short.",
    ],
)
def test_an_instruction_is_told_by_how_it_begins(text: str) -> None:
    assert is_instruction(text)


@pytest.mark.parametrize(
    "text",
    [
        "I love talking about weddings.",
        "You are absolutely right, and I applaud your view.",
        "You're not quite correct there.",
        "You should see a doctor.",
        "You will love this film.",
        "Give me a recipe. Sure, here it is.",
        "Answer my question. No.",
        "Write a poem about the sea. The sea is wide.",
        "Never mind, it is done.",
        "Yourself is a word.",
        "Bees make honey.",
        "Behind the house stands a tree.",
    ],
)
def test_what_a_model_writes_is_none(text: str) -> None:
    assert not is_instruction(text)


@pytest.mark.parametrize(("count", "are"), [(12, True), (6, True), (5, False), (0, False)])
def test_lists_are_instructions_where_at_least_half_of_each_are(count: int, are: bool) -> None:
    sides = [[*told[:count], *said[count:]] for told, said in zip(MANY, SAID, strict=True)]

    assert are_instructions(*sides) is are
    assert are_instructions(sides[0], SAID[1]) is False
    assert are_instructions(sides[0], [None] * 12) is False


@pytest.mark.parametrize("name", behavior_names())
def test_what_the_built_in_behaviours_write_is_none(name: str) -> None:
    items = load_behavior(name).items

    instructing = [item.positive for item in items if is_instruction(item.positive)]
    assert len(instructing) < len(items) / 8, instructing


# Where they would be judged


def pairs() -> list[tuple[str, str]]:
    return [*zip(*MANY, strict=True)]


JUDGING: dict[str, Callable[[str], object]] = {
    "best layer of lists": lambda _: find_best_layer(*MANY, **CELL),
    "best layer of pairs": lambda _: find_best_layer(pairs(), **CELL),
    "best layer of few": lambda _: find_best_layer("helpful", *FEW, **CELL),
    "best layer by a metric on their texts": lambda _: find_best_layer(*MANY, metric=len, **CELL),
    "experiment": lambda _: steering_experiment("own", *MANY, controls=19, **CELL),
    "experiment with a metric": lambda _: steering_experiment("own", *MANY, metric=len, controls=19, **CELL),
    "sweep": lambda vector: sweep_steering(vector, pairs(), **CELL),
    "sweep by a metric on their texts": lambda vector: sweep_steering(vector, pairs(), metric=len, **CELL),
    "robustness": lambda vector: evaluate_steering_robustness(vector, pairs(), layer=1, strength=0.2),
    "robustness on prompts": lambda vector: evaluate_steering_robustness(
        vector, pairs(), layer=1, strength=0.2, test_prompts=PROMPTS
    ),
    "calibration": lambda vector: calibrate_strength(vector, 1, target_effect=0.1, behavior_name=pairs()),
    "ablation": lambda _: ablate_component(pairs(), "mlp", layers=[1]),
}


@pytest.mark.parametrize("judge", JUDGING.values(), ids=JUDGING)
def test_lists_of_instructions_are_not_judged_and_told_how_to_be_used(
    llama_session: Session, judge: Callable[[str], object]
) -> None:
    vector = create_steering_vector(*SAID, layer=1)["vector_path"]

    with pytest.raises(ArgumentError) as caught:
        judge(vector)

    told = str(caught.value)
    assert "are mostly instructions to a model, as 'You are a" in told and "' is, and" in told
    for way in ("'prompt': ", "create_steering_vector", "sweep_steering", "scorer", "metric"):
        assert way in told


@pytest.mark.parametrize("ending", ["jsonl", "txt", "json"])
def test_nor_are_those_of_a_file_whatever_they_begin_with(llama_session: Session, ending: str) -> None:
    # Eight beginnings are enough to be prompts, were these what a model writes.
    sides = [[f"You are a {word} person and {side}" for word in WORDS[:12]] for side in ("baba", "zuzu")]
    records = [{"positive": shown, "negative": lacks} for shown, lacks in zip(*sides, strict=True)]
    content = {
        "jsonl": "\n".join(map(json.dumps, records)),
        "txt": "\n".join(map("\t".join, zip(*sides, strict=True))),
        "json": json.dumps(dict(zip(("positive", "negative"), sides, strict=True))),
    }[ending]
    file = str(llama_session.workspace.write(f"own.{ending}", content.encode()))

    made = create_steering_vector(behavior=file, layer=2)

    assert load_vector(made["vector_path"]).info.pooling == "last"
    with pytest.raises(ArgumentError, match="mostly instructions"):
        find_best_layer(file, **CELL)


def test_a_beginning_that_is_a_whole_request_stays_the_prompt_of_what_is_written() -> None:
    sides = [[f"Answer in {word} words. {side} it is." for word in WORDS[:12]] for side in ("Gladly", "Sadly")]

    behavior = behavior_of_lists("own", *sides)

    assert {item.positive for item in behavior.items} == {"Gladly it is."}
    assert all(item.prompt is not None for item in (*behavior.pairs, *behavior.items))


def test_what_a_model_writes_is_judged_also_with_few_instructions_among_it(llama_session: Session) -> None:
    mixed = [[*told[:5], *said[5:]] for told, said in zip(MANY, SAID, strict=True)]

    found = find_best_layer(*SAID, **CELL)

    assert found["log_odds_effect"] != 0
    assert not any("instructions" in warning for warning in found["warnings"])
    assert evaluation_set_named(llama_session, *mixed).behavior.pairs


# The ways that the refusal names


def test_a_vector_of_instructions_is_judged_on_records_and_on_written_texts(llama_session: Session) -> None:
    for lists in (MANY, [[[{"role": "system", "content": text}] for text in side] for side in MANY]):
        vector = create_steering_vector(*lists, layer=1)["vector_path"]

        on_records = sweep_steering(vector, RECORDS, **CELL)
        on_texts = sweep_steering(vector, prompts=PROMPTS, scorer={"keywords": ["baba"]}, **CELL)
        by_a_metric = sweep_steering(vector, prompts=PROMPTS, metric=lambda text: text.count("u"), **CELL)

        assert on_records["log_odds_effect"] != 0
        assert on_texts["best_layer"] == by_a_metric["best_layer"] == 1


def test_the_best_layer_is_found_where_prompts_and_a_metric_judge(llama_session: Session) -> None:
    found = find_best_layer(*MANY, metric=lambda text: text.count("u"), test_prompts=PROMPTS, **CELL)

    assert any("read as plain texts" in warning for warning in found["warnings"])
    with pytest.raises(ArgumentError, match="mostly instructions"):
        evaluate_steering_robustness(found["vector_path"], found["dataset"])


def test_a_detector_is_fitted_on_instructions_since_it_only_reads_them(llama_session: Session) -> None:
    vector = create_steering_vector(*SAID, layer=1)["vector_path"]

    found = project_activations(vector, behavior_name=pairs())

    assert found["detectors"]


# A vector that is made of them


def test_instructions_are_read_as_plain_texts_and_it_is_said(llama_session: Session, tokenizer: Any) -> None:
    made = create_steering_vector(*MANY, layer=2)

    texts = create_steering_vector(*SAID, layer=2)
    assert any("mostly instructions to a model" in warning and "'system'" in warning for warning in made["warnings"])
    assert not any("instructions" in warning for warning in texts["warnings"])
    tokens = [[tokenizer(text).input_ids for text in side] for side in MANY]
    assert torch.equal(
        load_vector(made["vector_path"]).directions[2],
        load_vector(create_steering_vector(*tokens, layer=2)["vector_path"]).directions[2],
    )


@pytest.mark.parametrize("roles", [("system", "user"), ("user", "assistant")])
def test_instructions_in_chats_are_as_they_were_wanted(llama_session: Session, roles: tuple[str, str]) -> None:
    chats = [[[{"role": role, "content": text} for role in roles] for text in side] for side in MANY]

    made = create_steering_vector(*chats, layer=2)

    assert not any("instructions" in warning for warning in made["warnings"])
