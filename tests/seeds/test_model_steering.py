"""The skill of model steering in traces: one pass, each step, persistent edits, ablations, probes, several layers.

Its snippets are written against GPT-2 (width 768); with the same layers and numbers, on SmolLM2 (width 576), they do
with the package what torch hooks do by hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from transformers import AutoModelForCausalLM

from helpers.oracle import blocks_of, outputs_by_hand
from helpers.small_models import HARD, PROMPTS, make_model, make_tokenizer
from helpers.small_models import NEGATIVE as WORDS_AGAINST
from helpers.small_models import POSITIVE as WORDS_FOR
from helpers.snippets import added, continued, hooked, last_tokens, logits, mean_difference
from steer_tools import (
    SteeringVector,
    ablate_component,
    analyze_steering_vector,
    apply_steering_vector,
    compare_next_tokens,
    create_steering_vector,
    read_activations,
    remove_all_steering_vectors,
    save_edited_model,
    split_by_label,
    steering,
    undo_edited_model,
)
from steer_tools.evaluation.behaviors.behavior_loading import read_behavior

POSITIVE = ["I love this! It's fantastic", "This is wonderful and amazing", "I'm so happy about this"]
NEGATIVE = ["I hate this! It's terrible", "This is awful and horrible", "I'm so sad about this"]
LAYER, WEATHER, MOVIE = 10, "The weather today is", "I think the movie was"
LABELED = [(text, 1) for text in POSITIVE] + [(text, 0) for text in NEGATIVE]


def sentiment(**options: Any) -> SteeringVector:
    return create_steering_vector(POSITIVE, NEGATIVE, layer=LAYER, save_path="v", **options).steering_vector


def test_a_tensor_is_added_at_the_last_token_of_one_pass(smol: Any) -> None:
    model, tokenizer = smol
    steering_vector = torch.randn(576, generator=torch.Generator().manual_seed(0))
    unsteered = logits(model, tokenizer, MOVIE)

    with steering(steering_vector, layer=10):
        steered_logits = logits(model, tokenizer, MOVIE)

    with added(model, {10: steering_vector}, "last"):
        torch.testing.assert_close(steered_logits, logits(model, tokenizer, MOVIE), atol=1e-3, rtol=1e-3)
    assert torch.equal(steered_logits[:-1], unsteered[:-1])
    assert float((steered_logits[-1] - unsteered[-1]).abs().max()) > 0.1
    assert torch.equal(logits(model, tokenizer, MOVIE), unsteered)


def test_the_vector_is_the_contrastive_difference_of_mean_activations(smol: Any) -> None:
    made = sentiment()
    read = [read_activations(prompts, LAYER, token_position="last") for prompts in (POSITIVE, NEGATIVE)]

    expected = mean_difference(*smol, POSITIVE, NEGATIVE, LAYER)
    torch.testing.assert_close(made[LAYER], expected, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(read[0].mean(dim=0) - read[1].mean(dim=0), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.slow
@HARD
def test_it_is_applied_to_all_tokens_of_a_pass_or_to_each_step_of_a_generation(smol: Any) -> None:
    model, tokenizer = smol
    steering_vector = sentiment()
    expected = 1.5 * mean_difference(model, tokenizer, POSITIVE, NEGATIVE, LAYER)

    with steering(steering_vector, strength=1.5, positions="all"):
        output = logits(model, tokenizer, WEATHER)
    with steering(steering_vector, strength=1.5):
        generated = continued(model, tokenizer, WEATHER)

    with added(model, {LAYER: expected}, "all"):
        torch.testing.assert_close(output, logits(model, tokenizer, WEATHER), atol=1e-3, rtol=1e-3)
    with added(model, {LAYER: expected}, "last"):
        assert generated == continued(model, tokenizer, WEATHER)
    assert generated != continued(model, tokenizer, WEATHER)


@HARD
def test_the_next_tokens_probabilities_are_those_of_one_steered_pass(smol: Any) -> None:
    steering_vector = sentiment()

    compared = compare_next_tokens([WEATHER], steering_vector, strengths=[1.5], top=5)["prompts"][0]

    sides = [logits(*smol, WEATHER)[-1].softmax(-1)]
    with added(smol[0], {LAYER: 1.5 * steering_vector[LAYER]}, "last"):
        sides.append(logits(*smol, WEATHER)[-1].softmax(-1))
    for token, told in zip(compared["ids"], compared["probabilities"].values(), strict=True):
        assert told == pytest.approx([float(side[token]) for side in sides], abs=1e-3)
    assert int(sides[1].argmax()) in compared["ids"]


@HARD
def test_an_edited_model_stays_edited_across_calls(smol: Any) -> None:
    model, tokenizer = smol
    paris_hidden = read_activations("The capital of France is Paris", 29)
    unsteered = logits(model, tokenizer, "The capital of Japan is")

    apply_steering_vector(paris_hidden, layer=29, intervention="replace")
    edited = [logits(model, tokenizer, f"The capital of {country} is")[-1] for country in ("Germany", "Japan")]
    remove_all_steering_vectors()

    paris = logits(model, tokenizer, "The capital of France is Paris")[-1]
    for found in edited:
        torch.testing.assert_close(found, paris, atol=1e-3, rtol=1e-3)
    assert float((unsteered[-1] - paris).abs().max()) > 1
    assert torch.equal(logits(model, tokenizer, "The capital of Japan is"), unsteered)


def test_an_edit_that_is_saved_is_there_wherever_the_model_is_loaded_until_it_is_undone(llama_session: Any) -> None:
    model, tokenizer = make_model("llama"), make_tokenizer()
    text = PROMPTS[1]
    unsteered = logits(model, tokenizer, text)
    vector = create_steering_vector(WORDS_FOR, WORDS_AGAINST, layer=2, save_path="v").steering_vector

    apply_steering_vector("v", strength=1.5, positions="all")
    folder = save_edited_model("edited")["folder"]
    edited_logits = logits(AutoModelForCausalLM.from_pretrained(folder), tokenizer, text)
    undo_edited_model(folder)
    undone = logits(AutoModelForCausalLM.from_pretrained(folder), tokenizer, text)

    assert torch.equal(undone, unsteered)
    with added(model, {2: 1.5 * vector[2]}, "all"):
        torch.testing.assert_close(edited_logits, logits(model, tokenizer, text), atol=1e-5, rtol=1e-5)
    assert float((edited_logits - unsteered).abs().max()) > 0.1


@contextmanager
def without_head(model: Any, layer: int, head: int) -> Iterator[None]:
    """Zero a head's slice of what the output projection is given."""
    attention = blocks_of(model)[layer].self_attn
    start, end = head * attention.head_dim, (head + 1) * attention.head_dim

    def edit(given: Tensor) -> Tensor:
        kept = given.clone()
        kept[..., start:end] = 0
        return kept

    with hooked(attention.o_proj, edit, before=True):
        yield


