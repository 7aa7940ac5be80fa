"""What people type: names, types and words of other libraries, which work or are answered with the right one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import BatchEncoding

import steer_tools
from helpers.small_models import NEGATIVE, POSITIVE, PROMPTS, make_model, make_tokenizer
from steer_tools.by_hand.habits import SYNONYMS
from steer_tools.errors import ArgumentError, LayerError, SteeringError
from steer_tools.session.session import Session
from steer_tools.tools import TOOLS

WIDTH = 16


@pytest.fixture
def vector(llama_session: Session, make_vector_on: Callable[..., str]) -> str:
    return make_vector_on()


@pytest.fixture
def make_vector_on(llama_session: Session) -> Callable[..., str]:
    def make(layer: Any = 2, path: str = "v") -> str:
        return steer_tools.create_steering_vector(POSITIVE, NEGATIVE, layer, path)["vector_path"]

    return make


# Names


def test_an_argument_may_have_the_name_that_the_field_gives_it(vector: str) -> None:
    ours = steer_tools.compare_generations(PROMPTS, vector, layer=2, strengths=[-1.0, 1.0], max_new_tokens=3)

    theirs = steer_tools.compare_generations(
        prompts=PROMPTS, steering_vector=vector, layer_idx=2, multipliers=[-1.0, 1.0], max_tokens=3, batch_size=4
    )

    assert theirs == ours
    assert ours["variants"][0]["texts"] != ours["baseline"]["texts"]


@pytest.mark.parametrize(
    ("theirs", "ours"), [("mlp", "mlp"), ("self_attn", "attention"), ("decoder_block", "residual")]
)
def test_the_type_of_a_layer_is_the_component_that_is_read(llama_session: Session, theirs: str, ours: str) -> None:
    made = steer_tools.create_steering_vector(POSITIVE, NEGATIVE, 2, layer_type=theirs).steering_vector  # type: ignore[call-arg]

    assert made == steer_tools.create_steering_vector(POSITIVE, NEGATIVE, 2, component=ours).steering_vector  # type: ignore[arg-type]
    assert made.component == ours
    assert steer_tools.SteeringVector({1: np.ones(4)}, layer_type=theirs).component == ours


def test_a_type_of_layer_is_not_passed_over_where_it_means_nothing(vector: str) -> None:
    with pytest.raises(ArgumentError, match="has no argument 'layer_type'"):
        steer_tools.apply_steering_vector(vector, layer_type="mlp")  # type: ignore[call-arg]
    with pytest.raises(ArgumentError, match="component is 'input_layernorm'"):
        steer_tools.SteeringVector({1: np.ones(4)}, layer_type="input_layernorm")


def test_of_strength_and_strengths_several_values_are_the_second(vector: str) -> None:
    one = steer_tools.compare_generations(PROMPTS, vector, coefficient=2, max_new_tokens=2)
    several = steer_tools.compare_generations(PROMPTS, vector, coefficient=(2, 3), max_new_tokens=2)

    assert [variant["strength"] for variant in one["variants"]] == [2.0]
    assert [variant["strength"] for variant in several["variants"]] == [2.0, 3.0]


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: steer_tools.generate(PROMPTS, max_new_token=3), "no argument 'max_new_token'.*'max_new_tokens'"),
        (lambda: steer_tools.generate(PROMPTS, top_p=0.9), r"Your own model\.generate"),
        (lambda: steer_tools.check_steering(PROMPTS, repetition_penalty=1.1), r"Your own model\.generate"),
        (lambda: steer_tools.show_tokens(PROMPTS, vector="v"), "with steering"),
        (lambda: steer_tools.generate(PROMPTS, 3, 0.0, 0, 1.0, 6), "given 6 arguments"),
        (steer_tools.generate, "lacks prompts"),
        (lambda: steer_tools.generate(PROMPTS, prompt="again"), "prompts of generate was given twice"),
        (lambda: steer_tools.save_edited_model("there", strength=2), "positions='all'"),
        (lambda: steer_tools.patch_activations("a", "b", positive="c"), "patch_activations lacks negative"),
        (lambda: steer_tools.ablate_component("v", metric=len), "patch_activations one of logits"),
        (lambda: steer_tools.load_model("bundled", torch_dtyp="auto"), "no argument 'torch_dtyp'"),
    ],
)
def test_a_name_that_means_nothing_is_answered_with_what_does(
    llama_session: Session, call: Callable[[], object], told: str
) -> None:
    with pytest.raises(ArgumentError, match=told):
        call()


def test_a_function_runs_under_the_vector_that_it_is_given(vector: str, llama_session: Session) -> None:
    plain = steer_tools.generate(PROMPTS, max_new_tokens=3)
    with pytest.warns(UserWarning, match="strength 30 adds"):
        with steer_tools.steering(vector, 1, 30.0):
            wanted = steer_tools.generate(PROMPTS, max_new_tokens=3)

        given = steer_tools.generate(
            PROMPTS, max_tokens=3, steering_vector=vector, layer_idx=1, multiplier=np.int64(30)
        )

    assert given == wanted
    assert given["texts"] != plain["texts"]
    assert not llama_session.registry.entries()
    checked = steer_tools.check_steering(PROMPTS, vector=vector, layer=1, strength=0.5)
    assert checked["passed"]


def test_a_vector_is_baked_by_its_name(vector: str, llama_session: Session) -> None:
    with steer_tools.steering(vector, 2, 0.5, positions="all"):
        wanted = steer_tools.save_edited_model("wanted")

    baked = [
        steer_tools.save_edited_model(vector, layer=2, strength=0.5, output_dir="first"),
        steer_tools.save_edited_model("named", vector=vector, layer=2, strength=0.5),
    ]

    assert [Path(one["folder"]).name for one in baked] == ["first", "named"]
    weights = [
        [file.read_bytes() for file in sorted(Path(one["folder"]).glob("*.safetensors")) if file.stem != "undo"]
        for one in (wanted, *baked)
    ]
    assert weights[0] == weights[1] == weights[2] != []
    with pytest.raises(SteeringError, match="positions"):
        steer_tools.save_edited_model(vector, strength=0.5, folder="third", positions="generated")


def test_a_number_is_one_token_of_the_prompt(vector: str) -> None:
    for number, slice_ in ((-1, "-1:"), (0, "0:1"), (-2, "-2:-1")):
        theirs = steer_tools.compare_next_tokens(PROMPTS, vector, strength=40, positions=number)
        assert theirs == steer_tools.compare_next_tokens(PROMPTS, vector, strength=40, positions=slice_)
    assert theirs["prompts"] != steer_tools.compare_next_tokens(PROMPTS, vector, strength=40)["prompts"]


def test_whether_is_sampled_is_said_by_the_temperature(llama_session: Session) -> None:
    sampled = steer_tools.generate(PROMPTS, temperature=1.0, seed=3, max_new_tokens=8)
    greedy = steer_tools.generate(PROMPTS, max_new_tokens=8)

    assert steer_tools.generate(PROMPTS, do_sample=True, seed=3, max_new_tokens=8) == sampled != greedy
    assert steer_tools.generate(PROMPTS, do_sample=False, temperature=0.7, max_new_tokens=8) == greedy
    warm = steer_tools.generate(PROMPTS, do_sample=True, temperature=0.1, seed=3, max_new_tokens=8)
    assert warm == steer_tools.generate(PROMPTS, temperature=0.1, seed=3, max_new_tokens=8)


def test_each_synonym_leads_to_a_parameter_that_some_function_has() -> None:
    functions = [*(tool.function for tool in TOOLS), steer_tools.load_vector, steer_tools.steering]
    known = {name for function in functions for name in signature(function).parameters}
    lost = {theirs: ours for theirs, ours in SYNONYMS.items() if not known & set(ours)}

    assert lost == {}


# Words


@pytest.mark.parametrize(("word", "meant"), [("attn", "attention"), ("resid_post", "residual"), ("MLP", "mlp")])
def test_a_word_of_the_field_means_ours(llama_session: Session, word: str, meant: str) -> None:
    theirs = steer_tools.create_steering_vector(POSITIVE, NEGATIVE, 1, "theirs", component=word)
    ours = steer_tools.create_steering_vector(POSITIVE, NEGATIVE, 1, "ours", component=meant)

    assert theirs.steering_vector == ours.steering_vector
    assert theirs.steering_vector.component == meant


def test_a_word_that_means_nothing_is_answered_with_the_nearest(llama_session: Session) -> None:
    with pytest.raises(ArgumentError, match=r"component is 'atention'\. Valid: 'residual'.*mean 'attention'\?"):
        steer_tools.create_steering_vector(POSITIVE, NEGATIVE, 1, "v", component="atention")


def test_steering_takes_the_fields_words_too(vector: str, llama_session: Session) -> None:
    with steer_tools.steering(vector, mode="ablate"):
        (applied,) = llama_session.registry.entries()

        assert applied.unit_placements[0].intervention.name == "project_out"
        assert applied.strength == 1.0


# Types


def columns() -> Iterator[Any]:
    yield pd.Series(PROMPTS)
    yield np.array(PROMPTS)
    yield tuple(PROMPTS)
    yield (prompt for prompt in PROMPTS)
    yield pd.DataFrame({"text": PROMPTS})["text"]


@pytest.mark.parametrize("given", [*columns()], ids=lambda given: type(given).__name__)
def test_prompts_may_be_a_column(llama_session: Session, given: Any) -> None:
    assert steer_tools.generate(given, max_new_tokens=3) == steer_tools.generate(PROMPTS, max_new_tokens=3)


def test_one_prompt_is_a_list_of_one(llama_session: Session) -> None:
    chat = [{"role": "user", "content": PROMPTS[0]}]
    ids = make_tokenizer()(PROMPTS[0], add_special_tokens=False)["input_ids"]

    for one in (PROMPTS[0], chat, torch.tensor([ids]), np.array([ids])):
        listed = [one] if isinstance(one, str | list) else [ids]
        assert steer_tools.generate(one, max_new_tokens=3) == steer_tools.generate(listed, max_new_tokens=3)


def test_a_table_is_answered_with_its_columns(llama_session: Session) -> None:
    with pytest.raises(ArgumentError, match=r"columns \['text', 'label'\].*table\['text'\]"):
        steer_tools.generate(pd.DataFrame({"text": PROMPTS, "label": 1}))


def test_a_table_of_pairs_is_one_where_it_is_meant(llama_session: Session) -> None:
    table = pd.DataFrame({"positive": POSITIVE, "negative": NEGATIVE})

    given = [table, table.to_dict("records"), [*zip(POSITIVE, NEGATIVE, strict=True)]]
    made = [steer_tools.create_steering_vector(pairs, layer=1) for pairs in given]
    columns = steer_tools.create_steering_vector(table["positive"], table["negative"], 1)

    assert all(one.steering_vector == columns.steering_vector for one in made)


def test_numbers_may_be_numpys_and_torchs(vector: str) -> None:
    wanted = steer_tools.compare_generations(PROMPTS, vector, 2, [-1.0, 0.0, 1.0], max_new_tokens=3)

    given = steer_tools.compare_generations(
        PROMPTS, Path(vector), np.int64(2), np.linspace(-1, 1, 3), max_new_tokens=torch.tensor(3)
    )

    assert given == wanted
    handle = steer_tools.apply_steering_vector(vector, layer=np.int64(2), strength=np.float32(0.5))
    assert steer_tools.update_steering_vector(handle, strength=torch.tensor(2.0))["strength"] == 2.0


def test_a_tensor_stays_no_number(vector: str) -> None:
    with pytest.raises(SteeringError):
        steer_tools.apply_steering_vector(vector, strength=torch.ones(2))


@pytest.mark.parametrize("layers", [range(1, 3), np.array([1, 2]), (1, 2), [np.int64(1), 2]], ids=str)
def test_layers_may_be_any_numbers(llama_session: Session, layers: Any) -> None:
    result = steer_tools.create_steering_vector(POSITIVE, NEGATIVE, layers, "several")

    assert result["layer"] == [1, 2]


def test_a_model_before_the_arguments_is_the_one_that_is_steered(vector: str, llama_session: Session) -> None:
    other, tokenizer = make_model("gpt2"), make_tokenizer()

    steer_tools.generate(other, tokenizer, PROMPTS, max_new_tokens=2)
    assert llama_session.engine.info.family == "gpt2"
    steer_tools.generate(PROMPTS, model=make_model("llama"), tokenizer=tokenizer, max_new_tokens=2)
    assert llama_session.engine.info.family == "llama"


def test_dtypes_and_devices_may_be_torchs(empty_session: Session) -> None:
    result = steer_tools.load_model("bundled", torch_dtype=torch.bfloat16, device=torch.device("cpu"))

    assert (result["model"]["dtype"], result["model"]["device"]) == ("bfloat16", "cpu")


# Vectors


def kinds(path: str) -> Iterator[Any]:
    held = steer_tools.load_vector(path)
    yield held
    yield held.vector
    yield held.vector.bfloat16()
    yield held.vector[None]
    yield held.vector.numpy()
    yield {2: held.vector}
    yield {2: held.vector.numpy()}


def test_a_vector_may_be_held_in_any_way(vector: str, llama_session: Session) -> None:
    wanted = steer_tools.compare_next_tokens(PROMPTS, vector, layer=2, strengths=[20.0])

    for held in kinds(vector):
        given = steer_tools.compare_next_tokens(PROMPTS, held, layer=2, strengths=[20.0])
        if getattr(held, "dtype", None) != torch.bfloat16:
            assert given["prompts"] == wanted["prompts"]
        else:
            assert given["prompts"][0]["kl"] == pytest.approx(wanted["prompts"][0]["kl"], rel=0.1)
        with steer_tools.steering(held, 2):
            assert llama_session.registry.entries()[0].layers == (2,)
        steer_tools.analyze_steering_vector(held, layer=2, top=2)


def test_an_array_without_a_layer_is_refused(llama_session: Session) -> None:
    with pytest.raises(LayerError, match=r"does not say its layer.*\{layer: array\}"):
        steer_tools.apply_steering_vector(np.ones(WIDTH, "float32"))


def test_an_array_is_meant_at_each_layer_without_a_doubt(llama_session: Session) -> None:
    array = torch.ones(llama_session.engine.info.hidden_size) / 100

    result = steer_tools.apply_steering_vector(array, layer=[0, 2])

    assert (result["layer"], result["warnings"]) == ([0, 2], [])


def test_vectors_in_memory_are_combined_and_conditions(vector: str, llama_session: Session) -> None:
    held = steer_tools.load_vector(vector)

    combined = steer_tools.combine_steering_vectors([held, {2: -held.vector}], "sum", weights=[1.0, -1.0])
    by_path = steer_tools.combine_steering_vectors({vector: 2.0}, "double")

    assert combined.steering_vector == by_path.steering_vector == 2 * held
    many = steer_tools.create_steering_vector(POSITIVE * 4, NEGATIVE * 4, 2, "many", method="lda", pooling="mean")
    texts = [
        steer_tools.compare_generations(PROMPTS, held, strength=30, condition=condition, max_new_tokens=2)["variants"]
        for condition in (many["vector_path"], many.steering_vector)
    ]
    assert texts[0] == texts[1]


def test_a_vector_in_memory_that_a_result_repeats_has_a_file(vector: str, llama_session: Session) -> None:
    held = steer_tools.load_vector(vector)

    found = steer_tools.calibrate_strength(held, layer=2, target_damage=0.05)
    again = steer_tools.calibrate_strength(vector, layer=2, target_damage=0.05)

    assert found["strength"] == again["strength"]
    assert steer_tools.load_vector(found["apply"]["vector_path"]) == held
    assert steer_tools.apply_steering_vector(**found["apply"])["strength"] == found["strength"]


# Handles


def test_a_result_of_applying_stands_for_its_handle(vector: str, llama_session: Session) -> None:
    handle = steer_tools.apply_steering_vector(vector, 2, 1.0)

    assert steer_tools.update_steering_vector(handle, -1.0)["strength"] == -1.0
    assert steer_tools.remove_steering_vector(handle)["active"] == 0


def test_the_only_vector_of_a_name_is_removed_by_it(vector: str, make_vector_on: Callable[..., str]) -> None:
    other = make_vector_on(1, "other")
    for path in (vector, vector, other):
        steer_tools.apply_steering_vector(path)

    assert steer_tools.remove_steering_vector("other")["active"] == 2
    with pytest.raises(SteeringError, match="steering_id"):
        steer_tools.remove_steering_vector("v")


def test_an_encoding_is_no_prompt_and_is_told_so(llama_session: Session) -> None:
    with pytest.raises(SteeringError, match="prompts"):
        steer_tools.generate(BatchEncoding({"input_ids": [[4, 6]]}))
