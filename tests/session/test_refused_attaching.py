"""What is refused leaves the attached model, what is applied to it and its hooks as they were, to the last bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from helpers.small_models import FAMILIES, NEGATIVE, POSITIVE, make_model, make_tokenizer
from steer_tools import (
    apply_steering_vector,
    attach_model,
    check_steering,
    create_steering_vector,
    detach_model,
    load_model,
    remove_all_steering_vectors,
    steering_status,
)
from steer_tools.core.site import Site
from steer_tools.errors import ArgumentError, SteeringError, UnsupportedModelError
from steer_tools.session.session import Session

IDS = torch.tensor([[1, 20, 30, 40, 50, 60]])

peft_uses_an_old_name = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(IDS).logits


def texts(model: Any) -> list[list[int]]:
    return model.generate(IDS, max_new_tokens=6, do_sample=False).tolist()


def hooks_of(model: Any) -> list[tuple[str, list[int], list[int], Any]]:
    """Every hook by its id, and the methods that the model has of its own."""
    return [
        (name, list(m._forward_hooks), list(m._forward_pre_hooks), vars(m).get("generate"))
        for name, m in model.named_modules()
    ]


def in_eval_mode_but_for_one_block() -> Any:
    model = make_model("gpt2")
    model.transformer.h[1].train()
    return model


class Mute:
    """What can be called as a tokenizer is, and is none."""

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [1, len(text)]}


class Crashing(torch.nn.Module):
    def forward(self, hidden: Any, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no kernel for this")


def that_cannot_run() -> Any:
    model = make_model("llama")
    model.model.layers[1].mlp = Crashing()
    return model.eval()


def that_changes_the_past() -> Any:
    """A model that is refused only by the probe, after the hooks were put on it."""
    model = make_model("llama")
    model.model.layers[1].mlp.register_forward_hook(lambda module, args, output: output + output.mean(1, keepdim=True))
    return model


# What is tried with the attached model and its tokenizer, and what is said.
REFUSED: dict[str, tuple[Callable[[Any, Any], object], str]] = {
    "no tokenizer": (lambda m, t: attach_model(m, None), "tokenizer is a NoneType"),
    "a name as tokenizer": (lambda m, t: attach_model(m, "gpt2"), "tokenizer is a str"),
    "a function as tokenizer": (lambda m, t: attach_model(m, Mute()), "tokenizer is a Mute"),
    "an unused option": (lambda m, t: attach_model(m, t, template_options={"thinks": True}), "thinks"),
    "options without a template": (
        lambda m, t: attach_model(m, make_tokenizer(chat=False), template_options={"thinks": True}),
        "no chat template",
    ),
    "no model": (lambda m, t: attach_model(None, t), "NoneType"),
    "another in train mode": (lambda m, t: attach_model(in_eval_mode_but_for_one_block(), t), r"eval\(\)"),
    "another that does not run": (lambda m, t: attach_model(that_cannot_run(), t), "no kernel for this"),
    "another that is not causal": (lambda m, t: attach_model(that_changes_the_past(), t), "before it"),
    "a part of it": (lambda m, t: attach_model(m.base_model, t), "logits"),
}
# Asked for on the hub, which takes half a minute where nothing answers.
UNKNOWN = pytest.param("llama", (lambda m, t: load_model("no/such-model"), "cannot be loaded"), id="an unknown name")


@pytest.fixture
def steered(empty_session: Session, family: str) -> Iterator[Any]:
    """A model of each family with a vector applied."""
    model = make_model(family)
    attach_model(model, make_tokenizer())
    apply_steering_vector(create_steering_vector(POSITIVE, NEGATIVE, 2, "v")["vector_path"], 2, 9.0, positions="all")
    yield model
    detach_model()


@pytest.mark.parametrize(
    ("family", "way"),
    [*(pytest.param(own, way, id=f"{own}-{name}") for own in FAMILIES for name, way in REFUSED.items()), UNKNOWN],
)
def test_a_refused_attach_changes_nothing(empty_session: Session, steered: Any, way: Any) -> None:
    attempt, said = way
    engine, tokenizer = empty_session.engine, empty_session.engine.tokenizer  # type: ignore[attr-defined]  # a live one
    norm = empty_session.typical_norm(Site(2))
    before = (logits(steered), texts(steered), hooks_of(steered), steering_status())

    with pytest.raises(SteeringError, match=said):
        attempt(steered, tokenizer)

    assert torch.equal(logits(steered), before[0])
    assert (texts(steered), hooks_of(steered), steering_status()) == before[1:]
    assert empty_session.engine is engine
    assert empty_session.typical_norm(Site(2)) == norm
    assert steering_status()["in_force"]
    assert check_steering()["passed"]
    remove_all_steering_vectors()
    assert not torch.equal(logits(steered), before[0])


def test_a_model_is_given_back_bare_after_refused_and_accepted_attaches(empty_session: Session, family: str) -> None:
    model = make_model(family)
    bare = (hooks_of(model), logits(model))
    attach_model(model, make_tokenizer())
    apply_steering_vector(create_steering_vector(POSITIVE, NEGATIVE, 2, "v")["vector_path"], 2, 9.0, positions="all")
    steered = (logits(model), texts(model))

    for tokenizer in (make_tokenizer(bos=False), None, make_tokenizer(), Mute(), make_tokenizer(chat=False)):
        if isinstance(tokenizer, type(make_tokenizer())):
            attach_model(model, tokenizer)
        else:
            with pytest.raises(ArgumentError):
                attach_model(model, tokenizer)
        assert torch.equal(logits(model), steered[0])
        assert texts(model) == steered[1]
    detach_model()

    assert not torch.equal(steered[0], bare[1])
    assert hooks_of(model) == bare[0]
    assert torch.equal(logits(model), bare[1])


def test_a_method_of_the_models_own_comes_back_after_two_attaches(empty_session: Session) -> None:
    model = make_model("llama")
    plain = texts(model)
    models_own = model.generate
    calls: list[int] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return models_own(*args, **kwargs)

    model.generate = counted
    attach_model(model, make_tokenizer())
    attach_model(model, make_tokenizer())
    generated = texts(model)
    detach_model()

    assert generated == plain
    assert len(calls) == 1
    assert vars(model)["generate"] is counted


@peft_uses_an_old_name
def test_a_wrapper_of_the_attached_model_is_attached_as_if_nothing_were_applied(llama_session: Session) -> None:
    model: Any = llama_session.engine.architecture.model  # type: ignore[attr-defined]  # the engine of this test
    unsteered = logits(model)
    path = create_steering_vector(POSITIVE, NEGATIVE, 2, "v")["vector_path"]
    apply_steering_vector(path, 2, 9.0, positions="all")
    assert not torch.equal(logits(model), unsteered)
    lora = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")  # It begins as the identity.
    wrapper = get_peft_model(model, lora).eval()

    attach_model(wrapper, make_tokenizer())
    assert torch.equal(logits(wrapper), unsteered)
    assert steering_status()["applied"] == []
    apply_steering_vector(path, 2, 9.0, positions="all")

    # Had the logits that removal has to restore been taken while the first engine steered, this would say so.
    assert check_steering()["passed"]
    detach_model()
    assert torch.equal(logits(wrapper), unsteered)
    assert "generate" not in vars(model)


def test_a_load_that_fails_late_keeps_what_is_applied(empty_session: Session, steered: Any, tmp_path: Path) -> None:
    broken = in_eval_mode_but_for_one_block()
    broken.config.is_encoder_decoder = True
    broken.save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    before = (logits(steered), hooks_of(steered), steering_status())

    with pytest.raises(UnsupportedModelError):
        load_model(str(tmp_path / "model"))

    assert torch.equal(logits(steered), before[0])
    assert (hooks_of(steered), steering_status()) == before[1:]
