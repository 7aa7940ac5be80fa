"""What its owner changes of the attached model is taken up at the next tool call, or refused by name.

The oracle is a fresh attach of the changed model, and its logits under a plain torch hook.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from helpers import family_models
from helpers.small_models import LAYERS, NEGATIVE, POSITIVE, PROMPTS, WIDTH, make_model, make_tokenizer
from steer_tools import (
    apply_steering_vector,
    attach_model,
    check_steering,
    compare_generations,
    create_steering_vector,
    detach_model,
    generate,
    load_vector,
    loaded_model,
    remove_all_steering_vectors,
    show_tokens,
    steering,
    steering_status,
    update_steering_vector,
)
from steer_tools.core.interventions import Add
from steer_tools.core.plan import Placement
from steer_tools.core.positions import Scope
from steer_tools.core.site import Site
from steer_tools.engines.base import Row, Sampling
from steer_tools.engines.huggingface.engine import HuggingFaceEngine
from steer_tools.errors import ArgumentError, LayerError, PromptError, StrengthError, UnsupportedModelError
from steer_tools.prompts import TokenPrompt
from steer_tools.session.session import Session

IDS = torch.tensor([[1, 20, 30, 40, 50, 60]])
AT, STRENGTH = 2, 3.0

peft_uses_an_old_name = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(IDS).logits


def apply(name: str = "v") -> Tensor:
    """Create a vector, apply it to every token, and return what is added."""
    path = create_steering_vector(POSITIVE, NEGATIVE, AT, name)["vector_path"]
    apply_steering_vector(path, AT, STRENGTH, positions="all")
    return STRENGTH * load_vector(path).directions[AT]


def by_hand(model: Any, block: nn.Module, delta: Tensor) -> Tensor:
    def add(module: nn.Module, args: Any, hidden: Tensor) -> Tensor:
        return (hidden.float() + delta).to(hidden.dtype)

    handle = block.register_forward_hook(add)
    try:
        return logits(model)
    finally:
        handle.remove()


class Lora(nn.Module):
    """An adapter made by hand, as notebooks have them."""

    def __init__(self, base: nn.Module, width: int) -> None:
        super().__init__()
        self.base, self.scale, self.is_enabled = base, 1.0, True
        self.down, self.up = nn.Linear(width, 2, bias=False), nn.Linear(2, WIDTH, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        added = self.scale * self.up(self.down(hidden)) if self.is_enabled else 0.0
        return self.base(hidden) + added


def adapt(model: Any) -> None:
    torch.manual_seed(3)
    mlp = model.model.layers[1].mlp
    mlp.down_proj = Lora(mlp.down_proj, 64).eval()


@torch.no_grad()
def edit_a_number(model: Any) -> None:
    """Change one that is not among those that are looked at."""
    model.model.layers[1].mlp.down_proj.weight[0, 7] += 20


def edit_data(model: Any) -> None:
    weight = model.model.layers[1].mlp.down_proj.weight
    weight.data -= 0.3 * weight.data.mean(0, keepdim=True) + 0.1


def assign_data(model: Any) -> None:
    weight = model.model.layers[1].mlp.down_proj.weight
    weight.data = weight.data * 1.5


def train_a_step(model: Any) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model(IDS, labels=IDS).loss.backward()
    optimizer.step()
    model.zero_grad(set_to_none=True)


def add_tokens(model: Any, tokenizer: Any) -> None:
    tokenizer.add_tokens(["wawa", "yoyo"] + [f"new{i}" for i in range(30)])
    model.resize_token_embeddings(len(tokenizer))


def in_other_words(model: Any, tokenizer: Any) -> None:
    tokenizer.chat_template = tokenizer.chat_template.replace("<end>", " zuzu ")


def of_weights(change: Callable[[Any], object]) -> Callable[[Any, Any], object]:
    return lambda model, tokenizer: change(model)


def replace_a_block(model: Any) -> None:
    model.model.layers[AT] = make_model("llama", seed=5).model.layers[AT]


# What is changed, and whether the unsteered model's logits change, too.
CHANGES: dict[str, tuple[Callable[[Any, Any], object], bool]] = {
    "to bfloat16": (of_weights(lambda m: m.to(torch.bfloat16)), True),
    "half": (of_weights(lambda m: m.half()), True),
    "other weights": (of_weights(lambda m: m.load_state_dict(make_model("llama", seed=1).state_dict())), True),
    "a number in place": (of_weights(edit_a_number), True),
    "data in place": (of_weights(edit_data), True),
    "data assigned": (of_weights(assign_data), True),
    "a step of training": (of_weights(train_a_step), True),
    "an adapter made by hand": (of_weights(adapt), True),
    "another block": (of_weights(replace_a_block), True),
    "more tokens": (add_tokens, False),
    "another chat template": (in_other_words, False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_taken_up_by_the_next_tool_call(llama_session: Session, change: str) -> None:
    model, tokenizer = loaded_model()
    attach_model(model, tokenizer, "tiny", template_options=None)
    engine, unsteered = llama_session.engine, logits(model)
    delta = apply()
    norm = llama_session.typical_norm(Site(AT))
    alter, moves_logits = CHANGES[change]

    alter(model, tokenizer)
    status = steering_status()

    assert llama_session.engine is not engine
    assert status["in_force"] and len(status["applied"]) == 1
    steered = logits(model)
    assert check_steering()["passed"]
    norm_now, facts = llama_session.typical_norm(Site(AT)), status["model"]
    detach_model()
    now = logits(model)
    assert torch.equal(steered, by_hand(model, model.model.layers[AT], delta))
    assert not torch.equal(steered, now)
    assert not moves_logits or not torch.equal(now, unsteered)
    attach_model(model, tokenizer, "tiny")
    assert steering_status()["model"] == facts
    assert llama_session.typical_norm(Site(AT)) == norm_now
    assert (norm_now != norm) == moves_logits
    assert facts["device"] == str(model.device) and facts["dtype"] == str(model.dtype).removeprefix("torch.")


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "gemma3_text", "mixtral", "jamba", "qwen3_next", "mamba"])
def test_nothing_is_taken_for_a_change_that_the_tools_and_the_model_do_themselves(
    empty_session: Session, name: str
) -> None:
    model: Any = make_model(name) if name in ("llama", "gpt2", "bloom") else family_models.build(name)
    tokenizer = make_tokenizer()
    attach_model(model, tokenizer)
    engine: Any = empty_session.engine

    apply()
    generate(PROMPTS, max_new_tokens=3)
    generate([[{"role": "user", "content": "baba"}]], max_new_tokens=3, temperature=1.0)
    compare_generations(PROMPTS, max_new_tokens=3)
    model.generate(IDS, max_new_tokens=4, do_sample=False, pad_token_id=0)
    tokenizer(PROMPTS, padding=True)
    model.train()
    model.eval()
    steering_status()

    assert empty_session.engine is engine
    assert engine.changes() == ()
    with torch.no_grad():
        next(model.parameters()).mul_(1.01)
    assert engine.changes() == ("its weights were changed",)


def test_the_same_weights_in_another_dtype_keep_their_fingerprint(llama_session: Session) -> None:
    model, _ = loaded_model()
    apply("before")
    first = llama_session.engine.info.fingerprint

    model.to(torch.bfloat16)
    assert not any("other weights" in text for text in apply_steering_vector("before")["warnings"])
    assert llama_session.engine.info.fingerprint == first
    edit_a_number(model)
    warnings = apply_steering_vector("before")["warnings"]

    assert llama_session.engine.info.fingerprint != first
    assert any("other weights" in text for text in warnings)


def test_new_tokens_and_a_new_template_are_what_prompts_are_made_of(llama_session: Session) -> None:
    model, tokenizer = loaded_model()
    chat = [[{"role": "user", "content": "baba"}]]
    before = show_tokens(chat)["prompts"][0]

    in_other_words(model, tokenizer)
    assert show_tokens(chat)["prompts"][0] != before
    tokenizer.add_tokens([f"new{i}" for i in range(30)])
    with pytest.raises(PromptError, match=r"model\.resize_token_embeddings\(len\(tokenizer\)\)"):
        generate(["new29"], max_new_tokens=1)
    model.resize_token_embeddings(len(tokenizer))
    assert len(generate(["new29"], max_new_tokens=2)["texts"]) == 1

    tokenizer.chat_template = None
    assert not steering_status()["model"]["chat_template"]
    with pytest.raises(PromptError, match="no chat template"):
        generate(chat, max_new_tokens=1)


def two_adapters() -> Any:
    base = make_model("llama")
    torch.manual_seed(1)
    lora = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    model: Any = get_peft_model(base, lora, "first")
    model.add_adapter("second", lora)
    return model.eval()


@peft_uses_an_old_name
def test_adapters_that_are_swapped_switched_merged_or_scaled_are_taken_up(empty_session: Session) -> None:
    model, tokenizer = two_adapters(), make_tokenizer()
    attach_model(model, tokenizer)
    delta = apply()
    norms, prints = [], []
    changes: list[Callable[[], object]] = [
        lambda: model.set_adapter("second"),
        lambda: model.base_model.model.model.layers[1].mlp.down_proj.scaling.update(second=5.0),
        model.base_model.disable_adapter_layers,
        model.base_model.enable_adapter_layers,
        model.merge_adapter,
    ]

    for change in changes:
        change()
        assert steering_status()["in_force"]
        steered = logits(model)
        assert check_steering()["passed"]
        norms.append(empty_session.typical_norm(Site(3)))
        prints.append(empty_session.engine.info.fingerprint)
        with empty_session.engine.aside():  # type: ignore[attr-defined]  # a live one
            assert torch.equal(steered, by_hand(model, model.get_base_model().model.layers[AT], delta))
            assert not torch.equal(steered, logits(model))

    assert len(set(norms[:3])) == 3
    assert norms[3] == norms[1]
    assert norms[4] == pytest.approx(norms[3], rel=1e-4)
    assert prints[0] == prints[1] == prints[3] and len({prints[0], prints[2], prints[4]}) == 3
    detach_model()
    attach_model(make_model("llama"), tokenizer)
    # Switched off, it is the base model, and is known as that.
    assert prints[2] == empty_session.engine.info.fingerprint
    assert norms[2] == empty_session.typical_norm(Site(3))


def test_a_model_that_cannot_be_steered_as_it_is_now_is_refused_by_name(llama_session: Session) -> None:
    model, _ = loaded_model()
    apply()
    before = llama_session.registry.entries()

    model.train()
    train_a_step(model)
    with pytest.raises(UnsupportedModelError, match=r"its weights were changed.*train mode.*model\.eval\(\)"):
        generate(PROMPTS, max_new_tokens=1)
    assert llama_session.registry.entries() == before
    with pytest.raises(UnsupportedModelError, match="train mode"):
        update_steering_vector(before[0].steering_id, 9.0)
    assert llama_session.registry.entries() == before

    model.eval()
    assert generate(PROMPTS, max_new_tokens=1)["texts"]
    assert steering_status()["in_force"]
    model.train()
    train_a_step(model)
    assert remove_all_steering_vectors()["removed"] == 1


def test_a_block_of_with_ends_whatever_was_done_to_the_model_inside(llama_session: Session) -> None:
    model, _ = loaded_model()
    create_steering_vector(POSITIVE, NEGATIVE, AT, "v")

    with steering("v", AT, 0.1):
        model.train()
        train_a_step(model)

    assert not llama_session.registry.entries()


def test_a_model_without_weights_is_refused(llama_session: Session) -> None:
    model, _ = loaded_model()
    apply()

    model.to("meta")

    with pytest.raises(UnsupportedModelError, match=r"on meta and was on cpu.*Load it again"):
        generate(PROMPTS, max_new_tokens=1)


def test_what_is_applied_and_does_not_fit_any_more_is_refused_and_can_be_taken_off(llama_session: Session) -> None:
    model, tokenizer = loaded_model()
    apply()
    update_steering_vector(llama_session.registry.entries()[0].steering_id, 1e6)

    model.half()
    with pytest.raises(StrengthError, match=r"was float32.*float16 can hold.*remove_all_steering_vectors"):
        generate(PROMPTS, max_new_tokens=1)
    with pytest.raises(StrengthError):
        attach_model(model, tokenizer)
    remove_all_steering_vectors()
    assert steering_status()["model"]["dtype"] == "float16"

    apply()
    model.model.layers = model.model.layers[:AT]
    model.config.num_hidden_layers = AT
    with pytest.raises(LayerError, match=f"taken out.*{AT} decoder blocks"):
        steering_status()
    remove_all_steering_vectors()
    assert steering_status()["model"]["layer_count"] == AT < LAYERS


def test_options_that_the_template_lost_are_named(empty_session: Session) -> None:
    model, tokenizer = make_model("llama"), make_tokenizer()
    plain = tokenizer.chat_template
    tokenizer.chat_template = plain + "{% if brief %} keke {% endif %}"
    attach_model(model, tokenizer, template_options={"brief": True})
    apply()

    tokenizer.chat_template = plain
    with pytest.raises(ArgumentError, match=r"chat template is another.*brief"):
        steering_status()
    attach_model(model, tokenizer)

    assert len(steering_status()["applied"]) == 1


def test_a_change_is_taken_up_where_the_notebook_holds_the_model(
    empty_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, main = make_model("llama"), sys.modules["__main__"]
    monkeypatch.setattr(main, "model", model, raising=False)
    monkeypatch.setattr(main, "tokenizer", make_tokenizer(), raising=False)
    delta = apply()

    edit_a_number(model)
    assert check_steering()["passed"]
    steered = logits(model)

    detach_model()
    assert torch.equal(steered, by_hand(model, model.model.layers[AT], delta))


def test_a_renewed_engine_generates_as_a_new_one_while_the_old_one_steers(engine: HuggingFaceEngine) -> None:
    add = Add(torch.randn(WIDTH, generator=torch.Generator().manual_seed(0)))
    plan = (Placement(add, Site(AT), 5.0, Scope.parse("all")),)
    row = Row(TokenPrompt((1, 20, 30)), plan)
    expected = engine.generate([row, Row(row.prompt)], Sampling(6))
    engine.set_ambient(plan)

    other = engine.renewed(engine.tokenizer, "again", None)

    with engine.aside():
        found = other.generate([row, Row(row.prompt)], Sampling(6))
        assert other.restoration() == (0.0, 0.0)
    assert [g.tokens for g in found] == [g.tokens for g in expected]
    assert expected[0].tokens != expected[1].tokens
    other.detach()
    assert engine.hooks_are_live()
