"""The bundled model's language, for whoever wants to check it: prompts, pairs, an exact scorer and a recogniser.

Texts in, texts and numbers out. It must not know models.
"""

import hashlib
import random
from collections.abc import Sequence
from functools import cache

from steer_tools.bundled_model.grammar import Request, compose, join, read, requests, split
from steer_tools.bundled_model.lexicon import LEVELS, TRAITS
from steer_tools.errors import ArgumentError, PromptError
from steer_tools.prompts import ChatPrompt, Message, TextPrompt, parse_prompt

__all__ = ["TRAITS", "contrast_pairs", "held_out_prompts", "is_grammatical", "score"]

Chat = list[Message]


def contrast_pairs(trait: str, n: int, seed: int = 0) -> list[tuple[Chat, str, str]]:
    """Return `n` times (prompt, positive reply, negative reply), word for word alike but for the trait.

    The prompts are ones that the model was trained on. The other traits vary from pair to pair.

    Raises:
        ArgumentError: There is no such trait, or there are fewer prompts than `n`.
    """
    return [
        (
            chat(prompt),
            _reply(prompt, trait, 1.0, f"{trait}/{seed}/{i}"),
            _reply(prompt, trait, -1.0, f"{trait}/{seed}/{i}"),
        )
        for i, prompt in enumerate(_draw(trait, n, seed, held_out=False))
    ]


def held_out_prompts(trait: str, n: int, seed: int = 0) -> list[Chat]:
    """Return `n` different prompts that the model never saw; nothing in them suggests a trait.

    Raises:
        ArgumentError: There is no such trait, or there are fewer prompts than `n`.
    """
    return [chat(prompt) for prompt in _draw(trait, n, seed, held_out=True)]


def score(prompt: Chat | str, reply: str) -> dict[str, float]:
    """Return for each trait the mean level of its slots in `reply`, from -1 to 1.

    A reply that is unfinished, ungrammatical or beside the prompt's topic scores 0, as does one to a prompt outside the
    language. Only `reply` counts, not what the assistant said in `prompt`.
    """
    request = _request(prompt)
    reading = read(request, reply) if request else None
    slots = reading.slots if reading and reading.is_finished else ()
    levels = {trait: [level for shown, level in slots if shown == trait] for trait in TRAITS}
    return {trait: sum(own) / len(own) if own else 0.0 for trait, own in levels.items()}


def is_grammatical(prompt: Chat | str, reply: str) -> bool:
    """Say whether `reply` is a valid answer to `prompt`, or the beginning of one that is cut between words.

    An answer speaks of the prompt's topic, tells no fact twice and no sentence twice.
    """
    request = _request(prompt)
    return request is not None and read(request, reply) is not None


def example_texts() -> list[str]:
    """Return eight questions with the beginnings of answers, as plain texts; all traits vary."""
    prompts = _draw(TRAITS[0], 8, 0, held_out=False)
    answers = [_reply(prompt, TRAITS[0], 0.0, prompt) for prompt in prompts]
    return [
        f"{prompt} {answer[: len(answer) // 2].rpartition(' ')[0]}"
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def chat(prompt: str) -> Chat:
    """Return a user's question as chat messages."""
    return [{"role": "user", "content": prompt}]


def is_held_out(prompt: str) -> bool:
    """Say whether training leaves a user's turn out, which its hash decides: one in ten."""
    return hashlib.sha256(prompt.encode()).digest()[0] % 10 == 0


def _request(prompt: Chat | str) -> Request | None:
    """Return what the user asks last; None where the prompt is outside the language or the user does not speak last."""
    try:
        parsed = parse_prompt(prompt)
    except PromptError:
        return None
    match parsed:
        case TextPrompt(text) | ChatPrompt((*_, ("user", text))):
            return requests().get(join(split(text) or ()))
        case _:
            return None


def _reply(prompt: str, trait: str, level: float, seed: str) -> str:
    chance = random.Random(seed)
    levels = {own: chance.choice(LEVELS) for own in TRAITS} | {trait: level}
    pieces = compose(requests()[prompt], levels.__getitem__, chance)
    return join([word for piece in pieces for word in piece.words])


def _draw(trait: str, n: int, seed: int, *, held_out: bool) -> Sequence[str]:
    if trait not in TRAITS:
        raise ArgumentError(f"trait is {trait!r}", valid=", ".join(TRAITS))
    every = _prompts(held_out)
    if not 1 <= n <= len(every):
        raise ArgumentError(f"n is {n}", valid=f"1 to {len(every)}")
    return random.Random(f"{trait}/{seed}").sample(every, n)


@cache
def _prompts(held_out: bool) -> list[str]:
    return sorted(text for text in requests() if is_held_out(text) == held_out)
