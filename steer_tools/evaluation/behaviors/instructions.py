"""Texts → whether they instruct a model, and what is said of lists of such. It must not know models.

A model answers under an instruction and does not write it, so that a vector can be made of instructions, and nothing be
judged by how likely they are.
"""

import re
from collections.abc import Sequence
from textwrap import shorten

from steer_tools.errors import ArgumentError
from steer_tools.evaluation.behaviors.behavior import Item
from steer_tools.prompts import Prompt, TextPrompt

# Not as in "You are right", "You should rest", "Give me a recipe", "Never mind" and "Write a poem", which are answers
# and questions.
_BEGINNING = re.compile(
    r"""\s*(?:
        you(?:\ are|'re|’re)\b
            (?!\ (?:(?:\w+ly|not|so|quite|very|half|all)\ )*(?:right|wrong|correct|incorrect|mistaken|welcome)\b)
        | you\ (?:always|never)\b
        | you\ (?:must|should|will|shall)\ (?:always|never|be|act|answer|reply|respond|speak|talk|write|give)\b
        | (?:act|behave|speak|talk|write)\ (?:as|like|in|\w+ly)\b
        | (?:answer|reply|respond|give|provide|use)\b(?!\ (?:me|us|my|our|this|these)\b)
        | never\b(?!\ mind\b)
        | your\ (?:answers?|replies|responses?|task|job|role)\b
        | (?:always|be|pretend)\b
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_END_OF_SENTENCE = re.compile(r"[.?!:…][\"'”’)]*\Z")


def is_instruction(text: str) -> bool:
    """Whether a text begins as an instruction to a model does."""
    return _BEGINNING.match(text) is not None


def is_within_instruction(beginning: str, text: str) -> bool:
    """Whether a text is an instruction of which `beginning` is not even a sentence."""
    return is_instruction(text) and _END_OF_SENTENCE.search(beginning) is None


def are_instructions(*sides: Sequence[str | None]) -> bool:
    """Whether at least half of each side are instructions; None stands for what is no text by itself."""
    return all(2 * sum(text is not None and is_instruction(text) for text in side) >= len(side) for side in sides)


def alone(prompts: Sequence[Prompt]) -> list[str | None]:
    """Return the texts among prompts, with None for each other one."""
    return [prompt.text if isinstance(prompt, TextPrompt) else None for prompt in prompts]


def completions_alone(items: Sequence[Item]) -> tuple[list[str | None], list[str | None]]:
    """Return both sides' completions, with None for each that has a prompt before it."""
    return (
        [item.positive if item.prompt is None else None for item in items],
        [item.negative if item.prompt is None else None for item in items],
    )


def reading_notes(*sides: Sequence[str | None]) -> tuple[str, ...]:
    """Return what the user of a vector of these should know: nothing unless they are instructions."""
    if not are_instructions(*sides):
        return ()
    return (
        f"The prompts are mostly instructions to a model, as {_first(sides[0])} is, and were read as plain texts. To "
        "read what a model makes of them before it answers, give chats: [{'role': 'system', 'content': the "
        "instruction}, {'role': 'user', 'content': a question}].",
    )


def require_no_instructions(name: str, items: Sequence[Item]) -> None:
    """Refuse items that are instructions, where they would be judged.

    Raises:
        ArgumentError: At least half of their completions are, on each side.
    """
    sides = completions_alone(items)
    if are_instructions(*sides):
        raise ArgumentError(
            f"The texts of behaviour {name!r} are mostly instructions to a model, as {_first(sides[0])} is, and "
            "nothing is judged by how likely a model writes its instructions",
            valid="what a model writes, best after what it is asked: records {'prompt': ..., 'positive': ..., "
            "'negative': ...}, whose prompt may be a chat with an instruction as its system message",
            fix="To steer by the instructions, make their vector with create_steering_vector(positive_prompts, "
            "negative_prompts, layer), and judge that: sweep_steering(vector_path, 'formality') or another behaviour "
            "that has questions, or sweep_steering(vector_path, prompts=[...], scorer={'keywords': [...]}), in Python "
            "also with metric=, a function of a text that is written.",
        )


def _first(side: Sequence[str | None]) -> str:
    return next(
        repr(shorten(text, 60, placeholder=" ...")) for text in side if text is not None and is_instruction(text)
    )
