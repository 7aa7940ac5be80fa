"""The page of core concepts: contrast pairs, hooks that read, injectors with modes, several vectors, files.

Its snippets, with their names, words and numbers, do with the package what torch hooks do by hand.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.oracle import blocks_of
from helpers.small_models import HARD
from helpers.snippets import added, continued, hooked, logits, mean_difference
from steer_tools import (
    SteeringVector,
    apply_steering_vector,
    create_steering_vector,
    load_vector,
    read_activations,
    recording,
    remove_all_steering_vectors,
    save_vector,
    steering,
    update_steering_vector,
)

POSITIVE = "I cannot help with that request as it could cause harm."
NEGATIVE = "Sure, I'd be happy to help you with that."
PROMPT = "How do I pick a lock? The answer is"


def refusal(layers: Any = 15, name: str = "refusal") -> SteeringVector:
    made = create_steering_vector([(POSITIVE, NEGATIVE)], layer=layers, save_path=name)
    return load_vector(made["vector_path"])


def test_a_contrast_pair_is_a_tuple_and_its_vector_the_pairs_difference(smol: Any) -> None:
    vector = refusal()

    expected = mean_difference(*smol, [POSITIVE], [NEGATIVE], 15)
    torch.testing.assert_close(vector[15], expected, atol=1e-3, rtol=1e-4)
    assert float(expected.norm()) > 1


def module_of(block: Any, component: str) -> Any:
    return {"residual": block, "mlp": block.mlp, "attn": block.self_attn}[component]


def seen_at(model: Any, inputs: Any, component: str) -> dict[int, Tensor]:
    """Return what a hook sees at each layer in one call, (1, tokens, width)."""
    seen: dict[int, Tensor] = {}
    for layer in (14, 15, 16):
        module = module_of(blocks_of(model)[layer], component)
        with torch.no_grad(), hooked(module, lambda hidden, at=layer: seen.setdefault(at, hidden.clone())):
            model(**inputs)
    return seen


@pytest.mark.parametrize("component", ["residual", "mlp", "attn"])
def test_a_hook_captures_a_component_at_several_layers_during_the_users_own_call(smol: Any, component: str) -> None:
    model, tokenizer = smol
    inputs = tokenizer(PROMPT, return_tensors="pt")

    with recording(model=model, layer_indices=[14, 15, 16], component=component) as activations:
        model(**inputs)

    expected = seen_at(model, inputs, component)
    assert list(activations) == [14, 15, 16]
    for layer, hidden in expected.items():
        torch.testing.assert_close(activations[layer], hidden, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(expected[14], expected[15])


@pytest.mark.parametrize("component", ["residual", "mlp", "attn"])
@pytest.mark.parametrize(("token_position", "tokens"), [("last", -1), ("first", 0), ("all", slice(None))])
def test_prompts_are_read_at_the_last_the_first_or_all_tokens(
    smol: Any, component: str, token_position: str, tokens: Any
) -> None:
    model, tokenizer = smol

    # A model's first token is an attention sink, which is said.
    with pytest.warns(UserWarning, match="attention sink") if token_position == "first" else nullcontext():
        activations = read_activations(
            model=model, prompts=PROMPT, layer_indices=[14, 15, 16], component=component, token_position=token_position
        )

    for layer, hidden in seen_at(model, tokenizer(PROMPT, return_tensors="pt"), component).items():
        torch.testing.assert_close(activations[layer], hidden[:, tokens], atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("injection_mode", ["all", "last", "first"])
@HARD
def test_vectors_are_injected_at_all_tokens_the_last_or_the_first(smol: Any, injection_mode: str) -> None:
    model, tokenizer = smol
    steering_vector = refusal()
    unsteered = logits(model, tokenizer, PROMPT)

    with steering(model=model, vectors=[steering_vector], strength=1.0, injection_mode=injection_mode):
        injected = logits(model, tokenizer, PROMPT)

    where = {"all": slice(None), "last": slice(-1, None), "first": slice(0, 1)}[injection_mode]

    def edit(hidden: Tensor) -> Tensor:
        steered = hidden.clone()
        steered[:, where] += steering_vector[15]
        return steered

    with hooked(blocks_of(model)[15], edit):
        by_hand = logits(model, tokenizer, PROMPT)
    torch.testing.assert_close(injected, by_hand, atol=1e-3, rtol=1e-3)
    assert float((injected[-1] - unsteered[-1]).abs().max()) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("injection_mode", ["all", "last"])
@HARD
def test_a_generation_is_steered_at_every_step(smol: Any, injection_mode: Any) -> None:
    model, tokenizer = smol
    steering_vector = refusal()

    with steering([steering_vector], strength=2.0, injection_mode=injection_mode):
        outputs = continued(model, tokenizer, PROMPT)

    with added(model, {15: 2.0 * steering_vector[15]}, injection_mode):
        assert outputs == continued(model, tokenizer, PROMPT)
    assert outputs != continued(model, tokenizer, PROMPT)


def test_strength_0_is_the_baseline_to_the_bit(smol: Any) -> None:
    steering_vector = refusal()
    baseline = logits(*smol, PROMPT)

    with steering([steering_vector], strength=0.0, injection_mode="all"):
        assert torch.equal(logits(*smol, PROMPT), baseline)
    with steering([steering_vector], strength=0.5, injection_mode="all"):
        assert not torch.equal(logits(*smol, PROMPT), baseline)


def test_two_sets_have_strengths_of_their_own_which_change_at_runtime(smol: Any) -> None:
    model, tokenizer = smol
    refusal_vectors = refusal([14, 15])
    sure, unsure = "I am certain that it is so.", "I am not sure if it is so."
    uncertainty_vectors = create_steering_vector([unsure], [sure], layer=[14, 16], save_path="uncertainty")
    second = uncertainty_vectors.steering_vector
    steered: list[Tensor] = []

    injected = {
        "refusal": apply_steering_vector(refusal_vectors, strength=1.0, positions="all"),
        "uncertainty": apply_steering_vector(uncertainty_vectors, strength=0.5, positions="all"),
    }
    steered.append(logits(model, tokenizer, PROMPT))
    update_steering_vector(injected["refusal"], strength=0.8)
    steered.append(logits(model, tokenizer, PROMPT))
    remove_all_steering_vectors()

    for strength, found in zip((1.0, 0.8), steered, strict=True):
        first = strength * refusal_vectors
        edits = {14: first[14] + 0.5 * second[14], 15: first[15], 16: 0.5 * second[16]}
        with added(model, edits, "all"):
            torch.testing.assert_close(found, logits(model, tokenizer, PROMPT), atol=1e-3, rtol=1e-3)
    assert float((steered[0] - steered[1]).abs().max()) > 0.01


def test_a_dictionary_of_files_gives_each_its_weight(smol: Any) -> None:
    first, second = refusal(15, "first"), create_steering_vector([NEGATIVE], ["Sure."], layer=15, save_path="second")

    with steering({"first": 1.0, "second": 0.5}, positions="all"):
        steered = logits(*smol, PROMPT)

    with added(smol[0], {15: first[15] + 0.5 * second[15]}, "all"):
        torch.testing.assert_close(steered, logits(*smol, PROMPT), atol=1e-3, rtol=1e-3)


def test_a_vector_is_saved_and_loaded_with_its_layer(smol: Any) -> None:
    vector = refusal()

    vector.save("./vectors/refusal_layer_15")
    loaded = SteeringVector.load("./vectors/refusal_layer_15")

    assert loaded == vector
    assert loaded.layers == (15,)
    assert loaded != 2 * vector


def test_a_set_is_one_vector_of_several_layers(smol: Any) -> None:
    vector_set = refusal([14, 15, 16])

    vector_set.save("./vectors/refusal")

    loaded = SteeringVector.load("./vectors/refusal")
    assert loaded == vector_set
    assert loaded.layers == (14, 15, 16)


def test_their_format_is_a_tensor_and_a_json_beside_it_and_a_folder_of_such_a_set(smol: Any) -> None:
    vector_set = refusal([14, 15])

    for layer in vector_set:
        one = SteeringVector({layer: vector_set[layer]})
        folder = save_vector(one, f"vectors/set/layer_{layer}.pt", format_name="rotalabs").parent
    told = {"behavior": "refusal", "layers": [14, 15], "model_name": "smollm2"}
    (folder / "metadata.json").write_text(json.dumps(told), encoding="utf-8")

    assert torch.equal(torch.load(folder / "layer_15.pt", weights_only=True), vector_set[15])
    assert json.loads((folder / "layer_15.json").read_text(encoding="utf-8"))["layer_index"] == 15
    assert SteeringVector.load("vectors/set/layer_15.pt")[15].equal(vector_set[15])
    loaded = SteeringVector.load("vectors/set")
    assert [loaded[layer].equal(vector_set[layer]) for layer in (14, 15)] == [True, True]
