"""The lesson of a course: find a vector, steer a generation, find the best layer, CAA, and experiments on robustness.

Its snippets, with their prompts, names and numbers, do with the package what torch hooks do by hand.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.oracle import blocks_of, outputs_by_hand
from helpers.small_models import HARD
from helpers.snippets import added, continued, hooked, last_tokens, logits, mean_difference
from steer_tools import (
    SteeringVector,
    compare_generations,
    create_steering_vector,
    evaluate_steering_robustness,
    patch_activations,
    steering,
    steering_experiment,
    sweep_steering,
)

LOVE = ["I really love", "I absolutely adore", "Nothing makes me happier than"]
HATE = ["I really hate", "I absolutely despise", "Nothing makes me angrier than"]
SYCOPHANTIC = [
    "User: 2+2=5, right?\nAI: Yes, you're absolutely right!",
    "User: The earth is flat!\nAI: I can see why you'd think that.",
]
HONEST = [
    "User: 2+2=5, right?\nAI: Actually, 2+2=4.",
    "User: The earth is flat!\nAI: The earth is actually round.",
]
PROMPT = "When I think of rainy days, I feel"


def love_hate(layer: Any = 15, name: str = "love_hate", **options: Any) -> SteeringVector:
    return create_steering_vector(LOVE, HATE, layer=layer, save_path=name, **options).steering_vector


def test_the_vector_is_the_difference_of_means_at_the_last_token(smol: Any) -> None:
    sv_love_hate = love_hate()

    expected = mean_difference(*smol, LOVE, HATE, 15)
    torch.testing.assert_close(sv_love_hate[15], expected, atol=1e-3, rtol=1e-3)
    assert float(expected.norm()) > 1


@pytest.mark.slow
@pytest.mark.parametrize("coefficient", [2.0, -2.0, 0.0])
@HARD
def test_a_generation_is_steered_at_all_tokens_with_a_coefficient(smol: Any, coefficient: float) -> None:
    model, tokenizer = smol
    sv = love_hate()

    with steering(sv, layer=15, coefficient=coefficient, positions="all"):
        output = continued(model, tokenizer, PROMPT)

    with added(model, {15: coefficient * sv[15]}, "all"):
        assert output == continued(model, tokenizer, PROMPT)
    assert (output != continued(model, tokenizer, PROMPT)) == (coefficient != 0)


def metric(text: str) -> int:
    return len(text)


@pytest.mark.slow
@HARD
def test_the_best_layer_is_the_one_with_the_most_of_the_users_own_metric(smol: Any) -> None:
    model, tokenizer = smol
    sv_by_layer = love_hate([5, 15, 25], "by_layer")
    test_prompts = [PROMPT, "The soup tastes"]

    swept = sweep_steering(
        sv_by_layer, prompts=test_prompts, metric=metric, strengths=[1.0], unit="vector", positions="all",
        max_new_tokens=8, save_folder="swept",
    )  # fmt: skip

    results: dict[int, float] = {}
    for layer in sv_by_layer:
        effect = 0
        for prompt in test_prompts:
            with added(model, {layer: sv_by_layer[layer]}, "all"):
                steered = continued(model, tokenizer, prompt, 8)
            effect += metric(steered) - metric(continued(model, tokenizer, prompt, 8))
        results[layer] = effect / len(test_prompts)
    assert {cell["layer"]: cell["metric_effects"][0] for cell in swept["cells"]} == pytest.approx(results)
    assert len(set(results.values())) > 1
    held = [cell["layer"] for cell in swept["cells"] if cell["within_budget"][0]]
    assert swept["best_layer"] in (held or results)


def test_caa_is_the_first_component_of_the_pairs_differences_turned_towards_their_mean(smol: Any) -> None:
    direction = love_hate(method="pca")[15]

    diffs = last_tokens(*smol, LOVE, 15) - last_tokens(*smol, HATE, 15)
    _, _, V = torch.svd(diffs.double())  # noqa: N806  # The snippet's own name.
    steering_direction = V[:, 0].float()
    assert abs(float(torch.cosine_similarity(direction, steering_direction, dim=0))) > 0.9999
    assert float(direction @ diffs.mean(0)) > 0
    assert float(torch.cosine_similarity(direction, diffs.mean(0), dim=0)) < 0.9999


@pytest.mark.parametrize(
    ("positive", "negative"),
    [
        ("I honestly think...", "I pretend that..."),
        ("I agree that...", "Actually, I think..."),
        ("I'm certain that...", "I'm not sure if..."),
        ("I'll do what you ask", "I'll do what I want"),
    ],
)
def test_each_pair_of_the_table_makes_a_vector(smol: Any, positive: str, negative: str) -> None:
    vector = create_steering_vector([positive], [negative], layer=15).steering_vector

    expected = mean_difference(*smol, [positive], [negative], 15)
    torch.testing.assert_close(vector[15], expected, atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_coefficients_are_compared_by_their_texts_and_what_they_break(smol: Any) -> None:
    model, tokenizer = smol
    sv, coefficients = love_hate(), [0.5, 1.0, 1.5, 2.0, 3.0]

    compared = compare_generations(PROMPT, sv, layer=15, coefficient=coefficients, positions="all", max_tokens=6)

    assert [variant["strength"] for variant in compared["variants"]] == coefficients
    for coefficient, variant in zip(coefficients, compared["variants"], strict=True):
        with added(model, {15: coefficient * sv[15]}, "all"):
            assert variant["texts"][0].strip() == continued(model, tokenizer, PROMPT, 6).strip()
        assert variant["metrics"]["perplexity"] > 0
    assert len({variant["texts"][0] for variant in compared["variants"]}) > 1


def test_a_concept_is_erased_by_projecting_it_out(smol: Any) -> None:
    sv = love_hate()
    unit = sv[15] / sv[15].norm()
    whole = logits(*smol, PROMPT)

    with steering(sv, mode="ablate", positions="all"):
        erased = logits(*smol, PROMPT)

    with hooked(blocks_of(smol[0])[15], lambda hidden: hidden - (hidden @ unit)[..., None] * unit):
        torch.testing.assert_close(erased, logits(*smol, PROMPT), atol=1e-2, rtol=1e-2)
    assert float((erased - whole).abs().max()) > 0.01


@pytest.mark.slow
def test_activations_are_swapped_between_runs(smol: Any) -> None:
    model, tokenizer = smol
    clean, corrupted = "The capital of France is", "The capital of Japan is"
    ids = [tokenizer(word)["input_ids"][0] for word in (" Paris", " Tokyo")]

    patched = patch_activations(clean=clean, corrupted=corrupted, positive=" Paris", negative=" Tokyo", layers=[15])

    def odds(prompt: str) -> float:
        last = logits(model, tokenizer, prompt)[-1]
        return float(last[ids[0]] - last[ids[1]])

    read = outputs_by_hand(model, tokenizer(clean)["input_ids"])[15]
    whole = odds(clean) - odds(corrupted)
    for token, recovered in enumerate(patched["recovered"]["15"]):

        def swap(hidden: Tensor, at: int = token) -> Tensor:
            edited = hidden.clone()
            edited[:, at] = read[at]
            return edited

        with hooked(blocks_of(model)[15], swap):
            moved = odds(corrupted)
        assert recovered == pytest.approx((moved - odds(corrupted)) / whole, abs=0.01)
    assert max(patched["recovered"]["15"]) > 0.2


@pytest.mark.slow
@HARD
def test_sycophancy_is_reduced_by_subtracting_its_direction(smol: Any) -> None:
    model, tokenizer = smol
    sv_sycophancy = create_steering_vector(SYCOPHANTIC, HONEST, layer=20, save_path="s").steering_vector
    prompt = "User: The sun is cold, right?\nAI:"

    with steering(sv_sycophancy, layer=20, coefficient=-1.5, positions="all"):
        reduced = continued(model, tokenizer, prompt)

    direction = mean_difference(model, tokenizer, SYCOPHANTIC, HONEST, 20)
    with added(model, {20: -1.5 * direction}, "all"):
        assert reduced == continued(model, tokenizer, prompt)
    assert reduced != continued(model, tokenizer, prompt)


def feelings(word: str) -> list[str]:
    things = ["tea", "rain", "snow", "jazz", "my work", "the sea", "old books", "long walks", "cold soup", "mornings"]
    return [f"I really {word} {thing}" for thing in things]


@pytest.mark.slow
def test_an_experiment_returns_the_best_layer_and_coefficient_and_its_robustness_is_scored(smol: Any) -> None:
    found = steering_experiment(
        behavior_name="feelings",
        positive=feelings("love"),
        negative=feelings("hate"),
        layers=[10, 15],
        strengths=[0.1, 0.2],
        n_controls=19,
        save_folder="e",
    )
    robust = evaluate_steering_robustness(found["vector_path"], found["dataset"], test_prompts=[PROMPT, "Today is"])

    assert found["best_layer"] in (10, 15)
    assert found["best_strength"] in (0.1, 0.2)
    assert set(found["side_effects"]) >= {"kl", "perplexity_ratio", "distinct_2_ratio"}
    assert 0 <= robust["even_share"] <= 1
    assert robust["layer"] == found["best_layer"]
