"""Prompt → token ids: BOS once, completions that leave their prompt alone, chats."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import AddedToken, processors

from helpers.small_models import make_tokenizer
from steer_tools.engines.huggingface.tokenization import Tokenization
from steer_tools.errors import PromptError
from steer_tools.prompts import parse_prompt

USER = {"role": "user", "content": "baba keke"}
SYSTEM = {"role": "system", "content": "lili"}
ASSISTANT = {"role": "assistant", "content": "mora seti"}


@pytest.fixture
def tokens() -> Tokenization:
    return Tokenization(make_tokenizer(), context_length=20, vocabulary=109)


def text_of(ids: Any) -> str:
    return " ".join(make_tokenizer().convert_ids_to_tokens(list(ids)))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("baba keke", "<s> baba keke"),
        ("<s> user : baba keke", "<s> user : baba keke"),
        ([8, 19], "baba keke"),
        ([USER], "<s> user : baba keke <end> assistant :"),
        ([SYSTEM, USER], "<s> system : lili <end> user : baba keke <end> assistant :"),
        ([USER, ASSISTANT], "<s> user : baba keke <end> assistant : mora seti"),
    ],
)
def test_a_prompt_has_one_bos_at_most(tokens: Tokenization, prompt: Any, expected: str) -> None:
    assert text_of(tokens.encode(parse_prompt(prompt)).tokens) == expected


def test_a_tokenizer_without_bos_adds_none() -> None:
    tokens = Tokenization(make_tokenizer(bos=False), None, 109)

    assert text_of(tokens.encode(parse_prompt("baba")).tokens) == "baba"
    assert tokens.bos_token is None


def test_the_last_assistant_message_is_told_from_what_is_before(tokens: Tokenization) -> None:
    encoded = tokens.encode(parse_prompt([USER, ASSISTANT]))

    assert encoded.response_start is not None
    assert text_of(encoded.tokens[encoded.response_start :]) == "mora seti"
    assert tokens.encode(parse_prompt([USER])).response_start is None


@pytest.mark.parametrize("prompt", ["baba keke", [USER], [USER, ASSISTANT], [8, 19]])
@pytest.mark.parametrize("completion", [" nura tili", [30, 31]])
def test_a_completion_leaves_the_tokens_of_its_prompt(tokens: Tokenization, prompt: Any, completion: Any) -> None:
    parsed = parse_prompt(prompt)
    encoded = tokens.encode(parsed)

    added = tokens.encode_completion(parsed, encoded, completion)

    assert text_of(added) == ("nura tili" if isinstance(completion, str) else text_of([30, 31]))
    assert tokens.encode(parsed) == encoded


def test_a_completion_that_would_merge_with_its_prompt_is_tokenised_alone(tokens: Tokenization) -> None:
    parsed = parse_prompt("baba")  # "baba" + "keke" would be one unknown word.

    added = tokens.encode_completion(parsed, tokens.encode(parsed), "keke")

    assert text_of(added) == "keke"


def test_texts_end_at_the_end_of_sequence_and_at_the_templates_end_of_turn(tokens: Tokenization) -> None:
    assert text_of(tokens.stop_tokens) == "</s> <end>"
    assert text_of(Tokenization(make_tokenizer(chat=False), None, 109).stop_tokens) == "</s>"


def test_nothing_is_truncated(tokens: Tokenization) -> None:
    assert len(tokens.encode(parse_prompt("baba " * 19)).tokens) == 20

    with pytest.raises(PromptError, match="at most 20 tokens"):
        tokens.encode(parse_prompt("baba " * 20))
    with pytest.raises(PromptError, match="10 tokens with 11 more"):
        tokens.encode(parse_prompt("baba " * 9), new_tokens=11)


def test_the_tokenizer_is_not_changed(tokens: Tokenization) -> None:
    tokenizer = make_tokenizer()
    before = (tokenizer.pad_token, tokenizer.padding_side, len(tokenizer), tokenizer.chat_template)

    Tokenization(tokenizer, 20, 109).encode(parse_prompt([USER, ASSISTANT]))

    assert (tokenizer.pad_token, tokenizer.padding_side, len(tokenizer), tokenizer.chat_template) == before


def test_new_text_keeps_the_space_before_it(tokens: Tokenization) -> None:
    assert tokens.decode_continuation([1, 8], [19]) == " keke"


def test_an_end_that_the_tokenizer_appends_is_left_off() -> None:
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    tokens = Tokenization(tokenizer, None, 109)
    parsed = parse_prompt("baba keke")
    assert text_of(tokenizer("baba keke")["input_ids"]) == "<s> baba keke </s>"

    encoded = tokens.encode(parsed)

    assert text_of(encoded.tokens) == "<s> baba keke"
    assert text_of(tokens.encode_completion(parsed, encoded, " lili")) == "lili"


def test_an_added_token_that_is_special_ends_a_turn() -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([AddedToken("<eot>", special=True)])
    tokenizer.chat_template = tokenizer.chat_template.replace("<end>", "<eot>")
    tokens = Tokenization(tokenizer, None, len(tokenizer))

    assert tokens.stop_tokens == (2, tokenizer.convert_tokens_to_ids("<eot>"))


def test_a_pad_token_outside_the_embedding_is_not_used() -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == 109

    assert Tokenization(tokenizer, None, 109).pad_token == 0


def test_text_with_ids_outside_the_embedding_is_refused() -> None:
    with pytest.raises(PromptError, match="model's own"):
        Tokenization(make_tokenizer(), None, 50).encode(parse_prompt("zuzu"))


def test_a_chat_of_one_assistant_message_is_all_response_after_its_role(tokens: Tokenization) -> None:
    encoded = tokens.encode(parse_prompt([ASSISTANT]))

    assert text_of(encoded.tokens[: encoded.response_start]) == "<s> assistant :"


def test_a_template_that_leaves_out_a_message_is_explained() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }} : (left out) <end>{% endfor %}"
    tokens = Tokenization(tokenizer, None, 109)

    with pytest.raises(PromptError, match=r"leaves out or rewrites the text of message 0 \(role 'user'\)"):
        tokens.encode(parse_prompt([USER, ASSISTANT]))


@pytest.mark.parametrize(
    ("chat", "rest"),
    [
        ([USER], "<end> assistant :"),
        ([SYSTEM, USER], "<end> assistant :"),
        ([USER, ASSISTANT], "<end> assistant : mora seti"),
        ([USER, ASSISTANT, {"role": "user", "content": "zuzu"}], "<end> assistant :"),
        # A message that no word of is known, and one that ends like the template itself.
        ([{"role": "user", "content": "unheard of"}], "<end> assistant :"),
        ([{"role": "user", "content": "baba <end> assistant :"}], "<end> assistant :"),
    ],
)
def test_the_place_after_the_last_user_message_is_told_whatever_it_says(
    tokens: Tokenization, chat: Any, rest: str
) -> None:
    prompt = parse_prompt(chat)

    encoded = tokens.encode(prompt)

    assert text_of(encoded.tokens[encoded.after_user :]) == rest
    assert tokens.answer_start == encoded.tokens[encoded.after_user :][:3]
