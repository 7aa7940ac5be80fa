"""Bad input: each kind is a typed error that says what is valid, and leaves files, registry and model as they were.

Beside each refusal stands its twin, nearly the same input that is accepted, so that no refusal is too wide.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from transformers import BertConfig, BertLMHeadModel, T5Config, T5ForConditionalGeneration

from helpers.small_models import LAYERS, NEGATIVE, POSITIVE, PROMPTS, WIDTH, make_model, make_tokenizer
from steer_tools import (
    SteeringVector,
    ablate_component,
    analyze_steering_vector,
    apply_steering_vector,
    attach_model,
    calibrate_strength,
    check_steering,
    compare_generations,
    compare_next_tokens,
    create_steering_vector,
    evaluate_steering_robustness,
    find_best_layer,
    generate,
    load_model,
    load_vector,
    patch_activations,
    project_activations,
    read_activations,
    recording,
    remove_all_steering_vectors,
    remove_steering_vector,
    save_activations,
    save_vector,
    show_tokens,
    steering,
    steering_experiment,
    steering_status,
    sweep_steering,
    update_steering_vector,
)
from steer_tools.core.positions import NAMED_POSITIONS, POOLINGS
from steer_tools.core.vectors import VectorInfo
from steer_tools.directions.methods import METHODS
from steer_tools.engines.base import Row, Sampling
from steer_tools.errors import (
    ArgumentError,
    DirectionError,
    ForeignVectorError,
    LayerError,
    NoModelError,
    PromptError,
    SteeringError,
    StrengthError,
    UnknownSteeringIdError,
    UnsupportedFeatureError,
    UnsupportedModelError,
    VectorFileError,
    WorkspacePathError,
)
from steer_tools.prompts import TextPrompt
from steer_tools.session.placement import UNITS
from steer_tools.session.session import Session
from steer_tools.workspace import Workspace

CONTEXT = 96
VOCABULARY = 128
CHAT = [{"role": "user", "content": "keke"}]


@dataclass(frozen=True)
class Steered:
    """A session whose model is steered already, so that a refusal which removes what was applied shows as well."""

    session: Session
    vector_path: str
    steering_id: str

    def put(self, name: str, content: bytes) -> str:
        """Write a file into the workspace and return its name."""
        path = self.session.workspace.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return name


@pytest.fixture
def steered(llama_session: Session) -> Steered:
    model = llama_session.engine.info
    info = VectorInfo(
        method="mean_difference",
        contrast_norms={2: 3.0},
        model_name=model.name,
        model_family=model.family,
        model_fingerprint=model.fingerprint,
        model_layers=model.layers,
    )
    direction = torch.randn(WIDTH, generator=torch.Generator().manual_seed(0))
    vector = SteeringVector.from_directions({2: direction}, info=info)
    path = str(save_vector(vector, "v", workspace=llama_session.workspace))
    applied = apply_steering_vector(path, strength=2.0, positions="all")
    return Steered(llama_session, path, applied["steering_id"])


def live_logits(session: Session) -> torch.Tensor:
    # `forward` passes by `model.compile()`, and the hooks are on the parts of the model.
    with torch.no_grad():
        return session.engine.architecture.model.forward(torch.tensor([[1, 9, 33, 57]])).logits


def files_of(workspace: Workspace) -> dict[str, bytes | None]:
    return {str(p): p.read_bytes() if p.is_file() else None for p in sorted(workspace.root.rglob("*"))}


def is_free(lock: Any) -> bool:
    """Return whether another thread could take `lock`."""
    answers: list[bool] = []

    def ask() -> None:
        answers.append(lock.acquire(blocking=False))
        if answers[0]:
            lock.release()

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return answers[0]


@contextmanager
def refused(session: Session, error: type[SteeringError], *texts: str) -> Iterator[None]:
    """Assert that the block raises exactly `error`, whose text has each of `texts`, and that nothing has changed."""
    files, entries, attached = files_of(session.workspace), session.registry.entries(), session.is_attached
    engine = session.engine if attached else None
    ambient, logits = (engine.ambient(), live_logits(session)) if engine else ((), None)

    with pytest.raises(SteeringError) as caught:
        yield

    assert caught.type is error, str(caught.value)
    assert [text for text in texts if text not in str(caught.value)] == [], str(caught.value)
    assert files_of(session.workspace) == files
    assert session.registry.entries() == entries
    assert session.is_attached == attached
    assert is_free(session.lock)
    if engine is not None:
        assert session.engine is engine
        assert engine.ambient() == ambient == session.registry.plan()
        assert engine.hooks_are_live()
        assert torch.equal(live_logits(session), logits)


def npy(array: np.ndarray, *, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


def npy_with_header(header: str, body: bytes = b"") -> bytes:
    padded = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + body


def npy_of_shape(shape: str, body: bytes = b"", descr: str = "'<f4'") -> bytes:
    return npy_with_header(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}", body)


def our_safetensors(tensors: dict[str, torch.Tensor], **header: Any) -> bytes:
    description = {"layers": [2], "info": {}, **header}
    return safetensors.torch.save(tensors, metadata={"steer_tools": json.dumps(description)})


def raw_safetensors(header: dict[str, Any], body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def test_what_is_held_to_stay_is_something_that_acts(steered: Steered) -> None:
    logits = live_logits(steered.session)

    remove_steering_vector(steered.steering_id)

    assert not torch.equal(live_logits(steered.session), logits)


# --- prompts


BAD_SIDES = [
    pytest.param([], "at least one prompt", id="empty"),
    pytest.param(None, "at least one prompt", id="missing"),
    pytest.param(np.array([["baba", "keke"]]), "a text, a list of", id="table_of_texts"),
    pytest.param({"a": "baba"}, "list with at least one prompt", id="mapping"),
    pytest.param([""], "is blank", id="blank"),
    pytest.param(["baba", " \n\t"], "[1] is blank", id="second_is_whitespace"),
    pytest.param([None], "a text, a list of {'role', 'content'} messages, or a list of token ids", id="none"),
    pytest.param([5], "a list of token ids", id="number"),
    pytest.param([b"baba"], "a list of token ids", id="bytes"),
    pytest.param([[]], "a list of token ids", id="no_tokens"),
    pytest.param([[4, -1]], "a list of token ids", id="negative_token"),
    pytest.param([[True]], "a list of token ids", id="bool_token"),
    pytest.param([[4, "baba"]], "a list of token ids", id="mixed"),
    pytest.param([[VOCABULARY]], f"0 to {VOCABULARY - 1}", id="token_beyond_vocabulary"),
    pytest.param([[{"role": "user"}]], "exactly the keys 'role' and 'content'", id="chat_without_content"),
    pytest.param([[{**CHAT[0], "name": "x"}]], "exactly the keys 'role' and 'content'", id="chat_with_another_key"),
    pytest.param([[{"role": "user", "content": 5}]], "both texts", id="chat_content_is_no_text"),
    pytest.param([[{"role": "user", "content": " "}]], "at least one message with text", id="blank_chat"),
]
GOOD_SIDES = [["baba"], ("baba", "keke"), np.array(["baba", "keke"]), [CHAT], [[VOCABULARY - 1]], [[4, 0]]]
GOOD_SIDES += [["baba", CHAT, [9, 10]]]


@pytest.mark.parametrize(("side", "text"), [case for case in BAD_SIDES if case.id != "missing"])
def test_create_refuses_a_side_that_holds_no_prompts(steered: Steered, side: Any, text: str) -> None:
    with refused(steered.session, PromptError, text):
        create_steering_vector(side, NEGATIVE, 2, "new")
    with refused(steered.session, PromptError, text):
        create_steering_vector(POSITIVE, side, 2, "new")


def test_create_reads_one_side_alone_as_pairs(steered: Steered) -> None:
    with refused(steered.session, PromptError, "two lists of prompts", "pairs"):
        create_steering_vector(POSITIVE, layer=2, save_path="new")
    with refused(steered.session, PromptError, "positive_prompts is empty"):
        create_steering_vector(negative_prompts=NEGATIVE, layer=2, save_path="new")


@pytest.mark.parametrize("side", GOOD_SIDES)
def test_create_takes_texts_chats_and_token_ids(steered: Steered, side: Any) -> None:
    result = create_steering_vector(side, NEGATIVE, 2, "new")

    assert Path(result["vector_path"]).is_file()


@pytest.mark.parametrize(("prompts", "text"), BAD_SIDES)
def test_generating_tools_refuse_what_is_no_list_of_prompts(steered: Steered, prompts: Any, text: str) -> None:
    for tool in (generate, compare_generations):
        with refused(steered.session, PromptError, text):
            tool(prompts, max_new_tokens=2)


@pytest.mark.parametrize(("prompts", "text"), [case for case in BAD_SIDES if case.id != "missing"])
def test_check_refuses_what_is_no_list_of_prompts(steered: Steered, prompts: Any, text: str) -> None:
    with refused(steered.session, PromptError, text):
        check_steering(prompts, max_new_tokens=2)


@pytest.mark.parametrize("prompts", GOOD_SIDES)
def test_generate_takes_texts_chats_and_token_ids(steered: Steered, prompts: Any) -> None:
    assert len(generate(prompts, max_new_tokens=2)["texts"]) == len(prompts)


@pytest.mark.parametrize("negative", [POSITIVE, POSITIVE[::-1], tuple(POSITIVE)])
def test_create_refuses_two_sides_of_the_same_prompts(steered: Steered, negative: Any) -> None:
    with refused(steered.session, PromptError, "the same", "two sets that differ"):
        create_steering_vector(POSITIVE, negative, 2, "new")


def test_create_takes_sides_that_differ_in_one_prompt(steered: Steered) -> None:
    result = create_steering_vector(POSITIVE, [*POSITIVE[:-1], "zuzu"], 2, "new")

    assert result["contrast_norm"] > 0


@pytest.mark.parametrize(
    ("positive", "negative", "pooling"),
    [
        pytest.param(POSITIVE, [f"{p} zuzu" for p in POSITIVE], "first", id="same_first_words"),
        pytest.param(["baba", "baba"], ["baba"], "last", id="one_side_repeats"),
        pytest.param(["baba keke"], ["baba  keke"], "last", id="texts_of_equal_tokens"),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_create_refuses_texts_whose_activations_are_equal(
    steered: Steered, positive: list[str], negative: list[str], pooling: Any, method: Any
) -> None:
    if METHODS[method].most == 1:
        positive, negative = positive[:1], [f"{negative[0]}  "]
    elif METHODS[method].is_paired:
        positive = [*positive[: len(negative)]] * 2
        negative = [*negative, *(f"{prompt}  " for prompt in negative)]
    else:
        positive, negative = positive * 4, negative * 4

    with refused(steered.session, DirectionError, "equal", "read other tokens"):
        create_steering_vector(positive, negative, 2, "new", method=method, pooling=pooling)


def test_create_takes_the_same_texts_where_the_tokens_that_are_read_differ(steered: Steered) -> None:
    result = create_steering_vector(POSITIVE, [f"{p} zuzu" for p in POSITIVE], 2, "new", pooling="last")

    assert result["contrast_norm"] > 0


def test_a_paired_method_refuses_lists_of_unequal_length(steered: Steered) -> None:
    with refused(steered.session, PromptError, "4 positive", "3 negative", "method='mean_difference'"):
        create_steering_vector(POSITIVE, NEGATIVE[:3], 2, "new", method="paired_mean_difference")


@pytest.mark.parametrize(("method", "count"), [("paired_mean_difference", 4), ("mean_difference", 3)])
def test_equal_lists_suit_every_method_and_unequal_ones_the_unpaired(steered: Steered, method: Any, count: int) -> None:
    assert create_steering_vector(POSITIVE, NEGATIVE[:count], 2, "new", method=method)["success"]


def test_pooling_response_refuses_prompts_without_an_answer(steered: Steered) -> None:
    with refused(steered.session, PromptError, "chats whose last message is the assistant's"):
        create_steering_vector(POSITIVE, NEGATIVE, 2, "new", pooling="response")


def test_pooling_response_takes_chats_with_an_answer(steered: Steered) -> None:
    positive, negative = ([[*CHAT, {"role": "assistant", "content": word}]] for word in ("baba", "zuzu"))

    assert create_steering_vector(positive, negative, 2, "new", pooling="response")["success"]


def test_a_chat_is_refused_by_a_tokenizer_without_a_template(empty_session: Session) -> None:
    attach_model(make_model("llama"), make_tokenizer(chat=False))

    with refused(empty_session, PromptError, "no chat template", "texts or token ids"):
        generate([CHAT], max_new_tokens=2)
    with refused(empty_session, PromptError, "no chat template"):
        create_steering_vector([CHAT], ["zuzu"], 2, "new")
    assert generate(["user : keke"], max_new_tokens=2)["texts"]


# --- the model's context


def create_from(prompt: list[int]) -> Any:
    return create_steering_vector([prompt], [[*prompt[:-1], prompt[-1] + 1]], 2, "new")


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize(
    ("tool", "new_tokens"),
    [
        pytest.param(create_from, 0, id="create"),
        pytest.param(lambda prompt: generate([prompt], max_new_tokens=3), 3, id="generate"),
        pytest.param(lambda prompt: compare_generations([prompt], "v", max_new_tokens=3), 3, id="compare"),
        pytest.param(lambda prompt: check_steering([prompt], max_new_tokens=3), 3, id="check"),
    ],
)
def test_a_prompt_is_refused_from_one_token_beyond_the_context(
    empty_session: Session, name: str, tool: Callable[[list[int]], Any], new_tokens: int
) -> None:
    attach_model(make_model(name), make_tokenizer())
    create_steering_vector(POSITIVE, NEGATIVE, 2, "v")
    apply_steering_vector("v")
    fits = [9] * (CONTEXT - new_tokens)

    with refused(empty_session, PromptError, f"{len(fits) + 1} tokens", f"at most {CONTEXT} tokens", "Shorten"):
        tool([*fits, 9])
    assert tool(fits)


def test_one_prompt_that_is_too_long_refuses_the_whole_call(steered: Steered) -> None:
    with refused(steered.session, PromptError, f"at most {CONTEXT} tokens"):
        create_steering_vector([*POSITIVE, "baba " * CONTEXT], NEGATIVE, 2, "new")


def test_a_model_without_a_context_limit_takes_a_longer_prompt(empty_session: Session) -> None:
    attach_model(make_model("bloom"), make_tokenizer())

    assert create_from([9] * (CONTEXT + 10))["success"]
    assert generate([[9] * (CONTEXT + 10)], max_new_tokens=2)["texts"]


# --- layers


BAD_LAYERS = [
    LAYERS,
    -LAYERS - 1,
    True,
    1.0,
    float("nan"),
    "2",
    "every",
    {},
    [],
    [0, LAYERS],
    [0, True],
    [0, 1.0],
    [[1]],
    [None],
]


@pytest.mark.parametrize("layer", [*BAD_LAYERS, None], ids=repr)
def test_create_refuses_a_layer_that_the_model_does_not_have(steered: Steered, layer: Any) -> None:
    with refused(steered.session, LayerError, "Valid: "):
        create_steering_vector(POSITIVE, NEGATIVE, layer, "new")


@pytest.mark.parametrize("layer", BAD_LAYERS, ids=repr)
def test_apply_and_compare_refuse_a_layer_that_the_model_does_not_have(steered: Steered, layer: Any) -> None:
    create_steering_vector(POSITIVE, NEGATIVE, "all", "every")

    for path in ("v", "every"):
        with refused(steered.session, LayerError, "Valid: "):
            apply_steering_vector(path, layer)
        with refused(steered.session, LayerError, "Valid: "):
            compare_generations(PROMPTS, path, layer, max_new_tokens=2)


def test_a_layer_error_names_the_layers_of_the_model(steered: Steered) -> None:
    with refused(steered.session, LayerError, "4 decoder blocks", "0 to 3", "-4 to -1"):
        create_steering_vector(POSITIVE, NEGATIVE, LAYERS, "new")


@pytest.mark.parametrize(
    ("layer", "expected"), [(0, 0), (3, 3), (-1, 3), (-4, 0), ([0, -1], [0, 3]), ("all", [0, 1, 2, 3]), ([2, -2], 2)]
)
def test_create_takes_each_layer_of_the_model(steered: Steered, layer: Any, expected: Any) -> None:
    assert create_steering_vector(POSITIVE, NEGATIVE, layer, "new")["layer"] == expected


@pytest.mark.parametrize("layer", [1, [1], [0, 1], -3])
def test_apply_refuses_a_layer_that_a_vector_of_several_layers_lacks(steered: Steered, layer: Any) -> None:
    create_steering_vector(POSITIVE, NEGATIVE, [0, 3], "two")

    with refused(steered.session, LayerError, "no direction for layer 1", "[0, 3]"):
        apply_steering_vector("two", layer)
    assert apply_steering_vector("two", 3)["layer"] == 3


@pytest.mark.parametrize("layer", ["all", [0, 1]])
def test_several_layers_do_not_go_into_an_npy_file(steered: Steered, layer: Any) -> None:
    with refused(steered.session, UnsupportedFeatureError, "one layer, or a path that ends in .safetensors"):
        create_steering_vector(POSITIVE, NEGATIVE, layer, "new.npy")


@pytest.mark.parametrize("layer", [1, [1], [2, -2]])
def test_one_layer_goes_into_an_npy_file(steered: Steered, layer: Any) -> None:
    assert create_steering_vector(POSITIVE, NEGATIVE, layer, "new.npy")["vector_path"].endswith("new.npy")


# --- strengths


BAD_STRENGTHS = [
    float("nan"),
    float("inf"),
    float("-inf"),
    10**400,
    1e39,
    "two",
    "2",
    None,
    True,
    1j,
    [1.0],
    np.float64("nan"),
]
BAD_STRENGTH_IDS = ["nan", "inf", "-inf", "10**400", "1e39", "two", "text", "none", "bool", "complex", "list", "np.nan"]


@pytest.mark.parametrize("strength", BAD_STRENGTHS, ids=BAD_STRENGTH_IDS)
def test_a_strength_that_is_no_finite_number_is_refused(steered: Steered, strength: Any) -> None:
    with refused(steered.session, StrengthError, "a finite number"):
        update_steering_vector(steered.steering_id, strength)
    with refused(steered.session, StrengthError, "a finite number"):
        compare_generations(PROMPTS, "v", strengths=[1.0, strength], max_new_tokens=2)
    if strength is None:  # Left out, where there may be a default.
        return
    with refused(steered.session, StrengthError, "a finite number"):
        apply_steering_vector("v", strength=strength)
    with refused(steered.session, StrengthError, "a finite number"), steering("v", strength=strength):
        raise AssertionError("The block was entered.")


@pytest.mark.parametrize("strength", [0, 0.0, -1, 2, 0.5, np.float64(1.5)])
def test_every_finite_strength_is_taken(steered: Steered, strength: Any) -> None:
    assert apply_steering_vector("v", strength=strength)["strength"] == strength
    assert update_steering_vector(steered.steering_id, strength)["strength"] == strength
    assert compare_generations(PROMPTS, "v", strengths=[strength], max_new_tokens=2)["variants"]


@pytest.mark.parametrize("strengths", [[], [[2.0]], "two", {}], ids=repr)
def test_compare_refuses_strengths_that_are_no_list_of_numbers(steered: Steered, strengths: Any) -> None:
    with refused(steered.session, StrengthError, "finite number"):
        compare_generations(PROMPTS, "v", strengths=strengths, max_new_tokens=2)


# --- names


@pytest.mark.parametrize("unit", ["norm", "", "vectors", 1, ["vector"]])
def test_an_unknown_unit_is_refused(steered: Steered, unit: Any) -> None:
    with refused(steered.session, ArgumentError, *map(repr, UNITS)):
        apply_steering_vector("v", unit=unit)
    with refused(steered.session, ArgumentError, *map(repr, UNITS)):
        compare_generations(PROMPTS, "v", unit=unit, max_new_tokens=2)


@pytest.mark.parametrize("unit", UNITS)
def test_every_known_unit_is_taken(steered: Steered, unit: Any) -> None:
    assert apply_steering_vector("v", unit=unit)["success"]


@pytest.mark.parametrize(
    "positions",
    [
        "middle",
        "",
        "1",
        "0:4:2",
        "a:b",
        "first;last",
        "prompt,",
        ",",
        2.5,
        ["all"],
        f"0:{10**20}",
        "0:" + "9" * 5000,
    ],
    ids=lambda positions: repr(positions)[:30],
)
def test_unknown_positions_are_refused(steered: Steered, positions: Any) -> None:
    with refused(steered.session, ArgumentError, "positions", *map(repr, NAMED_POSITIONS), "'0:4'"):
        apply_steering_vector("v", positions=positions)
    with refused(steered.session, ArgumentError, "positions"):
        compare_generations(PROMPTS, "v", positions=positions, max_new_tokens=2)


@pytest.mark.parametrize("positions", [*NAMED_POSITIONS, "last", "0:4", "-3:", ":", "first, -2:", "0:1000000", "30:31"])
def test_every_known_kind_of_positions_is_taken_and_can_be_generated_with(steered: Steered, positions: str) -> None:
    apply_steering_vector("v", positions=positions)

    assert generate([CHAT] if "after_user" in positions else PROMPTS, max_new_tokens=2)["active"] == 2


@pytest.mark.parametrize("prompt", ["keke", [5, 6], [{"role": "system", "content": "keke"}]])
def test_positions_after_the_user_are_refused_for_prompts_without_one(steered: Steered, prompt: Any) -> None:
    apply_steering_vector("v", positions="generated,after_user")

    for use in (partial(generate, max_new_tokens=2), check_steering, partial(show_tokens, positions="after_user")):
        with pytest.raises(PromptError, match=r"after_user.*one of them the user's"):
            use([CHAT, prompt])
    assert generate([CHAT], max_new_tokens=2)["active"] == 2


@pytest.mark.parametrize("pooling", ["max", "", "latest", True, ["last"]])
def test_an_unknown_pooling_is_refused(steered: Steered, pooling: Any) -> None:
    with refused(steered.session, ArgumentError, *map(repr, POOLINGS)):
        create_steering_vector(POSITIVE, NEGATIVE, 2, "new", pooling=pooling)


@pytest.mark.parametrize("pooling", ["last", "first", "mean"])
def test_every_pooling_of_texts_is_taken(steered: Steered, pooling: Any) -> None:
    assert create_steering_vector(POSITIVE, NEGATIVE, 2, "new", pooling=pooling)["success"]


@pytest.mark.parametrize("method", ["median", "", None, 0, ["mean_difference"]])
def test_an_unknown_method_is_refused(steered: Steered, method: Any) -> None:
    with refused(steered.session, ArgumentError, *map(repr, METHODS)):
        create_steering_vector(POSITIVE, NEGATIVE, 2, "new", method=method)


@pytest.mark.parametrize("intervention", ["abate", "", None, 0, ["add"]])
def test_an_unknown_intervention_is_refused(steered: Steered, intervention: Any) -> None:
    with refused(steered.session, ArgumentError, "'add'"):
        apply_steering_vector("v", intervention=intervention)


@pytest.mark.parametrize("steering_id", ["steer-99", "", None, 1, []])
def test_an_unknown_steering_id_is_refused_and_the_known_ones_are_named(steered: Steered, steering_id: Any) -> None:
    with refused(steered.session, UnknownSteeringIdError, repr(steered.steering_id), "steering_status"):
        update_steering_vector(steering_id, 1.0)
    with refused(steered.session, UnknownSteeringIdError, repr(steered.steering_id), "steering_status"):
        remove_steering_vector(steering_id)


def test_a_removed_steering_id_is_unknown(steered: Steered) -> None:
    remove_steering_vector(steered.steering_id)

    with refused(steered.session, UnknownSteeringIdError, "nothing is applied now"):
        remove_steering_vector(steered.steering_id)


# --- decoding


@pytest.mark.parametrize("count", [0, -1, 2.5, "3", True, None])
def test_a_number_of_new_tokens_that_is_no_whole_number_above_zero_is_refused(steered: Steered, count: Any) -> None:
    for tool in (generate, compare_generations, check_steering):
        with refused(steered.session, ArgumentError, "max_new_tokens >= 1"):
            tool(PROMPTS, max_new_tokens=count)


@pytest.mark.parametrize("temperature", [-0.1, float("nan"), float("inf"), "hot", None])
def test_a_temperature_that_is_negative_or_no_finite_number_is_refused(steered: Steered, temperature: Any) -> None:
    for tool in (generate, compare_generations):
        with refused(steered.session, ArgumentError, "temperature >= 0"):
            tool(PROMPTS, max_new_tokens=2, temperature=temperature)


@pytest.mark.parametrize("temperature", [0, 0.0, 1, 0.5])
def test_a_temperature_is_any_number_from_zero(steered: Steered, temperature: Any) -> None:
    assert len(generate(PROMPTS, max_new_tokens=2, temperature=temperature)["texts"]) == len(PROMPTS)


@pytest.mark.parametrize("penalty", [0, -1.1, float("nan"), float("inf"), "strong", True, None])
def test_a_repetition_penalty_that_is_no_finite_number_above_zero_is_refused(steered: Steered, penalty: Any) -> None:
    for tool in (generate, compare_generations):
        with refused(steered.session, ArgumentError, "repetition_penalty is", "repetition_penalty > 0"):
            tool(PROMPTS, max_new_tokens=2, repetition_penalty=penalty)


@pytest.mark.parametrize("options", [{"top_p": 0}, {"top_p": 1.1}, {"top_k": -1}, {"beams": 0}], ids=repr)
def test_sampling_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=rf"{next(iter(options))} is .* 0 < top_p <= 1"):
        Sampling(**options)


def test_sampled_beams_are_refused() -> None:
    with pytest.raises(UnsupportedFeatureError, match=r"beams with temperature=0, or sampling with beams=1"):
        Sampling(beams=2, temperature=1)


@pytest.mark.parametrize("sampling", [Sampling(2, beams=2), Sampling(2, temperature=1)])
def test_beams_without_sampling_and_sampling_without_beams_are_taken(steered: Steered, sampling: Sampling) -> None:
    assert len(steered.session.engine.generate([Row(TextPrompt("keke"))], sampling)) == 1


# --- nothing to do


def test_there_is_nothing_to_compare_or_to_check_while_nothing_is_applied(llama_session: Session) -> None:
    with refused(llama_session, ArgumentError, "nothing to compare", "vector_path", "apply_steering_vector"):
        compare_generations(PROMPTS, max_new_tokens=2)
    with refused(llama_session, ArgumentError, "nothing to check", "apply_steering_vector"):
        check_steering(max_new_tokens=2)


def test_what_is_applied_can_be_compared_and_checked(steered: Steered) -> None:
    assert compare_generations(PROMPTS, max_new_tokens=2)["variants"][0]["strength"] == 2.0
    assert check_steering(max_new_tokens=2)["passed"]


@pytest.mark.parametrize("options", [{"strengths": [1.0]}, {"layer": 2}, {"strengths": []}])
def test_compare_refuses_strengths_or_a_layer_without_a_vector(steered: Steered, options: dict[str, Any]) -> None:
    with refused(steered.session, ArgumentError, "without vector_path", "leave out layer"):
        compare_generations(PROMPTS, max_new_tokens=2, **options)


# --- vector files


ONES = np.ones(WIDTH, np.float32)
BAD_ARRAYS = [
    pytest.param(npy(np.where(np.arange(WIDTH) == 5, np.nan, ONES)), DirectionError, "finite floats", id="nan"),
    pytest.param(npy(np.where(np.arange(WIDTH) == 5, np.inf, ONES)), DirectionError, "finite floats", id="infinity"),
    pytest.param(npy(np.full(WIDTH, 1e300)), DirectionError, "finite floats", id="overflows_float32"),
    pytest.param(npy(ONES * 0), DirectionError, "a vector of some length", id="zero"),
    pytest.param(npy(ONES[None]), DirectionError, "shape (width,)", id="one_row_of_a_matrix"),
    pytest.param(npy(ONES[:, None]), DirectionError, "shape (width,)", id="column"),
    pytest.param(npy(np.float32(1.0)), DirectionError, "shape (width,)", id="scalar"),
    pytest.param(npy(ONES[:0]), DirectionError, "shape (width,)", id="no_elements"),
    pytest.param(npy(ONES[:-1]), ForeignVectorError, "width 31", id="narrow"),
    pytest.param(npy(np.ones(WIDTH + 1)), ForeignVectorError, "width 33", id="wide"),
    pytest.param(npy(ONES.astype(np.int64)), VectorFileError, "one float vector", id="integers"),
    pytest.param(npy(ONES.astype(bool)), VectorFileError, "one float vector", id="booleans"),
    pytest.param(npy(ONES.astype(complex)), VectorFileError, "one float vector", id="complex_numbers"),
    pytest.param(npy(np.array(["baba"] * WIDTH)), VectorFileError, "one float vector", id="texts"),
    pytest.param(npy(ONES.astype(np.longdouble)), VectorFileError, "one float vector", id="long_doubles"),
    pytest.param(npy(ONES.astype(object), allow_pickle=True), VectorFileError, "pickled objects", id="objects"),
    pytest.param(pickle.dumps(ONES), VectorFileError, "a pickle is never loaded", id="pickle"),
    pytest.param(b"", VectorFileError, "an empty file", id="empty_file"),
    pytest.param(b"\x93NUMPY", VectorFileError, "no .npy file", id="magic_only"),
    pytest.param(npy(ONES)[:40], VectorFileError, "no .npy file", id="truncated_in_header"),
    pytest.param(npy(ONES)[:-1], VectorFileError, "truncated or forged", id="truncated_by_a_byte"),
    pytest.param(npy(ONES)[:-64], VectorFileError, "truncated or forged", id="truncated_by_half"),
    pytest.param(npy(ONES) + b"\0", VectorFileError, "truncated or forged", id="longer_than_it_says"),
    pytest.param(npy_of_shape("(-4, -8)", bytes(128)), VectorFileError, "bad.npy", id="negative_shape"),
    pytest.param(npy_of_shape(f"(0, {10**30})"), VectorFileError, "bad.npy", id="impossible_shape"),
    pytest.param(npy_of_shape("(32,)", bytes(128), descr="()"), VectorFileError, "no .npy file", id="empty_dtype"),
    pytest.param(npy_with_header("{'descr': '<f4', ((("), VectorFileError, "no .npy file", id="open_brackets"),
    pytest.param(npy_with_header("{[]: 1}"), VectorFileError, "no .npy file", id="unhashable_key"),
    pytest.param(npy_with_header("-" * 9000 + "1"), VectorFileError, "no .npy file", id="deeply_nested"),
]


@pytest.mark.parametrize(("content", "error", "text"), BAD_ARRAYS)
def test_a_malformed_npy_file_is_refused(
    steered: Steered, content: bytes, error: type[SteeringError], text: str
) -> None:
    steered.put("bad.npy", content)

    with refused(steered.session, error, text):
        apply_steering_vector("bad.npy", 2)
    with refused(steered.session, error, text):
        compare_generations(PROMPTS, "bad.npy", 2, max_new_tokens=2)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_bare_npy_vector_of_the_models_width_is_taken(steered: Steered, dtype: Any) -> None:
    steered.put("good.npy", npy(ONES.astype(dtype)))

    assert apply_steering_vector("good.npy", 2)["layer"] == 2


def test_a_bare_npy_vector_needs_a_layer_as_a_number(steered: Steered) -> None:
    steered.put("bare.npy", npy(ONES))

    with refused(steered.session, VectorFileError, "its layer is not known", "Give `layer` as a number"):
        apply_steering_vector("bare.npy")
    assert apply_steering_vector("bare.npy", [2])["layer"] == 2


def test_a_bare_npy_vector_has_no_contrast_to_measure_strength_in(steered: Steered) -> None:
    steered.put("bare.npy", npy(ONES))

    with refused(steered.session, ArgumentError, "'vector' or 'residual'"):
        apply_steering_vector("bare.npy", 2, unit="contrast")
    assert apply_steering_vector("bare.npy", 2, unit="residual")["success"]


class CreatesFolder:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.path,)


@pytest.mark.parametrize("name", ["evil.npy", "evil.safetensors", "evil"])
@pytest.mark.parametrize("is_array", [True, False])
def test_a_pickle_is_never_loaded(steered: Steered, tmp_path: Path, name: str, is_array: bool) -> None:
    trap = CreatesFolder(tmp_path / "trap")
    content = npy(np.array([trap], dtype=object), allow_pickle=True) if is_array else pickle.dumps(trap)
    steered.put(name if "." in name else f"{name}.safetensors", content)

    with refused(steered.session, VectorFileError):
        apply_steering_vector(name, 2)

    assert not trap.path.exists()
    pickle.loads(pickle.dumps(trap))
    assert trap.path.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("huge.npy", npy_of_shape(f"({2**36},)", bytes(128)), id="npy_256_GiB"),
        pytest.param("huge.npy", npy_of_shape(f"({2**31}, {2**31}, {2**31})"), id="npy_beyond_64_bits"),
        pytest.param("huge.npy", b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{", id="npy_header_4_GiB"),
        pytest.param("huge.safetensors", (2**38).to_bytes(8, "little") + b"{}", id="safetensors_header_256_GiB"),
        pytest.param(
            "huge.safetensors",
            raw_safetensors({"layer.2": {"dtype": "F32", "shape": [2**36], "data_offsets": [0, 2**38]}}, bytes(128)),
            id="safetensors_256_GiB",
        ),
    ],
)
def test_a_forged_size_is_refused_before_memory_is_taken(steered: Steered, name: str, content: bytes) -> None:
    steered.put(name, content)

    with refused(steered.session, VectorFileError, name):
        tracemalloc.start()
        try:
            apply_steering_vector(name, 2)
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()

    assert peak < 4 * 2**20


@pytest.mark.parametrize(
    "sidecar",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b'{"layers": [2], ', id="truncated"),
        pytest.param(b"\xff\xfe", id="no_text"),
        pytest.param(b"[2]", id="no_mapping"),
        pytest.param(b"{}", id="no_layers"),
        pytest.param(b'{"layers": "2", "info": {}}', id="layers_are_text"),
        pytest.param(b'{"layers": [2.5], "info": {}}', id="half_a_layer"),
        pytest.param(b'{"layers": [], "info": {}}', id="no_layer"),
        pytest.param(b'{"layers": [1, 2], "info": {}}', id="two_layers"),
        pytest.param(b'{"layers": [2], "component": "soul", "info": {}}', id="unknown_component"),
        pytest.param(b'{"layers": [2], "info": {"contrast_norms": {"2": NaN}}}', id="norm_is_nan"),
        pytest.param(b'{"layers": [2], "info": {"contrast_norms": {"2": 1e999}}}', id="norm_is_infinite"),
        pytest.param(b'{"layers": [2], "info": {"positive_count": -1}}', id="negative_count"),
        pytest.param(b"[" * 100_000, id="deeply_nested"),
    ],
)
def test_a_malformed_sidecar_is_refused_and_not_passed_over(steered: Steered, sidecar: bytes) -> None:
    steered.put("bad.npy", npy(ONES))
    steered.put("bad.npy.json", sidecar)

    with refused(steered.session, VectorFileError, "bad.npy.json"):
        apply_steering_vector("bad.npy", 2)


def test_a_sidecar_with_keys_that_are_not_known_is_taken(steered: Steered) -> None:
    steered.put("good.npy", npy(ONES))
    steered.put("good.npy.json", b'{"layers": [1], "info": {"author": "somebody"}, "colour": "red"}')

    assert apply_steering_vector("good.npy")["layer"] == 1


def test_a_sidecar_with_a_negative_layer_is_refused(steered: Steered) -> None:
    steered.put("bad.npy", npy(ONES))
    steered.put("bad.npy.json", b'{"layers": [-1], "info": {}}')

    with refused(steered.session, LayerError, "0 and above"):
        apply_steering_vector("bad.npy")


DIRECTION = torch.ones(WIDTH)
OURS = our_safetensors({"layer.2": DIRECTION})
BAD_SAFETENSORS = [
    pytest.param(b"", VectorFileError, "an empty file", id="empty_file"),
    pytest.param(b"baba", VectorFileError, "no valid safetensors", id="text"),
    pytest.param(OURS[:60], VectorFileError, "no valid safetensors", id="truncated_in_header"),
    pytest.param(OURS[:-1], VectorFileError, "no valid safetensors", id="truncated_by_a_byte"),
    pytest.param(OURS + b"\0", VectorFileError, "no valid safetensors", id="longer_than_it_says"),
    pytest.param(
        raw_safetensors({"layer.2": {"dtype": "F4", "shape": [8], "data_offsets": [0, 4]}}, bytes(4)),
        VectorFileError,
        "no valid safetensors",
        id="dtype_that_torch_lacks",
    ),
    pytest.param(
        safetensors.torch.save({"layer.2": DIRECTION}), VectorFileError, "not a steering vector", id="no_metadata"
    ),
    pytest.param(
        safetensors.torch.save({"layer.2": DIRECTION}, metadata={"format": "pt"}),
        VectorFileError,
        "not a steering vector",
        id="metadata_of_somebody_else",
    ),
    pytest.param(
        safetensors.torch.save({"layer.2": DIRECTION}, metadata={"steer_tools": "{"}),
        VectorFileError,
        "malformed",
        id="header_is_no_json",
    ),
    pytest.param(our_safetensors({"layer.1": DIRECTION}), VectorFileError, "says that it holds", id="other_layer"),
    pytest.param(
        our_safetensors({"layer.2": DIRECTION, "layer.3": DIRECTION * 2}),
        VectorFileError,
        "says that it holds",
        id="one_tensor_more",
    ),
    pytest.param(
        our_safetensors({"layer.2": DIRECTION}, layers=[2, 3]),
        VectorFileError,
        "says that it holds",
        id="one_layer_more",
    ),
    pytest.param(our_safetensors({}, layers=[]), DirectionError, "at least one layer", id="no_layers"),
    pytest.param(our_safetensors({"layer.2": DIRECTION.int()}), DirectionError, "floats", id="integers"),
    pytest.param(our_safetensors({"layer.2": DIRECTION.repeat(2, 1)}), DirectionError, "shape (width,)", id="matrix"),
    pytest.param(our_safetensors({"layer.2": DIRECTION * torch.nan}), DirectionError, "finite floats", id="nan"),
    pytest.param(our_safetensors({"layer.2": DIRECTION * 0}), DirectionError, "some length", id="zero"),
    pytest.param(our_safetensors({"layer.2": torch.ones(16)}), ForeignVectorError, "width 16", id="narrow"),
    pytest.param(
        our_safetensors({"layer.2": DIRECTION, "layer.3": torch.ones(16)}, layers=[2, 3]),
        DirectionError,
        "one width",
        id="two_widths",
    ),
    pytest.param(our_safetensors({"layer.9": DIRECTION}, layers=[9]), LayerError, "0 to 3", id="layer_beyond_model"),
    pytest.param(
        our_safetensors({"layer.2": DIRECTION}, component="embedding"),
        LayerError,
        "The embedding has no layer 2",
        id="component_that_the_layer_lacks",
    ),
]


@pytest.mark.parametrize(("content", "error", "text"), BAD_SAFETENSORS)
def test_a_malformed_safetensors_file_is_refused(
    steered: Steered, content: bytes, error: type[SteeringError], text: str
) -> None:
    steered.put("bad.safetensors", content)

    with refused(steered.session, error, text):
        apply_steering_vector("bad")
    with refused(steered.session, error, text):
        compare_generations(PROMPTS, "bad", max_new_tokens=2)


def test_a_safetensors_file_with_our_header_is_taken(steered: Steered) -> None:
    steered.put("good.safetensors", OURS)

    assert apply_steering_vector("good")["layer"] == 2


def test_status_lists_files_that_cannot_be_read_beside_the_others(steered: Steered, tmp_path: Path) -> None:
    cases = [("npy", case) for case in BAD_ARRAYS] + [("safetensors", case) for case in BAD_SAFETENSORS]

    for ending, case in cases:
        workspace = steered.session.workspace = Workspace(tmp_path / f"{ending}-{case.id}")
        steered.put(f"bad.{ending}", case.values[0])
        save_vector(load_vector(steered.vector_path), "good", workspace=workspace)
        saved = {Path(entry["vector_path"]).name: entry for entry in steering_status()["saved"]}

        assert set(saved) == {f"bad.{ending}", "good.safetensors"}
        assert saved["good.safetensors"]["problem"] is None
        if case.values[1] is VectorFileError:
            assert case.values[2] in saved[f"bad.{ending}"]["problem"]


@pytest.mark.parametrize("path", ["gone", "gone.npy", "gone/v.safetensors", "v.safetensors/inside"])
def test_a_missing_file_is_refused_and_nothing_is_made_in_its_place(steered: Steered, path: str) -> None:
    with refused(steered.session, VectorFileError, "There is no file", "steering_status lists"):
        apply_steering_vector(path, 2)


# --- paths


BAD_PATHS = [
    pytest.param("", WorkspacePathError, "a file name or a path", id="empty"),
    pytest.param("a\0b", WorkspacePathError, "a file name or a path", id="nul"),
    pytest.param("\ud800", WorkspacePathError, "a file name or a path", id="lone_surrogate"),
    pytest.param(5, WorkspacePathError, "a file name or a path", id="number"),
    pytest.param(b"new", WorkspacePathError, "a file name or a path", id="bytes"),
]


@pytest.mark.parametrize(("path", "error", "text"), BAD_PATHS)
def test_a_path_that_names_no_file_is_refused(
    steered: Steered, path: Any, error: type[SteeringError], text: str
) -> None:
    with refused(steered.session, error, text):
        create_steering_vector(POSITIVE, NEGATIVE, 2, path)
    with refused(steered.session, error, text):
        apply_steering_vector(path, 2)


@pytest.mark.parametrize("path", ["../new", "deep/../../new", "/elsewhere/new", "deep/../new"])
def test_a_confined_session_refuses_a_path_outside(steered: Steered, path: str) -> None:
    workspace = steered.session.workspace
    steered.session.workspace = Workspace(workspace.root, is_confined=True)

    with refused(steered.session, WorkspacePathError, str(workspace.root), "relative path"):
        create_steering_vector(POSITIVE, NEGATIVE, 2, path)
    with refused(steered.session, WorkspacePathError, str(workspace.root)):
        apply_steering_vector(path, 2)
    with refused(steered.session, WorkspacePathError, str(workspace.root)):
        compare_generations(PROMPTS, path, 2, max_new_tokens=2)
    assert create_steering_vector(POSITIVE, NEGATIVE, 2, "deep/new")["success"]


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("taken.npy", id="a_folder_has_the_name"),
        pytest.param("taken.safetensors", id="a_folder_has_the_name_safetensors"),
        pytest.param("sidecar.npy", id="a_folder_has_the_name_of_the_sidecar"),
        pytest.param("v.safetensors/new", id="a_file_has_the_name_of_the_folder"),
        pytest.param("v.safetensors/deep/new", id="a_file_is_above_the_folder"),
        pytest.param("a" * 300, id="name_too_long"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_and_nothing_is_left(steered: Steered, path: str) -> None:
    for name in ("taken.npy", "taken.safetensors", "sidecar.npy.json"):
        (steered.session.workspace.root / name).mkdir()

    with refused(steered.session, VectorFileError, "save_path"):
        create_steering_vector(POSITIVE, NEGATIVE, 2, path)


def test_a_name_that_is_too_long_is_refused_when_it_is_read(steered: Steered) -> None:
    with refused(steered.session, VectorFileError):
        apply_steering_vector("a" * 300)


# --- vectors of other models


def other_model_vector(session: Session, other: Any) -> str:
    """Create a vector on `other`, then attach a tiny Llama."""
    attach_model(other, make_tokenizer(), "other")
    path = create_steering_vector(POSITIVE, NEGATIVE, 2, "foreign")["vector_path"]
    attach_model(make_model("llama"), make_tokenizer(), "tiny")
    return path


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda: make_model("gpt2"), id="other_family"),
        pytest.param(lambda: make_model("bloom"), id="third_family"),
        pytest.param(lambda: make_model("llama", layers=5), id="other_depth"),
    ],
)
def test_a_vector_of_another_kind_of_model_is_refused_unless_allowed(
    empty_session: Session, other: Callable[[], Any]
) -> None:
    path = other_model_vector(empty_session, other())

    with refused(empty_session, ForeignVectorError, "'other'", "'tiny'", "allow_other_model=True"):
        apply_steering_vector(path)
    with refused(empty_session, ForeignVectorError, "allow_other_model=True"):
        compare_generations(PROMPTS, path, max_new_tokens=2)
    with refused(empty_session, ForeignVectorError, "allow_other_model=True"), steering(path):
        raise AssertionError("The block was entered.")
    assert apply_steering_vector(path, allow_other_model=True)["warnings"]
    assert compare_generations(PROMPTS, path, max_new_tokens=2, allow_other_model=True)["warnings"]


def test_a_vector_of_another_width_is_refused_even_where_other_models_are_allowed(steered: Steered) -> None:
    vector = SteeringVector.from_directions({2: torch.ones(WIDTH // 2)})
    save_vector(vector, "narrow", workspace=steered.session.workspace)

    for allow in (False, True):
        with refused(steered.session, ForeignVectorError, "width 16", "has 32", "made on this model"):
            apply_steering_vector("narrow", allow_other_model=allow)


def test_a_vector_of_the_same_family_with_other_weights_is_taken_with_a_warning(empty_session: Session) -> None:
    path = other_model_vector(empty_session, make_model("llama", seed=1))

    result = apply_steering_vector(path)

    assert [warning for warning in result["warnings"] if "other weights" in warning]


def test_a_vector_of_the_same_weights_is_taken_without_a_warning(empty_session: Session) -> None:
    path = other_model_vector(empty_session, make_model("llama"))

    assert apply_steering_vector(path)["warnings"] == []


# --- models


def recorded() -> Any:
    with recording(layers=1) as activations:
        return activations


NEEDS_MODEL = [
    pytest.param(steering_status, id="status"),
    pytest.param(lambda: create_steering_vector(POSITIVE, NEGATIVE, 2, "new"), id="create"),
    pytest.param(lambda: apply_steering_vector("v"), id="apply"),
    pytest.param(lambda: compare_generations(PROMPTS, "v", max_new_tokens=2), id="compare_a_vector"),
    pytest.param(lambda: compare_generations(PROMPTS, max_new_tokens=2), id="compare_what_is_applied"),
    pytest.param(lambda: sweep_steering("v", "sentiment", strengths=[0.5]), id="sweep"),
    pytest.param(lambda: find_best_layer("sentiment", layers=[1], strengths=[0.5]), id="find_best_layer"),
    pytest.param(lambda: steering_experiment("sentiment", layers=[1], strengths=[0.5], controls=19), id="experiment"),
    pytest.param(lambda: evaluate_steering_robustness("v", "sentiment"), id="robustness"),
    pytest.param(lambda: calibrate_strength("v", target_damage=0.01), id="calibrate"),
    pytest.param(lambda: analyze_steering_vector("v"), id="analyze"),
    pytest.param(lambda: project_activations("v", PROMPTS), id="project"),
    pytest.param(lambda: save_activations(PROMPTS, "acts", [1]), id="activations"),
    pytest.param(lambda: read_activations(PROMPTS, [1]), id="read"),
    pytest.param(recorded, id="recording"),
    pytest.param(lambda: compare_next_tokens(PROMPTS, "v"), id="next_tokens"),
    pytest.param(lambda: ablate_component("sentiment"), id="ablate"),
    pytest.param(lambda: patch_activations("baba keke", "baba lili", "zuzu", "mora"), id="patch"),
    pytest.param(lambda: generate(PROMPTS, max_new_tokens=2), id="generate"),
    pytest.param(lambda: check_steering(max_new_tokens=2), id="check"),
    pytest.param(lambda: show_tokens(PROMPTS), id="show_tokens"),
    pytest.param(lambda: update_steering_vector("steer-1", 1.0), id="update"),
    pytest.param(lambda: remove_steering_vector("steer-1"), id="remove"),
]
RUNS_MODEL = [case for case in NEEDS_MODEL if case.id not in ("status", "show_tokens", "remove")]


@pytest.mark.parametrize("tool", NEEDS_MODEL)
def test_each_tool_says_what_to_do_while_no_model_is_attached(empty_session: Session, tool: Callable[[], Any]) -> None:
    vector = SteeringVector.from_directions({2: DIRECTION})
    save_vector(vector, "v", workspace=empty_session.workspace)

    with refused(empty_session, NoModelError, "attach_model(model, tokenizer)", "load_model(name_or_path)"):
        tool()


def test_steering_says_what_to_do_while_no_model_is_attached(empty_session: Session) -> None:
    vector = SteeringVector.from_directions({2: DIRECTION})

    with refused(empty_session, NoModelError, "attach_model(model, tokenizer)"), steering(vector):
        raise AssertionError("The block was entered.")


def test_removing_everything_without_a_model_removes_nothing(empty_session: Session) -> None:
    assert remove_all_steering_vectors() == {"removed": 0, "active": 0}


@pytest.mark.parametrize("tool", NEEDS_MODEL)
def test_each_tool_works_with_a_model(steered: Steered, tool: Callable[[], Any]) -> None:
    assert tool()


def tiny_t5() -> Any:
    config = T5Config(vocab_size=128, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0)
    return T5ForConditionalGeneration(config).eval()


def compiled_in_place() -> Any:
    model = make_model("gpt2")
    model.compile()
    return model


def with_a_compiled_block() -> Any:
    model = make_model("gpt2")
    model.transformer.h[1].compile()
    return model


def with_a_shared_block() -> Any:
    model = make_model("llama")
    model.model.layers[1] = model.model.layers[0]
    return model


def that_wants_an_image() -> Any:
    model = make_model("llama")

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise ValueError("No image")

    model.model.norm.register_forward_hook(refuse)
    return model


def with_blocks_beside_the_stream() -> Any:
    model = make_model("llama")
    model.model.norm.register_forward_hook(lambda module, args, output: torch.ones_like(output))
    return model


def that_sees_what_comes() -> Any:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return BertLMHeadModel(BertConfig(vocab_size=128, initializer_range=0.25, **sizes)).eval()


def with_another_depth_in_the_config() -> Any:
    model = make_model("llama")
    model.config.num_hidden_layers = LAYERS + 1
    return model


BAD_MODELS = [
    pytest.param(object, "AutoModelForCausalLM", id="object"),
    pytest.param(lambda: "gpt2", "AutoModelForCausalLM", id="name"),
    pytest.param(lambda: None, "AutoModelForCausalLM", id="none"),
    pytest.param(lambda: torch.nn.Linear(2, 2), "AutoModelForCausalLM", id="module_without_config"),
    pytest.param(tiny_t5, "decoder-only models", id="encoder_decoder"),
    pytest.param(lambda: torch.compile(make_model("gpt2")), "Attach the uncompiled model", id="compiled"),
    pytest.param(compiled_in_place, "Attach the uncompiled model", id="compiled_in_place"),
    pytest.param(with_a_compiled_block, "Attach the uncompiled model", id="compiled_block"),
    pytest.param(lambda: make_model("gpt2").train(), "model.eval()", id="train_mode"),
    pytest.param(that_wants_an_image, "does not run on token ids alone (No image)", id="wants_an_image"),
    pytest.param(with_blocks_beside_the_stream, "does not reach the logits", id="blocks_beside_the_stream"),
    pytest.param(that_sees_what_comes, "changes the activations of those before it", id="not_causal"),
    pytest.param(with_a_shared_block, "once, with the shape", id="block_that_runs_twice"),
    pytest.param(with_another_depth_in_the_config, "exactly one list of 5 blocks", id="depth_unlike_config"),
]


@pytest.mark.parametrize(("make", "text"), BAD_MODELS)
def test_a_model_that_cannot_be_steered_is_refused_and_the_attached_one_stays(
    steered: Steered, make: Callable[[], Any], text: str
) -> None:
    model = make()

    with refused(steered.session, UnsupportedModelError, text):
        attach_model(model, make_tokenizer())


@pytest.mark.parametrize("make", [with_a_shared_block, lambda: make_model("gpt2").train()])
def test_a_refused_model_keeps_no_hook(empty_session: Session, make: Callable[[], Any]) -> None:
    model = make()

    with refused(empty_session, UnsupportedModelError):
        attach_model(model, make_tokenizer())

    hooks = [hook for m in model.modules() for hook in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    assert hooks == []
    assert "generate" not in vars(model)


def test_a_model_without_a_tokenizer_is_refused(steered: Steered) -> None:
    with refused(steered.session, ArgumentError, "tokenizer"):
        attach_model(make_model("gpt2"), None)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("train", "Call model.eval() first"),
        ("model.train", "Call model.eval() first"),
        ("compile", "Attach the uncompiled model"),
    ],
)
@pytest.mark.parametrize("tool", RUNS_MODEL)
def test_a_model_that_is_compiled_or_put_in_train_mode_after_attaching_is_refused(
    steered: Steered, change: str, text: str, tool: Callable[[], Any]
) -> None:
    attrgetter(change)(steered.session.engine.architecture.model)()

    with refused(steered.session, UnsupportedModelError, text):
        tool()


def test_a_model_that_is_put_back_into_eval_mode_is_taken_again(steered: Steered) -> None:
    steered.session.engine.architecture.model.train().eval()

    assert generate(PROMPTS, max_new_tokens=2)["texts"]


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        pytest.param({"engine": "tensorflow"}, ["'huggingface'"], id="engine"),
        pytest.param({"dtype": "float9"}, ["'auto'", "'bfloat16'"], id="dtype"),
        pytest.param({"dtype": "int64"}, ["'auto'", "'bfloat16'"], id="integer_dtype"),
        pytest.param({"dtype": None}, ["'auto'", "'bfloat16'"], id="no_dtype"),
    ],
)
def test_load_model_refuses_an_unknown_engine_or_dtype(
    steered: Steered, tmp_path: Path, options: dict[str, Any], texts: list[str]
) -> None:
    with refused(steered.session, ArgumentError, *texts):
        load_model(str(tmp_path / "model"), **options)


def test_load_model_refuses_a_folder_without_a_model(steered: Steered, tmp_path: Path) -> None:
    with refused(steered.session, UnsupportedModelError, "a folder with a transformers checkpoint"):
        load_model(str(tmp_path))


def test_load_model_refuses_a_name_that_the_server_does_not_allow(steered: Steered, tmp_path: Path) -> None:
    model, folder = make_model("gpt2"), tmp_path / "model"
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    steered.session.allowed_models = ("another",)

    with refused(steered.session, ArgumentError, "'another'"):
        load_model(str(folder))
    steered.session.allowed_models = (str(folder),)
    assert load_model(str(folder))["model"]["family"] == "gpt2"


def test_a_vector_in_memory_is_held_against_the_model_like_a_file(steered: Steered) -> None:
    narrow = SteeringVector.from_directions({2: torch.ones(WIDTH // 2)})
    deep = SteeringVector.from_directions({9: DIRECTION})

    with refused(steered.session, ForeignVectorError, "width 16"), steering(narrow):
        raise AssertionError("The block was entered.")
    with refused(steered.session, LayerError, "0 to 3"), steering(deep):
        raise AssertionError("The block was entered.")
    with steering(load_vector(steered.vector_path)) as applied:
        assert applied.layers == (2,)


def test_a_model_whose_forward_was_replaced_by_a_compiled_one_is_refused(empty_session: Session) -> None:
    model = make_model("llama")
    model.forward = torch.compile(model.forward, backend="eager")

    with pytest.raises(UnsupportedModelError, match="compiled"):
        attach_model(model, make_tokenizer())
