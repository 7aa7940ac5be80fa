"""Chats of many template shapes: nothing of a message is lost, and exactly the answer's tokens are the answer."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from transformers import ByT5Tokenizer

from helpers.chat_templates import SHAPES, Shape, make_chat_tokenizer, text_of
from steer_tools.engines.huggingface.tokenization import Tokenization
from steer_tools.errors import ArgumentError, PromptError
from steer_tools.prompts import parse_prompt

# What a template itself writes, what merges with what it writes, more bytes than characters, and white space.
ANSWERS = ("Yes.", "user", "assistant", "\u00e9\U0001f600", "model\n\nNo.", "a", " Yes. ", "Yes.\n", "<|end|> Yes")
QUESTIONS = ("Is the house red?", "assistant", " Why", "a", "\u00e9\n", "Yes.")
EVERY_SHAPE = pytest.mark.parametrize("name", SHAPES)


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def tokenization(name: str, **options: Any) -> tuple[Any, Tokenization]:
    tokenizer = make_chat_tokenizer(SHAPES[name].source)
    return tokenizer, Tokenization(tokenizer, None, len(tokenizer), options)


def written(tokenizer: Any, shape: Shape, chat: list[dict[str, str]], **more: Any) -> str:
    """What the tokenizer itself makes of a chat, with contents in parts where the template wants them so."""
    messages = [
        {**m, "content": [{"type": "text", "text": m["content"]}]} if m["role"] in shape.in_parts else m for m in chat
    ]
    return tokenizer.apply_chat_template(messages, tokenize=False, **more)


def trimmed(shape: Shape, text: str) -> str:
    return text.strip() if shape.cuts else text


def tokens_within(tokenizer: Any, ids: tuple[int, ...], start: int, end: int) -> tuple[int, ...]:
    """The tokens of a byte-level tokenizer that hold some of the bytes from `start` to `end`."""
    ends = list(itertools.accumulate(len(piece) for piece in tokenizer.convert_ids_to_tokens(list(ids))))
    begins = [0, *ends[:-1]]
    return tuple(token for token, b, e in zip(ids, begins, ends, strict=True) if max(b, start) < min(e, end))


@pytest.mark.parametrize("answer", ANSWERS)
@EVERY_SHAPE
def test_exactly_the_tokens_of_the_answer_are_read_as_the_answer(name: str, answer: str) -> None:
    shape, (tokenizer, tokens) = SHAPES[name], tokenization(name)
    chats = [[user("Is it?"), assistant(answer)], [user(answer), assistant("No."), user("a"), assistant(answer)]]
    chats += [[system("Be kind."), *chat] for chat in chats if shape.has_system]

    for chat in chats:
        whole = written(tokenizer, shape, chat)
        text = trimmed(shape, answer)
        upto, found, rest = whole.rpartition(shape.before + text + shape.after)
        assert found and not rest
        start = len((upto + shape.before).encode())
        end = start + len(text.encode())
        ids = tuple(tokenizer(upto + shape.before + text, add_special_tokens=False)["input_ids"])

        encoded = tokens.encode(parse_prompt(chat))

        assert encoded.tokens == ids
        assert ids[encoded.response_start :] == tokens_within(tokenizer, ids, start, end) != ()


@pytest.mark.parametrize("question", QUESTIONS)
@EVERY_SHAPE
def test_what_follows_the_last_user_message_begins_after_its_last_token(name: str, question: str) -> None:
    shape, (tokenizer, tokens) = SHAPES[name], tokenization(name)
    for head in ([], [user("a"), assistant(question)]):
        whole = written(tokenizer, shape, [*head, user(question)], add_generation_prompt=True)
        tail = written(tokenizer, shape, [*head, user("@")], add_generation_prompt=True).rpartition("@")[2]
        ids = tuple(tokenizer(whole, add_special_tokens=False)["input_ids"])

        encoded = tokens.encode(parse_prompt([*head, user(question)]))

        assert encoded.tokens == ids
        straddling = tokens_within(tokenizer, ids, 0, len(whole.encode()) - len(tail.encode()))
        assert ids[: encoded.after_user] == straddling


@EVERY_SHAPE
def test_a_completion_is_scored_after_the_start_of_an_answer_as_the_model_sees_it(name: str) -> None:
    shape, (tokenizer, tokens) = SHAPES[name], tokenization(name)
    prompt = parse_prompt([user("Is it?")])
    encoded = tokens.encode(prompt)

    added = tokens.encode_completion(prompt, encoded, "No.")

    start = written(tokenizer, shape, [user("Is it?")], add_generation_prompt=True)
    assert start.endswith(shape.opens)
    assert text_of(tokenizer, (*encoded.tokens, *added)) == f"{start}No."
    assert text_of(tokenizer, added) == "No."


@EVERY_SHAPE
def test_two_different_prompts_never_render_alike(name: str) -> None:
    _, tokens = tokenization(name)
    # Where the system's text is written into the user's without a mark, the line breaks between may be anybody's.
    texts = (
        "a",
        "b",
        "a\nb" if name == "mistral_with_system_last" else "a\n\nb",
        "<think>\na\n</think>\n\nb",
        "<think>c</think>b",
        "<think>\n\n</think>\n\nb",
        "user",
    )
    roles = [
        (*head, *turns)
        for head in ((), ("system",), ("developer",), ("tool",))
        for turns in (("user",), ("user", "assistant"), ("user", "assistant", "user"), ("user", "user"), ("assistant",))
    ] + [("human",), ("user", "model"), ("user", "gpt"), ("user", "system", "user"), ("user", "system")]
    seen: dict[tuple[int, ...], Any] = {}
    taken = set[tuple[str, ...]]()
    for kinds in roles:
        for contents in itertools.product(texts[: 7 if len(kinds) < 3 else 4], repeat=len(kinds)):
            chat = [{"role": role, "content": text} for role, text in zip(kinds, contents, strict=True)]
            try:
                ids = tokens.encode(parse_prompt(chat)).tokens
            except PromptError:
                continue
            assert ids not in seen, (chat, seen[ids])
            seen[ids] = chat
            taken.add(kinds)

    assert {("user",), ("user", "assistant"), ("user", "assistant", "user")} <= taken
    assert not {("human",), ("user", "model"), ("user", "gpt")} & taken


@EVERY_SHAPE
def test_texts_end_where_the_template_ends_an_answer(name: str) -> None:
    tokenizer, tokens = tokenization(name)
    ending = SHAPES[name].after.strip().partition("\n")[0]

    assert tokenizer.convert_tokens_to_ids(ending) in tokens.stop_tokens


@EVERY_SHAPE
def test_a_role_that_the_template_does_not_know_is_refused_with_those_that_it_knows(name: str) -> None:
    _, tokens = tokenization(name)

    with pytest.raises(PromptError, match="does not know the role 'human'") as refused:
        tokens.encode(parse_prompt([{"role": "human", "content": "Is it?"}]))

    assert "'user', 'assistant'" in str(refused.value)
    assert ("'system'" in str(refused.value)) is SHAPES[name].has_system


@pytest.mark.parametrize(
    ("name", "chat", "said"),
    [
        # A system message or an order that the template refuses, in its own words.
        ("gemma", [system("Be kind."), user("a")], "System role not supported"),
        ("mistral", [system("Be kind."), user("a")], "Roles must alternate"),
        ("gemma", [user("a"), user("b")], "Roles must alternate"),
        ("mistral", [user("a"), assistant("b"), assistant("c")], "Roles must alternate"),
        ("llama2_with_system_in_the_first_turn", [user("a"), user("b")], "Roles must alternate"),
        # What the template swallows.
        ("qwen3", [user("a"), assistant("<think>b</think>c"), user("d")], "message 1 .role 'assistant', '<think>b"),
        ("qwen3", [user("a"), assistant("<think>b</think>c")], "message 1 .role 'assistant', '<think>b</think>c'"),
        ("qwen3", [user("a"), assistant("<think>\n\n</think>\n\nb")], "rewrites the text of message 1"),
        ("r1", [user("a"), assistant("<think>\nb\n</think>c")], "Leave the thought out"),
        ("r1", [system("a"), system("b"), user("c")], "leaves out or rewrites the text of message 0 .role 'system'"),
        ("zephyr", [{"role": "tool", "content": "a"}, user("b")], "does not know the role 'tool'"),
        ("harmony", [user("a"), {"role": "tool", "content": "b"}], "does not know the role 'tool'"),
        ("harmony", [user("a"), assistant("<|channel|>b")], "Channels belong in fields"),
        ("harmony", [user("a"), system("b"), user("c")], "leaves out or rewrites the text of message 1"),
        # One role in the clothes of another.
        ("gemma", [user("a"), {"role": "model", "content": "b"}, user("c")], "'model' as if it were 'assistant'"),
        ("harmony", [{"role": "developer", "content": "a"}, user("b")], "'developer' as if it were 'system'"),
        # A message that would be moved.
        ("r1", [user("a"), system("b"), user("c")], "changes the order"),
    ],
)
def test_what_would_not_be_told_apart_is_refused(name: str, chat: Any, said: str) -> None:
    _, tokens = tokenization(name)

    with pytest.raises(PromptError, match=said):
        tokens.encode(parse_prompt(chat))


def test_a_thought_that_the_template_writes_as_it_is_belongs_to_the_answer() -> None:
    tokenizer, tokens = tokenization("qwen3")
    answer = "<think>\nIt is.\n</think>\n\nYes."

    encoded = tokens.encode(parse_prompt([user("Is it?"), assistant(answer)]))

    assert text_of(tokenizer, encoded.tokens[encoded.response_start :]) == answer


def test_a_template_without_roles_tells_only_users() -> None:
    tokenizer = make_chat_tokenizer("{% for m in messages %}{{ m.content }}\n{% endfor %}")
    tokens = Tokenization(tokenizer, None, len(tokenizer))

    assert text_of(tokenizer, tokens.encode(parse_prompt([user("a"), user("b")])).tokens) == "a\nb\n"
    with pytest.raises(PromptError, match="'assistant' as if it were 'user'"):
        tokens.encode(parse_prompt([user("a"), assistant("b")]))


def test_a_template_that_writes_a_text_twice_or_as_a_list_is_refused() -> None:
    for source, problem in (
        (
            "{% for m in messages %}{{ m.role }}: {{ m.content }} {{ m.content }}\n{% endfor %}",
            "leaves out or rewrites",
        ),
        ("{% for m in messages %}{{ m.role }}: {{ m.content | tojson }}\n{% endfor %}", "leaves out or rewrites"),
        ("{% for m in messages %}{{ m.role }}: {{ m.content[0] | tojson }}\n{% endfor %}", "leaves out or rewrites"),
        ("{% for m in messages %}{{ m.role | frobnicate }}{% endfor %}", "refuses these messages"),
    ):
        tokenizer = make_chat_tokenizer(source)
        with pytest.raises(PromptError, match=problem):
            Tokenization(tokenizer, None, len(tokenizer)).encode(parse_prompt([user('"a"')]))


@pytest.mark.parametrize("name", ["qwen3", "r1", "harmony", "llama3", "parts_only", "vicuna"])
@pytest.mark.parametrize("answer", ["Yes.", "user", "\u00e9\U0001f600", "assistant\n\nNo."])
def test_a_tokenizer_without_offsets_finds_the_same_answer(name: str, answer: str) -> None:
    shape = SHAPES[name]
    tokenizer: Any = ByT5Tokenizer(extra_ids=0)
    tokenizer.chat_template = shape.source.replace("bos_token", "eos_token")
    assert not tokenizer.is_fast
    tokens = Tokenization(tokenizer, None, len(tokenizer))

    encoded = tokens.encode(parse_prompt([user(answer), assistant(answer)]))

    assert text_of(tokenizer, encoded.tokens[encoded.response_start :]) == answer
    asked = text_of(tokenizer, encoded.tokens[: encoded.after_user])
    assert asked.endswith(answer) and asked.count(answer) < text_of(tokenizer, encoded.tokens).count(answer)


def test_options_of_the_template_are_used_in_every_chat() -> None:
    tokenizer, thinking = tokenization("qwen3")
    _, silent = tokenization("qwen3", enable_thinking=False)
    prompt = parse_prompt([user("Is it?")])

    opened, closed = (text_of(tokenizer, tokens.encode(prompt).tokens) for tokens in (thinking, silent))

    assert closed == opened + "<think>\n\n</think>\n\n"


@pytest.mark.parametrize(
    ("name", "options", "written_there"),
    [
        ("harmony", {"reasoning_effort": "low"}, "Reasoning: low"),
        ("llama31_with_date", {"date_string": "1 April 2031"}, "Today Date: 1 April 2031"),
        ("tools", {"tools": [{"type": "function", "function": {"name": "look"}}]}, '"name": "look"'),
    ],
)
def test_an_option_says_what_the_template_makes_of_it(name: str, options: Any, written_there: str) -> None:
    tokenizer, with_option = tokenization(name, **options)
    _, without = tokenization(name)
    prompt = parse_prompt([user("Is it?"), assistant("Yes.")])

    assert written_there in text_of(tokenizer, with_option.encode(prompt).tokens)
    assert written_there not in text_of(tokenizer, without.encode(prompt).tokens)


@pytest.mark.parametrize(
    ("name", "options", "valid"),
    [
        ("qwen3", {"enable_thinkin": False}, "'enable_thinking'"),
        ("harmony", {"messages": [], "add_generation_prompt": False}, "'reasoning_effort'"),
        ("chatml", {"bos_token": "a"}, "no options at all"),
        ("llama3", {"tokenize": True, "bos_token": "a"}, "no options at all"),
    ],
)
def test_an_option_that_the_template_does_not_use_is_refused_with_those_that_it_does(
    name: str, options: Any, valid: str
) -> None:
    with pytest.raises(ArgumentError, match="does not use " + ", ".join(map(repr, options))) as refused:
        tokenization(name, **options)

    assert f"Valid: {valid}." in str(refused.value)


def test_options_without_a_template_are_refused() -> None:
    tokenizer = make_chat_tokenizer("")

    with pytest.raises(ArgumentError, match="has no chat template"):
        Tokenization(tokenizer, None, len(tokenizer), {"enable_thinking": False})


@EVERY_SHAPE
def test_only_a_text_without_the_templates_own_tokens_goes_round_it(name: str) -> None:
    shape, (tokenizer, tokens) = SHAPES[name], tokenization(name)
    rendered = written(tokenizer, shape, [user("Is it?")], add_generation_prompt=True)

    assert tokens.goes_round_template(parse_prompt("Is it?"))
    assert not tokens.goes_round_template(parse_prompt(rendered + " Yes."))
    assert not tokens.goes_round_template(parse_prompt([user("Is it?")]))
    assert not tokens.goes_round_template(parse_prompt([1, 2]))


@pytest.mark.parametrize("answer", ANSWERS)
def test_smollm2s_own_template_tells_the_answer_and_keeps_its_default_system_prompt(smollm2: Any, answer: str) -> None:
    _, tokenizer = smollm2(torch.float32)
    tokens = Tokenization(tokenizer, None, len(tokenizer))
    chat = [user("Is it?"), assistant(answer)]
    for given in (chat, [system("Be kind."), *chat]):
        head = tokenizer.apply_chat_template(given[:-1], tokenize=False, add_generation_prompt=True)
        ids = tuple(tokenizer(head + answer, add_special_tokens=False)["input_ids"])
        assert ("helpful AI assistant" in head) is (given is chat)

        encoded = tokens.encode(parse_prompt(given))

        within = tokens_within(tokenizer, ids, len(head.encode()), len((head + answer).encode()))
        assert encoded.tokens == ids
        assert ids[encoded.response_start :] == within != ()
    assert tokens.stop_tokens == (tokenizer.convert_tokens_to_ids("<|im_end|>"),)
    assert tokens.goes_round_template(parse_prompt("Is it?"))
    with pytest.raises(PromptError, match="does not know the role 'human'"):
        tokens.encode(parse_prompt([{"role": "human", "content": "a"}]))
