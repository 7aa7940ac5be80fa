"""Results and vectors as they are held by hand: dicts that show themselves, and values with algebra and a card."""

from __future__ import annotations

import copy
import json
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from IPython.lib.pretty import pretty

import steer_tools
from helpers.small_models import NEGATIVE, POSITIVE, PROMPTS
from steer_tools import SteeringVector
from steer_tools.core import vectors as core
from steer_tools.errors import (
    ArgumentError,
    LayerError,
    UnknownSteeringIdError,
    UnsupportedFeatureError,
    VectorFileError,
)
from steer_tools.session.session import Session


@pytest.fixture
def created(llama_session: Session) -> Any:
    return steer_tools.create_steering_vector(POSITIVE, NEGATIVE, 2, "v")


# Results


def test_a_result_is_a_dict_with_attributes(created: Any) -> None:
    assert isinstance(created, dict)
    assert created.method == created["method"] == "mean_difference"
    assert json.loads(json.dumps(created)) == created == dict(created) == created.to_dict()
    assert type(pickle.loads(pickle.dumps(created))) is type(created.to_dict()) is dict
    with pytest.raises(AttributeError, match=r"generate has no 'text'.*mean 'texts'"):
        _ = steer_tools.generate(PROMPTS, max_new_tokens=1).text
    with pytest.raises(KeyError, match=r"has no 'text'.*mean 'texts'"):
        _ = steer_tools.generate(PROMPTS, max_new_tokens=1)["text"]


def test_a_number_is_one_of_the_texts(llama_session: Session) -> None:
    result = steer_tools.generate(PROMPTS, max_new_tokens=3)

    assert [result[i] for i in range(len(PROMPTS))] == result["texts"]
    with pytest.raises(IndexError):
        _ = result[len(PROMPTS)]


def test_what_is_a_list_at_heart_is_one(llama_session: Session, created: Any) -> None:
    texts = steer_tools.generate(PROMPTS, max_new_tokens=3)
    compared = steer_tools.compare_generations(PROMPTS, created, strengths=[9.0], max_new_tokens=3)
    tokens, of_both = steer_tools.show_tokens(PROMPTS[0]), steer_tools.show_tokens(PROMPTS[:2])

    assert (list(texts), len(texts)) == (texts["texts"], len(PROMPTS))
    assert [row["+9"] for row in compared] == compared["variants"][0]["texts"]
    assert list(tokens) == tokens["prompts"][0]["tokens"]
    assert list(of_both) == of_both["prompts"]
    # It is a dict all the same.
    assert list(texts.keys()) == ["texts", "ended", "active", "acting", "warnings"]
    assert {**texts} == dict(texts.items()) == json.loads(json.dumps(texts, indent=1)) == texts
    # What is none has its keys.
    assert list(created) == list(created.keys()) and len(created) == len(created.keys()) > 5


def test_a_loaded_model_is_unpacked(empty_session: Session) -> None:
    model, tokenizer = steer_tools.load_model("bundled")

    assert (model, tokenizer) == steer_tools.loaded_model()


def test_what_is_applied_is_taken_off_by_its_result(created: Any, llama_session: Session) -> None:
    kept, result = steer_tools.apply_steering_vector(created), steer_tools.apply_steering_vector(created)

    result.remove()

    assert [entry.steering_id for entry in llama_session.registry.entries()] == [kept["steering_id"]]
    with pytest.raises(UnknownSteeringIdError):
        result.remove()


def test_a_result_has_the_names_that_others_would_give_it(created: Any) -> None:
    half = steer_tools.create_steering_vector(POSITIVE[:2], NEGATIVE[:2], 2)
    found = steer_tools.analyze_steering_vector(created, compare_with=[half], top=3)

    assert found["top_tokens"] == [*found["lens"]["boosted"].items()]
    assert found.cosine_similarity == pytest.approx(
        created.steering_vector.cosine_similarity(half.steering_vector), abs=1e-3
    )
    both = steer_tools.analyze_steering_vector(created, compare_with=[half, created])
    assert both["cosine_similarity"] == both["saved_cosines"] and len(both["saved_cosines"]) == 2
    assert "top_tokens" not in found and "top_tokens" not in dict(found)


def test_a_result_is_shown_as_the_command_shows_it(created: Any, tmp_path: Path, monkeypatch: Any) -> None:
    compared = steer_tools.compare_generations(PROMPTS, created, strengths=[1.0], max_new_tokens=3)

    assert "baseline" in compared.summary() and "\x1b" not in compared.summary()
    assert re.search(r"<pre.*baseline", compared._repr_html_(), re.DOTALL)
    assert pretty(compared) == compared.summary().rstrip()
    monkeypatch.chdir(tmp_path)
    assert "Saved workspace/v.safetensors" in created.summary()
    assert steer_tools.remove_all_steering_vectors()._repr_html_() is None
    assert "removed" in steer_tools.remove_all_steering_vectors().summary()


def test_a_result_with_a_table_is_a_data_frame(created: Any) -> None:
    compared = steer_tools.compare_generations(PROMPTS, created, strengths=[-1.0, 1.0], max_new_tokens=3)

    table = compared.to_dataframe()

    assert list(table.columns) == ["prompt", "baseline", "-1", "+1"]
    assert list(table["+1"]) == compared["variants"][1]["texts"]
    with pytest.raises(ArgumentError, match="returns no table"):
        steer_tools.steering_status().to_dataframe()


