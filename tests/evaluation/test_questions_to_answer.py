"""What texts are written to: a behaviour's questions, or its items' prompts, as each model is asked them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from steer_tools.bundled_model.language import TRAITS, is_held_out
from steer_tools.engines.base import Row, Sampling
from steer_tools.engines.fake import FakeEngine
from steer_tools.errors import PromptError
from steer_tools.evaluation.behaviors.behavior import Behavior, Item
from steer_tools.evaluation.behaviors.behavior_loading import behavior_names, behavior_of_lists, load_behavior
from steer_tools.evaluation.behaviors.bundled_traits import ITEMS, QUESTIONS, trait_behavior
from steer_tools.evaluation.behaviors.item_records import question_of
from steer_tools.evaluation.questions import questions_to_answer
from steer_tools.prompts import ChatPrompt, Prompt, TextPrompt

WORDS = ("baba", "keke", "lili", "momo", "nunu", "rara", "sese", "titi", "vovo", "zuzu")


def engine(*, is_chat: bool = True) -> FakeEngine:
    made = FakeEngine()
    made.info = replace(made.info, has_chat_template=is_chat)
    return made


def asked(text: str) -> Prompt:
    return ChatPrompt((("user", text),))


def behavior(*items: Item, questions: tuple[TextPrompt | ChatPrompt, ...] = ()) -> Behavior:
    pair = Item(TextPrompt("so?"), "yes", "no", "pair")
    return Behavior("own", "Own.", ("yes", "no"), None, "a test", (pair,), items, questions=questions)


@pytest.mark.parametrize("name", behavior_names())
def test_a_built_in_behaviour_asks_a_chat_model_as_a_user_and_another_in_plain_text(name: str) -> None:
    chat, text = load_behavior(name), load_behavior(name, as_chat=False)

    assert questions_to_answer(engine(), chat) == [asked(question_of(question)) for question in chat.questions]
    end = "" if name == "sentiment" else "\n"
    assert questions_to_answer(engine(is_chat=False), text) == [
        TextPrompt(question_of(question) + end) for question in text.questions
    ]


def test_in_plain_text_a_line_ends_after_a_whole_question_and_not_within_a_sentence() -> None:
    texts = ("Is it?", 'Say "so."', "It was (so).", "It was", "Is it?\n")

    made = questions_to_answer(engine(is_chat=False), behavior(questions=tuple(map(TextPrompt, texts))))

    assert made == [TextPrompt(t) for t in ("Is it?\n", 'Say "so."\n', "It was (so).\n", "It was")]


def test_a_model_without_a_template_is_given_beginnings_of_stories_for_sentiment() -> None:
    begun = [
        question_of(prompt)
        for prompt in questions_to_answer(engine(is_chat=False), load_behavior("sentiment", as_chat=False))
    ]

    assert all(text[-1].isalnum() or text[-1] == "," for text in begun)
    assert not any(text.endswith(("?", ".")) for text in begun)


def test_without_questions_one_prompt_of_each_group_of_items_serves() -> None:
    items = (
        Item(TextPrompt("baba?"), "yes", "no", "b"),
        Item(TextPrompt("keke?"), "yes", "no", "k"),
        Item(TextPrompt("is it baba?"), "yes", "no", "b"),
        Item(asked("lili?"), "yes", "no", "l"),  # type: ignore[arg-type]  # A chat.
    )

    assert questions_to_answer(engine(), behavior(*items)) == [asked("baba?"), asked("keke?"), asked("lili?")]
    assert questions_to_answer(engine(), behavior(*items, questions=(TextPrompt("momo?"),))) == [asked("momo?")]


def test_whole_sentences_have_nothing_that_could_be_answered() -> None:
    sides = [[f"{word} {said}" for word in WORDS] for said in ("lives", "dies")]
    sentences = behavior_of_lists("own", *sides)

    with pytest.raises(PromptError, match=r"items of own are whole texts.*Valid: questions, or items with prompts"):
        questions_to_answer(engine(), sentences)
    asking = replace(sentences, questions=(TextPrompt("momo?"),))
    assert questions_to_answer(engine(), asking) == [asked("momo?")]


@pytest.mark.parametrize("trait", TRAITS)
def test_a_traits_questions_are_held_out_and_no_items(trait: str) -> None:
    for seed in (0, 3):
        made = trait_behavior(trait, seed=seed)
        texts = [question_of(question) for question in made.questions]

        assert len(set(texts)) == len(texts) == QUESTIONS
        assert all(map(is_held_out, texts))
        assert not {*made.questions} & {item.prompt for item in (*made.pairs, *made.items)}
        assert made.words is None
    assert trait_behavior(trait, seed=1).questions != made.questions
    assert len(made.items) == ITEMS


def test_each_is_answered() -> None:
    rows = [Row(question) for question in questions_to_answer(engine(), behavior(questions=(TextPrompt("baba keke"),)))]

    (answer,) = engine().generate(rows, Sampling(4))

    assert answer.text
