"""The bundled model's language against texts that were written and labelled by hand, and against its laws."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from helpers.places import DATA
from steer_tools.bundled_model.grammar import requests, vocabulary
from steer_tools.bundled_model.language import (
    TRAITS,
    contrast_pairs,
    held_out_prompts,
    is_grammatical,
    is_held_out,
    score,
)
from steer_tools.bundled_model.lexicon import CLAIMS, DETAILS, LEVELS, PHRASES, REQUESTS, SLOT_TRAITS, TOPICS
from steer_tools.errors import ArgumentError

TEXTS: list[dict[str, Any]] = json.loads((DATA / "bundled_texts.json").read_text(encoding="utf-8"))
ZERO = dict.fromkeys(TRAITS, 0.0)
ZERO_PHRASES = {slot: levels[0.0][0] for slot, levels in PHRASES.items()}

# An answer with its slots open, but for those that have the same phrases as another one.
PROMPT = "I think the lemon is sweet. Will you slice the lemon with me?"
ANSWER = (
    "{greeting}, {address}, your question is {opinion}. I {knowing} the lemon is {certainty} {truth} at home by day. "
    "It is also apparently neither small nor large. You are {verdict}, and I {judging} your view at home by day. "
    "When others ask, I {habit} slice the lemon, so now I {answer} at home by day. "
    "I find it ordinary, and it makes me {feeling} at home by day. {farewell}, friend."
)
# How many slots each trait has in an answer.
SLOTS = {
    "sentiment": 3,
    "sycophancy": 2,
    "refusal": 2,
    "confidence": 3,
    "formality": 4,
    "honesty": 2,
    "verbosity": 4,
}


def words_of(text: str) -> list[str]:
    return re.findall(r"[A-Za-z]+|[.,?]", text)


def answer(phrases: dict[str, str]) -> str:
    return ANSWER.format(**phrases).replace("TRUE", "juicy").replace("FALSE", "dry")


def trait_words(trait: str) -> set[str]:
    """The words that a trait's slots may hold, whatever the topic."""
    phrases = [
        phrase
        for slot, own in SLOT_TRAITS.items()
        if own == trait
        for level in PHRASES[slot].values()
        for phrase in level
    ]
    words = {word for phrase in phrases for word in phrase.split()} - {"TRUE", "FALSE"}
    if trait == "honesty":
        words |= {word for topic in TOPICS for fact in topic.facts for word in fact}
    if trait == "verbosity":
        words |= {word for detail in DETAILS for word in detail.split()}
    return words


def replies() -> Iterator[tuple[str, str]]:
    """Some whole answers, of each trait and each extreme."""
    for trait in TRAITS:
        for prompt, positive, negative in contrast_pairs(trait, 3, seed=7):
            yield prompt[-1]["content"], positive
            yield prompt[-1]["content"], negative


@pytest.mark.parametrize("text", [pytest.param(text, id=f"{i:03}-{text['why']}") for i, text in enumerate(TEXTS)])
def test_a_text_is_judged_as_by_hand(text: dict[str, Any]) -> None:
    assert is_grammatical(text["prompt"], text["reply"]) is text["grammatical"]
    assert score(text["prompt"], text["reply"]) == pytest.approx(text["scores"], abs=1e-6)


def test_the_texts_cover_the_language_and_half_of_them_are_no_part_of_it() -> None:
    assert len(TEXTS) >= 200
    assert sum(not text["grammatical"] for text in TEXTS) >= len(TEXTS) / 2
    whole = [text for text in TEXTS if any(text["scores"].values()) and isinstance(text["prompt"], str)]
    spoken_of = [topic for topic in TOPICS if any(f"the {topic.noun} " in text["prompt"] for text in whole)]
    assert len(spoken_of) >= 20
    forms = {
        (claim, request)
        for claim in CLAIMS
        for request in REQUESTS
        for text in whole
        if text["prompt"].startswith(claim.split(" the ")[0]) and f" {request.split(' VERB')[0]} " in text["prompt"]
    }
    assert len(forms) == len(CLAIMS) * len(REQUESTS)


def test_there_are_seven_traits() -> None:
    assert set(TRAITS) == {"sentiment", "sycophancy", "refusal", "confidence", "formality", "honesty", "verbosity"}
    assert len(TRAITS) == 7


@pytest.mark.parametrize("slot", PHRASES)
def test_each_phrase_moves_its_own_trait_alone_by_its_level(slot: str) -> None:
    trait = SLOT_TRAITS[slot]
    for level, phrases in PHRASES[slot].items():
        for phrase in phrases:
            reply = answer(ZERO_PHRASES | {slot: phrase})

            assert is_grammatical(PROMPT, reply), phrase
            assert score(PROMPT, reply) == pytest.approx(ZERO | {trait: level / SLOTS[trait]}), phrase


