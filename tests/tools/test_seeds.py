"""What each snippet that this package grew from was meant to do, done with its tools and held to plain torch hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from transformers import AutoModelForCausalLM

from helpers.oracle import SCOPES, blocks_of, greedy_by_hand, logits_by_hand, outputs_by_hand
from helpers.small_models import LAYERS, NEGATIVE, POSITIVE, PROMPTS, WIDTH, make_model, make_tokenizer
from steer_tools import (
    ablate_component,
    apply_steering_vector,
    combine_steering_vectors,
    compare_next_tokens,
    create_steering_vector,
    generate,
    load_vector,
    remove_all_steering_vectors,
    save_edited_model,
    undo_edited_model,
)
from steer_tools.evaluation.behaviors.behavior_loading import read_behavior
from steer_tools.inspection.ablation import ablation_plans, components_of
from steer_tools.prompts import TokenPrompt
from steer_tools.session.session import Session

LAYER, STRENGTH, STEPS = 2, 1.5, 6
TEXT = PROMPTS[1]
NEGATIVES = ["zuzu keke seti", "zuzu nura seti", "zuzu mora", "zuzu tili baba kemo"]
Edit = Callable[[Tensor], Tensor]


def ids_of(text: str) -> list[int]:
    return make_tokenizer()(text)["input_ids"]


def words_of(tokens: list[int]) -> str:
    return make_tokenizer().decode(tokens, skip_special_tokens=True)


def made(layer: int = LAYER, name: str = "v", **options: Any) -> tuple[str, Tensor]:
    """Create a vector; return its path and its direction."""
    path = create_steering_vector(POSITIVE, options.pop("negative", NEGATIVE), layer, name, **options)["vector_path"]
    return path, load_vector(path).directions[layer]


def logits_of(session: Session) -> Tensor:
    """The logits of an ordinary call of the model that is steered, which is what a user sees."""
    with torch.no_grad():
        return session.engine._model(torch.tensor([ids_of(TEXT)]), use_cache=False).logits[0]


@contextmanager
def hooked(module: Any, edit: Edit, *, before: bool = False) -> Iterator[None]:
    """Edit by hand what goes into a module, or what comes out of it."""
    if before:
        handle = module.register_forward_pre_hook(lambda _, given: (edit(given[0]), *given[1:]))
    else:
        handle = module.register_forward_hook(
            lambda _, __, out: (edit(out[0]), *out[1:]) if isinstance(out, tuple) else edit(out)
        )
    try:
        yield
    finally:
        handle.remove()


# Single-pass steering: `output[0][:, -1, :] += steering_vector` in one forward pass


def test_one_pass_is_steered_at_the_last_token_only(llama_session: Session) -> None:
    path, direction = made()
    model, ids = make_model("llama"), ids_of(TEXT)

    apply_steering_vector(path, LAYER, STRENGTH, positions="last_prompt")
    steered = logits_of(llama_session)
    remove_all_steering_vectors()

    edits = {LAYER: STRENGTH * direction}
    expected = logits_by_hand(model, ids, len(ids), edits, SCOPES["last_prompt"])
    unsteered = logits_by_hand(model, ids, len(ids), {}, SCOPES["last_prompt"])
    torch.testing.assert_close(steered, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(steered[:-1], unsteered[:-1], atol=1e-5, rtol=1e-5)
    assert float((steered[-1] - unsteered[-1]).abs().max()) > 0.1
    assert torch.equal(logits_of(llama_session), logits_by_hand(model, ids, len(ids), {}, SCOPES["all"]))


def test_the_next_token_is_compared_without_touching_the_model(llama_session: Session) -> None:
    path, direction = made()
    model, ids = make_model("llama"), ids_of(TEXT)
    before = logits_of(llama_session)

    (compared,) = compare_next_tokens([TEXT], path, LAYER, [STRENGTH * 2])["prompts"]

    sides = [
        greedy_by_hand(model, ids, {LAYER: factor * direction}, SCOPES["generated"], 1) for factor in (0, STRENGTH * 2)
    ]
    likeliest = [max(compared["tokens"], key=lambda token: compared["tokens"][token][side]) for side in (0, 1)]
    assert likeliest == [make_tokenizer().convert_ids_to_tokens(tokens)[0] for tokens in sides]
    assert compared["kl"][0] > 0
    assert sides[0] != sides[1]
    assert torch.equal(logits_of(llama_session), before)


# Multi-layer steering: `layer_weights = {6: 0.5, 8: 1.0, 10: 1.5, 12: 1.0}`


def test_layers_are_steered_at_once_with_weights_of_their_own(llama_session: Session) -> None:
    layers, weights = [0, 1, 3], [0.5, 1.0, -1.5]
    path = create_steering_vector(POSITIVE, NEGATIVE, layers, "many")["vector_path"]
    directions = load_vector(path).directions
    model, ids = make_model("llama"), ids_of(TEXT)

    apply_steering_vector(path, layers, 0.8, layer_weights=weights, positions="all")
    weighted = logits_of(llama_session)
    remove_all_steering_vectors()
    apply_steering_vector(path, layers, 0.8, positions="all")
    even = logits_of(llama_session)

    edits = {layer: 0.8 * weight * directions[layer] for layer, weight in zip(layers, weights, strict=True)}
    expected = logits_by_hand(model, ids, len(ids), edits, SCOPES["all"])
    torch.testing.assert_close(weighted, expected, atol=1e-5, rtol=1e-5)
    assert float((weighted - even).abs().max()) > 0.1


# Linear probing for steering: `steering_direction = torch.tensor(probe.coef_[0])`


def test_a_probe_trained_on_activations_is_the_vector(llama_session: Session) -> None:
    positive = [f"baba {word} {other}" for word in ("keke", "lili", "mora", "seti") for other in ("nura", "tili")]
    negative = [text.replace("baba", "zuzu") for text in positive]
    model = make_model("llama")

    path = create_steering_vector(positive, negative, LAYER, "probe", method="logistic")["vector_path"]

    read = torch.stack([outputs_by_hand(model, ids_of(text))[LAYER][-1] for text in [*positive, *negative]])
    labels = [1] * len(positive) + [0] * len(negative)
    # On standardised activations, which the snippet forgot: else the penalty sees what is loud, not what tells apart.
    scaler = StandardScaler().fit(read.double().numpy())
    probe = LogisticRegression(max_iter=5000, tol=1e-8).fit(scaler.transform(read.double().numpy()), labels)
    coefficients = torch.tensor(probe.coef_[0] / scaler.scale_)
    direction = load_vector(path).directions[LAYER].double()
    mean = read[: len(positive)].mean(0) - read[len(positive) :].mean(0)
    assert float(torch.cosine_similarity(direction, coefficients, dim=0)) > 0.999
    assert float(torch.cosine_similarity(mean.double(), coefficients, dim=0)) < 0.99


# Activation addition: `with tracer.all(): output[0][:, -1, :] += strength * steering_vector`


def test_act_add_adds_one_pairs_difference_at_each_generated_token(llama_session: Session) -> None:
    pair = create_steering_vector(["baba keke lili"], ["zuzu keke lili"], LAYER, "pair", method="act_add")
    model, ids = make_model("llama"), ids_of(TEXT)
    love, hate = (outputs_by_hand(model, ids_of(f"{word} keke lili"))[LAYER][-1] for word in ("baba", "zuzu"))

    apply_steering_vector(pair["vector_path"], LAYER, STRENGTH)
    text = generate([TEXT], STEPS)["texts"][0].strip()

    by_hand = greedy_by_hand(model, ids, {LAYER: STRENGTH * (love - hate)}, SCOPES["generated"], STEPS)
    first_only = greedy_by_hand(model, ids, {LAYER: STRENGTH * (love - hate)}, SCOPES["last_prompt"], STEPS)
    assert text == words_of(by_hand)
    assert text != words_of(first_only)


# Ablation studies: one head set to zero at the input of the output projection; a block to its mean


@contextmanager
def head_zeroed(model: Any, layer: int, head: int) -> Iterator[None]:
    attention = blocks_of(model)[layer].self_attn
    width = attention.head_dim

    def without_head(given: Tensor) -> Tensor:
        kept = torch.ones(given.shape[-1])
        kept[head * width : (head + 1) * width] = 0
        return given * kept

    with hooked(attention.o_proj, without_head, before=True):
        yield


@pytest.mark.parametrize("head", [0, 3])
def test_a_head_that_is_zeroed_is_its_slice_of_the_output_projections_input(llama_session: Session, head: int) -> None:
    model, ids = make_model("llama"), ids_of(TEXT)

    part = components_of(llama_session.engine, "head", [LAYER])[head]
    ((plan,),) = ablation_plans(llama_session.engine, [part], "zero", [])
    whole = logits_of(llama_session)
    llama_session.engine.set_ambient(plan)
    ablated = logits_of(llama_session)

    with torch.no_grad(), head_zeroed(model, LAYER, head):
        expected = model(torch.tensor([ids]), use_cache=False).logits[0]
    torch.testing.assert_close(ablated, expected, atol=1e-5, rtol=1e-5)
    assert float((ablated - whole).abs().max()) > 1e-2


def test_mean_ablation_puts_the_calibration_prompts_mean_in_a_parts_place(llama_session: Session) -> None:
    model, ids = make_model("llama"), ids_of(TEXT)
    calibration = [ids_of(text) for text in POSITIVE]
    attention = blocks_of(model)[LAYER].self_attn
    seen: list[Tensor] = []
    handle = attention.register_forward_hook(lambda _, __, out: seen.append(out[0][0].detach()))
    with torch.no_grad():
        for own in calibration:
            model(torch.tensor([own]), use_cache=False)
    handle.remove()
    mean = torch.cat([own[1:] for own in seen]).mean(0)

    (part,) = components_of(llama_session.engine, "attention", [LAYER])
    ((plan,),) = ablation_plans(llama_session.engine, [part], "mean", [TokenPrompt(tuple(i)) for i in calibration])
    whole = logits_of(llama_session)
    llama_session.engine.set_ambient(plan)
    ablated = logits_of(llama_session)

    with torch.no_grad(), hooked(attention, mean.expand_as):
        expected = model(torch.tensor([ids]), use_cache=False).logits[0]
    torch.testing.assert_close(ablated, expected, atol=1e-5, rtol=1e-5)
    assert float((ablated - whole).abs().max()) > 1e-2


def test_the_tool_says_of_every_head_what_a_behaviour_loses(llama_session: Session) -> None:
    words = ("keke", "lili", "mora", "seti", "nura", "tili", "kemo", "vozu", "lira", "bake")
    content = "\n".join(f"nuri {word}\tbaba\tzuzu" for word in words).encode()
    path = llama_session.workspace.write("pairs.txt", content)
    model, tokenizer = make_model("llama"), make_tokenizer()

    found = ablate_component(str(path), "head", method="zero")

    asked = [item.prompt.text for item in read_behavior(BytesIO(content), "pairs.txt").items]
    chats = [f"<s>user : {text}<end>assistant :" for text in asked]
    prompts = [tokenizer(chat, add_special_tokens=False)["input_ids"] for chat in chats]
    shown, not_shown = tokenizer.convert_tokens_to_ids(["baba", "zuzu"])

    def mean_log_odds() -> float:
        with torch.no_grad():
            logits = torch.stack([model(torch.tensor([ids])).logits[0, -1] for ids in prompts])
        return float((logits[:, shown] - logits[:, not_shown]).mean())

    whole = mean_log_odds()
    expected: dict[str, list[float]] = {str(layer): [] for layer in range(LAYERS)}
    for layer in range(LAYERS):
        for head in range(4):
            with head_zeroed(model, layer, head):
                expected[str(layer)].append(mean_log_odds() - whole)
    assert found["items"] == len(asked) == 5
    assert found["effects"] == {layer: pytest.approx(changes, abs=1e-3) for layer, changes in expected.items()}
    first = found["strongest"][0]
    assert first["effect"] == pytest.approx(expected[str(first["layer"])][first["head"]], abs=1e-3)
    assert abs(first["effect"]) == pytest.approx(max(abs(own) for row in expected.values() for own in row), abs=1e-3)
    assert abs(first["effect"]) > 0.1


# Persistent model editing: `with model.edit() as edited_model`


def test_an_edited_model_stays_edited_wherever_it_is_loaded_until_it_is_undone(
    llama_session: Session, tmp_path: Path
) -> None:
    model, ids = make_model("llama"), torch.tensor([ids_of(TEXT)])
    path, direction = made()
    apply_steering_vector(path, LAYER, STRENGTH, positions="all")
    steered = logits_of(llama_session)

    saved = save_edited_model("edited")
    with torch.no_grad():
        reloaded = AutoModelForCausalLM.from_pretrained(saved["folder"])(ids).logits[0]
        undo_edited_model(saved["folder"])
        undone = AutoModelForCausalLM.from_pretrained(saved["folder"])(ids).logits[0]
        unsteered = model(ids).logits[0]

    by_hand = logits_by_hand(model, ids[0].tolist(), ids.shape[1], {LAYER: STRENGTH * direction}, SCOPES["all"])
    torch.testing.assert_close(reloaded, steered, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(reloaded, by_hand, atol=1e-5, rtol=1e-5)
    assert torch.equal(undone, unsteered)
    assert float((reloaded - unsteered).abs().max()) > 0.1


# Combining vectors: `combined = helpful * 1.0 + concise * 0.5`


def test_a_weighted_sum_is_what_both_vectors_do_together(llama_session: Session) -> None:
    first, helpful = made(name="helpful")
    second, concise = made(name="concise", negative=NEGATIVES)
    model, ids = make_model("llama"), ids_of(TEXT)

    combined = combine_steering_vectors([first, second], "combined", [1.0, -2.0])["vector_path"]
    apply_steering_vector(combined, LAYER, positions="all")
    as_one = logits_of(llama_session)
    remove_all_steering_vectors()
    apply_steering_vector(first, LAYER, 1.0, positions="all")
    one_alone = logits_of(llama_session)
    apply_steering_vector(second, LAYER, -2.0, positions="all")
    together = logits_of(llama_session)

    expected = logits_by_hand(model, ids, len(ids), {LAYER: helpful - 2.0 * concise}, SCOPES["all"])
    torch.testing.assert_close(as_one, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together, expected, atol=1e-5, rtol=1e-5)
    assert float((one_alone - together).abs().max()) > 0.1


# Extraction ≠ injection layer: `extraction_layer=15`, `injection_layer=18`


def test_a_vector_made_at_one_layer_is_applied_at_another_with_a_warning(llama_session: Session) -> None:
    path, direction = made(1)
    model, ids = make_model("llama"), ids_of(TEXT)

    moved = apply_steering_vector(path, 3, STRENGTH, positions="all")
    at_three = logits_of(llama_session)
    remove_all_steering_vectors()
    own = apply_steering_vector(path, 1, STRENGTH, positions="all")
    at_one = logits_of(llama_session)

    expected = logits_by_hand(model, ids, len(ids), {3: STRENGTH * direction}, SCOPES["all"])
    torch.testing.assert_close(at_three, expected, atol=1e-5, rtol=1e-5)
    assert float((at_three - at_one).abs().max()) > 0.1
    assert moved["layer"] == 3
    assert any("made at layer 1" in warning for warning in moved["warnings"])
    assert not any("made at" in warning for warning in own["warnings"])
    assert direction.shape == (WIDTH,)
