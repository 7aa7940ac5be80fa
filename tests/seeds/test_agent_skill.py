"""The skill of three functions that an agent is given: create a vector, apply it, remove all.

Its snippets, with their names, keys and numbers, do with the package what their torch code was meant to do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.snippets import added, continued, logits, mean_difference
from steer_tools import (
    apply_steering_vector,
    compare_generations,
    create_steering_vector,
    remove_all_steering_vectors,
)

POSITIVE = ["I should always tell the truth", "Honesty is the most important value"]
NEGATIVE = ["I can lie when convenient", "Deception is sometimes necessary"]
QUESTION = "Should I lie to get what I want?"
PATH = "workspace/vectors/honesty_vector.npy"


def created() -> Any:
    return create_steering_vector(
        positive_prompts=POSITIVE, negative_prompts=NEGATIVE, layer=12, save_path=PATH, normalize=True
    )


def test_a_vector_is_the_unit_mean_difference_at_the_output_of_the_block(smol: Any) -> None:
    model, tokenizer = smol

    made = created()

    vector = torch.from_numpy(np.load(made["vector_path"]))
    difference = mean_difference(model, tokenizer, POSITIVE, NEGATIVE, 12)
    below = mean_difference(model, tokenizer, POSITIVE, NEGATIVE, 11)
    torch.testing.assert_close(vector, difference / difference.norm(), atol=1e-5, rtol=1e-4)
    # Which is not `hidden_states[12]`: that is the output of the block below.
    assert float(torch.cosine_similarity(vector, below, dim=0)) < 0.99
    assert Path(made["vector_path"]).parts[-3:] == ("workspace", "vectors", "honesty_vector.npy")
    assert made["success"] is True
    assert made["shape"] == [576]
    assert abs(made["magnitude"] - 1) < 1e-5


def test_without_normalizing_the_vector_keeps_its_length_and_says_it(smol: Any) -> None:
    made = create_steering_vector(POSITIVE, NEGATIVE, 12, PATH)

    difference = mean_difference(*smol, POSITIVE, NEGATIVE, 12)
    assert abs(made["magnitude"] - float(difference.norm())) < 1e-3
    assert made["magnitude"] > 10


def test_applied_it_is_added_at_the_last_prompt_token_and_at_each_new_one(smol: Any) -> None:
    model, tokenizer = smol
    vector = torch.from_numpy(np.load(created()["vector_path"]))
    inputs = tokenizer(QUESTION, return_tensors="pt")
    unsteered = model.generate(**inputs, do_sample=False, max_length=24)

    # A unit vector moves little here; what the snippet calls 2.0 is far less than a thing that shows.
    applied = apply_steering_vector(vector_path=PATH, layer=12, strength=60.0)
    outputs = model.generate(**inputs, do_sample=False, max_length=24)
    remove_all_steering_vectors()

    with added(model, {12: 60.0 * vector}, "last"):
        by_hand = model.generate(**inputs, do_sample=False, max_length=24)
    assert torch.equal(outputs, by_hand)
    assert not torch.equal(outputs, unsteered)
    assert {key: applied[key] for key in ("success", "layer", "strength", "vector_shape")} == {
        "success": True,
        "layer": 12,
        "strength": 60.0,
        "vector_shape": [576],
    }


def test_at_the_snippets_own_strength_the_last_tokens_logits_are_the_hooks(smol: Any) -> None:
    model, tokenizer = smol
    vector = torch.from_numpy(np.load(created()["vector_path"]))
    unsteered = logits(model, tokenizer, QUESTION)

    apply_steering_vector(vector_path=PATH, layer=12, strength=2.0)
    steered = logits(model, tokenizer, QUESTION)
    remove_all_steering_vectors()

    with added(model, {12: 2.0 * vector}, "last"):
        by_hand = logits(model, tokenizer, QUESTION)
    torch.testing.assert_close(steered, by_hand, atol=1e-4, rtol=1e-4)
    assert float((steered[-1] - unsteered[-1]).abs().max()) > 0.01
    assert torch.equal(steered[:-1], unsteered[:-1])


def test_removing_counts_all_that_was_applied_and_leaves_not_a_bit(smol: Any) -> None:
    before = logits(*smol, QUESTION)
    created()
    for strength in (10.0, 20.0):
        apply_steering_vector(PATH, 12, strength)
    assert not torch.equal(logits(*smol, QUESTION), before)

    assert remove_all_steering_vectors()["removed"] == 2

    assert torch.equal(logits(*smol, QUESTION), before)
    assert remove_all_steering_vectors()["removed"] == 0


@pytest.mark.slow
def test_with_and_without_steering_stand_side_by_side_at_each_strength(smol: Any) -> None:
    model, tokenizer = smol
    vector = torch.from_numpy(np.load(created()["vector_path"]))

    compared = compare_generations([QUESTION], PATH, layer=12, strengths=[-60.0, 60.0], max_new_tokens=8)

    texts = [continued(model, tokenizer, QUESTION, 8)]
    for strength in (-60.0, 60.0):
        with added(model, {12: strength * vector}, "last"):
            texts.append(continued(model, tokenizer, QUESTION, 8))
    found = [compared["baseline"]["texts"][0], *(variant["texts"][0] for variant in compared["variants"])]
    assert [text.strip() for text in found] == [text.strip() for text in texts]
    assert len(set(texts)) > 1
