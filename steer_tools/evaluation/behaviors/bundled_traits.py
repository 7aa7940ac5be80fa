"""The traits of the bundled language as behaviours, like those that are written in English. It must not know models."""

from functools import lru_cache
from random import Random

from steer_tools.bundled_model.grammar import compose, join, requests
from steer_tools.bundled_model.language import contrast_pairs, held_out_prompts
from steer_tools.bundled_model.lexicon import LEVELS, TRAITS
from steer_tools.evaluation.behaviors.behavior import Behavior, Item
from steer_tools.prompts import ChatPrompt, Prompt, parse_prompt

_POLES = {
    "sentiment": ("glad", "sad"),
    "sycophancy": ("agreeing", "contradicting"),
    "refusal": ("refusing", "complying"),
    "confidence": ("certain", "doubtful"),
    "formality": ("formal", "casual"),
    "honesty": ("true", "false"),
    "verbosity": ("wordy", "terse"),
}
PAIRS, ITEMS, QUESTIONS = 64, 40, 24


@lru_cache(maxsize=32)
def trait_behavior(trait: str, *, pairs: int = PAIRS, items: int = ITEMS, seed: int = 0) -> Behavior:
    """Return a trait as a behaviour: pairs on questions of the training set, items and questions on held-out ones.

    A pair's answers are alike but for the trait. An item's completions are their beginnings, up to the word after the
    first place where the trait shows. Questions about one topic are a group.

    Raises:
        ArgumentError: There is no such trait, or there are fewer questions than asked for.
    """
    trained = [(prompt[0]["content"], *replies) for prompt, *replies in contrast_pairs(trait, pairs, seed)]
    held_out = [prompt[0]["content"] for prompt in held_out_prompts(trait, items, seed)]
    # Another draw, long enough to leave so many when the items' questions are taken out.
    others = [prompt[0]["content"] for prompt in held_out_prompts(trait, items + QUESTIONS, -1 - seed)]
    questions = [question for question in others if question not in held_out][:QUESTIONS]
    return Behavior(
        name=trait,
        description=f"The trait {trait} of the bundled model's language.",
        poles=_POLES[trait],
        instruction=None,
        source="Written by the grammar of the bundled model's language.",
        pairs=tuple(_item(*parts) for parts in trained),
        items=tuple(_held_out(trait, question, f"{trait}/{seed}/{i}") for i, question in enumerate(held_out)),
        questions=tuple(ChatPrompt((("user", question),)) for question in questions),
    )


def neutral_questions(count: int) -> tuple[Prompt, ...]:
    """Return questions of the training set; nothing in them suggests a trait."""
    return tuple(parse_prompt(prompt) for prompt, _, _ in contrast_pairs(TRAITS[0], count, seed=1))


def _held_out(trait: str, question: str, seed: str) -> Item:
    chance, request = Random(seed), requests()[question]
    levels = {own: chance.choice(LEVELS) for own in TRAITS}
    replies = [compose(request, (levels | {trait: level}).__getitem__, Random(seed)) for level in (1.0, -1.0)]
    first = next(index for index, piece in enumerate(replies[0]) if piece.trait == trait)
    beginnings = (join([word for piece in pieces[: first + 2] for word in piece.words]) for pieces in replies)
    return _item(question, *beginnings)


def _item(question: str, positive: str, negative: str) -> Item:
    return Item(ChatPrompt((("user", question),)), positive, negative, requests()[question].topic.noun)