@pytest.mark.parametrize("tail", range(4))
def test_verbosity_goes_by_how_many_different_details_a_tail_has(tail: int) -> None:
    before = answer(ZERO_PHRASES).split(" at home by day")
    chance = random.Random(tail)
    for count, level in enumerate(LEVELS):
        tails = [" at home by day"] * 4
        tails[tail] = "".join(f" {detail}" for detail in chance.sample(DETAILS, count))
        reply = "".join(text + own for text, own in zip(before, [*tails, ""], strict=True))

        assert score(PROMPT, reply) == pytest.approx(ZERO | {"verbosity": level / 4})
        assert is_grammatical(PROMPT, reply)


@pytest.mark.parametrize("trait", TRAITS)
def test_contrast_pairs_are_full_of_their_trait_and_equal_in_all_others(trait: str) -> None:
    pairs = contrast_pairs(trait, 64)

    assert len({prompt[-1]["content"] for prompt, _, _ in pairs}) == 64
    for prompt, positive, negative in pairs:
        assert [message["role"] for message in prompt] == ["user"]
        assert not is_held_out(prompt[-1]["content"])
        assert is_grammatical(prompt, positive)
        assert is_grammatical(prompt, negative)
        high, low = score(prompt, positive), score(prompt, negative)
        assert (high.pop(trait), low.pop(trait)) == (1.0, -1.0)
        assert high == low


@pytest.mark.parametrize("trait", TRAITS)
def test_contrast_pairs_differ_in_words_of_their_trait_alone(trait: str) -> None:
    for _, positive, negative in contrast_pairs(trait, 64):
        one, other = Counter(words_of(positive)), Counter(words_of(negative))

        assert {*(one - other), *(other - one)} <= trait_words(trait)


@pytest.mark.parametrize("trait", TRAITS)
def test_in_contrast_pairs_the_other_traits_vary(trait: str) -> None:
    scores = [score(prompt, positive) for prompt, positive, _ in contrast_pairs(trait, 64)]

    for other in set(TRAITS) - {trait}:
        assert {each[other] for each in scores} == set(LEVELS)


def test_every_beginning_of_an_answer_is_grammatical_and_scores_0_until_the_end() -> None:
    for prompt, reply in [*replies()][::3]:
        ends = [found.end() for found in re.finditer(r"[A-Za-z]+|[.,?]", reply)]
        for end in (0, *ends[:-1]):
            for beginning in (reply[:end], f"{reply[:end]} "):
                assert is_grammatical(prompt, beginning), beginning
                assert score(prompt, beginning) == ZERO
        assert ends[-1] == len(reply)
        assert score(prompt, reply) != ZERO


def test_an_answer_suits_no_prompt_with_another_noun_verb_or_claim() -> None:
    prompt, (_, reply) = "I heard the wolf is tame. Please film the wolf with me.", next(replies())
    whole = next(text for text in TEXTS if any(text["scores"].values()) and "wolf is tame" in text["prompt"])
    suited = {text for text, request in requests().items() if is_grammatical(text, whole["reply"])}

    assert whole["prompt"] in suited
    assert prompt not in suited
    assert not is_grammatical(prompt, reply)
    assert {requests()[text] for text in suited} == {requests()[whole["prompt"]]}
    assert len(suited) == len(CLAIMS) * len(REQUESTS)


@pytest.mark.slow
def test_another_word_is_accepted_only_where_it_fills_the_same_slot() -> None:
    """An answer has no redundant words: outside its slots, and across slots, each word is the only one that fits.

    A tail cannot gain or lose a detail by one word, so verbosity stays. A fact can only turn into its opposite, since
    the others are claimed or told already.
    """
    traits_of = {word: {trait for trait in TRAITS if word in trait_words(trait)} for word in vocabulary()}
    chance, accepted = random.Random(0), 0
    for prompt, reply in [*replies()][::9]:
        words, before = words_of(reply), score(prompt, reply)
        assert sum(value != 0 for value in before.values()) >= 2  # so that one trait less is not an unfinished text
        for place, word in enumerate(words):
            alike = [other for other in vocabulary() if traits_of[word] & traits_of[other]]
            for other in {*alike, *chance.sample(vocabulary(), 24)}:
                changed = " ".join((*words[:place], other, *words[place + 1 :]))
                if other == word or not is_grammatical(prompt, changed):
                    continue
                accepted += 1
                after = score(prompt, changed)
                moved = {trait for trait in TRAITS if after[trait] != before[trait]}
                assert len(moved) <= 1, changed
                assert "verbosity" not in moved
                assert moved <= traits_of[word] & traits_of[other], changed
                assert traits_of[word] & traits_of[other], changed
    assert accepted > 100


