"""The attached model in the user's hands: got back by `loaded_model`, copied, pickled and saved whole."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from helpers.small_models import HARD, NEGATIVE, POSITIVE, make_model, make_tokenizer
from steer_tools import (
    apply_steering_vector,
    attach_model,
    check_steering,
    create_steering_vector,
    detach_model,
    load_model,
    loaded_model,
    remove_all_steering_vectors,
    steering,
)
from steer_tools.errors import NoModelError, UnsupportedFeatureError
from steer_tools.session.session import Session

IDS = torch.tensor([[1, 20, 30, 40, 50, 60]])


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(IDS).logits


def texts(model: Any) -> list[list[int]]:
    return model.generate(IDS, max_new_tokens=6, do_sample=False).tolist()


def pickled(model: Any) -> Any:
    return pickle.loads(pickle.dumps(model))


def saved_whole(model: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def apply() -> None:
    apply_steering_vector(create_steering_vector(POSITIVE, NEGATIVE, 2, "v")["vector_path"], 2, 9.0, positions="all")


def test_the_loaded_model_and_tokenizer_are_those_that_run(empty_session: Session, family: str, tmp_path: Path) -> None:
    make_model(family).save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    load_model(str(tmp_path / "model"))

    model, tokenizer = loaded_model()
    unsteered = logits(model)
    apply()

    assert not torch.equal(logits(model), unsteered)
    assert torch.equal(unsteered, logits(make_model(family)))
    assert tokenizer("baba mora")["input_ids"] == make_tokenizer()("baba mora")["input_ids"]
    assert loaded_model()[0] is model and loaded_model()[1] is tokenizer


def test_the_attached_model_and_tokenizer_are_the_ones_that_were_given(empty_session: Session) -> None:
    model, tokenizer = make_model("gpt2"), make_tokenizer()
    attach_model(model, tokenizer)

    assert loaded_model() == (model, tokenizer)


def test_without_a_model_it_is_said_how_to_get_one(empty_session: Session) -> None:
    with pytest.raises(NoModelError, match="load_model"):
        loaded_model()
    empty_session.load("toy", "fake")
    with pytest.raises(UnsupportedFeatureError, match="engine='huggingface'"):
        loaded_model()


@pytest.mark.parametrize("copied", [pickled, saved_whole])
def test_a_pickled_model_is_bare_and_leads_a_life_of_its_own(
    session: Session, model: Any, tokenizer: Any, copied: Callable[[Any], Any]
) -> None:
    plain = (logits(model), texts(model))
    apply()
    remove_all_steering_vectors()
    other = copied(model)
    apply()
    assert not torch.equal(logits(model), plain[0])

    assert torch.equal(logits(other), plain[0])
    assert texts(other) == plain[1]
    assert vars(other).get("generate", other.generate).__self__ is other

    steered = logits(model)
    attach_model(other, tokenizer)
    apply_steering_vector("v", 2, 9.0, positions="all")
    assert check_steering()["passed"]
    assert torch.equal(logits(other), steered)
    assert torch.equal(logits(model), plain[0])
    detach_model()
    assert torch.equal(logits(other), plain[0])


@pytest.mark.parametrize("way", [pickle.dumps, saved_whole])
@pytest.mark.parametrize("part", ["whole", "a block"])
def test_a_steered_model_is_not_pickled_without_its_steering(
    session: Session, model: Any, way: Callable[[Any], Any], part: str
) -> None:
    apply()
    which = model if part == "whole" else session.engine.architecture.blocks[2]  # type: ignore[attr-defined]  # live

    with pytest.raises(UnsupportedFeatureError, match=r"remove_all_steering_vectors\(\).*save_edited_model"):
        way(which)

    steered = logits(model)
    remove_all_steering_vectors()
    assert not torch.equal(logits(model), steered)
    way(which)


def test_a_pickle_is_read_where_this_package_is_not(llama_session: Session, tmp_path: Path) -> None:
    model, _ = loaded_model()
    torch.save(model, tmp_path / "model.pt")
    code = (
        "import sys, torch; sys.modules['steer_tools'] = None\n"
        f"m = torch.load({str(tmp_path / 'model.pt')!r}, weights_only=False)\n"
        f"print(m(torch.tensor({IDS.tolist()})).logits.sum().item())"
    )

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert run.stdout.strip() == str(logits(model).sum().item()), run.stderr


@HARD
def test_a_deep_copy_is_steered_as_the_original_is(session: Session, model: Any) -> None:
    plain = logits(model)
    apply()
    other = copy.deepcopy(model)
    steered, written = logits(model), texts(model)

    assert not torch.equal(steered, plain)
    assert torch.equal(logits(other), steered)
    assert texts(other) == written
    with steering("v", 1, 5.0, positions="all"):
        assert torch.equal(logits(other), logits(model))
        assert not torch.equal(logits(other), steered)
    detach_model()
    assert torch.equal(logits(other), plain)


def test_a_deep_copy_can_be_attached_in_its_originals_place(session: Session, model: Any, tokenizer: Any) -> None:
    apply()
    steered = logits(model)
    other = copy.deepcopy(model)

    attach_model(other, tokenizer)
    plain = logits(other)
    apply_steering_vector("v", 2, 9.0, positions="all")

    assert torch.equal(logits(model), plain)
    assert torch.equal(logits(other), steered)
    assert check_steering()["passed"]


def test_what_is_saved_as_a_checkpoint_is_the_model_without_its_steering(
    session: Session, model: Any, tmp_path: Path
) -> None:
    plain = logits(model)
    apply()
    steered = logits(model)

    model.save_pretrained(tmp_path / "model")

    again: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert torch.equal(logits(again), plain)
    assert torch.equal(logits(model), steered)


def test_a_method_of_the_models_own_is_pickled(empty_session: Session) -> None:
    model = make_model("llama")
    model.generate = partial(make_model("llama", seed=1).generate, max_new_tokens=2)
    attach_model(model, make_tokenizer())

    assert pickled(model).generate(IDS).shape == (1, IDS.shape[1] + 2)