def test_without_pandas_a_table_says_what_to_install(llama_session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = steer_tools.generate(PROMPTS, max_new_tokens=1)
    monkeypatch.setitem(sys.modules, "pandas", None)

    with pytest.raises(UnsupportedFeatureError, match=r'pip install "steer-tools\[pandas\]"'):
        texts.to_dataframe()


def test_what_made_a_vector_stands_for_it(created: Any, llama_session: Session) -> None:
    vector = steer_tools.load_vector("v")

    assert created.steering_vector == vector
    assert 2 * created - created / 2 == 1.5 * vector
    assert vector + created == created + vector == 2 * vector
    assert -created == -vector
    assert torch.equal(created[2], vector.tensor) and torch.equal(created.vector, vector.vector)
    assert created.norm() == pytest.approx(created["magnitude"], rel=1e-5)
    assert np.array_equal(np.asarray(created), vector.vector.numpy())
    with steer_tools.steering(created):
        assert len(llama_session.registry) == 1


def test_what_is_asked_of_a_result_reads_no_file_but_for_what_a_vector_has(created: Any) -> None:
    steer_tools.load_vector("v")
    Path(created["vector_path"]).unlink()

    assert not hasattr(created, "columns") and not hasattr(created, "_nothing")
    with pytest.raises(VectorFileError):
        _ = created.norm


# Vectors


def vector_at(*layers: int) -> SteeringVector:
    return SteeringVector({layer: torch.arange(1.0, 5.0) * (layer + 1) for layer in layers})


def test_a_vector_is_held_like_a_mapping_of_its_layers() -> None:
    vector = vector_at(3, 1)

    assert (len(vector), list(vector), vector.layers) == (2, [1, 3], (1, 3))
    assert torch.equal(vector[3], torch.arange(1.0, 5.0) * 4)
    assert np.asarray(vector).shape == (2, 4)
    with pytest.raises(LayerError, match=r"layer 2.*\[1, 3\]"):
        _ = vector[2]
    with pytest.raises(LayerError, match=r"the layers \[1, 3\]"):
        _ = vector.vector


def test_equal_vectors_have_equal_bits_at_the_same_place() -> None:
    vector = vector_at(1)
    nudged = SteeringVector({1: torch.nextafter(vector[1], torch.tensor(9.0))})

    assert vector == vector_at(1) == core.SteeringVector({1: vector[1]})
    assert hash(vector) == hash(vector_at(1))
    assert all(vector != other for other in (nudged, vector_at(2), SteeringVector(vector[1], "mlp", layer=1), 1))


def test_vectors_add_up() -> None:
    vectors = [vector_at(1), 2 * vector_at(1), -vector_at(1)]

    assert sum(vectors) == 2 * vector_at(1)
    assert isinstance(sum(vectors), SteeringVector)
    assert vectors[0].cosine_similarity(vectors[2]) == pytest.approx(-1)
    assert (vectors[0] / vectors[0].norm()).norm() == pytest.approx(1)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))])
def test_a_vector_can_be_copied(copied: Any) -> None:
    vector = vector_at(1, 2)

    assert copied(vector) == vector
    assert type(copied(vector)) is SteeringVector


@pytest.mark.parametrize("given", [{1: np.ones(4)}, {np.int64(1): [1.0] * 4}, {1: torch.ones(1, 4)}])
def test_a_vector_is_made_of_any_arrays(given: Any) -> None:
    assert SteeringVector(given) == SteeringVector(torch.ones(4), layer=1) == SteeringVector(layer_activations=given)


def test_what_makes_no_vector_is_refused_by_name() -> None:
    with pytest.raises(ArgumentError, match="does not say its layer"):
        SteeringVector(torch.ones(4))
    with pytest.raises(ArgumentError, match=r"no \['coefficient'\]"):
        SteeringVector({1: torch.ones(4)}, coefficient=2)
    with pytest.raises(AttributeError, match=r"no 'weight': vector\.vector"):
        _ = vector_at(1).weight
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = vector_at(1).nonsense


def test_what_is_saved_is_loaded_from_the_same_place(empty_session: Session, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    vector = vector_at(1, 2)

    path = vector.save("deep/v")

    assert path.is_relative_to(empty_session.workspace.root)
    names = ("deep/v", path, f"{empty_session.workspace.root.name}/deep/v.safetensors")
    assert all(SteeringVector.load(name) == steer_tools.load_vector(name) == vector for name in names)


def test_the_names_that_other_libraries_have_for_it_work(created: Any, llama_session: Session) -> None:
    vector = steer_tools.load_vector("v")
    model, _ = steer_tools.loaded_model()

    with vector.apply(model, multiplier=0.01):
        (applied,) = llama_session.registry.entries()
        assert (applied.strength, applied.layers) == (0.01, (2,))
    assert len(llama_session.registry) == 0
    assert vector.export_gguf("exported").suffix == ".gguf"
    assert steer_tools.load_vector("exported.gguf") == vector


def test_a_vector_is_one_line_and_a_card(created: Any) -> None:
    vector = steer_tools.load_vector("v")

    assert re.fullmatch(r"SteeringVector\(layer 2, width \d+, norm \S+, mean_difference, tiny\)", repr(vector))
    card = vector._repr_html_()
    assert all(f">{name}<" in card for name in ("layers", "norms", "method", "model", "promotes"))


def test_a_text_on_a_card_is_no_markup() -> None:
    info = core.VectorInfo(model_name="<b>bold</b>")

    assert "<b>" not in SteeringVector({1: torch.ones(4)}, info=info)._repr_html_()
