"""Chat templates from the tools: their options, texts that go round them, and an experiment on each shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from helpers.chat_templates import SHAPES, make_chat_tokenizer
from mcp_server.__main__ import main as serve
from steer_tools import (
    apply_steering_vector,
    attach_model,
    compare_generations,
    create_steering_vector,
    generate,
    load_model,
    load_vector,
    steering_experiment,
    steering_status,
)
from steer_tools.cli.workbench import Workbench
from steer_tools.errors import ArgumentError, PromptError
from steer_tools.prompts import parse_prompt
from steer_tools.session.session import Session

CHATS: list[Any] = [[{"role": "user", "content": text}] for text in ("Is the house red?", "Why is the sky blue?")]
KIND: list[Any] = ["The house is red.", "Yes."]
RUDE: list[Any] = ["No, it is not.", "Why is the sky blue?"]


def chat_model(name: str) -> tuple[Any, Any]:
    tokenizer = make_chat_tokenizer(SHAPES[name].source)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.25,
    )
    return LlamaForCausalLM(config).eval(), tokenizer


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_an_experiment_on_chats_starts_and_finishes_with_every_template(empty_session: Session, name: str) -> None:
    empty_session.attach(*chat_model(name))

    done = steering_experiment("sentiment", layers=[1], strengths=[0.2], controls=19)

    assert done["best_layer"] == 1
    assert Path(done["report_path"]).is_file()


def test_options_of_the_template_are_said_of_the_model_its_vectors_and_its_prompts(
    empty_session: Session, tmp_path: Path
) -> None:
    model, tokenizer = chat_model("qwen3")
    model.save_pretrained(tmp_path / "qwen")
    tokenizer.save_pretrained(tmp_path / "qwen")
    options = {"enable_thinking": False}

    loaded = load_model(str(tmp_path / "qwen"), template_options=options)

    assert loaded["model"]["template_options"] == options == steering_status()["model"]["template_options"]
    silent = empty_session.engine.tokenize(parse_prompt(CHATS[0])).texts
    path = create_steering_vector(CHATS[:1], CHATS[1:], 1, "v")["vector_path"]
    assert load_vector(path).info.template_options == options
    assert apply_steering_vector(path, strength=0.1)["warnings"] == []
    load_model(str(tmp_path / "qwen"))
    assert steering_status()["model"]["template_options"] == {}
    assert "</think>" in "".join(silent)
    assert "</think>" not in "".join(empty_session.engine.tokenize(parse_prompt(CHATS[0])).texts)
    assert any("options {'enable_thinking': False}" in text for text in apply_steering_vector(path)["warnings"])


def test_a_model_is_attached_again_for_other_options_and_keeps_what_is_applied(empty_session: Session) -> None:
    model, tokenizer = chat_model("qwen3")
    attach_model(model, tokenizer)
    apply_steering_vector(create_steering_vector(CHATS[:1], CHATS[1:], 1, "v")["vector_path"])

    info = attach_model(model, tokenizer, template_options={"enable_thinking": False})

    assert info.template_options == {"enable_thinking": False}
    assert len(empty_session.registry) == 1
    with pytest.raises(ArgumentError, match="'enable_thinking'"):
        attach_model(model, tokenizer, template_options={"enable_thoughts": False})


def test_options_are_typed_as_they_are_told() -> None:
    typed = {"model": "qwen", "workspace": None, "template_option": ["enable_thinking=false", "date_string=1 May"]}
    given = {"engine": "huggingface", "dtype": "auto", "device_map": None}

    bench = Workbench.of({**typed, **given})

    assert bench.loading["template_options"] == {"enable_thinking": False, "date_string": "1 May"}
    flags = ["--template-option", "enable_thinking=false", "--template-option", 'date_string="1 May"']
    assert bench.flags() == ["--model", "qwen", *flags]


def test_plain_texts_for_a_chat_model_are_taken_with_one_warning(empty_session: Session) -> None:
    empty_session.attach(*chat_model("chatml"))

    created = create_steering_vector([*KIND, *CHATS[:1]], [*RUDE, *CHATS[1:]], 1, "v", pooling="mean")
    warned = (
        created["warnings"],
        generate(KIND, max_new_tokens=1)["warnings"],
        compare_generations(KIND, created["vector_path"], max_new_tokens=1)["warnings"],
    )

    counts = [[text.split(" prompts")[0] for text in warnings if "round" in text] for warnings in warned]
    assert counts == [["4 of 6"], ["2 of 2"], ["2 of 2"]]


def test_chats_rendered_chats_and_models_without_a_template_give_no_such_warning(empty_session: Session) -> None:
    model, tokenizer = chat_model("chatml")
    empty_session.attach(model, tokenizer)
    rendered = tokenizer.apply_chat_template(CHATS[0], tokenize=False, add_generation_prompt=True)

    assert generate([*CHATS, rendered, [5, 6]], max_new_tokens=1)["warnings"] == []

    tokenizer.chat_template = None
    empty_session.detach()
    empty_session.attach(model, tokenizer)
    assert generate(KIND, max_new_tokens=1)["warnings"] == []


def test_the_bundled_models_own_texts_give_no_such_warning(empty_session: Session) -> None:
    empty_session.load("bundled")

    assert generate(["The storm is quiet."], max_new_tokens=1)["warnings"] == []


def test_the_toy_knows_its_roles_and_has_no_options(empty_session: Session) -> None:
    empty_session.load("toy", "fake")

    assert any("1 of 1 prompts" in text for text in generate(["baba"], max_new_tokens=1)["warnings"])
    with pytest.raises(PromptError, match="'system', 'user', 'assistant'"):
        generate([[{"role": "human", "content": "baba"}]])
    with pytest.raises(ArgumentError, match="no chat template of jinja"):
        empty_session.load("toy", "fake", template_options={"enable_thinking": False})


def test_the_server_gives_its_options_to_what_it_loads_and_refuses_what_is_none(
    empty_session: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = chat_model("qwen3")
    model.save_pretrained(tmp_path / "qwen")
    tokenizer.save_pretrained(tmp_path / "qwen")
    monkeypatch.setattr(empty_session, "default_template_options", {"enable_thinking": False})

    served = load_model(str(tmp_path / "qwen"))["model"]["template_options"]
    asked = load_model(str(tmp_path / "qwen"), template_options={})["model"]["template_options"]

    assert (served, asked) == ({"enable_thinking": False}, {})
    with pytest.raises(SystemExit):
        serve(["--template-option", "enable_thinking"])
    assert "--template-option 'enable_thinking' has no name or no value" in capsys.readouterr().err
