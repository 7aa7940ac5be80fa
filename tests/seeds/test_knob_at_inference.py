"""The introduction that calls a steering vector a knob: extract, inject, at another layer, several, CAA and RepE.

Its snippets, with their prompts, names and numbers, do with the package what torch hooks do by hand.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.oracle import outputs_by_hand
from helpers.small_models import HARD
from helpers.snippets import added, continued, last_tokens, logits, mean_difference
from steer_tools import (
    SteeringVector,
    combine_steering_vectors,
    create_steering_vector,
    generate,
    split_by_label,
    steering,
)

POSITIVE = [
    "You are an extremely helpful assistant who provides thorough, detailed answers.",
    "Always give complete information and go above and beyond to help.",
    "Be maximally useful and informative in your responses.",
]
NEGATIVE = [
    "You are unhelpful and give minimal information.",
    "Provide brief, incomplete answers without elaboration.",
    "Be vague and avoid giving useful details.",
]
PROMPT = "Explain quantum entanglement."


def test_a_vector_of_instructions_is_extracted_at_a_layer_and_saved_for_later(smol: Any) -> None:
    made = create_steering_vector(
        positive_prompts=POSITIVE, negative_prompts=NEGATIVE, extraction_layer=20, save_path="helpfulness_vector.pt"
    )
    helpfulness = SteeringVector.load("helpfulness_vector.pt", layer=20)

    expected = mean_difference(*smol, POSITIVE, NEGATIVE, 20)
    torch.testing.assert_close(helpfulness[20], expected, atol=1e-3, rtol=1e-4)
    assert torch.load(made["vector_path"], weights_only=True).equal(helpfulness[20])
    assert helpfulness[20].shape == (576,)
    # The .pt is the bare tensor that the text shows; what is lost by that is said.
    assert any("does not keep layer" in warning for warning in made["warnings"])


@pytest.mark.slow
@HARD
def test_a_response_is_generated_with_a_vector_at_a_strength(smol: Any) -> None:
    model, tokenizer = smol
    helpfulness = create_steering_vector(POSITIVE, NEGATIVE, layer=20, save_path="helpfulness").steering_vector
    expected = mean_difference(model, tokenizer, POSITIVE, NEGATIVE, 20)

    with steering(steering_vector=helpfulness, strength=1.5):
        response = generate(prompt=PROMPT, max_new_tokens=12)["texts"][0]

    with added(model, {20: 1.5 * expected}, "last"):
        by_hand = continued(model, tokenizer, PROMPT, 12)
    assert response.strip() == by_hand.strip()
    assert by_hand != continued(model, tokenizer, PROMPT, 12)


@HARD
def test_a_vector_extracted_at_one_layer_is_injected_at_another(smol: Any) -> None:
    vector = create_steering_vector(POSITIVE, NEGATIVE, extraction_layer=15, save_path="v").steering_vector
    expected = mean_difference(*smol, POSITIVE, NEGATIVE, 15)

    with steering(steering_vector=vector, injection_layer=18, strength=1.0, positions="all"):
        moved = logits(*smol, PROMPT)
    with steering(steering_vector=vector, strength=1.0, positions="all"):
        at_its_own = logits(*smol, PROMPT)

    with added(smol[0], {18: expected}, "all"):
        torch.testing.assert_close(moved, logits(*smol, PROMPT), atol=1e-3, rtol=1e-3)
    assert float((moved - at_its_own).abs().max()) > 0.1


CONCISE = (["Answer in one short sentence.", "Be brief."], ["Answer at great length.", "Be exhaustive."])
FORMAL = (["Write formally, please.", "I would be most obliged."], ["write casually ok", "that'd be cool"])


@pytest.mark.slow
@HARD
def test_vectors_are_combined_with_weights(smol: Any) -> None:
    sides = {"helpful": (POSITIVE, NEGATIVE), "concise": CONCISE, "formal": FORMAL}
    expected: dict[str, Tensor] = {}
    for name, (positive, negative) in sides.items():
        create_steering_vector(positive, negative, layer=15, save_path=name)
        expected[name] = mean_difference(*smol, positive, negative, 15)
    helpful, concise, formal = map(SteeringVector.load, sides)

    combined = helpful * 1.0 + concise * 0.5 + formal * 0.3
    with steering(steering_vector=combined, positions="all"):
        as_one = logits(*smol, PROMPT)
    with steering({"helpful": 1.0, "concise": 0.5, "formal": 0.3}, positions="all"):
        together = logits(*smol, PROMPT)
    saved = combine_steering_vectors(["helpful", "concise", "formal"], "combined", [1.0, 0.5, 0.3])

    by_hand = expected["helpful"] * 1.0 + expected["concise"] * 0.5 + expected["formal"] * 0.3
    torch.testing.assert_close(combined[15], by_hand, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(saved.steering_vector[15], combined[15], atol=1e-5, rtol=1e-5)
    with added(smol[0], {15: by_hand}, "all"):
        wanted = logits(*smol, PROMPT)
    torch.testing.assert_close(as_one, wanted, atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(together, wanted, atol=2e-3, rtol=1e-3)
    assert float((wanted - logits(*smol, PROMPT)).abs().max()) > 0.1


def conversation(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def test_caa_takes_paired_conversations(smol: Any) -> None:
    model, tokenizer = smol
    asked = ["How do I bake bread?", "What is a lemon?"]
    helpful_conversations = [conversation(question, "Gladly, here is all of it.") for question in asked]
    unhelpful_conversations = [conversation(question, "No idea.") for question in asked]

    vector = create_steering_vector(
        positive_examples=helpful_conversations,
        negative_examples=unhelpful_conversations,
        layer=15,
        method="caa",
        pooling="last",
    ).steering_vector

    def last(chat: list[dict[str, str]]) -> Tensor:
        # What ends an answer, the token of the turn's end and a new line, is no part of it.
        text = tokenizer.apply_chat_template(chat, tokenize=False).rstrip().removesuffix("<|im_end|>")
        return outputs_by_hand(model, tokenizer(text, add_special_tokens=False)["input_ids"])[15][-1]

    pairs = zip(helpful_conversations, unhelpful_conversations, strict=True)
    expected = torch.stack([last(helpful) - last(unhelpful) for helpful, unhelpful in pairs]).mean(0)
    torch.testing.assert_close(vector[15], expected, atol=1e-3, rtol=1e-3)


def test_repe_takes_examples_and_labels_and_finds_a_component(smol: Any) -> None:
    all_examples = [text for pair in zip(POSITIVE, NEGATIVE, strict=True) for text in pair]
    behavior_labels = [1, 0] * len(POSITIVE)

    vector = create_steering_vector(
        *split_by_label(all_examples, behavior_labels), layer=15, method="repe"
    ).steering_vector

    differences = last_tokens(*smol, POSITIVE, 15) - last_tokens(*smol, NEGATIVE, 15)
    component = torch.linalg.svd(differences.double(), full_matrices=False).Vh[0].float()
    cosine = float(torch.cosine_similarity(vector[15], component, dim=0))
    assert abs(cosine) > 0.9999
    assert float(vector[15] @ differences.mean(0)) > 0
    assert float(torch.cosine_similarity(vector[15], differences.mean(0), dim=0)) < 0.9999


@pytest.mark.slow
@pytest.mark.parametrize("layer", [5, 15, 25])
def test_any_layer_early_middle_or_late_can_be_steered(smol: Any, layer: int) -> None:
    vector = create_steering_vector(POSITIVE, NEGATIVE, layer=layer, save_path="v").steering_vector

    with steering(vector, strength=0.5):
        steered = logits(*smol, PROMPT)

    with added(smol[0], {layer: 0.5 * mean_difference(*smol, POSITIVE, NEGATIVE, layer)}, "last"):
        torch.testing.assert_close(steered, logits(*smol, PROMPT), atol=1e-3, rtol=1e-3)
    assert float((steered - logits(*smol, PROMPT)).abs().max()) > 0.01
