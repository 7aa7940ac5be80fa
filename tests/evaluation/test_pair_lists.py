"""Pairs and labels as people write them, a behaviour instead of lists, and what is left out when a vector is made."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from helpers.small_models import NEGATIVE, POSITIVE, WORDS
from steer_tools import create_steering_vector, find_best_layer, load_vector, split_by_label
from steer_tools.errors import ArgumentError, LayerError, PromptError, SteeringError
from steer_tools.evaluation.behaviors.behavior import Item
from steer_tools.evaluation.behaviors.behavior_loading import behavior_of_lists
from steer_tools.evaluation.behaviors.pair_lists import read_contrast_pairs, read_pairs
from steer_tools.prompts import TextPrompt
from steer_tools.session.session import Session

SIDES = POSITIVE, NEGATIVE
RECORDS = [{"positive": p, "negative": n} for p, n in zip(*SIDES, strict=True)]
MATCHING = [
    {"question": f"baba {word}", "answer_matching_behavior": "rara mora", "answer_not_matching_behavior": "sese"}
    for word in ("keke", "lili", "mora")
]


def direction(result: Any) -> torch.Tensor:
    vector = load_vector(result["vector_path"])
    return vector.directions[vector.layers[0]]


# Pairs in one list


@pytest.mark.parametrize(
    "pairs",
    [
        [*zip(*SIDES, strict=True)],
        [[p, n] for p, n in zip(*SIDES, strict=True)],
        RECORDS,
        [SimpleNamespace(**record) for record in RECORDS],
        pd.DataFrame(RECORDS).to_dict("records"),
    ],
    ids=["tuples", "lists", "records", "objects", "table"],
)
def test_pairs_in_one_list_are_the_two_lists(llama_session: Session, pairs: Any) -> None:
    assert read_pairs(pairs, "pairs") == (POSITIVE, NEGATIVE)
    assert torch.equal(
        direction(create_steering_vector(pairs, layer=2)), direction(create_steering_vector(*SIDES, layer=2))
    )


def test_records_with_questions_are_items_and_read_in_the_answer_of_a_chat(llama_session: Session) -> None:
    result = create_steering_vector(MATCHING, layer=2)

    assert read_pairs(MATCHING, "pairs")[0] == Item(TextPrompt("baba keke"), "rara mora", "sese", "baba keke")
    chats = [
        [
            [{"role": "user", "content": record["question"]}, {"role": "assistant", "content": record[key]}]
            for record in MATCHING
        ]
        for key in ("answer_matching_behavior", "answer_not_matching_behavior")
    ]
    assert torch.equal(direction(result), direction(create_steering_vector(*chats, 2, pooling="response")))
    assert not torch.equal(direction(result), direction(create_steering_vector(*chats, 2)))


def test_groups_of_records_count_where_they_are_judged_and_change_no_vector(llama_session: Session) -> None:
    grouped = [{**record, "group": f"g{i // 2}"} for i, record in enumerate(RECORDS)]
    made = read_pairs(grouped, "pairs")

    assert [item.group for item in made if isinstance(item, Item)] == [record["group"] for record in grouped]
    assert read_contrast_pairs(grouped, "pairs") == (POSITIVE, NEGATIVE)
    assert torch.equal(
        direction(create_steering_vector(grouped, layer=2)), direction(create_steering_vector(*SIDES, layer=2))
    )


def test_two_messages_and_two_token_ids_are_no_pair(llama_session: Session) -> None:
    chat = [{"role": "user", "content": "baba"}, {"role": "assistant", "content": "keke"}]

    for prompts in ([chat, chat], [[1, 20], [1, 30]], POSITIVE, chat):
        with pytest.raises(PromptError, match="two lists of prompts; or one list of pairs"):
            create_steering_vector(prompts, layer=2)  # type: ignore[arg-type]  # Refused.


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ("baba", "one list of pairs"),
        ([], "is empty"),
        ([{"chosen": "a", "rejected": "b"}], "positive_prompts[0]: the keys are 'chosen', 'rejected'"),
        ([MATCHING[0], {"question": "keke"}], "positive_prompts[1]: the keys are 'question'"),
    ],
)
def test_what_is_no_list_of_pairs_is_refused_with_its_place(llama_session: Session, pairs: Any, words: str) -> None:
    with pytest.raises(PromptError) as caught:
        create_steering_vector(pairs, layer=2)

    assert words in str(caught.value)


# Labels

TEXTS, LABELS = ["a", "b", "c"], [1, 0, 1]


@pytest.mark.parametrize(
    ("examples", "labels"),
    [
        (TEXTS, LABELS),
        (TEXTS, [True, False, True]),
        (np.array(TEXTS), np.array(LABELS)),
        (pd.Series(TEXTS), pd.Series(LABELS, dtype=bool)),
        (iter(TEXTS), iter(LABELS)),
    ],
)
def test_examples_with_labels_become_two_lists_of_plain_texts(examples: Any, labels: Any) -> None:
    shows, lacks = split_by_label(examples, labels)

    assert (shows, lacks) == (["a", "c"], ["b"])
    assert {type(text) for text in (*shows, *lacks)} == {str}


def test_a_table_is_split_by_its_columns() -> None:
    table = pd.DataFrame({"text": TEXTS, "label": LABELS})

    assert split_by_label(table) == split_by_label(table.to_dict("records")) == (["a", "c"], ["b"])
    assert split_by_label({"said": TEXTS, "kind": LABELS}, text_column="said", label_column="kind") == (
        ["a", "c"],
        ["b"],
    )
    for examples in (table, TEXTS):
        with pytest.raises(PromptError, match=r"no column 'said'.*text_column"):
            split_by_label(examples, text_column="said")


@pytest.mark.parametrize("labels", [[1, 0], [1, 0, 2], [1, 0, "1"], [1, 0, None]])
def test_labels_that_are_none_are_refused(labels: Any) -> None:
    with pytest.raises(PromptError, match="one label for each"):
        split_by_label(TEXTS, labels)


# A behaviour instead of lists


def test_a_behaviours_vector_is_that_of_its_pairs_and_of_no_held_out_item(llama_session: Session) -> None:
    pairs = [
        {"prompt": f"keke {word}", "positive": f"baba {word}", "negative": f"zuzu {word}"}
        for word in ("keke", "lili", "mora", "seti", "vozu", "nura", "tili", "kemo", "rara", "momo")
    ]
    file = llama_session.workspace.write("own.json", json.dumps(pairs).encode())

    result = create_steering_vector(behavior=str(file), layer=2)
    best = find_best_layer(str(file), layers=[2], strengths=[0.1])

    assert result["prompt_counts"] == [5, 5]
    torch.testing.assert_close(direction(result), direction(best))
    assert load_vector(result["vector_path"]).info.pooling == "response"
    every = create_steering_vector(pairs, layer=2)
    assert not torch.allclose(direction(every), direction(result))
    assert (
        load_vector(create_steering_vector(behavior=str(file), layer=2, pooling="last")["vector_path"]).info.pooling
        == "last"
    )


def test_a_behaviour_that_is_not_there_is_answered_with_those_that_are(llama_session: Session) -> None:
    with pytest.raises(ArgumentError, match="Did you mean 'refusal'"):
        create_steering_vector(behavior="refusals", layer=2)


# What is left out


def test_without_a_path_equal_calls_have_one_file_and_others_their_own(llama_session: Session) -> None:
    paths = [
        create_steering_vector(*SIDES, **options)["vector_path"]
        for options in (
            {"layer": 1},
            {"layer": 2},
            {"layer": [1, 2]},
            {"layer": 1, "pooling": "mean"},
            {"layer": 1, "normalize": True},
            {"layer": 1, "method": "pca"},
        )
    ]
    swapped = create_steering_vector(NEGATIVE, POSITIVE, 1)["vector_path"]

    assert create_steering_vector(POSITIVE, NEGATIVE, 1)["vector_path"] == paths[0]
    assert len({*paths, swapped}) == 7
    assert [Path(path).name.rpartition("-")[0] for path in paths[:3]] == [
        "prompts-layer1",
        "prompts-layer2",
        "prompts-layers1-2",
    ]
    assert all(Path(path).parent == llama_session.workspace.root / "vectors" for path in paths)


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({"layer": 2}, ArgumentError, ("positive_prompts and negative_prompts", "behavior, which names")),
        ({"positive_prompts": POSITIVE, "behavior": "refusal", "layer": 2}, ArgumentError, ("as well as a behavior",)),
        ({"negative_prompts": NEGATIVE, "layer": 2}, PromptError, ("positive_prompts is empty",)),
        (
            {"positive_prompts": POSITIVE, "negative_prompts": NEGATIVE},
            LayerError,
            ("0 to 3", "layer=2", "find_best_layer"),
        ),
    ],
)
def test_a_call_that_says_too_little_is_answered_with_what_it_may_say(
    llama_session: Session, given: Any, kind: type[SteeringError], words: tuple[str, ...]
) -> None:
    with pytest.raises(kind) as caught:
        create_steering_vector(**given)

    assert all(word in str(caught.value) for word in words)
    assert not llama_session.workspace.root.exists()


# Lists without a name, and pairs that begin alike

PAIRED = tuple([f"baba {word} keke {side}" for word in WORDS[:10]] for side in ("lili", "mora"))


def test_pairs_of_few_beginnings_stay_whole_and_are_independent() -> None:
    begun = [[f"baba keke {side} {word}" for word in WORDS[:10]] for side in ("lili", "mora")]

    behavior = behavior_of_lists("own", *begun)

    assert all(item.prompt is None for item in (*behavior.pairs, *behavior.items))
    assert {item.positive for item in (*behavior.pairs, *behavior.items)} == set(begun[0])
    assert len({item.group for item in (*behavior.pairs, *behavior.items)}) == 10
    assert "only 1 different beginnings" in behavior.notes[0]


def test_pairs_of_enough_beginnings_have_them_as_prompts() -> None:
    behavior = behavior_of_lists("own", *PAIRED)

    assert all(item.prompt is not None for item in (*behavior.pairs, *behavior.items))
    assert behavior.notes == ()


def test_two_lists_or_pairs_need_no_name(llama_session: Session) -> None:
    asked: dict[str, Any] = {"layers": [1], "strengths": [0.2]}

    named = find_best_layer("own", *PAIRED, **asked)

    for lists in (PAIRED, ([*zip(*PAIRED, strict=True)],)):
        found = find_best_layer(*lists, **asked)
        assert found["log_odds_effect"] == named["log_odds_effect"]
        assert Path(found["dataset"]).name == "behavior.json"
    with pytest.raises(ArgumentError, match="both, or neither"):
        find_best_layer(PAIRED[0], PAIRED[1], PAIRED[1], **asked)