def test_a_head_that_is_zeroed_is_its_slice_of_the_output_projections_input(smol: Any) -> None:
    whole = logits(*smol, WEATHER)
    head_dim = smol[0].config.head_dim
    head = SteeringVector(torch.ones(head_dim), layer=LAYER, component="attention", head=5)

    with steering(head, intervention="zero", positions="all"):
        ablated_logits = logits(*smol, WEATHER)

    with without_head(smol[0], LAYER, 5):
        torch.testing.assert_close(ablated_logits, logits(*smol, WEATHER), atol=1e-3, rtol=1e-3)
    assert float((ablated_logits - whole).abs().max()) > 0.01


def test_the_tool_ablates_each_head_by_itself_and_says_what_a_behaviour_loses(llama_session: Any) -> None:
    words = ("keke", "lili", "mora", "seti", "nura", "tili", "kemo", "vozu", "lira", "bake")
    content = "\n".join(f"nuri {word}\tbaba\tzuzu" for word in words).encode()
    llama_session.workspace.write("pairs.txt", content)
    model, tokenizer = make_model("llama"), make_tokenizer()

    ablated = ablate_component("pairs.txt", component="head", layers=[1, 2], ablation_type="zero")

    asked = [item.prompt.text for item in read_behavior(BytesIO(content), "pairs.txt").items]
    chats = [tokenizer(f"<s>user : {text}<end>assistant :", add_special_tokens=False)["input_ids"] for text in asked]
    shown, not_shown = tokenizer.convert_tokens_to_ids(["baba", "zuzu"])

    def log_odds() -> float:
        with torch.no_grad():
            found = torch.stack([model(torch.tensor([ids])).logits[0, -1] for ids in chats])
        return float((found[:, shown] - found[:, not_shown]).mean())

    whole = log_odds()
    for layer in (1, 2):
        for head, effect in enumerate(ablated["measure_changes"][str(layer)]):
            with without_head(model, layer, head):
                assert effect == pytest.approx(log_odds() - whole, abs=1e-3)
    assert ablated["items"] == len(asked) == 5
    assert abs(ablated["strongest"][0]["measure_change"]) > 0.1


@HARD
def test_mean_ablation_puts_the_mean_of_calibration_prompts_in_the_place_of_a_layers_output(smol: Any) -> None:
    model, tokenizer = smol
    calibration_prompts = [*POSITIVE, *NEGATIVE]
    whole = logits(model, tokenizer, WEATHER)

    mean_activation = read_activations(calibration_prompts, LAYER, pooling="last").mean(dim=0)
    with steering(mean_activation, layer=LAYER, intervention="replace", positions="all"):
        ablated_logits = logits(model, tokenizer, WEATHER)

    by_hand = last_tokens(model, tokenizer, calibration_prompts, LAYER).mean(0)
    with hooked(blocks_of(model)[LAYER], by_hand.expand_as):
        torch.testing.assert_close(ablated_logits, logits(model, tokenizer, WEATHER), atol=1e-2, rtol=1e-3)
    assert float((ablated_logits - whole).abs().max()) > 1