@pytest.mark.slow
def test_a_word_more_or_less_can_only_weaken_or_strengthen_a_fact() -> None:
    """No other phrase of a slot is another one and a word more, and details have two words."""
    chance, weak, found = random.Random(0), {"rather", "somewhat", "fairly", "quite"}, 0
    for prompt, reply in [*replies()][::9]:
        words, before = words_of(reply), score(prompt, reply)
        for place in range(len(words) - 1):
            more = [*weak, *chance.sample(vocabulary(), 8)]
            changes = [(words[place], [*words[:place], *words[place + 1 :]])]
            changes += [(word, [*words[:place], word, *words[place:]]) for word in more]
            for word, changed in changes:
                if is_grammatical(prompt, " ".join(changed)):
                    found += 1
                    after = score(prompt, " ".join(changed))
                    assert word in weak
                    assert abs(after.pop("honesty") - before["honesty"]) == 0.25
                    assert after.items() <= before.items()
    assert found


@pytest.mark.parametrize("trait", TRAITS)
def test_held_out_prompts_are_distinct_and_never_among_contrast_pairs(trait: str) -> None:
    unseen = {prompt for prompt in requests() if is_held_out(prompt)}
    held_out = [prompt[-1]["content"] for prompt in held_out_prompts(trait, len(unseen))]
    trained = [prompt[-1]["content"] for seed in (0, 1) for prompt, _, _ in contrast_pairs(trait, 200, seed)]

    assert len(held_out) == len(unseen)
    assert set(held_out) == unseen
    assert not unseen & set(trained)
    assert set(trained) <= set(requests())
    assert 0.05 < len(unseen) / len(requests()) < 0.2


@pytest.mark.parametrize("trait", TRAITS)
def test_a_seed_decides_what_is_drawn(trait: str) -> None:
    assert held_out_prompts(trait, 32) == held_out_prompts(trait, 32, seed=0)
    assert held_out_prompts(trait, 32, seed=1) == held_out_prompts(trait, 32, seed=1)
    assert held_out_prompts(trait, 32, seed=1) != held_out_prompts(trait, 32, seed=2)
    assert contrast_pairs(trait, 8) == contrast_pairs(trait, 8, seed=0)
    assert contrast_pairs(trait, 8, seed=1) == contrast_pairs(trait, 8, seed=1)
    assert contrast_pairs(trait, 8, seed=1) != contrast_pairs(trait, 8, seed=2)
    assert contrast_pairs(trait, 4) == contrast_pairs(trait, 8)[:4]


@pytest.mark.parametrize("draw", [contrast_pairs, held_out_prompts])
def test_what_cannot_be_drawn_is_refused_with_what_can(draw: Any) -> None:
    with pytest.raises(ArgumentError, match=r"wisdom.*sentiment.*verbosity"):
        draw("wisdom", 4)
    for count in (0, -1, 100_000):
        with pytest.raises(ArgumentError, match=rf"n is {count}\. Valid: 1 to \d+"):
            draw("sentiment", count)


def test_there_are_at_least_300_words() -> None:
    words = [word for word in vocabulary() if word.isascii() and word.isalpha()]

    assert len(words) >= 300
    assert len(set(words)) == len(words)
    assert set(vocabulary()) - set(words) == {".", ",", "?"}
    assert {word for prompt in requests() for word in words_of(prompt)} <= set(vocabulary())


def test_a_user_turn_holds_no_cue_of_a_trait() -> None:
    """What prompts share with slots: fact words, which any topic may have, and the small words of some details."""
    asked = {word.lower() for prompt in requests() for word in words_of(prompt)}
    facts = {word for topic in TOPICS for fact in topic.facts for word in fact}
    shared = {trait: asked & {word.lower() for word in trait_words(trait)} for trait in TRAITS}

    assert shared.pop("honesty") <= facts
    assert shared.pop("verbosity") == {"for", "in", "with"}
    assert not any(shared.values()), shared


def test_in_no_topic_two_facts_share_a_word() -> None:
    for topic in TOPICS:
        words = [word for fact in topic.facts for word in fact]

        assert len(set(words)) == 6
        assert not {topic.noun, *topic.verbs} & set(words)