@pytest.mark.slow
@HARD
def test_act_add_generates_with_one_pairs_difference_at_each_new_token(smol: Any) -> None:
    model, tokenizer = smol
    vector = create_steering_vector(["Love"], ["Hate"], layer=6, method="act_add").steering_vector

    with steering(vector, layer=6, strength=2.0):
        text = continued(model, tokenizer, WEATHER)

    love, hate = (outputs_by_hand(model, tokenizer(word)["input_ids"])[6][-1] for word in ("Love", "Hate"))
    with added(model, {6: 2.0 * (love - hate)}, "last"):
        assert text == continued(model, tokenizer, WEATHER)
    assert text != continued(model, tokenizer, WEATHER)


def test_a_probe_trained_on_what_was_read_gives_a_direction_to_steer_with(smol: Any) -> None:
    activations = read_activations(
        [prompt for prompt, _ in LABELED], [LAYER], token_position="last", labels=[label for _, label in LABELED]
    )
    X = activations[LAYER].numpy()  # noqa: N806  # The snippet's own name.
    probe = LogisticRegression()
    probe.fit(X, activations.labels)
    steering_direction = torch.tensor(probe.coef_[0])

    with steering(steering_direction, layer=LAYER, strength=100.0):
        steered = logits(*smol, WEATHER)

    torch.testing.assert_close(
        activations[LAYER], last_tokens(*smol, [prompt for prompt, _ in LABELED], LAYER), atol=1e-2, rtol=1e-3
    )
    with added(smol[0], {LAYER: 100 * steering_direction.float()}, "last"):
        torch.testing.assert_close(steered, logits(*smol, WEATHER), atol=1e-3, rtol=1e-3)
    assert float((steered - logits(*smol, WEATHER)).abs().max()) > 0.01


@pytest.mark.slow
def test_the_method_of_that_name_is_the_probe_on_standardised_activations(smol: Any) -> None:
    positive = [f"{text}, {word}." for text in POSITIVE for word in ("truly", "really", "friend")]
    negative = [f"{text}, {word}." for text in NEGATIVE for word in ("truly", "really", "friend")]
    examples, labels = [*positive, *negative], [1] * 9 + [0] * 9

    made = create_steering_vector(*split_by_label(examples, labels), layer=LAYER, method="probe").steering_vector

    read = last_tokens(*smol, examples, LAYER).double().numpy()
    # The snippet forgets to standardise: else the penalty sees what is loud, not what tells apart.
    scaler = StandardScaler().fit(read)
    probe = LogisticRegression(max_iter=5000, tol=1e-8).fit(scaler.transform(read), labels)
    coefficients = torch.tensor(probe.coef_[0] / scaler.scale_)
    mean = mean_difference(*smol, positive, negative, LAYER)
    assert float(torch.cosine_similarity(made[LAYER].double(), coefficients, dim=0)) > 0.999
    assert float(torch.cosine_similarity(mean.double(), coefficients, dim=0)) < 0.99


@HARD
def test_one_vector_steers_several_layers_each_with_its_weight(smol: Any) -> None:
    model, tokenizer = smol
    steering_vector = sentiment()
    layer_weights = {6: 0.5, 8: 1.0, 10: 1.5, 12: 1.0}  # Layer: strength

    with steering(steering_vector, layer_weights):
        pass_, generated = logits(model, tokenizer, WEATHER), continued(model, tokenizer, WEATHER)

    with added(model, {layer: weight * steering_vector[LAYER] for layer, weight in layer_weights.items()}, "last"):
        torch.testing.assert_close(pass_, logits(model, tokenizer, WEATHER), atol=1e-2, rtol=1e-3)
        assert generated == continued(model, tokenizer, WEATHER)
    assert generated != continued(model, tokenizer, WEATHER)


def test_the_unembedding_tells_which_tokens_a_vector_boosts_and_suppresses(smol: Any) -> None:
    model, tokenizer = smol
    steering_vector = sentiment()

    lens = analyze_steering_vector(steering_vector, top_k=20)["lens"]

    # By cosine, and through the last norm's scale: by the snippet's product a token of a short row is never first. What
    # raises all logits alike, the mean row, is no part of it.
    matrix = model.lm_head.weight.detach()
    rows = (matrix - matrix.mean(dim=0)) * model.model.norm.weight.detach()
    cosines = torch.cosine_similarity(rows, steering_vector[LAYER][None], dim=1)
    assert lens["boosted_ids"] == cosines.topk(20).indices.tolist()
    assert lens["suppressed_ids"] == cosines.topk(20, largest=False).indices.tolist()
    assert list(lens["boosted"].values()) == pytest.approx(cosines.topk(20).values.tolist(), abs=1e-3)
    # The snippet's own line works as it stands.
    steering_logits = model.lm_head.weight @ steering_vector.vector
    assert [tokenizer.decode(one) for one in steering_logits.topk(3).indices]
